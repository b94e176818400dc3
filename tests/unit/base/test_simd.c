/* SPDX-License-Identifier: MIT */
/* Every variant of the loops at memory speed that this processor has, against plain C and against
 * what is known; a variant that it lacks is skipped and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <glib.h>

#include "base/simd.h"
#include "base/zero.h"

#define MAX_LINES   130u
#define GROUP_WORDS 3u

struct buffers {
    uint64_t to[MAX_LINES * SIMD_LINE_WORDS + 1];
    uint64_t from[MAX_LINES * SIMD_LINE_WORDS + 1];
    uint64_t groups[GROUP_WORDS];
};

/* Densities: empty, full, a few bits, half of them. Some lines are equal in both. */
static uint64_t random_word(GRand *random, unsigned kind)
{
    uint64_t word = (uint64_t)g_rand_int(random) << 32 | g_rand_int(random);

    switch (kind) {
    case 0:
        return 0;
    case 1:
        return ~UINT64_C(0);
    case 2:
        return UINT64_C(1) << (word % 64);
    default:
        return word;
    }
}

static void fill(struct buffers *b, GRand *random)
{
    for (unsigned line = 0; line < MAX_LINES; line++) {
        unsigned to_kind = g_rand_int_range(random, 0, 4);
        unsigned from_kind = g_rand_int_range(random, 0, 5);
        for (unsigned i = line * SIMD_LINE_WORDS; i < (line + 1) * SIMD_LINE_WORDS; i++) {
            b->to[i] = random_word(random, to_kind);
            b->from[i] = from_kind == 4 ? b->to[i] : random_word(random, from_kind);
            if (from_kind == 2 && i % SIMD_LINE_WORDS != line % SIMD_LINE_WORDS) {
                b->from[i] = 0; /* one bit in the line */
            }
        }
    }
    b->to[MAX_LINES * SIMD_LINE_WORDS] = b->from[MAX_LINES * SIMD_LINE_WORDS] = 0xA5;
    for (unsigned i = 0; i < GROUP_WORDS; i++) {
        b->groups[i] = random_word(random, g_rand_int_range(random, 0, 4));
    }
}

static const struct simd_ops *plain(void)
{
    size_t n;
    const struct simd_ops *const *all = simd_all(&n);

    return all[n - 1];
}

static void merges_agree(const struct simd_ops *simd)
{
    g_autoptr(GRand) random = g_rand_new_with_seed(3);
    g_autofree struct buffers *start = g_new(struct buffers, 1);
    g_autofree struct buffers *ours = g_new(struct buffers, 1);
    g_autofree struct buffers *theirs = g_new(struct buffers, 1);

    for (unsigned round = 0; round < 300; round++) {
        size_t n_lines = round < 10 ? round : (size_t)g_rand_int_range(random, 0, MAX_LINES + 1);
        fill(start, random);
        *ours = *theirs = *start;
        assert_int_equal(simd->count(start->from, n_lines), plain()->count(start->from, n_lines));
        assert_int_equal(simd->merge(ours->to, ours->from, n_lines, ours->groups),
                         plain()->merge(theirs->to, theirs->from, n_lines, theirs->groups));
        assert_memory_equal(ours, theirs, sizeof *ours);
        *ours = *theirs = *start;
        assert_int_equal(simd->move(ours->to, ours->from, n_lines, ours->groups),
                         plain()->move(theirs->to, theirs->from, n_lines, theirs->groups));
        assert_memory_equal(ours, theirs, sizeof *ours);
    }
}

