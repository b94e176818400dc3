/* SPDX-License-Identifier: MIT */
/*
 * The block back end: every operation, both engines, with and without the page cache, and limits.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fdio.h"
#include "device/blockdev.h"

#define DISK_BYTES (4u << 20)

struct disk {
    struct device dev;
    struct rig *rig;
    struct blockdev *blockdev;
    char *path;
    pthread_cond_t changed;
    /* guarded by dev.lock */
    unsigned n_done;
};

struct job {
    struct blockdev_request request; /* first */
    struct disk *disk;
    int result;
    bool is_done;
};

static const struct device_ops disk_ops = {.type = "disk"};

static void disk_open(struct disk *disk, struct rig *rig, const char *options, bool is_read_only)
{
    GError *error = NULL;
    *disk = (struct disk){.rig = rig, .path = rig_path(rig, "disk.img")};
    g_autofree char *spec = g_strconcat(disk->path, options, NULL);
    device_init(&disk->dev, &disk_ops, "disk", NULL, NULL);
    pthread_cond_init(&disk->changed, NULL);
    if (!g_file_test(disk->path, G_FILE_TEST_EXISTS)) {
        g_autofree uint8_t *bytes = g_malloc(DISK_BYTES);
        for (size_t i = 0; i < DISK_BYTES; i++)
            bytes[i] = (uint8_t)(i / 512 + i);
        assert_true(g_file_set_contents(disk->path, (char *)bytes, DISK_BYTES, NULL));
    }
    disk->blockdev = blockdev_open(spec, is_read_only, rig->loop, &error);
    if (!disk->blockdev)
        print_error("%s\n", error->message);
    assert_non_null(disk->blockdev);
    blockdev_set_client(disk->blockdev, &disk->dev);
}

static void disk_close(struct disk *disk)
{
    blockdev_free(disk->blockdev);
    pthread_cond_destroy(&disk->changed);
    device_clear(&disk->dev);
    g_free(disk->path);
}

static void job_done(struct blockdev_request *request, int result)
{
    struct job *job = (struct job *)request;
    assert_false(job->is_done);
    assert_int_not_equal(pthread_mutex_trylock(&job->disk->dev.lock), 0);
    job->result = result;
    job->is_done = true;
    job->disk->n_done++;
    pthread_cond_broadcast(&job->disk->changed);
}

static void submit(struct disk *disk, struct job *job, enum blockdev_op op, uint64_t offset,
                   uint64_t len, const struct iovec *iov, unsigned n_iov)
{
    *job = (struct job){.disk = disk};
    job->request = (struct blockdev_request){.op = op,
                                             .offset_bytes = offset,
                                             .len_bytes = len,
                                             .iov = iov,
                                             .n_iov = n_iov,
                                             .done = job_done};
    pthread_mutex_lock(&disk->dev.lock);
    blockdev_submit(disk->blockdev, &job->request);
    assert_false(job->is_done); /* never from inside */
    blockdev_kick(disk->blockdev);
    pthread_mutex_unlock(&disk->dev.lock);
}

static int await(struct disk *disk, struct job *job)
{
    struct timespec give_up;
    clock_gettime(CLOCK_REALTIME, &give_up);
    give_up.tv_sec += 20;
    pthread_mutex_lock(&disk->dev.lock);
    while (!job->is_done)
        assert_int_equal(pthread_cond_timedwait(&disk->changed, &disk->dev.lock, &give_up), 0);
    int result = job->result;
    pthread_mutex_unlock(&disk->dev.lock);
    return result;
}

static int run(struct disk *disk, enum blockdev_op op, uint64_t offset, void *bytes, size_t len)
{
    struct iovec iov = {.iov_base = bytes, .iov_len = len};
    struct job job;
    submit(disk, &job, op, offset, len, bytes ? &iov : NULL, bytes ? 1 : 0);
    return await(disk, &job);
}

static uint8_t expected_byte(size_t at)
{
    return (uint8_t)(at / 512 + at);
}

static void check_content(struct disk *disk, uint64_t offset, size_t len, int fill)
{
    g_autofree uint8_t *bytes = g_malloc(len);
    assert_int_equal(run(disk, BLOCKDEV_READ, offset, bytes, len), 0);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(bytes[i], fill < 0 ? expected_byte(offset + i) : fill);
}

static const char *const engines[] = {",engine=auto", ",engine=threads", ",engine=auto,cache=none",
                                      ",engine=threads,cache=none"};

static bool can_open_direct(struct rig *rig)
{
    g_autofree char *path = rig_path(rig, "probe");
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Runs body with every engine the host can offer. */
static void with_every_engine(struct rig *rig, void (*body)(struct disk *disk))
{
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        struct disk disk;
        if (strstr(engines[i], "none") && !can_open_direct(rig)) {
            print_message("# no O_DIRECT on this file system\n");
            continue;
        }
        disk_open(&disk, rig, engines[i], false);
        body(&disk);
        disk_close(&disk);
        g_autofree char *path = rig_path(rig, "disk.img");
        unlink(path);
    }
}

