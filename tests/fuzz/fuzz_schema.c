/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a writer's schema, what is planned and refused because of it, and sections that are
 * decoded with nothing but it.
 *
 * Input: u16 bytes of schema, the schema, then a section.
 * Checked: a schema that parses encodes to one that parses to the same; a plan with refusals loads
 * nothing; a load that fails leaves the object as it was.
 */
#include "fuzz.h"
#include "godwit/state.h"

struct part {
    uint16_t key;
    uint8_t bytes[5];
};

/* One member of every kind and shape that a table can have. */
struct thing {
    uint32_t number;
    int16_t small;
    bool flag;
    int64_t deadline;
    uint16_t array[4];
    uint8_t buffer[16];
    uint8_t n_used;
    uint32_t *many;
    uint32_t n_many;
    struct part part;
    struct part *maybe;
    GPtrArray *list;
    uint32_t word;
    uint32_t fixed;
    uint64_t extra;
};

static const struct gw_field part_fields[] = {GW_U16(struct part, key, .max = 1000),
                                              GW_BUFFER(struct part, bytes), GW_FIELDS_END};
static const struct gw_state_desc part_desc = {
    .name = "part", .version = 1, .object_size = sizeof(struct part), .fields = part_fields};

static const struct gw_field extra_fields[] = {GW_U64(struct thing, extra), GW_FIELDS_END};
static bool extra_is_needed(const void *object)
{
    return ((const struct thing *)object)->extra != 0;
}
static const struct gw_state_desc extra_desc = {.name = "thing/extra",
                                                .version = 1,
                                                .object_size = sizeof(struct thing),
                                                .fields = extra_fields,
                                                .is_needed = extra_is_needed};
static const struct gw_state_desc *const subsections[] = {&extra_desc, NULL};

static const struct gw_field thing_fields[] = {
    GW_U32(struct thing, number, .max = 99),
    GW_I16(struct thing, small, .min = -5, .max = 5),
    GW_BOOL(struct thing, flag, .is_droppable = true),
    GW_TIMER(struct thing, deadline),
    GW_U16_ARRAY(struct thing, array, .mask = 0xfff),
    GW_VBUFFER(struct thing, buffer, n_used),
    GW_U32_ALLOC(struct thing, many, n_many, .count_max = 64),
    GW_STRUCT(struct thing, part, &part_desc),
    GW_POINTER(struct thing, maybe, &part_desc),
    GW_LIST(struct thing, list, &part_desc, .count_max = 16),
    GW_BITS(struct thing, word, "low", 0, 4),
    GW_BITS(struct thing, word, "high", 28, 4, .since = 2, .fallback = 3),
    GW_EQUAL_U32(struct thing, fixed),
    GW_FIELDS_END,
};
static const struct gw_state_desc thing_desc = {.name = "thing",
                                                .version = 2,
                                                .object_size = sizeof(struct thing),
                                                .priority = GW_PRIORITY_DEVICE,
                                                .fields = thing_fields,
                                                .subsections = subsections};

static void load(struct gw_state_plan *plan, uint32_t n_devices, struct fuzz_input *in)
{
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    bool is_good = load != NULL;

    fuzz_check(is_good == gw_state_plan_check(plan, NULL));
    for (uint32_t i = 0; i < n_devices && is_good; i++)
        is_good = gw_state_load_add(load, i, in->at, in->left, NULL);
    if (is_good && gw_state_load_commit(load, NULL) && fuzz_take(in, 1) & 1)
        gw_state_load_keep(load);
    if (load)
        gw_state_load_free(load);
}

static void clear(struct thing *thing)
{
    for (guint i = 0; i < thing->list->len; i++)
        g_free(thing->list->pdata[i]);
    g_ptr_array_unref(thing->list);
    g_free(thing->many);
    g_free(thing->maybe);
}

static void check_round_trip(const struct gw_schema *schema)
{
    g_autoptr(GByteArray) first = gw_schema_encode(schema);
    struct gw_schema *second = gw_schema_parse(first->data, first->len, NULL);

    fuzz_check(second != NULL);
    g_autoptr(GByteArray) again = gw_schema_encode(second);
    fuzz_check(first->len == again->len && memcmp(first->data, again->data, first->len) == 0);
    gw_schema_free(second);
    g_autofree char *json = gw_schema_to_json(schema);
    fuzz_check(json != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    size_t n;
    const uint8_t *bytes = fuzz_take_bytes(&in, fuzz_take(&in, 2), &n);
    struct gw_schema *schema = gw_schema_parse(bytes, n, NULL);

    if (!schema)
        return 0;
    check_round_trip(schema);
    struct thing thing = {.fixed = 7, .list = g_ptr_array_new()};
    struct gw_state_registry *registry = gw_state_registry_new();
    uint32_t n_devices = schema->n_devices, n_findings;
    for (uint32_t i = 0; i < n_devices && i < 4; i++)
        g_free(gw_schema_section_to_json(schema, i, in.at, in.left, NULL));
    fuzz_check(gw_state_registry_add(registry, "thing/0", &thing_desc, &thing, NULL));
    struct gw_state_plan *plan = gw_state_plan_new(schema, registry);
    gw_state_plan_findings(plan, &n_findings);
    load(plan, n_devices, &in);
    g_autoptr(GByteArray) out = g_byte_array_new();
    fuzz_check(gw_state_save(registry, 0, out, NULL));
    gw_state_plan_free(plan);
    gw_state_registry_free(registry);
    clear(&thing);
    return 0;
}
