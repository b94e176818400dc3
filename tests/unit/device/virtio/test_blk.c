/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk over a real file, by io_uring and by worker threads.
 */
#include "driver.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_blk.h>

#define SLOT       4
#define DISK_BYTES (1u << 20)
#define N_SECTORS  (DISK_BYTES / 512)
#define ALL        UINT64_MAX
/* Writes are answered when they are in the file, not on the platter. */
#define WRITE_BACK (ALL & ~VIRTIO_FEATURE(VIRTIO_BLK_F_CONFIG_WCE))

/* A driver that does not know the cache: each write is followed by a flush. */
#define WRITE_THROUGH (WRITE_BACK & ~VIRTIO_FEATURE(VIRTIO_BLK_F_FLUSH))

struct fixture {
    struct rig *rig;
    struct device *dev;
    char *path;
    struct drv drv;
};

static int make(void **state, const char *options)
{
    struct fixture *f = g_new0(struct fixture, 1);
    g_autofree char *spec = NULL;
    struct virtio_config config;
    struct blockdev *disk;
    uint8_t bytes[512];
    int fd;

    f->rig = rig_new();
    config = rig_config(f->rig, "virtio-blk/0", SLOT);
    fd = g_file_open_tmp("gw-blk-XXXXXX", &f->path, NULL);
    assert_true(fd >= 0);
    for (unsigned i = 0; i < N_SECTORS; i++) {
        memset(bytes, (int)(i % 251), sizeof(bytes));
        assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    }
    close(fd);
    spec = g_strconcat(f->path, options, NULL);
    disk = blockdev_open(spec, false, f->rig->loop, NULL);
    assert_non_null(disk);
    f->dev = virtio_blk_new(&config, disk, "serial-number", NULL);
    assert_non_null(f->dev);
    device_reset(f->dev);
    device_start(f->dev);
    drv_probe(&f->drv, f->rig, f->dev, SLOT);
    *state = f;
    return 0;
}

static int setup(void **state)
{
    return make(state, "");
}

static int setup_threads(void **state)
{
    return make(state, ",engine=threads");
}

static int setup_read_only(void **state)
{
    return make(state, ",readonly");
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    rig_open_gate(f->rig); /* a test that failed may have left it shut */
    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
    device_free(f->dev);
    rig_free(f->rig);
    unlink(f->path);
    g_free(f->path);
    g_free(f);
    return 0;
}

/* ---- requests -------------------------------------------------------------------------------- */

/* One request in guest memory. */
struct op {
    uint64_t header, data, status;
    uint32_t len;
    bool is_in;
};

static struct op op_new(struct fixture *f, uint32_t type, uint64_t sector, uint32_t len, bool is_in)
{
    struct op op = {.header = rig_alloc(f->rig, 16),
                    .data = len ? rig_alloc(f->rig, len) : 0,
                    .status = rig_alloc(f->rig, 1),
                    .len = len,
                    .is_in = is_in};
    struct virtio_blk_outhdr header = {.type = htole32(type), .sector = htole64(sector)};

    memcpy(rig_host(f->rig, op.header, 16), &header, 16);
    *(uint8_t *)rig_host(f->rig, op.status, 1) = 0xee;
    return op;
}

static uint8_t *op_data(struct fixture *f, const struct op *op)
{
    return rig_host(f->rig, op->data, op->len);
}

static uint8_t op_status(struct fixture *f, const struct op *op)
{
    return *(uint8_t *)rig_host(f->rig, op->status, 1);
}

static uint16_t op_add(struct fixture *f, const struct op *op)
{
    struct drv_segment segments[3] = {
        {op->header, 16, false}, {op->data, op->len, op->is_in}, {op->status, 1, true}};

    if (op->len == 0)
        segments[1] = segments[2];
    return drv_add(&f->drv, 0, segments, op->len ? 3 : 2);
}

static uint8_t op_run(struct fixture *f, const struct op *op, uint32_t *used)
{
    uint16_t added = op_add(f, op);
    uint32_t head;

    drv_kick(&f->drv, 0);
    drv_await_used(&f->drv, 0, &head, used);
    assert_int_equal(head, added);
    return op_status(f, op);
}

