/* SPDX-License-Identifier: MIT */
/*
 * Trackers: every write by any thread is told, in each mode that this kernel has, for private
 * memory and for a memfd; adoption of the embedder's memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bitmap.h"
#include "godwit/tracker.h"

#define N_PAGES    1024u
#define N_BYTES    (N_PAGES * GW_PAGE_SIZE)
#define N_WRITERS  4u
#define N_ROUNDS   20u
#define MIN_WRITES 10000u

struct kind {
    enum gw_tracker_mode mode;
    bool is_shared;
};

/* An embedder: memory of its own, adopted and tracked. */
struct rig {
    uint8_t *host;
    int fd;
    struct gw_memory *memory;
    struct gw_ram_block *block;
    struct gw_tracker *tracker;
    struct gw_page_set *set;
};

static void must(bool ok, GError *error)
{
    if (!ok)
        fail_msg("%s", error ? error->message : "failed without an error");
}

static bool rig_init(struct rig *rig, const struct kind *kind)
{
    GError *error = NULL;

    *rig = (struct rig){.fd = -1};
    if (kind->is_shared) {
        rig->fd = memfd_create("embedder", MFD_CLOEXEC);
        assert_true(rig->fd >= 0 && ftruncate(rig->fd, N_BYTES + GW_PAGE_SIZE) == 0);
    }
    /* The block begins at the second page of the file. */
    rig->host = mmap(NULL, N_BYTES, PROT_READ | PROT_WRITE,
                     kind->is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, rig->fd,
                     kind->is_shared ? (off_t)GW_PAGE_SIZE : 0);
    assert_ptr_not_equal(rig->host, MAP_FAILED);
    rig->memory = gw_memory_new();
    rig->block = gw_memory_adopt_block(rig->memory, "ram", 0, rig->host, N_BYTES, rig->fd, &error);
    must(rig->block, error);
    rig->tracker = gw_tracker_new(rig->memory, kind->mode, &error);
    if (!rig->tracker) {
        assert_int_equal(error->code, GW_ERROR_UNSUPPORTED);
        print_message("# %s\n", error->message);
        g_error_free(error);
        gw_memory_free(rig->memory);
        munmap(rig->host, N_BYTES);
        return false;
    }
    must(gw_tracker_add(rig->tracker, rig->block, &error), error);
    rig->set = gw_page_set_new(rig->memory);
    return true;
}

static void rig_clear(struct rig *rig)
{
    gw_page_set_free(rig->set);
    gw_tracker_free(rig->tracker);
    gw_memory_free(rig->memory);
    munmap(rig->host, N_BYTES);
    if (rig->fd >= 0)
        close(rig->fd);
}

/* Skips the test where the kernel or the sandbox lacks the mode; rig_init has said why. */
#define RIG(rig, state)                                                                            \
    struct rig rig;                                                                                \
    if (!rig_init(&rig, *(state)))                                                                 \
        skip();

static void log_start(struct rig *rig)
{
    GError *error = NULL;
    must(gw_memory_log_start(rig->memory, &error), error);
}

/* What was written since the last time, into a fresh set. */
static uint64_t collect(struct rig *rig)
{
    GError *error = NULL;
    uint64_t n_new = 0;

    gw_page_set_clear(rig->set);
    must(gw_memory_log_collect(rig->memory, rig->set, &n_new, &error), error);
    assert_int_equal(n_new, rig->set->n_set);
    return n_new;
}

static void assert_dirty(struct rig *rig, uint64_t first, uint64_t n)
{
    for (uint64_t page = first; page < first + n; page++)
        if (!gw_page_set_test(rig->set, 0, page))
            fail_msg("page %u was written and not told", (unsigned)page);
}

static void tells_exactly_what_was_written(void **state)
{
    RIG(rig, state);
    memset(rig.host, 1, N_BYTES);
    log_start(&rig);
    assert_int_equal(collect(&rig), 0);
    for (unsigned i = 0; i < N_PAGES; i += 7)
        rig.host[i * GW_PAGE_SIZE + i] = 2;
    assert_int_equal(collect(&rig), (N_PAGES + 6) / 7);
    for (unsigned i = 0; i < N_PAGES; i += 7)
        assert_dirty(&rig, i, 1);
    assert_int_equal(collect(&rig), 0);
    /* Reading is no writing. */
    unsigned sum = 0;
    for (unsigned i = 0; i < N_PAGES; i++)
        sum += ((volatile uint8_t *)rig.host)[i * GW_PAGE_SIZE];
    assert_true(sum > 0);
    assert_int_equal(collect(&rig), 0);
    memset(rig.host + 10 * GW_PAGE_SIZE, 3, 20 * GW_PAGE_SIZE);
    assert_int_equal(collect(&rig), 20);
    assert_dirty(&rig, 10, 20);
    gw_memory_log_stop(rig.memory);
    rig_clear(&rig);
}

