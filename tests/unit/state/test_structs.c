/* SPDX-License-Identifier: MIT */
/* Nested structs, pointers, lists, subsections, temporaries: save, load, failure. */
#include "state_test.h"

/* ---- one device with everything that nests ---- */

struct queue {
    uint16_t size;
    uint16_t next;
    void *host; /* not described */
};

struct request {
    uint32_t id;
    uint32_t n_data;
    uint8_t *data;
    void *host;
};

struct nest {
    struct queue one;
    struct queue fixed[2];
    uint8_t n_used;
    struct queue used[4];
    uint32_t n_heap;
    struct queue *heap;
    struct request *current;
    GPtrArray *pending;
    uint64_t deadline_host; /* described through a temporary */
    uint8_t marker;
    /* subsections */
    uint8_t extra;
    uint32_t n_log;
    uint8_t *log;
};

static const struct gw_field queue_fields[] = {
    GW_U16(struct queue, size, .max = 256),
    GW_U16(struct queue, next),
    GW_FIELDS_END,
};
static bool queue_ok(const void *shadow, GError **error)
{
    const struct queue *queue = shadow;

    if (queue->next > queue->size) {
        g_set_error(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE, "next %u beyond size %u",
                    queue->next, queue->size);
        return false;
    }
    return true;
}
static const struct gw_state_desc queue_desc = {.name = "queue",
                                                .version = 1,
                                                .object_size = sizeof(struct queue),
                                                .fields = queue_fields,
                                                .validate = queue_ok};

static const struct gw_field request_fields[] = {
    GW_U32(struct request, id),
    GW_ALLOC_BUFFER(struct request, data, n_data, .count_max = 64),
    GW_FIELDS_END,
};
static const struct gw_state_desc request_desc = {.name = "request",
                                                  .version = 1,
                                                  .object_size = sizeof(struct request),
                                                  .fields = request_fields};

struct deadline {
    int64_t guest_ns;
};
static const struct gw_field deadline_fields[] = {
    GW_TIMER(struct deadline, guest_ns),
    GW_FIELDS_END,
};
static const struct gw_state_desc deadline_desc = {.name = "deadline",
                                                   .version = 1,
                                                   .object_size = sizeof(struct deadline),
                                                   .fields = deadline_fields};
static void deadline_out(const void *object, void *temp)
{
    const struct nest *nest = object;

    ((struct deadline *)temp)->guest_ns = (int64_t)nest->deadline_host - 1000;
}
static bool deadline_check(const void *shadow, const void *temp, GError **error)
{
    if (((const struct deadline *)temp)->guest_ns == 666) {
        g_set_error_literal(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE, "a bad deadline");
        return false;
    }
    return true;
}
static void deadline_in(void *object, const void *temp)
{
    struct nest *nest = object;

    nest->deadline_host = (uint64_t)((const struct deadline *)temp)->guest_ns + 1000;
}

static void request_free(void *opaque)
{
    struct request *request = opaque;

    g_free(request->data);
    g_free(request->host);
    g_free(request);
}

static bool extra_needed(const void *object)
{
    return ((const struct nest *)object)->extra != 0;
}
static const struct gw_field extra_fields[] = {
    GW_U8(struct nest, extra),
    GW_FIELDS_END,
};
static const struct gw_state_desc extra_desc = {.name = "extra",
                                                .version = 1,
                                                .object_size = sizeof(struct nest),
                                                .fields = extra_fields,
                                                .is_needed = extra_needed};
static bool log_needed(const void *object)
{
    return ((const struct nest *)object)->n_log != 0;
}
static const struct gw_field log_fields[] = {
    GW_ALLOC_BUFFER(struct nest, log, n_log, .count_max = 8),
    GW_FIELDS_END,
};
static const struct gw_state_desc log_desc = {.name = "log",
                                              .version = 1,
                                              .object_size = sizeof(struct nest),
                                              .fields = log_fields,
                                              .is_needed = log_needed};