static void read_write(struct disk *disk)
{
    uint8_t bytes[4096];
    memset(bytes, 0x77, sizeof bytes);
    check_content(disk, 0, 8192, -1);
    check_content(disk, DISK_BYTES - 512, 512, -1);
    assert_int_equal(run(disk, BLOCKDEV_WRITE, 4096, bytes, sizeof bytes), 0);
    check_content(disk, 4096, sizeof bytes, 0x77);
    check_content(disk, 8192, 512, -1);
    assert_int_equal(run(disk, BLOCKDEV_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run(disk, BLOCKDEV_READ, 0, bytes, 0), 0);
}

static void reads_and_writes_reach_the_file(void **state)
{
    with_every_engine(*state, read_write);
}

static void scattered(struct disk *disk)
{
    /* Odd addresses and lengths, as long as the sum is whole blocks. */
    g_autofree uint8_t *memory = g_malloc0(10000);
    struct iovec iov[] = {{memory + 1, 100}, {memory + 501, 1}, {memory + 1003, 923}};
    struct job job;
    submit(disk, &job, BLOCKDEV_READ, 512, 1024, iov, 3);
    assert_int_equal(await(disk, &job), 0);
    size_t at = 512;
    for (unsigned k = 0; k < 3; k++)
        for (size_t i = 0; i < iov[k].iov_len; i++)
            assert_int_equal(((uint8_t *)iov[k].iov_base)[i], expected_byte(at++));
    submit(disk, &job, BLOCKDEV_WRITE, 4096, 1024, iov, 3);
    assert_int_equal(await(disk, &job), 0);
    g_autofree uint8_t *a = g_malloc(1024), *b = g_malloc(1024);
    assert_int_equal(run(disk, BLOCKDEV_READ, 512, a, 1024), 0);
    assert_int_equal(run(disk, BLOCKDEV_READ, 4096, b, 1024), 0);
    assert_memory_equal(a, b, 1024);
}

static void scattered_memory_is_fine(void **state)
{
    with_every_engine(*state, scattered);
}

static void zeroing(struct disk *disk)
{
    assert_int_equal(run(disk, BLOCKDEV_WRITE_ZEROES, 512, NULL, 0), 0);
    check_content(disk, 512, 512, -1);
    struct job job;
    submit(disk, &job, BLOCKDEV_WRITE_ZEROES, 1536, 3 << 20, NULL, 0);
    assert_int_equal(await(disk, &job), 0);
    check_content(disk, 1024, 512, -1);
    check_content(disk, 1536, 3 << 20, 0);
    check_content(disk, 1536 + (3 << 20), 512, -1);
    submit(disk, &job, BLOCKDEV_WRITE_ZEROES_UNMAP, 512, 512, NULL, 0);
    assert_int_equal(await(disk, &job), 0);
    check_content(disk, 512, 512, 0);
    submit(disk, &job, BLOCKDEV_DISCARD, 0, DISK_BYTES, NULL, 0);
    assert_int_equal(await(disk, &job), 0);
}

static void ranges_can_be_zeroed_and_discarded(void **state)
{
    with_every_engine(*state, zeroing);
}

#define N_JOBS 600 /* more than the ring holds */

static void many(struct disk *disk)
{
    struct job *jobs = g_new0(struct job, N_JOBS);
    struct iovec *iov = g_new0(struct iovec, N_JOBS);
    uint8_t *bytes = g_malloc0(N_JOBS * 512);
    for (unsigned i = 0; i < N_JOBS; i++) {
        iov[i] = (struct iovec){bytes + 512 * i, 512};
        submit(disk, &jobs[i], BLOCKDEV_READ, 512 * i, 512, &iov[i], 1);
    }
    for (unsigned i = 0; i < N_JOBS; i++)
        assert_int_equal(await(disk, &jobs[i]), 0);
    for (size_t i = 0; i < N_JOBS * 512; i++)
        assert_int_equal(bytes[i], expected_byte(i));
    assert_int_equal(disk->n_done, N_JOBS);
    g_free(jobs);
    g_free(iov);
    g_free(bytes);
}

static void more_requests_than_the_ring_holds(void **state)
{
    with_every_engine(*state, many);
}

static void ranges_outside_and_odd_ones_are_refused(void **state)
{
    static const struct {
        uint64_t offset, len;
        int result;
    } cases[] = {
        {DISK_BYTES, 512, -EIO},
        {DISK_BYTES - 512, 1024, -EIO},
        {UINT64_MAX - 511, 512, -EIO},
        {UINT64_MAX - 511, 1024, -EIO},
        {0, UINT64_MAX - 511, -EIO},
        {1, 512, -EINVAL},
        {0, 100, -EINVAL},
        {DISK_BYTES, 0, 0},
    };
    struct disk disk;
    struct job job;
    disk_open(&disk, *state, "", false);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        submit(&disk, &job, BLOCKDEV_READ, cases[i].offset, cases[i].len, NULL, 0);
        assert_int_equal(await(&disk, &job), cases[i].result);
        submit(&disk, &job, BLOCKDEV_DISCARD, cases[i].offset, cases[i].len, NULL, 0);
        assert_int_equal(await(&disk, &job), cases[i].result);
    }
    submit(&disk, &job, 0, 0, 512, NULL, 0);
    assert_int_equal(await(&disk, &job), -EINVAL);
    submit(&disk, &job, 99, 0, 512, NULL, 0);
    assert_int_equal(await(&disk, &job), -EINVAL);
    disk_close(&disk);
}