static void knows_untouched_pages(void **state)
{
    RIG(rig, state);
    uint64_t page = 0, n_pages;

    memset(rig.host + 100 * GW_PAGE_SIZE, 1, 50 * GW_PAGE_SIZE);
    for (int is_logging = 0; is_logging < 2; is_logging++) {
        page = 0;
        assert_true(gw_memory_next_allocated_run(rig.block, &page, &n_pages));
        assert_int_equal(page, 100);
        assert_int_equal(n_pages, 50);
        page += n_pages;
        assert_false(gw_memory_next_allocated_run(rig.block, &page, &n_pages));
        if (!is_logging)
            log_start(&rig);
    }
    assert_int_equal(collect(&rig), 0);
    rig.host[700 * GW_PAGE_SIZE] = 1;
    assert_int_equal(collect(&rig), 1);
    assert_dirty(&rig, 700, 1);
    gw_memory_log_stop(rig.memory);
    /* Protection has left no trace. */
    page = 0;
    assert_true(gw_memory_next_allocated_run(rig.block, &page, &n_pages));
    assert_int_equal(page, 100);
    page += n_pages;
    assert_true(gw_memory_next_allocated_run(rig.block, &page, &n_pages));
    assert_int_equal(page, 700);
    assert_int_equal(n_pages, 1);
    rig_clear(&rig);
}

static void tells_writes_of_the_kernel_and_discards(void **state)
{
    RIG(rig, state);
    GError *error = NULL;
    int ends[2];

    memset(rig.host, 1, N_BYTES);
    log_start(&rig);
    assert_int_equal(collect(&rig), 0);
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_int_equal(write(ends[1], "godwit", 6), 6);
    assert_int_equal(read(ends[0], rig.host + 5 * GW_PAGE_SIZE, 6), 6);
    assert_int_equal(collect(&rig), 1);
    assert_dirty(&rig, 5, 1);
    assert_int_equal(close(ends[0]) + close(ends[1]), 0);

    if (rig.fd < 0) {
        assert_int_equal(madvise(rig.host + 8 * GW_PAGE_SIZE, 4 * GW_PAGE_SIZE, MADV_DONTNEED), 0);
        collect(&rig);
        assert_dirty(&rig, 8, 4);
        assert_int_equal(rig.host[9 * GW_PAGE_SIZE], 0);
    }
    must(gw_memory_discard(rig.block, 20 * GW_PAGE_SIZE, 2 * GW_PAGE_SIZE, &error), error);
    collect(&rig);
    assert_dirty(&rig, 20, 2);
    assert_int_equal(rig.host[20 * GW_PAGE_SIZE], 0);
    rig.host[21 * GW_PAGE_SIZE] = 1;
    collect(&rig);
    assert_dirty(&rig, 21, 1);
    gw_memory_log_stop(rig.memory);
    rig_clear(&rig);
}

static void starts_again(void **state)
{
    RIG(rig, state);
    for (unsigned i = 0; i < 3; i++) {
        log_start(&rig);
        rig.host[i * GW_PAGE_SIZE] = (uint8_t)(i + 1);
        assert_int_equal(collect(&rig), 1);
        assert_dirty(&rig, i, 1);
        gw_memory_log_stop(rig.memory);
        rig.host[50 * GW_PAGE_SIZE]++; /* nobody looks */
    }
    assert_int_equal(rig.host[50 * GW_PAGE_SIZE], 3);
    rig_clear(&rig);
}

