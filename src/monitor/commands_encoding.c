/* SPDX-License-Identifier: MIT */
/*
 * How pages are encoded, told and asked by QEMU's names: multifd-compression, the capability xbzrle
 * and xbzrle-cache-size; xbzrle-cache and compression in query-migrate.
 *
 * "auto" is ours: while it makes the migration faster. It is what holds until something else is
 * set.
 */
#include <string.h>

#include "godwit/error.h"
#include "monitor/command.h"

const char *const encoding_compressions[] = {"auto", "none", "zstd", NULL};
const char *const encoding_deltas[] = {"auto", "off", "on", NULL};

static int index_of(const char *const *words, const char *word)
{
    int i = 0;

    while (words[i + 1] && strcmp(words[i], word) != 0)
        i++;
    return i;
}

/* The words stand in the order of enum gw_encode_policy. */
void encoding_set_params(struct gw_migrate_params *params, const json_t *args)
{
    if (arg_has(args, "multifd-compression"))
        params->zstd = (enum gw_encode_policy)index_of(encoding_compressions,
                                                       arg_string(args, "multifd-compression", ""));
    if (arg_has(args, "delta"))
        params->delta =
            (enum gw_encode_policy)index_of(encoding_deltas, arg_string(args, "delta", ""));
    if (arg_has(args, "xbzrle-cache-size"))
        params->delta_cache_bytes = (uint64_t)arg_int(args, "xbzrle-cache-size", 0);
}

void encoding_put_params(json_t *object, const struct gw_migrate_params *params)
{
    uint64_t cache_bytes =
        params->delta_cache_bytes ? params->delta_cache_bytes : GW_DEFAULT_DELTA_CACHE_BYTES;

    json_object_set_new(object, "multifd-compression",
                        json_string(encoding_compressions[params->zstd]));
    json_object_set_new(object, "delta", json_string(encoding_deltas[params->delta]));
    json_object_set_new(object, "xbzrle-cache-size", json_integer((json_int_t)cache_bytes));
}

static bool set_capability(struct gw_migrate_params *params, const char *name, bool is_on)
{
    if (strcmp(name, "xbzrle") == 0)
        params->delta = is_on ? GW_ENCODE_ON : GW_ENCODE_OFF;
    else if (strcmp(name, "postcopy-ram") == 0)
        params->forbids_postcopy = !is_on;
    else if (strcmp(name, "pause-before-switchover") == 0)
        params->waits_before_switchover = is_on;
    else
        return false;
    return true;
}

json_t *run_migrate_set_capabilities(struct monitor *monitor, const json_t *args, GError **error)
{
    struct gw_migrate_params params = *migration_params(monitor_migration(monitor));
    const json_t *list = json_object_get(args, "capabilities");
    const json_t *item;
    size_t i;

    if (!json_is_array(list)) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "'capabilities' is not a list");
        return NULL;
    }
    json_array_foreach(list, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "capability"));
        const json_t *value = json_object_get(item, "state");

        if (!name || !json_is_boolean(value)) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "a capability has a name and a state, true or false");
            return NULL;
        }
        if (!set_capability(&params, name, json_is_true(value))) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "there is no capability '%s'", name);
            return NULL;
        }
    }
    migration_set_params(monitor_migration(monitor), &params);
    return json_object();
}

json_t *run_query_migrate_capabilities(struct monitor *monitor, const json_t *args, GError **error)
{
    const struct gw_migrate_params *params = migration_params(monitor_migration(monitor));

    return json_pack("[{s:s, s:b}, {s:s, s:b}, {s:s, s:b}]", "capability", "xbzrle", "state",
                     params->delta == GW_ENCODE_ON, "capability", "postcopy-ram", "state",
                     !params->forbids_postcopy, "capability", "pause-before-switchover", "state",
                     params->waits_before_switchover);
}

static double ratio(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : 0;
}

void encoding_put_status(json_t *info, const struct gw_source_status *s)
{
    if (s->zstd.work_ns)
        json_object_set_new(info, "compression",
                            json_pack("{s:I, s:I, s:I, s:f, s:I}", "pages",
                                      (json_int_t)s->zstd.pages, "bytes",
                                      (json_int_t)s->zstd.in_bytes, "compressed-size",
                                      (json_int_t)s->zstd.out_bytes, "compression-rate",
                                      ratio(s->zstd.in_bytes, s->zstd.out_bytes), "work-ns",
                                      (json_int_t)s->zstd.work_ns));
    if (s->delta_cache_bytes)
        json_object_set_new(
            info, "xbzrle-cache",
            json_pack("{s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I}", "cache-size",
                      (json_int_t)s->delta_cache_bytes, "bytes", (json_int_t)s->delta.out_bytes,
                      "pages", (json_int_t)s->delta.pages, "cache-miss",
                      (json_int_t)s->delta_misses, "cache-miss-rate",
                      ratio(s->delta_misses, s->delta_misses + s->delta_overflows + s->delta.pages),
                      "encoding-rate", ratio(s->delta.in_bytes, s->delta.out_bytes), "overflow",
                      (json_int_t)s->delta_overflows, "work-ns", (json_int_t)s->delta.work_ns));
}