static void fill(uint8_t *bytes, size_t len, unsigned seed)
{
    for (size_t i = 0; i < len; i++)
        bytes[i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
}

static void reads_what_is_in_the_file(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint32_t used;

    drv_bring_up(&f->drv, ALL);
    op = op_new(f, VIRTIO_BLK_T_IN, 100, 8 * 512, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
    assert_int_equal(used, 8 * 512 + 1);
    for (unsigned i = 0; i < 8 * 512; i++)
        assert_int_equal(op_data(f, &op)[i], (100 + i / 512) % 251);
}

static void writes_into_the_file(void **state)
{
    struct fixture *f = *state;
    uint8_t expected[4096], got[4096];
    struct op op;
    uint32_t used;
    int fd;

    for (unsigned i = 0; i < 2; i++) {
        drv_bring_up(&f->drv, i ? WRITE_BACK : WRITE_THROUGH);
        op = op_new(f, VIRTIO_BLK_T_OUT, 8 + i, 4096, false);
        fill(op_data(f, &op), 4096, i);
        assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
        assert_int_equal(used, 1);
        fill(expected, 4096, i);
        fd = open(f->path, O_RDONLY);
        assert_int_equal(pread(fd, got, 4096, (8 + i) * 512), 4096);
        assert_memory_equal(got, expected, 4096);
        close(fd);
    }
}

static void takes_any_split_of_a_request(void **state)
{
    struct fixture *f = *state;
    struct op op;
    struct drv_segment segments[8];

    drv_bring_up(&f->drv, ALL);
    op = op_new(f, VIRTIO_BLK_T_OUT, 3, 1024, false);
    fill(op_data(f, &op), 1024, 9);
    segments[0] = (struct drv_segment){op.header, 3, false};
    segments[1] = (struct drv_segment){op.header + 3, 13, false};
    segments[2] = (struct drv_segment){op.data, 1, false};
    segments[3] = (struct drv_segment){op.data + 1, 1023, false};
    segments[4] = (struct drv_segment){op.status, 1, true};
    assert_int_equal(drv_request(&f->drv, 0, segments, 5), 1);
    assert_int_equal(op_status(f, &op), VIRTIO_BLK_S_OK);
    /* Header and data in one descriptor for reading back, status glued to the data. */
    op = op_new(f, VIRTIO_BLK_T_IN, 3, 1025, true);
    segments[0] = (struct drv_segment){op.header, 16, false};
    segments[1] = (struct drv_segment){op.data, 500, true};
    segments[2] = (struct drv_segment){op.data + 500, 525, true};
    assert_int_equal(drv_request(&f->drv, 0, segments, 3), 1025);
    assert_int_equal(op_data(f, &op)[1024], VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < 1024; i++)
        assert_int_equal(op_data(f, &op)[i], (uint8_t)(9 * 31 + i * 7 + (i >> 8)));
}

static void tells_its_serial_number(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint32_t used;

    drv_bring_up(&f->drv, ALL);
    op = op_new(f, VIRTIO_BLK_T_GET_ID, 0, 20, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
    assert_memory_equal(op_data(f, &op), "serial-number\0\0\0\0\0\0\0", 20);
    assert_int_equal(used, 21);
}

static void zeroes_and_discards(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t type, flags;
        uint64_t sector;
        uint32_t n;
        uint8_t expected;
        bool reads_zero;
    } rows[] = {
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 16, VIRTIO_BLK_S_OK, true},
        {VIRTIO_BLK_T_WRITE_ZEROES, 1, 64, 16, VIRTIO_BLK_S_OK, true},
        {VIRTIO_BLK_T_WRITE_ZEROES, 2, 128, 16, VIRTIO_BLK_S_UNSUPP, false},
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, N_SECTORS - 8, 16, VIRTIO_BLK_S_IOERR, false},
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, UINT64_MAX - 8, 16, VIRTIO_BLK_S_IOERR, false},
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, 0, UINT32_MAX, VIRTIO_BLK_S_IOERR, false},
        {VIRTIO_BLK_T_WRITE_ZEROES, 0, 128, 0, VIRTIO_BLK_S_OK, false},
        {VIRTIO_BLK_T_DISCARD, 0, 256, 16, VIRTIO_BLK_S_OK, false},
        {VIRTIO_BLK_T_DISCARD, 1, 512, 16, VIRTIO_BLK_S_UNSUPP, false},
    };
    struct op op, in;
    uint32_t used;

    drv_bring_up(&f->drv, ALL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct virtio_blk_discard_write_zeroes range = {htole64(rows[i].sector), htole32(rows[i].n),
                                                        htole32(rows[i].flags)};
        op = op_new(f, rows[i].type, 0, sizeof(range), false);
        memcpy(op_data(f, &op), &range, sizeof(range));
        if (op_run(f, &op, &used) != rows[i].expected)
            fail_msg("row %zu: status %u", i, op_status(f, &op));
        if (!rows[i].reads_zero)
            continue;
        in = op_new(f, VIRTIO_BLK_T_IN, rows[i].sector - 1, 18 * 512, true);
        assert_int_equal(op_run(f, &in, &used), VIRTIO_BLK_S_OK);
        for (unsigned b = 0; b < 18 * 512; b++) {
            bool is_inside = b >= 512 && b < 17 * 512;
            assert_int_equal(op_data(f, &in)[b] == 0, is_inside);
        }
    }
    op = op_new(f, VIRTIO_BLK_T_DISCARD, 0, 32, false); /* two ranges: more than offered */
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_IOERR);
}

