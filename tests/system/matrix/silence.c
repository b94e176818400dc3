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
#define SHORT_MS 2000u
#else
#define SHORT_MS 600u
#endif
#define LONG_MS 20000u
#define N_BEATS 8u /* at a quarter of the limit each: twice the limit */

static char directory[] = "/tmp/godwit-silence-XXXXXX";

static struct referee referee_of(uint32_t source_ms, uint32_t destination_ms)
{
    return (struct referee){.directory = directory,
                            .patience_ms = 60000,
                            .is_idle = true,
                            .stays_held = true,
                            .n_beats = UINT32_MAX,
                            .source_silence_ms = source_ms,
                            .destination_silence_ms = destination_ms};
}

/* Stalls one way while the rounds go on; the side at its end notices, both name it. */
static void check_stall(const char *channel, enum relay_direction direction, const char *name)
{
    bool is_out = direction == RELAY_OUT;
    struct referee referee = referee_of(is_out ? LONG_MS : SHORT_MS, is_out ? SHORT_MS : LONG_MS);
    struct fault fault = {.kind = FAULT_STALL, .place = {.direction = direction, .nth = 8}};
    struct case_result result;

    g_strlcpy(fault.place.channel, channel, sizeof fault.place.channel);
    g_strlcpy(fault.place.type, "CLOCK_PING", sizeof fault.place.type);
    if (strcmp(channel, "control") != 0) {
        g_strlcpy(fault.place.type, "KEEPALIVE", sizeof fault.place.type);
        fault.place.nth = 0;
    }
    referee_play(&referee, &fault, 1, NULL, &result);
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

static void check_idle(uint32_t source_ms, uint32_t destination_ms)
{
    struct referee referee = referee_of(source_ms, destination_ms);
    struct case_result result;

    referee.n_beats = N_BEATS;
    referee_play(&referee, NULL, 0, NULL, &result);
    if (result.error[0])
        fail_msg("%s", result.error);
    assert_int_equal(result.outcome, OUTCOME_MOVED);
}

/* Nothing but keep-alives travels on page channels for longer than the limit. */
static void idle_channels_are_kept_alive_for_the_stricter_side(void **state)
{
    check_idle(SHORT_MS, LONG_MS);
    check_idle(LONG_MS, SHORT_MS);
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
