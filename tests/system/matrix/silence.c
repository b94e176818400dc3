/* SPDX-License-Identifier: MIT */
/*
 * Silence: every channel speaks in both directions, and who falls silent is noticed and named.
 *
 * The two sides have very different limits here, so that it is known who notices: the one with the
 * short limit. The other one must speak often enough for it, and must report what it found.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "godwit/migrate.h"
#include "referee.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHORT_MS 1200u
#else
#define SHORT_MS 600u
#endif
#define MAX_MS  (SHORT_MS * 8) /* a quarter of LONG_MS is still more: a missing KEEPALIVE shows */
#define LONG_MS 60000u
#define N_BEATS 8u /* at a quarter of the limit each: twice the limit */

static char directory[] = "/tmp/godwit-silence-XXXXXX";

static struct referee referee_of(uint32_t source_ms, uint32_t destination_ms)
{
    return (struct referee){.directory = directory,
                            .patience_ms = 120000,
                            .is_idle = true,
                            .stays_held = true,
                            .source_silence_ms = source_ms,
                            .destination_silence_ms = destination_ms};
}

/* Plays it with the short limit, and with longer ones where the machine does not keep up with it
 * (failed by silence that was no fault of the link). */
static void play(bool is_source_strict, struct fault *fault, unsigned n_beats,
                 struct case_result *result)
{
    for (uint32_t short_ms = SHORT_MS; short_ms <= MAX_MS; short_ms *= 2) {
        struct referee referee = referee_of(is_source_strict ? short_ms : LONG_MS,
                                            is_source_strict ? LONG_MS : short_ms);

        referee.n_beats = n_beats;
        if (fault)
            fault->is_done = false;
        referee_play(&referee, fault, fault ? 1 : 0, NULL, result);
        if (!result->error[0] && (fault || result->outcome == OUTCOME_MOVED))
            return;
    }
}

/* Stalls one way while the rounds go on; the side at its end notices, both name it. */
static void check_stall(const char *channel, enum relay_direction direction, const char *name)
{
    bool is_out = direction == RELAY_OUT;
    struct fault fault = {.kind = FAULT_STALL, .place = {.direction = direction, .nth = 8}};
    struct case_result result;

    g_strlcpy(fault.place.channel, channel, sizeof fault.place.channel);
    g_strlcpy(fault.place.type, "CLOCK_PING", sizeof fault.place.type);
    if (strcmp(channel, "control") != 0) {
        g_strlcpy(fault.place.type, "KEEPALIVE", sizeof fault.place.type);
        fault.place.nth = 0;
    }
    play(!is_out, &fault, UINT32_MAX, &result);
    if (result.error[0])
        fail_msg("%s", result.error);
    assert_int_equal(result.outcome, OUTCOME_STAYED);
    assert_true(result.has_next);
    if (result.source.code != GW_ERROR_LINK_SILENT || !strstr(result.source.reason, name) ||
        !strstr(result.source.reason, "silent for"))
        fail_msg("the source says \"%s\" of a silent %s", result.source.reason, channel);
    assert_int_equal(result.source.side, is_out ? GW_SIDE_DESTINATION : GW_SIDE_SOURCE);
    assert_int_equal(result.destination.side, result.source.side);
    assert_int_equal(result.destination.code, result.source.code);
    assert_string_equal(result.destination.reason, result.source.reason);
}

static void a_silent_control_channel_is_noticed_by_both(void **state)
{
    check_stall("control", RELAY_OUT, "control: ");
    check_stall("control", RELAY_IN, "control: ");
}

static void a_silent_page_channel_is_noticed_by_both(void **state)
{
    check_stall("page-0", RELAY_OUT, "page 0: ");
    check_stall("page-0", RELAY_IN, "page 0: ");
    check_stall("page-1", RELAY_OUT, "page 1: ");
    check_stall("page-1", RELAY_IN, "page 1: ");
}

static void check_idle(bool is_source_strict)
{
    struct case_result result;

    play(is_source_strict, NULL, N_BEATS, &result);
    if (result.error[0])
        fail_msg("%s", result.error);
    if (result.outcome != OUTCOME_MOVED)
        fail_msg("an idle channel was taken for lost: %s", result.source.reason);
}

/* Nothing but keep-alives travels on page channels for longer than the limit. */
static void idle_channels_are_kept_alive_for_the_stricter_side(void **state)
{
    check_idle(true);
    check_idle(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_silent_control_channel_is_noticed_by_both),
        cmocka_unit_test(a_silent_page_channel_is_noticed_by_both),
        cmocka_unit_test(idle_channels_are_kept_alive_for_the_stricter_side),
    };
    int n_failed;

    if (!mkdtemp(directory))
        return 1;
    n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    for (unsigned i = 0; i < 4; i++) { /* the sockets of referee number 0 */
        g_autofree char *path = g_strdup_printf("%s/d0-%u", directory, i);

        remove(path);
    }
    remove(directory);
    return n_failed;
}
