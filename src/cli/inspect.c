/* SPDX-License-Identifier: MIT */
/*
 * godwit inspect: lists and verifies a stream file with nothing but what stands in it.
 *
 * The writer's schema comes first in every stream, so that device state can be shown as JSON
 * without knowing the machine.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "godwit/channel.h"
#include "godwit/state.h"
#include "wire/inspect.h"

static const char *const section_kinds[] = {
    [WIRE_SECTION_SCHEMA] = "schema",
    [WIRE_SECTION_DEVICE] = "device",
    [WIRE_SECTION_REHEARSAL] = "rehearsal",
};

struct inspection {
    bool wants_state;
    struct gw_schema *schema;
    json_t *sections;
    json_t *records; /* name -> count */
    json_t *findings;
};

static void add_finding(struct inspection *self, const char *what, const char *why)
{
    g_autofree char *text = g_strdup_printf("%s: %s", what, why);
    json_array_append_new(self->findings, json_string(text));
}

static void on_record(void *opaque, const struct wire_record *record)
{
    struct inspection *self = opaque;
    const char *name = record->type->name;
    json_int_t n = json_integer_value(json_object_get(self->records, name));
    json_object_set_new(self->records, name, json_integer(n + 1));
}

static void add_state(struct inspection *self, json_t *entry, const char *name,
                      const uint8_t *bytes, gsize len)
{
    g_autoptr(GError) error = NULL;
    int64_t device = self->schema ? gw_schema_find_device(self->schema, name) : -1;

    if (device < 0) {
        add_finding(self, name, "the schema has no such device");
        return;
    }
    g_autofree char *text =
        gw_schema_section_to_json(self->schema, (uint32_t)device, bytes, len, &error);
    json_t *state = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
    if (!state)
        add_finding(self, name, error ? error->message : "state cannot be shown");
    else if (self->wants_state)
        json_object_set(entry, "state", state);
    json_decref(state);
}

static void on_section(void *opaque, const struct wire_section *section)
{
    struct inspection *self = opaque;
    g_autoptr(GError) error = NULL;
    gsize len;
    const uint8_t *bytes = g_bytes_get_data(section->data, &len);
    json_t *entry =
        json_pack("{s:s, s:s, s:i, s:I}", "kind", section_kinds[section->kind], "name",
                  section->name, "version", (int)section->version, "bytes", (json_int_t)len);
    g_autofree char *digest = g_strdup_printf("%016" PRIx64, section->digest);

    if (!entry)
        return;
    json_object_set_new(entry, "xxh3", json_string(digest));
    if (section->kind == WIRE_SECTION_SCHEMA) {
        gw_schema_free(self->schema);
        self->schema = gw_schema_parse(bytes, len, &error);
        if (!self->schema)
            add_finding(self, "schema", error->message);
    } else {
        add_state(self, entry, section->name, bytes, len);
    }
    json_array_append_new(self->sections, entry);
}

static json_t *blocks_to_json(const struct wire_ram_map *map)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < map->n_blocks; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "name", map->blocks[i].name, "gpa",
                                              (json_int_t)map->blocks[i].gpa, "bytes",
                                              (json_int_t)map->blocks[i].size_bytes));
    return list;
}

/* The machine's type: the schema names it, as a property that must be equal. */
static const char *machine_of(const struct gw_schema *schema)
{
    for (uint32_t i = 0; schema && i < schema->n_properties; i++)
        if (strcmp(schema->properties[i].name, "machine") == 0 && schema->properties[i].values[0])
            return schema->properties[i].values[0];
    return "?";
}

static json_t *report_to_json(const char *path, const struct wire_inspect_report *r,
                              struct inspection *self, const GError *error)
{
    char id[37];
    json_t *out = json_object();

    wire_format_id(r->identity.migration_id, id);
    json_object_set_new(out, "file", json_string(path));
    json_object_set_new(out, "migration-id", json_string(id));
    json_object_set_new(out, "role", json_string(wire_role_name(r->identity.role)));
    if (r->has_hello) {
        json_object_set_new(out, "software", json_string(r->hello.software));
        json_object_set_new(out, "machine", json_string(machine_of(self->schema)));
        json_object_set_new(out, "vm", json_string(r->hello.vm_name));
        json_object_set_new(out, "saved-real-ns", json_integer((json_int_t)r->hello.realtime_ns));
    }
    if (r->has_ram_map)
        json_object_set_new(out, "ram", blocks_to_json(&r->ram_map));
    json_object_set_new(out, "bytes", json_integer((json_int_t)r->n_bytes));
    json_object_set_new(out, "records", json_incref(self->records));
    json_object_set_new(out, "rounds", json_integer(r->n_rounds));
    json_object_set_new(out, "pages", json_integer((json_int_t)r->n_pages));
    json_object_set_new(out, "zero-pages", json_integer((json_int_t)r->n_zero_pages));
    json_object_set_new(out, "suspect-pages", json_integer((json_int_t)r->n_suspect));
    json_object_set_new(out, "sections", json_incref(self->sections));
    json_object_set_new(out, "complete", json_boolean(r->is_complete));
    if (error)
        add_finding(self, "stream", error->message);
    json_object_set_new(out, "findings", json_incref(self->findings));
    return out;
}