static void impossible_requests_fail_alone(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t type;
        uint64_t sector;
        uint32_t len;
        bool is_in;
        uint8_t expected;
    } rows[] = {
        {VIRTIO_BLK_T_IN, N_SECTORS, 512, true, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, N_SECTORS - 1, 1024, true, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, UINT64_MAX, 512, true, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, UINT64_MAX / 512, 1024, true, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 100, true, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, N_SECTORS, 512, false, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_OUT, 0, 511, false, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_IN, 0, 0, true, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_OUT, 0, 0, false, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_IN, N_SECTORS - 1, 512, true, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_FLUSH, 0, 0, false, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_SECURE_ERASE, 0, 16, false, VIRTIO_BLK_S_UNSUPP},
        {0x12345678, 0, 512, true, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_DISCARD, 0, 15, false, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_GET_ID, 0, 5, true, VIRTIO_BLK_S_OK},
        {VIRTIO_BLK_T_GET_ID, 0, 0, true, VIRTIO_BLK_S_OK},
    };

    drv_bring_up(&f->drv, ALL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        struct op op = op_new(f, rows[i].type, rows[i].sector, rows[i].len, rows[i].is_in);
        uint32_t used;

        if (op_run(f, &op, &used) != rows[i].expected)
            fail_msg("row %zu: status %u", i, op_status(f, &op));
    }
    assert_int_equal(drv_status(&f->drv), 0xf);
}

static void read_only_disk_is_not_written(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint32_t used;

    drv_bring_up(&f->drv, ALL);
    assert_true(f->drv.offered & VIRTIO_FEATURE(VIRTIO_BLK_F_RO));
    assert_false(f->drv.offered & VIRTIO_FEATURE(VIRTIO_BLK_F_DISCARD));
    op = op_new(f, VIRTIO_BLK_T_OUT, 0, 512, false);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_IOERR);
    op = op_new(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, false);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_UNSUPP);
    op = op_new(f, VIRTIO_BLK_T_IN, 1, 512, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
    assert_int_equal(op_data(f, &op)[0], 1);
}