static const struct gw_field nest_fields[] = {
    GW_STRUCT(struct nest, one, &queue_desc),
    GW_STRUCT_ARRAY(struct nest, fixed, &queue_desc),
    GW_STRUCT_VARRAY(struct nest, used, n_used, &queue_desc),
    GW_STRUCT_ALLOC(struct nest, heap, n_heap, &queue_desc, .count_max = 8),
    GW_POINTER(struct nest, current, &request_desc, .free_element = request_free),
    GW_LIST(struct nest, pending, &request_desc, .count_max = 5, .free_element = request_free),
    GW_TEMP("deadline", &deadline_desc, deadline_out, deadline_check, deadline_in),
    GW_U8(struct nest, marker),
    GW_FIELDS_END,
};
static const struct gw_state_desc *const nest_subsections[] = {&extra_desc, &log_desc, NULL};
static const struct gw_state_desc nest_desc = {
    .name = "nest",
    .version = 1,
    .object_size = sizeof(struct nest),
    .fields = nest_fields,
    .subsections = nest_subsections,
};

static struct request *request_new(uint32_t id, const char *data)
{
    struct request *request = g_new0(struct request, 1);

    request->id = id;
    request->n_data = (uint32_t)strlen(data);
    request->data = request->n_data ? g_memdup2(data, request->n_data) : NULL;
    request->host = g_malloc(1);
    return request;
}

static struct nest nest_sample(void)
{
    struct nest nest = {
        .one = {8, 1},
        .fixed = {{16, 2}, {32, 3}},
        .n_used = 2,
        .used = {{1, 0}, {2, 1}},
        .n_heap = 2,
        .heap = g_new0(struct queue, 2),
        .current = request_new(5, "current"),
        .pending = g_ptr_array_new(),
        .deadline_host = 5000,
        .marker = 9,
        .extra = 3,
        .n_log = 3,
        .log = g_memdup2("log", 3),
    };

    nest.heap[1] = (struct queue){64, 4};
    g_ptr_array_add(nest.pending, request_new(6, "one"));
    g_ptr_array_add(nest.pending, request_new(7, ""));
    return nest;
}

static void nest_clear(struct nest *nest)
{
    g_free(nest->heap);
    g_free(nest->log);
    if (nest->current) {
        request_free(nest->current);
    }
    for (guint i = 0; nest->pending && i < nest->pending->len; i++) {
        request_free(g_ptr_array_index(nest->pending, i));
    }
    if (nest->pending) {
        g_ptr_array_free(nest->pending, TRUE);
    }
}

static void assert_is_sample(const struct nest *nest)
{
    assert_int_equal(nest->one.size, 8);
    assert_int_equal(nest->fixed[1].next, 3);
    assert_int_equal(nest->n_used, 2);
    assert_int_equal(nest->used[1].size, 2);
    assert_int_equal(nest->n_heap, 2);
    assert_int_equal(nest->heap[1].size, 64);
    assert_int_equal(nest->current->id, 5);
    assert_int_equal(nest->current->n_data, 7);
    assert_memory_equal(nest->current->data, "current", 7);
    assert_int_equal(nest->pending->len, 2);
    const struct request *first = g_ptr_array_index(nest->pending, 0);
    const struct request *second = g_ptr_array_index(nest->pending, 1);
    assert_int_equal(first->id, 6);
    assert_memory_equal(first->data, "one", 3);
    assert_int_equal(second->id, 7);
    assert_null(second->data);
    assert_int_equal(nest->deadline_host, 5000);
    assert_int_equal(nest->marker, 9);
    assert_int_equal(nest->extra, 3);
    assert_int_equal(nest->n_log, 3);
    assert_memory_equal(nest->log, "log", 3);
}