static void a_read_only_disk_refuses_writes(void **state)
{
    struct disk disk;
    struct blockdev_info info;
    uint8_t bytes[512] = {0};
    for (unsigned i = 0; i < 2; i++) {
        disk_open(&disk, *state, i ? ",readonly" : "", i == 0);
        blockdev_get_info(disk.blockdev, &info);
        assert_true(info.is_read_only && !info.can_discard);
        assert_int_equal(run(&disk, BLOCKDEV_WRITE, 0, bytes, 512), -EROFS);
        assert_int_equal(run(&disk, BLOCKDEV_DISCARD, 0, NULL, 0), -EROFS);
        assert_int_equal(run(&disk, BLOCKDEV_WRITE_ZEROES, 0, NULL, 0), -EROFS);
        assert_int_equal(run(&disk, BLOCKDEV_FLUSH, 0, NULL, 0), 0);
        check_content(&disk, 0, 512, -1);
        disk_close(&disk);
    }
}

static void a_file_that_shrank_gives_errors_not_zeroes(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct disk disk;
        uint8_t bytes[1024];
        disk_open(&disk, *state, i ? ",engine=threads" : "", false);
        assert_int_equal(truncate(disk.path, 512 + 100), 0);
        assert_int_equal(run(&disk, BLOCKDEV_READ, 0, bytes, 1024), -EIO);
        assert_int_equal(run(&disk, BLOCKDEV_READ, 0, bytes, 512), 0);
        assert_int_equal(run(&disk, BLOCKDEV_READ, 4096, bytes, 512), -EIO);
        unlink(disk.path);
        disk_close(&disk);
    }
}

static void an_odd_end_of_the_file_is_not_shown(void **state)
{
    struct rig *rig = *state;
    g_autofree char *path = rig_path(rig, "disk.img");
    struct disk disk;
    struct blockdev_info info;
    assert_true(g_file_set_contents(path, "x", 1, NULL));
    assert_int_equal(truncate(path, 1000), 0);
    disk_open(&disk, rig, "", false);
    blockdev_get_info(disk.blockdev, &info);
    assert_int_equal(info.size_bytes, 512);
    assert_int_equal(info.block_bytes, 512);
    assert_int_equal(info.physical_block_bytes, 4096);
    disk_close(&disk);
}

static void wrong_specifications_are_errors(void **state)
{
    struct rig *rig = *state;
    g_autofree char *path = rig_path(rig, "disk.img");
    g_autofree char *with_comma = rig_path(rig, "a,b.img");
    g_autofree char *wrong = g_strconcat(path, ",cache=maybe", NULL);
    GError *error = NULL;
    assert_null(blockdev_open("/nonexistent/disk", false, rig->loop, &error));
    assert_true(g_error_matches(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_HOST));
    g_clear_error(&error);
    assert_null(blockdev_open("/dev/null", false, rig->loop, &error));
    assert_true(g_error_matches(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG));
    g_clear_error(&error);
    assert_true(g_file_set_contents(path, "x", 1, NULL));
    assert_null(blockdev_open(wrong, false, rig->loop, &error));
    assert_non_null(strstr(error->message, "unknown option \"cache=maybe\""));
    g_clear_error(&error);
    assert_true(g_file_set_contents(with_comma, "x", 1, NULL));
    struct blockdev *disk = blockdev_open(with_comma, false, rig->loop, &error);
    assert_non_null(disk);
    blockdev_free(disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(reads_and_writes_reach_the_file),
        RIG_TEST(scattered_memory_is_fine),
        RIG_TEST(ranges_can_be_zeroed_and_discarded),
        RIG_TEST(more_requests_than_the_ring_holds),
        RIG_TEST(ranges_outside_and_odd_ones_are_refused),
        RIG_TEST(a_read_only_disk_refuses_writes),
        RIG_TEST(a_file_that_shrank_gives_errors_not_zeroes),
        RIG_TEST(an_odd_end_of_the_file_is_not_shown),
        RIG_TEST(wrong_specifications_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