static void requests_without_header_or_status_need_a_reset(void **state)
{
    struct fixture *f = *state;
    uint64_t header = rig_alloc(f->rig, 16);
    const struct drv_segment chains[][2] = {
        {{header, 15, false}, {header, 1, true}},
        {{header, 16, false}, {header, 512, false}},
        {{header, 16, true}, {header, 1, true}},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(chains); i++) {
        drv_bring_up(&f->drv, ALL);
        drv_add(&f->drv, 0, chains[i], 2);
        drv_kick(&f->drv, 0);
        drv_await_broken(&f->drv, "no room for header and status");
    }
    drv_bring_up(&f->drv, ALL);
    assert_int_equal(drv_status(&f->drv), 0xf);
}

static void a_failing_host_is_an_io_error(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint32_t used;

    drv_bring_up(&f->drv, ALL);
    assert_int_equal(truncate(f->path, 512), 0);
    op = op_new(f, VIRTIO_BLK_T_IN, 100, 512, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_IOERR);
    assert_int_equal(used, 0);
    op = op_new(f, VIRTIO_BLK_T_IN, 0, 512, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
}

/* ---- many at once ---------------------------------------------------------------------------- */

#define N_OPS 40u

static void many_requests_in_flight_all_complete(void **state)
{
    struct fixture *f = *state;
    struct op ops[N_OPS];
    uint64_t again;

    drv_bring_up(&f->drv, WRITE_BACK);
    again = f->rig->next_free_gpa;
    for (unsigned round = 0; round < 20; round++) {
        f->rig->next_free_gpa = again;
        for (unsigned i = 0; i < N_OPS; i++) {
            bool is_in = round % 2;
            ops[i] = op_new(f, is_in ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, i * 16, 16 * 512, is_in);
            if (!is_in)
                fill(op_data(f, &ops[i]), ops[i].len, round * N_OPS + i);
            op_add(f, &ops[i]);
        }
        drv_kick(&f->drv, 0);
        for (unsigned i = 0; i < N_OPS; i++) {
            uint32_t head, used;
            drv_await_used(&f->drv, 0, &head, &used);
        }
        for (unsigned i = 0; i < N_OPS; i++) {
            uint8_t expected[16 * 512];
            assert_int_equal(op_status(f, &ops[i]), VIRTIO_BLK_S_OK);
            fill(expected, sizeof(expected), (round & ~1u) * N_OPS + i);
            assert_memory_equal(op_data(f, &ops[i]), expected, sizeof(expected));
        }
    }
}

static void stop_waits_for_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct op ops[N_OPS];
    struct virtqueue *queue;
    uint64_t again;
    unsigned n_after_start = 0;

    drv_bring_up(&f->drv, WRITE_BACK);
    queue = &f->drv.vdev->queues[0];
    again = f->rig->next_free_gpa;
    for (unsigned round = 0; round < 30; round++) {
        uint32_t head, used;
        unsigned n = 0;

        f->rig->next_free_gpa = again;
        for (unsigned i = 0; i < N_OPS; i++) {
            ops[i] = op_new(f, VIRTIO_BLK_T_OUT, i * 16, 16 * 512, false);
            op_add(f, &ops[i]);
        }
        drv_kick(&f->drv, 0);
        device_prepare_stop(f->dev);
        assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, NULL));
        /* Either taken and answered, or not taken at all. */
        assert_int_equal(queue->next_avail, queue->next_used);
        assert_int_equal(f->drv.vdev->n_held, 0);
        while (drv_poll_used(&f->drv, 0, &head, &used))
            n++;
        n_after_start += N_OPS - n;
        device_start(f->dev);
        for (; n < N_OPS; n++)
            drv_await_used(&f->drv, 0, &head, &used);
        for (unsigned i = 0; i < N_OPS; i++)
            assert_int_equal(op_status(f, &ops[i]), VIRTIO_BLK_S_OK);
    }
    print_message("# %u of %u requests were done after the start\n", n_after_start, 30 * N_OPS);
}

static bool is_reset(void *opaque)
{
    return drv_status(opaque) == 0;
}

