/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon: pages given up are gone, and only they.
 */
#include "driver.h"

#include <endian.h>
#include <string.h>

#include <linux/virtio_balloon.h>

#define SLOT    7
#define INFLATE 0
#define DEFLATE 1
#define STATS   2
#define REPORT  3 /* as drivers number it, hints not being offered */

struct fixture {
    struct rig *rig;
    struct device *dev;
    struct drv drv;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    struct virtio_config config;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-balloon/0", SLOT);
    f->dev = virtio_balloon_new(&config, NULL);
    assert_non_null(f->dev);
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, SLOT);
    drv_bring_up(&f->drv, UINT64_MAX);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
    device_free(f->dev);
    rig_free(f->rig);
    g_free(f);
    return 0;
}

#define N_PAGES 16u

/* Pages filled with a mark each. */
static uint64_t marked_pages(struct fixture *f)
{
    uint64_t gpa = rig_alloc(f->rig, N_PAGES * GW_PAGE_SIZE);

    for (unsigned i = 0; i < N_PAGES; i++)
        memset(rig_host(f->rig, gpa + i * GW_PAGE_SIZE, GW_PAGE_SIZE), (int)i + 1, GW_PAGE_SIZE);
    return gpa;
}

/* gone: bit per page. */
static void check_pages(struct fixture *f, uint64_t gpa, unsigned gone)
{
    for (unsigned i = 0; i < N_PAGES; i++) {
        const uint8_t *page = rig_host(f->rig, gpa + i * GW_PAGE_SIZE, GW_PAGE_SIZE);
        uint8_t expected = gone >> i & 1 ? 0 : (uint8_t)(i + 1);

        assert_int_equal(page[0], expected);
        assert_int_equal(page[GW_PAGE_SIZE - 1], expected);
    }
}

static struct drv_segment pfn_list(struct fixture *f, const uint32_t *pfns, unsigned n)
{
    struct drv_segment segment = {rig_alloc(f->rig, n * 4), n * 4, false};
    uint32_t *list = rig_host(f->rig, segment.gpa, n * 4);

    for (unsigned i = 0; i < n; i++)
        list[i] = htole32(pfns[i]);
    return segment;
}

static void inflating_gives_pages_to_the_host(void **state)
{
    struct fixture *f = *state;
    uint64_t gpa = marked_pages(f);
    uint32_t first = (uint32_t)(gpa >> 12);
    /* A run upwards, a run downwards, one alone. */
    const uint32_t pfns[] = {first + 1, first + 2, first + 3, first + 9, first + 8, first + 12};
    struct drv_segment list = pfn_list(f, pfns, G_N_ELEMENTS(pfns));
    struct gw_page_set *set = gw_page_set_new(f->rig->memory);

    assert_true(gw_memory_log_start(f->rig->memory, NULL));
    assert_int_equal(drv_request(&f->drv, INFLATE, &list, 1), 0);
    check_pages(f, gpa, 0x130e);
    /* For a move that is under way, this is a write. */
    assert_true(gw_memory_log_collect(f->rig->memory, set, NULL, NULL));
    assert_true(gw_page_set_test(set, 0, (gpa - RIG_RAM_GPA) / GW_PAGE_SIZE + 8));
    gw_memory_log_stop(f->rig->memory);
    gw_page_set_free(set);
    assert_int_equal(drv_request(&f->drv, DEFLATE, &list, 1), 0);
}

static void inflating_what_is_not_ram_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    static const uint32_t pfns[] = {0, 1, (RIG_RAM_GPA >> 12) - 1,
                                    (RIG_HIGH_GPA + RIG_HIGH_BYTES) >> 12, UINT32_MAX};

    for (size_t i = 0; i < G_N_ELEMENTS(pfns); i++) {
        struct drv_segment list = pfn_list(f, &pfns[i], 1);

        drv_add(&f->drv, INFLATE, &list, 1);
        drv_kick(&f->drv, INFLATE);
        drv_await_broken(&f->drv, "is not RAM");
        drv_bring_up(&f->drv, UINT64_MAX);
    }
}