static void fails_when_the_mapping_is_replaced(void **state)
{
    RIG(rig, state);
    g_autoptr(GError) error = NULL;

    memset(rig.host, 1, N_BYTES);
    log_start(&rig);
    assert_int_equal(collect(&rig), 0);
    assert_ptr_equal(mmap(rig.host + 16 * GW_PAGE_SIZE, GW_PAGE_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                     rig.host + 16 * GW_PAGE_SIZE);
    /* The thread of SYNC hears of it at once, since mmap waits for that. */
    assert_false(gw_memory_log_collect(rig.memory, rig.set, NULL, &error));
    assert_int_equal(error->code, GW_ERROR_STATE);
    assert_non_null(strstr(error->message, "replaced"));
    gw_memory_log_stop(rig.memory);
    rig_clear(&rig);
}

/* ---- writers ----------------------------------------------------------------------------------
 */

struct writer {
    pthread_t thread;
    uint8_t *host;
    uint64_t seed;
    uint64_t n_writes;
    bool *is_ending;
};

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void *writer_main(void *opaque)
{
    struct writer *writer = opaque;

    while (!__atomic_load_n(writer->is_ending, __ATOMIC_RELAXED)) {
        uint64_t r = next_random(&writer->seed);
        uint64_t *word = (uint64_t *)(void *)(writer->host + r % N_BYTES / 8 * 8);
        __atomic_store_n(word, r, __ATOMIC_RELAXED);
        __atomic_fetch_add(&writer->n_writes, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void copy_dirty(struct rig *rig, uint8_t *copy)
{
    uint64_t page = 0, n_pages;

    for (; gw_page_set_next_run(rig->set, 0, &page, &n_pages, UINT64_MAX); page += n_pages)
        for (uint64_t at = page * GW_PAGE_SIZE; at < (page + n_pages) * GW_PAGE_SIZE; at += 8)
            *(uint64_t *)(void *)(copy + at) =
                __atomic_load_n((uint64_t *)(void *)(rig->host + at), __ATOMIC_RELAXED);
}

/* The promise of a dirty log: who copies what each collection tells ends with an equal copy. */
static void loses_no_write_of_concurrent_writers(void **state)
{
    RIG(rig, state);
    struct writer writers[N_WRITERS];
    bool is_ending = false;
    uint64_t n_dirty = 0, n_writes = 0;
    g_autofree uint8_t *copy = g_malloc0(N_BYTES);

    log_start(&rig);
    for (unsigned i = 0; i < N_WRITERS; i++) {
        writers[i] = (struct writer){
            .host = rig.host, .seed = 88172645463325252u + i * 7919, .is_ending = &is_ending};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
    }
    for (unsigned i = 0; i < N_ROUNDS || n_writes < MIN_WRITES; i++) {
        if (rig.fd < 0) /* the kernel's discards are found as well */
            madvise(rig.host + i * 13 % N_PAGES * GW_PAGE_SIZE, GW_PAGE_SIZE, MADV_DONTNEED);
        n_dirty += collect(&rig);
        copy_dirty(&rig, copy);
        n_writes = 0;
        for (unsigned w = 0; w < N_WRITERS; w++)
            n_writes += __atomic_load_n(&writers[w].n_writes, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&is_ending, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < N_WRITERS; i++)
        pthread_join(writers[i].thread, NULL);
    n_dirty += collect(&rig);
    copy_dirty(&rig, copy);
    assert_memory_equal(copy, rig.host, N_BYTES);
    /* SYNC takes the first touch of a page for a write: the comparison has touched all. */
    collect(&rig);
    /* And what was discarded it tells each time. */
    uint64_t n_told_again =
        gw_tracker_mode_of(rig.tracker) == GW_TRACKER_SYNC && rig.fd < 0 ? N_PAGES : 0;
    assert_in_range(collect(&rig), 0, n_told_again);
    assert_true(n_dirty > 0);
    gw_memory_log_stop(rig.memory);
    rig_clear(&rig);
}

/* ---- without a mode ---------------------------------------------------------------------------
 */

static void tracks_the_library_s_own_blocks(void **state)
{
    g_autoptr(GError) error = NULL;
    struct gw_memory *memory = gw_memory_new();
    struct gw_ram_block *ram = gw_memory_add_block(memory, "ram", 0, N_BYTES, NULL);
    struct gw_ram_block *other = gw_memory_add_block(memory, "other", N_BYTES, N_BYTES, NULL);
    struct gw_tracker *tracker = gw_tracker_new(memory, GW_TRACKER_AUTO, &error);

    if (!tracker) {
        print_message("# %s\n", error->message);
        gw_memory_free(memory);
        skip();
    }
    assert_int_not_equal(gw_tracker_mode_of(tracker), GW_TRACKER_AUTO);
    assert_string_not_equal(gw_tracker_mode_name(gw_tracker_mode_of(tracker)), "auto");
    assert_true(gw_tracker_add(tracker, ram, NULL));
    assert_false(gw_tracker_add(tracker, ram, &error));
    assert_int_equal(error->code, GW_ERROR_STATE);
    assert_true(gw_memory_log_start(memory, NULL));
    ram->host[0] = 1;
    other->host[0] = 1; /* not tracked: its writers tell */
    gw_memory_note_write(other, GW_PAGE_SIZE, 1);
    struct gw_page_set *set = gw_page_set_new(memory);
    assert_true(gw_memory_log_collect(memory, set, NULL, NULL));
    assert_int_equal(set->n_set, 2);
    assert_true(gw_page_set_test(set, ram->index, 0));
    assert_true(gw_page_set_test(set, other->index, 1));
    gw_memory_log_stop(memory);
    gw_page_set_free(set);
    gw_tracker_free(tracker);
    /* A log after the tracker's end is a log without it. */
    assert_true(gw_memory_log_start(memory, NULL));
    gw_memory_log_stop(memory);
    gw_memory_free(memory);
}

static void refuses_what_it_cannot_adopt(void **state)
{
    struct gw_memory *memory = gw_memory_new();
    size_t n = 8 * GW_PAGE_SIZE;
    uint8_t *at = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = memfd_create("other", MFD_CLOEXEC);
    assert_int_equal(ftruncate(fd, (off_t)n), 0);
    uint8_t *file = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    uint8_t *shared = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    uint8_t *holes = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(holes + 2 * GW_PAGE_SIZE, GW_PAGE_SIZE);
    mprotect(at + 6 * GW_PAGE_SIZE, GW_PAGE_SIZE, PROT_READ);
    const struct {
        uint8_t *host;
        size_t size;
        int fd;
        const char *why;
    } cases[] = {
        {at + 1, GW_PAGE_SIZE, -1, "does not begin with a page"},
        {at, GW_PAGE_SIZE + 1, -1, "not page-aligned"},
        {at, n, -1, "not readable and writable"},
        {at, GW_PAGE_SIZE, fd, "not one mapping of the descriptor"},
        {file, n, -1, "private mapping of a file"},
        {holes, n, -1, "not mapped throughout"},
        {shared, n, STDIN_FILENO, "not one mapping of the descriptor"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        assert_null(gw_memory_adopt_block(memory, "ram", 0, cases[i].host, cases[i].size,
                                          cases[i].fd, &error));
        assert_int_equal(error->code, GW_ERROR_INVALID);
        if (!strstr(error->message, cases[i].why))
            fail_msg("case %zu: %s", i, error->message);
    }
    assert_int_equal(gw_memory_n_blocks(memory), 0);
    /* Without its descriptor, shared memory counts as touched throughout. */
    struct gw_ram_block *block = gw_memory_adopt_block(memory, "ram", 0, shared, n, -1, NULL);
    uint64_t page = 1, n_pages = 0;
    assert_true(gw_memory_next_allocated_run(block, &page, &n_pages));
    assert_int_equal(n_pages, 7);
    gw_memory_free(memory);
    shared[0] = 1; /* still the embedder's */
    munmap(shared, n);
    munmap(file, n);
    munmap(at, n);
    munmap(holes, n);
    close(fd);
}

int main(void)
{
    static struct kind kinds[] = {{GW_TRACKER_ASYNC, false},
                                  {GW_TRACKER_ASYNC, true},
                                  {GW_TRACKER_SYNC, false},
                                  {GW_TRACKER_SYNC, true}};
    static const struct {
        const char *name;
        CMUnitTestFunction run;
    } bodies[] = {
        {"tells exactly what was written", tells_exactly_what_was_written},
        {"knows untouched pages", knows_untouched_pages},
        {"tells writes of the kernel and discards", tells_writes_of_the_kernel_and_discards},
        {"starts again", starts_again},
        {"fails when the mapping is replaced", fails_when_the_mapping_is_replaced},
        {"loses no write of concurrent writers", loses_no_write_of_concurrent_writers},
    };
    struct CMUnitTest tests[G_N_ELEMENTS(kinds) * G_N_ELEMENTS(bodies) + 2] = {
        cmocka_unit_test(tracks_the_library_s_own_blocks),
        cmocka_unit_test(refuses_what_it_cannot_adopt),
    };
    char names[G_N_ELEMENTS(tests)][80];
    size_t n = 2;

    for (size_t k = 0; k < G_N_ELEMENTS(kinds); k++)
        for (size_t b = 0; b < G_N_ELEMENTS(bodies); b++, n++) {
            snprintf(names[n], sizeof names[n], "%s, %s: %s", gw_tracker_mode_name(kinds[k].mode),
                     kinds[k].is_shared ? "memfd" : "private", bodies[b].name);
            tests[n] = (struct CMUnitTest){
                .name = names[n], .test_func = bodies[b].run, .initial_state = &kinds[k]};
        }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