static void reset_waits_for_what_is_in_flight(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint64_t again;

    again = f->rig->next_free_gpa;
    for (unsigned round = 0; round < 30; round++) {
        uint8_t before[4096];
        uint64_t used;

        f->rig->next_free_gpa = again;
        drv_bring_up(&f->drv, WRITE_BACK);
        used = f->drv.queues[0].used;
        for (unsigned i = 0; i < N_OPS; i++) {
            op = op_new(f, VIRTIO_BLK_T_IN, i * 16, 16 * 512, true);
            op_add(f, &op);
        }
        drv_kick(&f->drv, 0);
        drv_set_status(&f->drv, 0);
        rig_await(f->rig, is_reset, &f->drv);
        /* From here on the memory is the driver's. */
        memset(rig_host(f->rig, again, 4096), 0x5a, 4096);
        memcpy(before, rig_host(f->rig, used, 1024), 1024);
        rig_settle(f->rig);
        assert_memory_equal(before, rig_host(f->rig, used, 1024), 1024);
    }
}

/* So that what is added then is taken at the next notification, not at the one of DRIVER_OK. */
static void bring_up_and_settle(struct fixture *f)
{
    drv_bring_up(&f->drv, WRITE_BACK);
    rig_settle(f->rig);
}

static void reset_is_not_seen_before_the_last_request_is_done(void **state)
{
    struct fixture *f = *state;
    struct op op;
    uint32_t head, used;

    bring_up_and_settle(f);
    op = op_new(f, VIRTIO_BLK_T_IN, 0, 512, true);
    op_add(f, &op);
    rig_shut_gate(f->rig, &f->drv, 0);
    drv_set_status(&f->drv, 0);
    assert_int_not_equal(drv_status(&f->drv), 0);
    /* Until then the driver can do nothing to it. */
    drv_set_status(&f->drv, 0xff);
    drv_set_status(&f->drv, 0);
    drv_write(&f->drv, f->drv.common + 28, 2, 1); /* queue_enable */
    rig_open_gate(f->rig);
    rig_await(f->rig, is_reset, &f->drv);
    assert_false(drv_poll_used(&f->drv, 0, &head, &used));
    drv_bring_up(&f->drv, WRITE_BACK);
    op = op_new(f, VIRTIO_BLK_T_IN, 1, 512, true);
    assert_int_equal(op_run(f, &op, &used), VIRTIO_BLK_S_OK);
}

static void stop_gives_up_at_the_deadline_and_goes_on(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GError) error = NULL;
    struct op ops[2];
    uint32_t head, used;

    bring_up_and_settle(f);
    ops[0] = op_new(f, VIRTIO_BLK_T_IN, 0, 512, true);
    op_add(f, &ops[0]);
    rig_shut_gate(f->rig, &f->drv, 0);
    assert_false(device_stop(f->dev, clock_mono_ns(), &error));
    assert_non_null(strstr(error->message, "virtio-blk/0: 1 requests still in flight"));
    device_start(f->dev);
    ops[1] = op_new(f, VIRTIO_BLK_T_IN, 1, 512, true);
    op_add(f, &ops[1]);
    drv_kick(&f->drv, 0);
    rig_open_gate(f->rig);
    for (unsigned i = 0; i < 2; i++)
        drv_await_used(&f->drv, 0, &head, &used);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(op_status(f, &ops[i]), VIRTIO_BLK_S_OK);
}

static void flush_gives_up_at_the_deadline(void **state)
{
    struct fixture *f = *state;
    g_autoptr(GError) error = NULL;

    drv_bring_up(&f->drv, WRITE_BACK);
    rig_shut_gate(f->rig, &f->drv, 0);
    assert_false(device_flush(f->dev, clock_mono_ns(), &error));
    assert_non_null(strstr(error->message, "virtio-blk/0: the disk is not flushed"));
    rig_open_gate(f->rig);
    g_clear_error(&error);
    assert_true(device_flush(f->dev, clock_mono_ns() + 10000000000u, &error));
}

