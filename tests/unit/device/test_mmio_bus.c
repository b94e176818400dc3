/* SPDX-License-Identifier: MIT */
/*
 * The MMIO bus: who answers where, what is refused, and regions that move.
 */
#include "rig.h"

struct memory_device {
    struct device dev;
    uint64_t last_offset, last_value;
    unsigned last_size, n_reads, n_writes;
    uint64_t answer;
};

static uint64_t memory_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct memory_device *memory = opaque;
    memory->last_offset = offset;
    memory->last_size = size;
    memory->n_reads++;
    return memory->answer;
}

static void memory_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct memory_device *memory = opaque;
    memory->last_offset = offset;
    memory->last_size = size;
    memory->last_value = value;
    memory->n_writes++;
}

static const struct mmio_ops any_size = {
    .read = memory_read, .write = memory_write, .min_size = 1, .max_size = 8};
static const struct mmio_ops words_only = {
    .read = memory_read, .write = memory_write, .min_size = 4, .max_size = 4};
static const struct device_ops memory_ops = {.type = "memory"};

static void memory_init(struct memory_device *memory, const char *id)
{
    *memory = (struct memory_device){.answer = UINT64_MAX};
    device_init(&memory->dev, &memory_ops, id, NULL, NULL);
}

static void accesses_reach_their_region_with_offsets(void **state)
{
    struct rig *rig = *state;
    struct memory_device a, b;
    memory_init(&a, "a");
    memory_init(&b, "b");
    assert_non_null(mmio_bus_add(rig->bus, "b", &b.dev, 0x2000, 0x100, &any_size, &b, NULL));
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x1000, &any_size, &a, NULL));

    rig_write(rig, 0x1ff8, 8, 0x1122334455667788);
    assert_int_equal(a.last_offset, 0xff8);
    assert_true(a.last_value == 0x1122334455667788);
    assert_int_equal(rig_read(rig, 0x2000, 1), 0xff);
    assert_int_equal(b.last_offset, 0);
    assert_int_equal(b.last_size, 1);
    assert_int_equal(rig_read(rig, 0x20fc, 4), 0xffffffff);
    rig_write(rig, 0x2002, 2, 0x12345678);
    assert_int_equal(b.last_value, 0x5678);
    device_clear(&a.dev);
    device_clear(&b.dev);
}

static bool ring(struct device *dev, void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
    /* The lock is free: it can be taken here. */
    assert_int_equal(pthread_mutex_lock(&dev->lock), 0);
    pthread_mutex_unlock(&dev->lock);
    return offset == 0x10;
}

static void doorbells_do_not_take_the_lock(void **state)
{
    static const struct mmio_ops with_doorbell = {
        .read = memory_read, .write = memory_write, .min_size = 1, .max_size = 4, .doorbell = ring};
    struct rig *rig = *state;
    struct memory_device a;
    memory_init(&a, "a");
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x100, &with_doorbell, &a, NULL));
    rig_write(rig, 0x1010, 2, 1);
    assert_int_equal(a.n_writes, 0);
    rig_write(rig, 0x1014, 2, 1);
    assert_int_equal(a.n_writes, 1);
    device_clear(&a.dev);
}

static void holes_edges_and_misaligned_accesses_are_refused(void **state)
{
    struct rig *rig = *state;
    struct memory_device a;
    uint64_t value;
    memory_init(&a, "a");
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x14, &any_size, &a, NULL));

    assert_false(mmio_bus_read(rig->bus, 0xfff, 1, &value));
    assert_false(mmio_bus_read(rig->bus, 0x1014, 1, &value));
    assert_false(mmio_bus_read(rig->bus, 0x1010, 8, &value)); /* half of it outside */
    assert_false(mmio_bus_read(rig->bus, 0x1002, 4, &value));
    assert_false(mmio_bus_write(rig->bus, 0x1004, 8, 0));
    assert_false(mmio_bus_read(rig->bus, UINT64_MAX, 1, &value));
    assert_false(mmio_bus_read(rig->bus, UINT64_MAX - 7, 8, &value));
    assert_int_equal(a.n_reads + a.n_writes, 0);
    device_clear(&a.dev);
}

static void sizes_a_device_does_not_take_read_as_zero(void **state)
{
    struct rig *rig = *state;
    struct memory_device a;
    memory_init(&a, "a");
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x100, &words_only, &a, NULL));

    assert_int_equal(rig_read(rig, 0x1000, 1), 0);
    assert_int_equal(rig_read(rig, 0x1000, 8), 0);
    rig_write(rig, 0x1000, 2, 1);
    assert_int_equal(a.n_reads + a.n_writes, 0);
    assert_int_equal(rig_read(rig, 0x1000, 4), 0xffffffff);
    device_clear(&a.dev);
}