static void everything_moves_into_an_empty_object(void **state)
{
    struct nest from = nest_sample();
    struct nest to = {.one = {.host = &to}};

    move_one(&nest_desc, &from, &nest_desc, &to);
    assert_is_sample(&to);
    assert_ptr_equal(to.one.host, &to);
    assert_null(to.current->host);
    nest_clear(&from);
    nest_clear(&to);
}

static void everything_moves_over_what_is_there(void **state)
{
    struct nest from = nest_sample();
    struct nest to = nest_sample();
    struct request *current = to.current;
    void *host = current->host;
    GPtrArray *pending = to.pending;

    to.current->id = 99;
    to.marker = 1;
    g_ptr_array_add(to.pending, request_new(8, "old"));
    move_one(&nest_desc, &from, &nest_desc, &to);
    assert_is_sample(&to);
    /* a pointee that exists stays where it is, and so does the list */
    assert_ptr_equal(to.current, current);
    assert_ptr_equal(current->host, host);
    assert_ptr_equal(to.pending, pending);
    nest_clear(&from);
    nest_clear(&to);
}

static void emptiness_moves_too(void **state)
{
    struct nest from = {.deadline_host = 1000};
    struct nest to = nest_sample();

    move_one(&nest_desc, &from, &nest_desc, &to);
    assert_null(to.current);
    assert_int_equal(to.pending->len, 0);
    assert_null(to.heap);
    assert_int_equal(to.n_used, 0);
    assert_int_equal(to.extra, 0); /* an absent subsection resets what it describes */
    assert_null(to.log);
    nest_clear(&to);
}

static void inspection_shows_the_same_as_the_object(void **state)
{
    struct nest from = nest_sample();
    struct gw_state_registry *registry = one_device(&nest_desc, &from);
    g_autofree char *direct = gw_state_save_json(registry, 0, NULL);
    struct gw_schema *schema = over_the_wire(registry);
    g_autoptr(GPtrArray) sections = save_all(registry);
    GByteArray *bytes = g_ptr_array_index(sections, 0);
    g_autofree char *inspected =
        gw_schema_section_to_json(schema, 0, bytes->data, bytes->len, NULL);

    assert_string_equal(direct, inspected);
    assert_non_null(strstr(direct, "\"data\": \"6f6e65\""));
    gw_schema_free(schema);
    gw_state_registry_free(registry);
    nest_clear(&from);
}

static void nothing_changes_when_the_load_is_refused(void **state)
{
    struct nest from = nest_sample();
    struct nest to = nest_sample();

    from.used[1].next = 3;
    refuse_one(&nest_desc, &from, &nest_desc, &to, sizeof(to),
               "device dev/0: next 3 beyond size 2");
    from.used[1].next = 1;
    from.deadline_host = 1666;
    refuse_one(&nest_desc, &from, &nest_desc, &to, sizeof(to),
               "device dev/0, field deadline: a bad deadline");
    assert_is_sample(&to);
    nest_clear(&from);
    nest_clear(&to);
}