static void more_requests_than_descriptors_need_a_reset(void **state)
{
    struct fixture *f = *state;
    struct op op;

    bring_up_and_settle(f);
    op = op_new(f, VIRTIO_BLK_T_IN, 0, 512, true);
    op_add(f, &op);
    for (unsigned i = 1; i < 128; i++)
        drv_publish(&f->drv, 0, 0); /* the same one again and again */
    rig_shut_gate(f->rig, &f->drv, 0);
    drv_publish(&f->drv, 0, 0);
    drv_write(&f->drv, f->drv.notify, 2, 0);
    rig_open_gate(f->rig);
    /* The loop answers bells before it looks for completions. */
    drv_await_broken(&f->drv, "more chains are in flight than the queue has descriptors (128)");
    drv_bring_up(&f->drv, WRITE_BACK);
    op = op_new(f, VIRTIO_BLK_T_IN, 1, 512, true);
    assert_int_equal(op_run(f, &op, &(uint32_t){0}), VIRTIO_BLK_S_OK);
}

static void flush_makes_durable(void **state)
{
    struct fixture *f = *state;
    GError *error = NULL;

    drv_bring_up(&f->drv, ALL);
    assert_true(device_stop(f->dev, clock_mono_ns() + 10000000000u, &error));
    assert_true(device_flush(f->dev, clock_mono_ns() + 10000000000u, &error));
    assert_true(device_flush(f->dev, clock_mono_ns() + 10000000000u, &error));
    device_start(f->dev);
}

static void describes_itself(void **state)
{
    struct fixture *f = *state;
    struct drv *drv = &f->drv;

    drv_bring_up(drv, ALL);
    assert_int_equal(drv_read(drv, drv->config, 4), N_SECTORS);
    assert_int_equal(drv_read(drv, drv->config + 4, 4), 0);
    assert_int_equal(drv_read(drv, drv->config + offsetof(struct virtio_blk_config, seg_max), 4),
                     126);
    assert_int_equal(drv_read(drv, drv->config + offsetof(struct virtio_blk_config, blk_size), 4),
                     512);
    /* The write cache is the driver's to choose, and back on after a reset. */
    assert_int_equal(drv_read(drv, drv->config + offsetof(struct virtio_blk_config, wce), 1), 1);
    drv_write(drv, drv->config + offsetof(struct virtio_blk_config, wce), 1, 0);
    assert_int_equal(drv_read(drv, drv->config + offsetof(struct virtio_blk_config, wce), 1), 0);
    drv_bring_up(drv, ALL);
    assert_int_equal(drv_read(drv, drv->config + offsetof(struct virtio_blk_config, wce), 1), 1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
#define T_THREADS(fn)                                                                              \
    {                                                                                              \
#fn "/threads", fn, setup_threads, teardown, NULL                                          \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(describes_itself),
        T(reads_what_is_in_the_file),
        T_THREADS(reads_what_is_in_the_file),
        T(writes_into_the_file),
        T_THREADS(writes_into_the_file),
        T(takes_any_split_of_a_request),
        T(tells_its_serial_number),
        T(zeroes_and_discards),
        T(impossible_requests_fail_alone),
        {"read_only_disk_is_not_written", read_only_disk_is_not_written, setup_read_only, teardown,
         NULL},
        T(requests_without_header_or_status_need_a_reset),
        T(a_failing_host_is_an_io_error),
        T(many_requests_in_flight_all_complete),
        T_THREADS(many_requests_in_flight_all_complete),
        T(stop_waits_for_what_is_in_flight),
        T_THREADS(stop_waits_for_what_is_in_flight),
        T(reset_waits_for_what_is_in_flight),
        T_THREADS(reset_waits_for_what_is_in_flight),
        T(reset_is_not_seen_before_the_last_request_is_done),
        T_THREADS(reset_is_not_seen_before_the_last_request_is_done),
        T(stop_gives_up_at_the_deadline_and_goes_on),
        T(flush_gives_up_at_the_deadline),
        T(more_requests_than_descriptors_need_a_reset),
        T(flush_makes_durable),
        T_THREADS(flush_makes_durable),
    };

    return cmocka_run_group_tests_name("virtio-blk", tests, NULL, NULL);
}