static void overlaps_and_impossible_ranges_are_errors(void **state)
{
    struct rig *rig = *state;
    struct memory_device a;
    GError *error = NULL;
    memory_init(&a, "a");
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x100, &any_size, &a, NULL));

    assert_null(mmio_bus_add(rig->bus, "b", &a.dev, 0x10ff, 1, &any_size, &a, &error));
    assert_string_equal(error->message, "MMIO region b at 0x10ff overlaps a");
    g_clear_error(&error);
    assert_null(mmio_bus_add(rig->bus, "b", &a.dev, 0xf00, 0x1000, &any_size, &a, NULL));
    assert_null(mmio_bus_add(rig->bus, "b", &a.dev, 0x2000, 0, &any_size, &a, NULL));
    assert_null(mmio_bus_add(rig->bus, "b", &a.dev, UINT64_MAX - 9, 20, &any_size, &a, NULL));
    assert_non_null(mmio_bus_add(rig->bus, "b", &a.dev, 0x1100, 1, &any_size, &a, NULL));
    assert_non_null(mmio_bus_add(rig->bus, "c", &a.dev, 0xfff, 1, &any_size, &a, NULL));
    device_clear(&a.dev);
}

static void a_region_that_is_in_the_way_delays_a_move(void **state)
{
    struct rig *rig = *state;
    struct memory_device a, b;
    uint64_t value;
    memory_init(&a, "a");
    memory_init(&b, "b");
    struct mmio_region *ra =
        mmio_bus_add(rig->bus, "a", &a.dev, UINT64_MAX, 0x100, &any_size, &a, NULL);
    struct mmio_region *rb =
        mmio_bus_add(rig->bus, "b", &b.dev, UINT64_MAX, 0x100, &any_size, &b, NULL);
    assert_false(mmio_bus_read(rig->bus, 0x4000, 4, &value));

    assert_true(mmio_region_move(ra, 0x4000));
    assert_false(mmio_region_move(rb, 0x4080));
    rig_read(rig, 0x4000, 4);
    assert_int_equal(a.n_reads, 1);
    assert_false(mmio_bus_read(rig->bus, 0x4100, 4, &value));
    /* The one in the way leaves: the other is where it was meant to be. */
    assert_true(mmio_region_move(ra, 0x8000));
    rig_read(rig, 0x4100, 4);
    assert_int_equal(b.n_reads, 1);
    assert_int_equal(b.last_offset, 0x80);
    assert_true(mmio_region_move(rb, UINT64_MAX));
    assert_false(mmio_bus_read(rig->bus, 0x4100, 4, &value));
    assert_true(mmio_region_move(ra, 0x8000));
    assert_true(mmio_region_move(ra, UINT64_MAX - 0x10)); /* wraps: switched off */
    assert_false(mmio_bus_read(rig->bus, 0x8000, 4, &value));
    device_clear(&a.dev);
    device_clear(&b.dev);
}

struct mover {
    struct rig *rig;
    struct mmio_region *region;
    struct device *dev;
};

static void *move_about(void *opaque)
{
    struct mover *mover = opaque;
    for (unsigned i = 0; i < 2000; i++) {
        pthread_mutex_lock(&mover->dev->lock);
        mmio_region_move(mover->region, i % 3 == 2 ? UINT64_MAX : 0x1000 * (i % 3 + 1));
        pthread_mutex_unlock(&mover->dev->lock);
    }
    return NULL;
}

static void regions_move_while_others_are_used(void **state)
{
    struct rig *rig = *state;
    struct memory_device a, b;
    uint64_t value;
    memory_init(&a, "a");
    memory_init(&b, "b");
    struct mmio_region *ra =
        mmio_bus_add(rig->bus, "a", &a.dev, UINT64_MAX, 0x100, &any_size, &a, NULL);
    assert_non_null(mmio_bus_add(rig->bus, "b", &b.dev, 0x5000, 0x100, &any_size, &b, NULL));
    struct mover mover = {.rig = rig, .region = ra, .dev = &a.dev};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, move_about, &mover), 0);
    for (unsigned i = 0; i < 2000; i++) {
        assert_true(mmio_bus_read(rig->bus, 0x5000, 4, &value));
        mmio_bus_read(rig->bus, 0x1000, 4, &value);
    }
    pthread_join(thread, NULL);
    assert_int_equal(b.n_reads, 2000);
    device_clear(&a.dev);
    device_clear(&b.dev);
}

static void accesses_are_in_the_latency_book(void **state)
{
    struct rig *rig = *state;
    struct memory_device a;
    size_t n;
    memory_init(&a, "a");
    assert_non_null(mmio_bus_add(rig->bus, "a", &a.dev, 0x1000, 0x100, &any_size, &a, NULL));
    rig_read(rig, 0x1000, 4);
    struct latency_summary *summaries = latency_book_snapshot(rig->book, &n);
    assert_int_equal(n, 1);
    assert_string_equal(summaries[0].name, "a/mmio");
    latency_summaries_free(summaries, n);
    device_clear(&a.dev);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(accesses_reach_their_region_with_offsets),
        RIG_TEST(doorbells_do_not_take_the_lock),
        RIG_TEST(holes_edges_and_misaligned_accesses_are_refused),
        RIG_TEST(sizes_a_device_does_not_take_read_as_zero),
        RIG_TEST(overlaps_and_impossible_ranges_are_errors),
        RIG_TEST(a_region_that_is_in_the_way_delays_a_move),
        RIG_TEST(regions_move_while_others_are_used),
        RIG_TEST(accesses_are_in_the_latency_book),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