static void paths_name_the_place(void **state)
{
    static const struct gw_field loose_queue_fields[] = {
        GW_U16(struct queue, size),
        GW_U16(struct queue, next),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc loose_queue = {.name = "queue",
                                                     .version = 1,
                                                     .object_size = sizeof(struct queue),
                                                     .fields = loose_queue_fields};
    static const struct gw_field loose_fields[] = {
        GW_STRUCT_VARRAY(struct nest, used, n_used, &loose_queue),
        GW_FIELDS_END,
    };
    static const struct gw_field tight_fields[] = {
        GW_STRUCT_VARRAY(struct nest, used, n_used, &queue_desc),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc loose = {
        .name = "n", .version = 1, .object_size = sizeof(struct nest), .fields = loose_fields};
    static const struct gw_state_desc tight = {
        .name = "n", .version = 1, .object_size = sizeof(struct nest), .fields = tight_fields};
    struct nest from = {.n_used = 3, .used = {{1}, {2}, {257}}};
    struct nest to = {0};

    refuse_one(&loose, &from, &tight, &to, sizeof(to),
               "device dev/0, field used[2].size: is 257, at most 256 is allowed");
}

static void a_required_pointer_must_be_there(void **state)
{
    static const struct gw_field optional_fields[] = {
        GW_POINTER(struct nest, current, &request_desc),
        GW_FIELDS_END,
    };
    static const struct gw_field required_fields[] = {
        GW_POINTER(struct nest, current, &request_desc, .is_required = true),
        GW_FIELDS_END,
    };
    static const struct gw_state_desc optional = {
        .name = "n", .version = 1, .object_size = sizeof(struct nest), .fields = optional_fields};
    static const struct gw_state_desc required = {
        .name = "n", .version = 1, .object_size = sizeof(struct nest), .fields = required_fields};
    struct nest from = {0};
    struct nest to = {0};

    refuse_one(&optional, &from, &required, &to, sizeof(to),
               "device dev/0, field current: is absent but required");
    refuse_save(&required, &from, "device dev/0, field current: points nowhere");
}

/* ---- hooks ---- */

struct hooked {
    uint32_t value;
    uint32_t derived; /* post_load: 2 * value */
    uint32_t live;
    bool is_armed;
    bool refuses_post_load;
};

static bool hooked_pre_save(void *object, GError **error)
{
    struct hooked *hooked = object;

    if (hooked->live == 13) {
        return false; /* without a reason */
    }
    hooked->value = hooked->live;
    return true;
}
static bool hooked_post_load(void *object, GError **error)
{
    struct hooked *hooked = object;

    hooked->derived = 2 * hooked->value;
    if (hooked->refuses_post_load && hooked->value == 50) {
        g_set_error_literal(error, GW_STATE_ERROR, GW_STATE_ERROR_VALUE, "50 is too much");
        return false;
    }
    return true;
}
static void hooked_arm(void *object)
{
    ((struct hooked *)object)->is_armed = true;
}
static const struct gw_field hooked_fields[] = {
    GW_U32(struct hooked, value),
    GW_FIELDS_END,
};
static const struct gw_state_desc hooked_desc = {
    .name = "hooked",
    .version = 1,
    .object_size = sizeof(struct hooked),
    .fields = hooked_fields,
    .pre_save = hooked_pre_save,
    .post_load = hooked_post_load,
    .arm = hooked_arm,
};

static struct gw_state_registry *hooked_machine(struct hooked objects[3])
{
    struct gw_state_registry *registry = gw_state_registry_new();

    /* order of creation must not matter */
    assert_true(gw_state_registry_add(registry, "dev/10", &hooked_desc, &objects[2], NULL));
    assert_true(gw_state_registry_add(registry, "dev/2", &hooked_desc, &objects[1], NULL));
    assert_true(gw_state_registry_add(registry, "dev/1", &hooked_desc, &objects[0], NULL));
    return registry;
}

static void hooks_run(void **state)
{
    struct hooked from[3] = {{.live = 1}, {.live = 2}, {.live = 3}};
    struct hooked to[3] = {0};
    struct gw_state_registry *source = hooked_machine(from);
    struct gw_state_registry *destination = hooked_machine(to);

    assert_null(move(source, destination));
    for (uint32_t i = 0; i < 3; i++) {
        assert_int_equal(to[i].value, i + 1);
        assert_int_equal(to[i].derived, 2 * (i + 1));
        assert_false(to[i].is_armed);
    }
    gw_state_arm(destination);
    assert_true(to[0].is_armed && to[1].is_armed && to[2].is_armed);

    from[1].live = 13;
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    assert_false(gw_state_save(source, 1, out, &error));
    assert_string_equal(error->message, "device dev/2, hooked: pre_save failed without a reason");
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void a_refusal_at_the_last_device_leaves_the_first_as_it_was(void **state)
{
    struct hooked from[3] = {{.live = 1}, {.live = 2}, {.live = 50}};
    struct hooked to[3] = {{.value = 7, .derived = 14},
                           {.value = 8, .derived = 16},
                           {.value = 9, .derived = 18, .refuses_post_load = true}};
    struct hooked before[3];
    struct gw_state_registry *source = hooked_machine(from);
    struct gw_state_registry *destination = hooked_machine(to);

    memcpy(before, to, sizeof(to));
    g_autoptr(GError) error = move(source, destination);
    assert_string_equal(error->message, "device dev/10: 50 is too much");
    assert_memory_equal(before, to, sizeof(to));
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

static void a_commit_can_be_taken_back(void **state)
{
    struct nest from = nest_sample();
    struct nest to = {.deadline_host = 2000, .pending = g_ptr_array_new(), .marker = 1};
    struct gw_state_registry *source = one_device(&nest_desc, &from);
    struct gw_state_registry *destination = one_device(&nest_desc, &to);
    struct nest before = to;
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(source), destination);
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    g_autoptr(GPtrArray) sections = save_all(source);
    GByteArray *bytes = g_ptr_array_index(sections, 0);

    g_ptr_array_add(to.pending, request_new(1, "mine"));
    assert_true(gw_state_load_add(load, 0, bytes->data, bytes->len, NULL));
    assert_true(gw_state_load_commit(load, NULL));
    assert_is_sample(&to);
    gw_state_load_free(load); /* not kept */
    assert_memory_equal(&before, &to, sizeof(to));
    assert_int_equal(to.pending->len, 1);
    const struct request *mine = g_ptr_array_index(to.pending, 0);
    assert_memory_equal(mine->data, "mine", 4);
    gw_state_plan_free(plan);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
    nest_clear(&from);
    nest_clear(&to);
}

static void loads_keep_their_order(void **state)
{
    struct hooked from[3] = {{.live = 1}, {.live = 2}, {.live = 3}};
    struct hooked to[3] = {0};
    struct gw_state_registry *source = hooked_machine(from);
    struct gw_state_registry *destination = hooked_machine(to);
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(source), destination);
    g_autoptr(GPtrArray) sections = save_all(source);
    GByteArray *bytes = g_ptr_array_index(sections, 0);
    g_autoptr(GError) twice = NULL;
    g_autoptr(GError) missing = NULL;
    g_autoptr(GError) beyond = NULL;

    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    assert_true(gw_state_load_add(load, 1, bytes->data, bytes->len, NULL));
    assert_false(gw_state_load_add(load, 1, bytes->data, bytes->len, &twice));
    assert_string_equal(twice->message, "device dev/2: its section came twice");
    gw_state_load_free(load);

    load = gw_state_load_begin(plan, NULL);
    assert_true(gw_state_load_add(load, 1, bytes->data, bytes->len, NULL));
    assert_false(gw_state_load_commit(load, &missing));
    assert_string_equal(missing->message, "device dev/1: its section is missing");
    gw_state_load_free(load);

    load = gw_state_load_begin(plan, NULL);
    assert_false(gw_state_load_add(load, 3, bytes->data, bytes->len, &beyond));
    assert_string_equal(beyond->message, "section of device 3 of 3");
    gw_state_load_free(load);
    assert_int_equal(to[1].value, 0);
    gw_state_plan_free(plan);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
}

/* ---- hostile sections ---- */

static bool queue_good(const struct queue *queue)
{
    return queue->size <= 256 && queue->next <= queue->size;
}

/* Everything that the tables promise about an object. */
static void assert_constraints_hold(const struct nest *nest)
{
    assert_true(queue_good(&nest->one) && queue_good(&nest->fixed[0]) &&
                queue_good(&nest->fixed[1]));
    assert_true(nest->n_used <= 4 && nest->n_heap <= 8);
    for (unsigned i = 0; i < nest->n_used; i++) {
        assert_true(queue_good(&nest->used[i]));
    }
    for (unsigned i = 0; i < nest->n_heap; i++) {
        assert_true(queue_good(&nest->heap[i]));
    }
    assert_true(!nest->pending || nest->pending->len <= 5);
    assert_true(nest->n_log <= 8);
}

/* Loads hostile bytes; a refusal must leave *to as it was. Returns whether it loaded. */
static bool try_bytes(const struct gw_state_plan *plan, const uint8_t *bytes, size_t len,
                      struct nest *to)
{
    struct nest before = *to;
    GError *error = NULL;
    struct gw_state_load *load = gw_state_load_begin(plan, NULL);
    g_autofree uint8_t *exact = g_memdup2(bytes, len);
    bool ok = gw_state_load_add(load, 0, exact, len, &error) && gw_state_load_commit(load, &error);

    if (ok) {
        gw_state_load_keep(load);
        assert_constraints_hold(to);
    } else {
        assert_non_null(error);
        assert_true(strlen(error->message) > 0);
        assert_memory_equal(&before, to, sizeof(before));
        g_error_free(error);
    }
    gw_state_load_free(load);
    return ok;
}

static void every_cut_is_refused_and_every_flip_is_bounded(void **state)
{
    struct nest from = nest_sample();
    struct nest to = {0};
    struct gw_state_registry *source = one_device(&nest_desc, &from);
    struct gw_state_registry *destination = one_device(&nest_desc, &to);
    struct gw_state_plan *plan = gw_state_plan_new(over_the_wire(source), destination);
    g_autoptr(GPtrArray) sections = save_all(source);
    GByteArray *bytes = g_ptr_array_index(sections, 0);

    for (guint len = 0; len < bytes->len; len++) {
        assert_false(try_bytes(plan, bytes->data, len, &to));
    }
    g_byte_array_append(bytes, (const guint8 *)"", 1);
    assert_false(try_bytes(plan, bytes->data, bytes->len, &to));
    g_byte_array_set_size(bytes, bytes->len - 1);

    unsigned n_loaded = 0;
    for (guint at = 0; at < bytes->len; at++) {
        uint8_t original = bytes->data[at];
        for (unsigned value = 0; value < 256; value++) {
            bytes->data[at] = (uint8_t)value;
            n_loaded += try_bytes(plan, bytes->data, bytes->len, &to);
        }
        bytes->data[at] = original;
        /* and the inspector, which knows nothing but the schema */
        for (unsigned bit = 0; bit < 8; bit++) {
            bytes->data[at] = (uint8_t)(original ^ (1u << bit));
            g_autofree char *json = gw_schema_section_to_json(gw_state_plan_schema(plan), 0,
                                                              bytes->data, bytes->len, NULL);
        }
        bytes->data[at] = original;
    }
    assert_true(n_loaded > bytes->len); /* at least the unchanged ones */
    assert_true(try_bytes(plan, bytes->data, bytes->len, &to));
    assert_is_sample(&to);
    gw_state_plan_free(plan);
    gw_state_registry_free(source);
    gw_state_registry_free(destination);
    nest_clear(&from);
    nest_clear(&to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_moves_into_an_empty_object),
        cmocka_unit_test(everything_moves_over_what_is_there),
        cmocka_unit_test(emptiness_moves_too),
        cmocka_unit_test(inspection_shows_the_same_as_the_object),
        cmocka_unit_test(nothing_changes_when_the_load_is_refused),
        cmocka_unit_test(paths_name_the_place),
        cmocka_unit_test(a_required_pointer_must_be_there),
        cmocka_unit_test(hooks_run),
        cmocka_unit_test(a_refusal_at_the_last_device_leaves_the_first_as_it_was),
        cmocka_unit_test(a_commit_can_be_taken_back),
        cmocka_unit_test(loads_keep_their_order),
        cmocka_unit_test(every_cut_is_refused_and_every_flip_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
