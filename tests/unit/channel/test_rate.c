/* SPDX-License-Identifier: MIT */
/* The arithmetic of the bandwidth limit, on a clock that only the test moves. */
#include "fixture.h"

#include "channel/channel_impl.h"

#define MAX_CHANNELS 8
#define SECONDS      4
#define S_NS         INT64_C(1000000000)
#define MS_NS        INT64_C(1000000)

struct sent {
    int64_t at_ns;
    size_t n_bytes;
};

static uint64_t next_random(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

/* What n channels that always have something to send do in SECONDS: each takes a piece, wakes up to
 * late_ns after it may, writes, and takes the next. Records in order of time. */
static GArray *simulate(struct gw_rate_limit *limit, uint64_t rate, int n, int64_t late_ns,
                        int64_t from_ns)
{
    GArray *sent = g_array_new(FALSE, FALSE, sizeof(struct sent));
    size_t piece = rate_piece_bytes(rate);
    int64_t due_ns[MAX_CHANNELS];
    uint64_t random = rate + (uint64_t)n;

    for (int i = 0; i < n; i++) {
        due_ns[i] = MAX(rate_take(limit, rate, piece, from_ns), from_ns);
    }
    for (;;) {
        int next = 0;
        for (int i = 1; i < n; i++) {
            next = due_ns[i] < due_ns[next] ? i : next;
        }
        int64_t now_ns = due_ns[next];
        if (now_ns >= from_ns + SECONDS * S_NS) {
            return sent;
        }
        struct sent entry = {now_ns, piece};
        g_array_append_val(sent, entry);
        int64_t when_ns = rate_take(limit, rate, piece, now_ns);
        due_ns[next] =
            when_ns <= now_ns
                ? now_ns
                : when_ns + (late_ns ? (int64_t)(next_random(&random) % (uint64_t)late_ns) : 0);
    }
}

/* The least and the most in any second that begins with a piece, after the first 50 ms. */
static void extremes(const GArray *sent, int64_t from_ns, uint64_t *least, uint64_t *most)
{
    const struct sent *entries = (const struct sent *)(const void *)sent->data;
    uint64_t sum = 0;
    guint end = 0;

    *least = UINT64_MAX;
    *most = 0;
    for (guint i = 0; i < sent->len; i++) {
        for (; end < sent->len && entries[end].at_ns < entries[i].at_ns + S_NS; end++) {
            sum += entries[end].n_bytes;
        }
        if (end == sent->len) {
            break; /* not a whole second any more */
        }
        *most = MAX(*most, sum);
        if (entries[i].at_ns >= from_ns + 50 * MS_NS) {
            *least = MIN(*least, sum);
        }
        sum -= entries[i].n_bytes;
    }
}

static void check(uint64_t rate, int n, int64_t late_ns)
{
    struct gw_rate_limit *limit = gw_rate_limit_new(rate);
    int64_t from_ns = 12345 * S_NS;
    g_autoptr(GArray) sent = simulate(limit, rate, n, late_ns, from_ns);
    uint64_t least, most;

    extremes(sent, from_ns, &least, &most);
    if (least < rate * 97 / 100 || most > rate * 103 / 100) {
        fail_msg("%d channels at %" G_GUINT64_FORMAT " bytes/s: %" G_GUINT64_FORMAT
                 " to %" G_GUINT64_FORMAT " in a second",
                 n, rate, least, most);
    }
    gw_rate_limit_unref(limit);
}

static void any_second_is_within_three_percent(void **state)
{
    static const uint64_t rates[] = {2000000, 12500000, 125000000, 1250000000,
                                     UINT64_C(12500000000)};

    for (size_t i = 0; i < G_N_ELEMENTS(rates); i++) {
        for (int n = 1; n <= MAX_CHANNELS; n++) {
            check(rates[i], n, 0);
            check(rates[i], n, 8 * MS_NS); /* a busy host wakes writers late */
        }
    }
}

static void idleness_is_not_saved_up(void **state)
{
    const uint64_t rate = 100000000;
    struct gw_rate_limit *limit = gw_rate_limit_new(rate);
    int64_t now_ns = 100 * S_NS;
    size_t n_at_once = 0;

    rate_take(limit, rate, 1000, now_ns);
    now_ns += 60 * S_NS;
    while (rate_take(limit, rate, 10000, now_ns) <= now_ns) {
        n_at_once += 10000;
    }
    assert_in_range(n_at_once, 1, rate / 50); /* 20 ms */
    gw_rate_limit_unref(limit);
}

static void what_was_not_written_is_given_back(void **state)
{
    const uint64_t rate = 1000000;
    struct gw_rate_limit *limit = gw_rate_limit_new(rate);
    int64_t now_ns = 100 * S_NS;

    int64_t first_ns = rate_take(limit, rate, 500000, now_ns);
    rate_give_back(limit, rate, 400000);
    assert_int_equal(rate_take(limit, rate, 1000, now_ns) - first_ns, 100 * MS_NS);
    gw_rate_limit_unref(limit);
}

/* A vCPU's page must not stand behind the pages of the background, and the limit holds for both. */
static void who_goes_first_waits_for_its_own_kind_only(void **state)
{
    const uint64_t rate = 100000000;
    struct gw_rate_limit *limit = gw_rate_limit_new(rate);
    struct gw_rate_limit *first = gw_rate_limit_new_before(limit);
    int64_t now_ns = 100 * S_NS;

    gw_rate_limit_set(limit, rate);
    gw_rate_limit_unref(limit); /* first keeps one */
    while (rate_take(limit, rate, 200000, now_ns) < now_ns + 500 * MS_NS) {
    }
    assert_true(rate_take(first, rate, 4096, now_ns) <= now_ns);
    /* 100 ms of its own: then it waits, for those. */
    for (int i = 0; i < 50; i++) {
        rate_take(first, rate, 200000, now_ns);
    }
    int64_t start_ns = rate_take(first, rate, 200000, now_ns);
    assert_in_range(start_ns - now_ns, 85 * MS_NS, 105 * MS_NS);
    rate_give_back(first, rate, 200000);
    assert_in_range(rate_take(first, rate, 200000, now_ns) - start_ns, 0, 1);
    /* The others wait for both. */
    assert_in_range(rate_take(limit, rate, 200000, now_ns) - now_ns, 600 * MS_NS, 612 * MS_NS);
    gw_rate_limit_unref(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_second_is_within_three_percent),
        cmocka_unit_test(idleness_is_not_saved_up),
        cmocka_unit_test(what_was_not_written_is_given_back),
        cmocka_unit_test(who_goes_first_waits_for_its_own_kind_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
