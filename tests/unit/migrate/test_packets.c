/* SPDX-License-Identifier: MIT */
/* Packets that follow a guest: two engines in one process, and an embedder that makes them up. */
#include "harness.h"

#include <string.h>

#define DEVICE    "fake/2"
#define N_PACKETS 500u

/* The embedder's part at both ends; one object, so that a test sees the whole. */
struct traffic {
    struct gw_packet_sink sink;
    unsigned n_devices; /* that forward */
    bool says_last;     /* by itself, when it begins */
    unsigned n_begun, n_ended;
    unsigned n_refused;
    unsigned n_expected_before_run;
    unsigned n_taken; /* the destination's control thread */
    bool has_last, is_in_order, ran_before;
    struct fake_vm *destination;
};

static struct traffic traffic;

static void send_numbers(uint32_t n)
{
    uint8_t frame[100] = {0};

    for (uint32_t i = 0; i < n; i++) {
        memcpy(frame + 50, &i, sizeof(i));
        traffic.n_refused +=
            !traffic.sink.packet(traffic.sink.opaque, DEVICE, frame, sizeof(frame), false);
    }
    /* No device of this name: nobody could take it. */
    assert_false(traffic.sink.packet(traffic.sink.opaque, "none", frame, sizeof(frame), false));
}

static uint32_t forward(void *opaque, const struct gw_packet_sink *sink)
{
    if (!sink) {
        traffic.n_ended++;
        if (traffic.n_devices && !traffic.says_last)
            traffic.sink.packet(traffic.sink.opaque, DEVICE, NULL, 0, true);
        return 0;
    }
    traffic.n_begun++;
    traffic.sink = *sink;
    if (traffic.n_devices)
        send_numbers(N_PACKETS);
    if (traffic.n_devices && traffic.says_last)
        traffic.sink.packet(traffic.sink.opaque, DEVICE, NULL, 0, true);
    return traffic.n_devices;
}

static void expect_packets(void *opaque)
{
    traffic.n_expected_before_run += !fake_vm_is_running(traffic.destination);
}

static void take(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                 bool is_last)
{
    uint32_t number;

    assert_string_equal(device, DEVICE);
    assert_false(traffic.has_last);
    traffic.has_last = is_last;
    traffic.ran_before &= fake_vm_is_running(traffic.destination);
    if (!n_bytes)
        return;
    assert_int_equal(n_bytes, 100);
    memcpy(&number, (const uint8_t *)frame + 50, sizeof(number));
    traffic.is_in_order &= number == traffic.n_taken++;
}

static void init(struct move *move)
{
    move_init(move);
    traffic = (struct traffic){.n_devices = 1,
                               .says_last = true,
                               .is_in_order = true,
                               .ran_before = true,
                               .destination = &move->pair.destination};
    move->pair.source.vm.forward_packets = forward;
    move->pair.destination.vm.expect_packets = expect_packets;
    move->pair.destination.vm.packet = take;
}

static void finish(struct move *move)
{
    move_start_destination(move);
    move_start_source(move);
    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    /* The source's GOODBYE follows its packets. */
    for (uint64_t limit = after_ms(PATIENCE_MS); !destination_status_of(move).is_source_told;)
        assert_true(clock_mono_ns() < limit);
    check_one_owner(move);
}

static void all_arrive_in_order_after_the_guest_runs(void **state)
{
    struct move move;

    init(&move);
    finish(&move);
    assert_int_equal(traffic.n_taken, N_PACKETS);
    assert_true(traffic.is_in_order && traffic.has_last && traffic.ran_before);
    assert_int_equal(traffic.n_expected_before_run, 1);
    assert_int_equal(traffic.n_begun, 1);
    assert_int_equal(traffic.n_ended, 1);
    assert_int_equal(source_status_of(&move).packets_forwarded, N_PACKETS);
    assert_int_equal(source_status_of(&move).packets_dropped, 1);
    move_clear(&move);
}

static void a_device_that_hears_no_announcement_is_ended(void **state)
{
    struct move move;

    init(&move);
    traffic.says_last = false;
    finish(&move);
    assert_int_equal(traffic.n_taken, N_PACKETS);
    assert_int_equal(traffic.n_ended, 1);
    assert_true(traffic.has_last);
    move_clear(&move);
}

static void who_does_not_know_packets_is_sent_none(void **state)
{
    struct move move;

    init(&move);
    move.pair.destination.vm.packet = NULL;
    finish(&move);
    assert_int_equal(traffic.n_begun, 0);
    assert_int_equal(traffic.n_expected_before_run, 0);
    move_clear(&move);
    init(&move);
    move.pair.source.vm.forward_packets = NULL;
    finish(&move);
    assert_int_equal(traffic.n_expected_before_run, 0);
    assert_int_equal(traffic.n_taken, 0);
    move_clear(&move);
}

static void nothing_is_forwarded_before_commit(void **state)
{
    struct move move;

    init(&move);
    move.cancel_at = GW_SOURCE_BLACKOUT;
    move_start_destination(&move);
    move_start_source(&move);
    move_finish(&move);
    if (source_state_of(&move) == GW_SOURCE_CANCELLED)
        assert_int_equal(traffic.n_begun, 0);
    check_one_owner(&move);
    move_clear(&move);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_arrive_in_order_after_the_guest_runs),
        cmocka_unit_test(a_device_that_hears_no_announcement_is_ended),
        cmocka_unit_test(who_does_not_know_packets_is_sent_none),
        cmocka_unit_test(nothing_is_forwarded_before_commit),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
