/* SPDX-License-Identifier: MIT */
/*
 * The loops at memory speed, each beside its reference over the same bytes in the same run.
 *
 * usage: bitmap [--pages N] [--rounds N]
 *
 * Prints one JSON object; rates in bytes per second, the best of the rounds. Bitmaps of N pages
 * (default 2^31: 256 MiB each). "memcpy" copies as many bytes as one bitmap has. "merge" ORs one
 * bitmap into another and counts what is new, all of it new: the most that it can have to write.
 * "scan" walks every run of a bitmap without using its summary, "sparse" with it, of which
 * 1 page in 1000 is set, in runs of 2 MiB (clustered) or one by one (scattered). "zero" tests
 * pages that are all zero, in a cache-resident buffer and in memory.
 */
#include <glib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/simd.h"
#include "base/summary.h"
#include "base/zero.h"
#ifdef HAVE_ISAL
#include <isa-l.h>
#endif

#define RUN_PAGES 512u

static uint64_t n_pages = UINT64_C(1) << 31;
static unsigned n_rounds = 5;

static void *map_bytes(size_t n_bytes)
{
    void *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (at == MAP_FAILED) {
        perror("bitmap: mmap");
        exit(1);
    }
    return at;
}

static struct summary map_new(void)
{
    return (struct summary){map_bytes(bitmap_n_words(n_pages) * 8),
                            map_bytes(bitmap_n_words(summary_n_groups(n_pages)) * 8), n_pages};
}

static double rate(uint64_t best_ns, double n_bytes)
{
    return n_bytes * 1e9 / (double)MAX(best_ns, 1);
}

static uint64_t best_copy_ns(uint64_t *to, const uint64_t *from, size_t n_bytes)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < n_rounds; i++) {
        uint64_t start = clock_mono_ns();
        memcpy(to, from, n_bytes);
        best = MIN(best, clock_mono_ns() - start);
        __asm__ volatile("" ::"r"(to) : "memory");
    }
    return best;
}

/* Every line of from has a bit that is new in to. */
static uint64_t best_merge_ns(const struct simd_ops *simd, struct summary *to, uint64_t *from)
{
    uint64_t n_words = bitmap_n_words(n_pages), best = UINT64_MAX;

    for (unsigned i = 0; i < n_rounds; i++) {
        memset(to->words, 0x11, n_words * 8);
        memset(from, 0x3C, n_words * 8);
        uint64_t start = clock_mono_ns();
        uint64_t n_new = simd->merge(to->words, from, n_words / SIMD_LINE_WORDS, to->groups);
        best = MIN(best, clock_mono_ns() - start);
        if (n_new != n_words * 24) {
            fprintf(stderr, "bitmap: %s merged wrongly\n", simd->name);
            exit(1);
        }
    }
    return best;
}

static uint64_t walk(const struct summary *map, bool uses_summary, uint64_t *best)
{
    uint64_t n_found = 0;

    *best = UINT64_MAX;
    for (unsigned i = 0; i < n_rounds; i++) {
        uint64_t page = 0, n = 0, start = clock_mono_ns();
        n_found = 0;
        while (uses_summary ? summary_next_run(map, &page, &n, UINT64_MAX)
                            : bitmap_next_run(map->words, map->n_bits, &page, &n, UINT64_MAX)) {
            n_found += n;
            page += n;
        }
        *best = MIN(*best, clock_mono_ns() - start);
    }
    return n_found;
}

static void print_walks(const char *name, const struct summary *map, double n_bytes)
{
    uint64_t full_ns, sparse_ns;
    uint64_t n = walk(map, false, &full_ns);

    if (walk(map, true, &sparse_ns) != n) {
        fprintf(stderr, "bitmap: the two scans disagree\n");
        exit(1);
    }
    printf("\"%s\": {\"set\": %" G_GUINT64_FORMAT ", \"scan\": %.0f, \"sparse\": %.0f}, ", name, n,
           rate(full_ns, n_bytes), rate(sparse_ns, n_bytes));
}

/* pages of zeroes, tested one by one. */
static double zero_rate(bool (*is_zero)(const void *page), const uint8_t *at, size_t n_bytes)
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < n_rounds; i++) {
        uint64_t n_zero = 0, start = clock_mono_ns();
        for (size_t offset = 0; offset < n_bytes; offset += 4096) {
            n_zero += is_zero(at + offset);
        }
        best = MIN(best, clock_mono_ns() - start);
        if (n_zero != n_bytes / 4096) {
            exit(1);
        }
    }
    return rate(best, (double)n_bytes);
}

static bool ours_is_zero(const void *page)
{
    return page_is_zero(page);
}

#ifdef HAVE_ISAL
static bool isal_is_zero(const void *page)
{
    return isal_zero_detect((void *)(uintptr_t)page, 4096) == 0;
}
#endif

static void print_zero(const char *name, const uint8_t *at, size_t n_bytes)
{
    printf("\"%s\": {\"ours\": %.0f", name, zero_rate(ours_is_zero, at, n_bytes));
#ifdef HAVE_ISAL
    printf(", \"isal\": %.0f", zero_rate(isal_is_zero, at, n_bytes));
#endif
    printf("}, ");
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--pages") == 0) {
            n_pages = strtoull(argv[i + 1], NULL, 0) & ~UINT64_C(0xFFFF);
        } else if (strcmp(argv[i], "--rounds") == 0) {
            n_rounds = (unsigned)strtoul(argv[i + 1], NULL, 0);
        }
    }
    if (n_pages == 0 || n_rounds == 0) {
        fprintf(stderr, "usage: bitmap [--pages N] [--rounds N]\n");
        return 2;
    }
    struct summary to = map_new();
    size_t n_bytes = bitmap_n_words(n_pages) * 8, n_variants;
    uint64_t *from = map_bytes(n_bytes);
    const struct simd_ops *const *all = simd_all(&n_variants);

    memset(from, 0x3C, n_bytes);
    printf("{\"bytes\": %zu, \"memcpy\": %.0f, \"merge\": {", n_bytes,
           rate(best_copy_ns(to.words, from, n_bytes), (double)n_bytes));
    bool is_first = true;
    for (size_t i = 0; i < n_variants; i++) {
        if (all[i]->is_supported()) {
            printf("%s\"%s\": %.0f", is_first ? "" : ", ", all[i]->name,
                   rate(best_merge_ns(all[i], &to, from), (double)n_bytes));
            is_first = false;
        }
    }
    printf("}, ");
    memset(to.words, 0, n_bytes);
    memset(to.groups, 0, bitmap_n_words(summary_n_groups(n_pages)) * 8);
    for (uint64_t page = 0; page < n_pages; page += RUN_PAGES * 1000) {
        summary_set_range(&to, page, RUN_PAGES);
    }
    print_walks("clustered", &to, (double)n_bytes);
    summary_clear(&to);
    for (uint64_t page = 0; page < n_pages; page += 1000) {
        summary_set_range(&to, page, 1);
    }
    print_walks("scattered", &to, (double)n_bytes);
    memset(from, 0, n_bytes);
    print_zero("zero_cached", (const uint8_t *)from, MIN(n_bytes, 256u << 10));
    print_zero("zero", (const uint8_t *)from, n_bytes);
    printf("\"best\": \"%s\"}\n", simd_best()->name);
    return 0;
}