/* Nothing of it is ours: there is nothing to list. */
static bool is_foreign(const struct wire_inspect_report *report)
{
    return !report->has_hello && !report->has_ram_map && report->identity.role == 0;
}

static void print_plain(const json_t *out)
{
    size_t i;
    json_t *item;

    printf("%s: %s %s, machine %s, written by %s\n",
           json_string_value(json_object_get(out, "file")),
           json_string_value(json_object_get(out, "role")),
           json_string_value(json_object_get(out, "migration-id")),
           json_string_value(json_object_get(out, "machine")) ?: "?",
           json_string_value(json_object_get(out, "software")) ?: "?");
    json_array_foreach(json_object_get(out, "ram"), i, item)
        printf("  RAM block %-8s %12" JSON_INTEGER_FORMAT " bytes\n",
               json_string_value(json_object_get(item, "name")),
               json_integer_value(json_object_get(item, "bytes")));
    printf("  %" JSON_INTEGER_FORMAT " bytes, %" JSON_INTEGER_FORMAT " pages (%" JSON_INTEGER_FORMAT
           " zero) in %" JSON_INTEGER_FORMAT " round%s\n",
           json_integer_value(json_object_get(out, "bytes")),
           json_integer_value(json_object_get(out, "pages")),
           json_integer_value(json_object_get(out, "zero-pages")),
           json_integer_value(json_object_get(out, "rounds")),
           json_integer_value(json_object_get(out, "rounds")) == 1 ? "" : "s");
    json_array_foreach(json_object_get(out, "sections"), i, item)
    {
        printf("  %-9s %-22s v%" JSON_INTEGER_FORMAT " %8" JSON_INTEGER_FORMAT " bytes  xxh3 %s\n",
               json_string_value(json_object_get(item, "kind")),
               json_string_value(json_object_get(item, "name")),
               json_integer_value(json_object_get(item, "version")),
               json_integer_value(json_object_get(item, "bytes")),
               json_string_value(json_object_get(item, "xxh3")));
        json_t *state = json_object_get(item, "state");
        if (state) {
            json_dumpf(state, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
            putchar('\n');
        }
    }
    json_array_foreach(json_object_get(out, "findings"), i, item)
        printf("  WRONG: %s\n", json_string_value(item));
    printf("  %s\n", json_array_size(json_object_get(out, "findings")) ? "damaged"
                     : json_is_true(json_object_get(out, "complete"))
                         ? "whole, all digests right"
                         : "cut short, but right up to there");
}

int cmd_inspect(const struct subcommand *self, int argc, char **argv)
{
    gboolean is_json = FALSE, wants_state = FALSE;
    const GOptionEntry entries[] = {
        {"json", 'j', 0, G_OPTION_ARG_NONE, &is_json, "One JSON object", NULL},
        {"state", 's', 0, G_OPTION_ARG_NONE, &wants_state, "Show each device's state", NULL},
        {NULL},
    };
    int status;

    if (!cli_parse(self, entries, 1, 1, &argc, &argv, &status))
        return status;
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_canonicalize_filename(argv[1], NULL);
    g_autofree char *uri = g_strconcat("file:", path, NULL);
    struct gw_listener *listener = gw_listener_new(uri, NULL, &error);
    struct gw_channel *channel =
        listener ? gw_listener_accept(listener, GW_NO_DEADLINE, &error) : NULL;
    if (!channel) {
        gw_listener_free(listener);
        return cli_fail(CLI_FAILED, "%s", error->message);
    }
    struct inspection inspection = {.wants_state = wants_state || is_json,
                                    .sections = json_array(),
                                    .records = json_object(),
                                    .findings = json_array()};
    const struct wire_inspect_visitor visitor = {&inspection, on_record, on_section};
    struct wire_inspect_report report = {0};
    wire_inspect(channel, &visitor, &report, &error);
    gw_listener_free(listener);

    json_t *out = report_to_json(argv[1], &report, &inspection, error);
    bool is_good = json_array_size(inspection.findings) == 0 && report.is_complete;
    if (is_json) {
        json_dumpf(out, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (error && is_foreign(&report)) {
        cli_complain("%s", error->message);
    } else {
        print_plain(out);
    }
    json_decref(out);
    json_decref(inspection.sections);
    json_decref(inspection.records);
    json_decref(inspection.findings);
    gw_schema_free(inspection.schema);
    wire_inspect_report_clear(&report);
    return is_good ? CLI_OK : CLI_FAILED;
}
