/* SPDX-License-Identifier: MIT */
/* Every kind of field: save, load, constraint. */
#include "state_test.h"

/* ---- scalars ---- */

enum color { RED, GREEN, BLUE };

struct scalars {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    bool yes;
    bool no;
    enum color color;
    int64_t timer;
    int64_t no_timer;
    _Atomic uint32_t atomic;
    uint32_t private_member; /* not described: must survive */
};

static const struct gw_field scalars_fields[] = {
    GW_U8(struct scalars, u8),
    GW_U16(struct scalars, u16),
    GW_U32(struct scalars, u32),
    GW_U64(struct scalars, u64),
    GW_I8(struct scalars, i8),
    GW_I16(struct scalars, i16),
    GW_I32(struct scalars, i32),
    GW_I64(struct scalars, i64),
    GW_BOOL(struct scalars, yes),
    GW_BOOL(struct scalars, no),
    GW_ENUM(struct scalars, color, 3),
    GW_TIMER(struct scalars, timer),
    GW_TIMER(struct scalars, no_timer),
    GW_U32(struct scalars, atomic),
    GW_FIELDS_END,
};
static const struct gw_state_desc scalars_desc = {
    .name = "scalars",
    .version = 1,
    .object_size = sizeof(struct scalars),
    .fields = scalars_fields,
};

static void scalars_move(void **state)
{
    struct scalars from = {
        .u8 = UINT8_MAX,
        .u16 = UINT16_MAX,
        .u32 = UINT32_MAX,
        .u64 = UINT64_MAX,
        .i8 = INT8_MIN,
        .i16 = INT16_MIN,
        .i32 = INT32_MIN,
        .i64 = INT64_MIN,
        .yes = true,
        .color = BLUE,
        .timer = INT64_MAX,
        .no_timer = -1,
        .atomic = 77,
        .private_member = 1,
    };
    struct scalars to = {.private_member = 42, .no = true, .u8 = 3};

    move_one(&scalars_desc, &from, &scalars_desc, &to);
    assert_int_equal(to.private_member, 42);
    to.private_member = 1;
    assert_memory_equal(&from, &to, sizeof(to));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_move),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