static void an_endless_list_needs_a_reset(void **state)
{
    struct fixture *f = *state;
    struct drv_segment list = {RIG_RAM_GPA + 0x1000, 4 * 4097, false};

    drv_add(&f->drv, INFLATE, &list, 1);
    drv_kick(&f->drv, INFLATE);
    drv_await_broken(&f->drv, "a list of 4097 pages");
}

static void reporting_gives_whole_pages_to_the_host(void **state)
{
    struct fixture *f = *state;
    uint64_t gpa = marked_pages(f);
    const struct drv_segment ranges[] = {
        {gpa + 1 * GW_PAGE_SIZE, 2 * GW_PAGE_SIZE, true},
        {gpa + 5 * GW_PAGE_SIZE + 1, 2 * GW_PAGE_SIZE, true}, /* holds page 6 only */
        {gpa + 10 * GW_PAGE_SIZE, GW_PAGE_SIZE - 1, true},    /* none */
    };

    drv_request(&f->drv, REPORT, ranges, 3);
    check_pages(f, gpa, 0x46);
    /* As the specification numbers it. */
    drv_request(&f->drv, REPORT + 1, &(struct drv_segment){gpa, GW_PAGE_SIZE, true}, 1);
    check_pages(f, gpa, 0x47);
}

static void target_and_actual_pass_each_other(void **state)
{
    struct fixture *f = *state;
    struct virtio_balloon_info info;

    virtio_balloon_set_target(f->dev, 1000);
    assert_int_equal(drv_read_isr(&f->drv), VIRTIO_ISR_CONFIG);
    assert_int_equal(drv_read(&f->drv, f->drv.config, 4), 1000);
    drv_write(&f->drv, f->drv.config + 4, 4, 77);
    virtio_balloon_get_info(f->dev, &info);
    assert_int_equal(info.target_pages, 1000);
    assert_int_equal(info.actual_pages, 77);
    assert_true(info.stats[VIRTIO_BALLOON_S_MEMFREE] == UINT64_MAX);
}

static bool has_stats(void *opaque)
{
    struct fixture *f = opaque;
    struct virtio_balloon_info info;

    virtio_balloon_get_info(f->dev, &info);
    return info.stats[VIRTIO_BALLOON_S_MEMFREE] == 123456;
}

static void statistics_come_when_asked(void **state)
{
    struct fixture *f = *state;
    const struct virtio_balloon_stat stats[] = {
        {htole16(VIRTIO_BALLOON_S_MEMFREE), htole64(123456)},
        {htole16(999), htole64(1)},
    };
    struct drv_segment buffer = {rig_alloc(f->rig, sizeof(stats)), sizeof(stats), false};
    uint32_t head, len;

    memcpy(rig_host(f->rig, buffer.gpa, sizeof(stats)), stats, sizeof(stats));
    drv_add(&f->drv, STATS, &buffer, 1);
    drv_kick(&f->drv, STATS);
    rig_await(f->rig, has_stats, f);
    assert_false(drv_poll_used(&f->drv, STATS, &head, &len));
    virtio_balloon_ask_stats(f->dev);
    drv_await_used(&f->drv, STATS, &head, &len);
    /* Asked while the driver is busy: the next buffer is given back at once. */
    virtio_balloon_ask_stats(f->dev);
    drv_add(&f->drv, STATS, &buffer, 1);
    drv_kick(&f->drv, STATS);
    drv_await_used(&f->drv, STATS, &head, &len);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(inflating_gives_pages_to_the_host), T(inflating_what_is_not_ram_needs_a_reset),
        T(an_endless_list_needs_a_reset),     T(reporting_gives_whole_pages_to_the_host),
        T(target_and_actual_pass_each_other), T(statistics_come_when_asked),
    };

    return cmocka_run_group_tests_name("virtio-balloon", tests, NULL, NULL);
}