static void searches_agree(const struct simd_ops *simd)
{
    g_autofree uint64_t *words = g_new(uint64_t, MAX_LINES * SIMD_LINE_WORDS);
    const uint64_t values[] = {0, ~UINT64_C(0)};

    for (unsigned v = 0; v < 2; v++) {
        memset(words, v ? 0xFF : 0, MAX_LINES * SIMD_LINE_BYTES);
        for (unsigned n = 0; n < 10; n++) {
            assert_int_equal(simd->find_other(words, n, values[v]), n);
        }
        for (unsigned i = 0; i < MAX_LINES * SIMD_LINE_WORDS; i += 3) {
            words[i] ^= UINT64_C(1) << (i % 64);
            assert_int_equal(simd->find_other(words, MAX_LINES, values[v]), i / SIMD_LINE_WORDS);
            assert_int_equal(simd->find_other(words, i / SIMD_LINE_WORDS, values[v]),
                             i / SIMD_LINE_WORDS);
            words[i] ^= UINT64_C(1) << (i % 64);
        }
    }
}

/* Any alignment, every byte of a page, lengths that are no multiple of the vectors. */
static void zero_is_told_from_anything_else(const struct simd_ops *simd)
{
    g_autofree uint8_t *page = g_malloc0(4096 + 64);

    for (unsigned shift = 0; shift < 64; shift += 9) {
        assert_true(simd->is_zero(page + shift, 64));
        for (unsigned i = 0; i < 4096; i++) {
            page[shift + i] = 0x80;
            assert_false(simd->is_zero(page + shift, 64));
            page[shift + i] = 0;
        }
        for (unsigned n = 0; n < 12; n++) { /* what stands behind is not looked at */
            page[shift + n * 64] = 1;
            assert_true(simd->is_zero(page + shift, n));
            assert_false(simd->is_zero(page + shift, n + 1));
            page[shift + n * 64] = 0;
        }
    }
}

static void plain_c_is_right(void **state)
{
    const uint64_t from[16] = {1, 0, 0, 0, 0, 0, 0, 3};
    uint64_t to[16] = {0, 8, 0, 0, 0, 0, 0, 1};
    uint64_t groups[1] = {0};

    assert_int_equal(plain()->count(from, 2), 3);
    assert_int_equal(plain()->merge(to, from, 2, groups), 2);
    assert_int_equal(groups[0], 1);
    assert_int_equal(to[0], 1);
    assert_int_equal(to[1], 8);
    assert_int_equal(to[7], 3);
    zero_is_told_from_anything_else(plain());
    searches_agree(plain());
}

static void variant_agrees_with_plain_c(void **state)
{
    const struct simd_ops *simd = *state;

    if (!simd->is_supported()) {
        print_message("this processor has no %s\n", simd->name);
        skip();
    }
    merges_agree(simd);
    searches_agree(simd);
    zero_is_told_from_anything_else(simd);
}

static void the_first_supported_variant_is_chosen(void **state)
{
    size_t n, i = 0;
    const struct simd_ops *const *all = simd_all(&n);

    while (!all[i]->is_supported()) {
        i++;
    }
    assert_ptr_equal(simd_best(), all[i]);
}

static void pages_of_zero_are_found_through_the_choice(void **state)
{
    g_autofree uint8_t *page = g_malloc0(4096 + 1);

    for (unsigned shift = 0; shift < 2; shift++) {
        assert_true(page_is_zero(page + shift));
        for (unsigned i = 0; i < 4096; i += i < 130 ? 1 : 61) {
            page[shift + i] = 1;
            assert_false(page_is_zero(page + shift));
            page[shift + i] = 0;
        }
    }
    assert_true(memory_is_zero(page, 0));
}

int main(void)
{
    size_t n;
    const struct simd_ops *const *all = simd_all(&n);
    struct CMUnitTest tests[16] = {
        cmocka_unit_test(plain_c_is_right),
        cmocka_unit_test(the_first_supported_variant_is_chosen),
        cmocka_unit_test(pages_of_zero_are_found_through_the_choice),
    };

    for (size_t i = 0; i < n; i++) {
        tests[3 + i] = (struct CMUnitTest){all[i]->name, variant_agrees_with_plain_c, NULL, NULL,
                                           (void *)(uintptr_t)all[i]};
    }
    return _cmocka_run_group_tests("simd", tests, 3 + n, NULL, NULL);
}
