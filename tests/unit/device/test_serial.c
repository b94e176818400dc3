/* SPDX-License-Identifier: MIT */
/*
 * The serial port: registers, interrupts and FIFOs of the 16550A, with a socket at the other end.
 */
#include "peer.h"

#include <string.h>
#include <unistd.h>

#include "device/serial.h"

#define BASE 0x10000000u
enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

#define LSR_IDLE 0x60 /* transmitter empty, nothing received */

struct port {
    struct rig *rig;
    struct chardev *chardev;
    struct serial *serial;
    int peer;
};

static void port_open(struct port *port, struct rig *rig, bool has_peer)
{
    g_autofree char *path = rig_path(rig, "tty");
    g_autofree char *spec = g_strconcat("unix:", path, NULL);
    *port = (struct port){.rig = rig, .peer = -1};
    port->chardev = chardev_open(has_peer ? spec : "null", rig->loop, NULL, NULL, NULL);
    const struct serial_config config = {.bus = rig->bus,
                                         .loop = rig->loop,
                                         .gpa = BASE,
                                         .irq = rig_irq(rig),
                                         .chardev = port->chardev};
    port->serial = serial_new("uart0", &config, NULL);
    assert_non_null(port->serial);
    device_reset(serial_device(port->serial));
    device_start(serial_device(port->serial));
    if (has_peer)
        port->peer = peer_connect(rig, port->chardev);
}

static void port_close(struct port *port)
{
    assert_true(device_stop(serial_device(port->serial), 0, NULL));
    device_free(serial_device(port->serial));
    chardev_free(port->chardev);
    if (port->peer >= 0)
        close(port->peer);
}

static uint8_t get(struct port *port, unsigned reg)
{
    return (uint8_t)rig_read(port->rig, BASE + reg, 1);
}

static void put(struct port *port, unsigned reg, uint8_t value)
{
    rig_write(port->rig, BASE + reg, 1, value);
}

/* Types and waits until the port has it. */
static void type(struct port *port, const char *text, unsigned ready_bytes)
{
    peer_send(port->peer, text, strlen(text));
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    for (unsigned i = 0; i < ready_bytes; i++)
        while (!(get(port, LSR) & 1))
            assert_true(clock_mono_ns() < deadline_ns);
    rig_settle(port->rig);
}

static void it_starts_as_the_data_sheet_says(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    assert_int_equal(get(&port, IER), 0);
    assert_int_equal(get(&port, IIR), 0x01);
    assert_int_equal(get(&port, LCR), 0);
    assert_int_equal(get(&port, MCR), 0);
    assert_int_equal(get(&port, LSR), LSR_IDLE);
    assert_int_equal(get(&port, MSR), 0xb0);
    assert_int_equal(rig_read(port.rig, BASE + 8, 1), 0);
    port_close(&port);
}

static void the_divisor_hides_behind_dlab(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    put(&port, IER, 0x0f);
    put(&port, LCR, 0x83);
    put(&port, DATA, 0x34);
    put(&port, IER, 0x12);
    assert_int_equal(get(&port, DATA), 0x34);
    assert_int_equal(get(&port, IER), 0x12);
    put(&port, LCR, 0x03);
    assert_int_equal(get(&port, IER), 0x0f);
    put(&port, IER, 0xf5); /* the upper bits do not exist */
    assert_int_equal(get(&port, IER), 0x05);
    put(&port, SCR, 0xa5);
    assert_int_equal(get(&port, SCR), 0xa5);
    port_close(&port);
}

static void what_is_written_arrives(void **state)
{
    struct port port;
    char text[3000];
    port_open(&port, *state, true);
    for (size_t i = 0; i < sizeof text; i++) {
        text[i] = (char)('a' + i % 26);
        assert_int_equal(get(&port, LSR) & 0x20, 0x20);
        put(&port, DATA, (uint8_t)text[i]);
    }
    peer_expect(port.peer, text, sizeof text);
    port_close(&port);
}

static void the_transmitter_interrupt_comes_and_goes(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    assert_false(rig_irq_level(port.rig));
    put(&port, IER, 0x02); /* enabling it while empty asks at once (Linux relies on it) */
    assert_true(rig_irq_level(port.rig));
    assert_int_equal(get(&port, IIR), 0x02);
    assert_false(rig_irq_level(port.rig)); /* reading IIR answers it */
    assert_int_equal(get(&port, IIR), 0x01);
    put(&port, DATA, 'x');
    assert_true(rig_irq_level(port.rig)); /* sent already */
    put(&port, IER, 0x00);
    assert_false(rig_irq_level(port.rig));
    put(&port, IER, 0x02);
    assert_true(rig_irq_level(port.rig));
    port_close(&port);
}

static void received_bytes_interrupt_at_the_trigger_level(void **state)
{
    struct port port;
    port_open(&port, *state, true);
    put(&port, FCR, 0x41); /* FIFO, trigger at 4 */
    put(&port, LCR, 0x80); /* the slowest line: its timeout is far away */
    put(&port, DATA, 0xff);
    put(&port, IER, 0xff);
    put(&port, LCR, 0x03);
    put(&port, IER, 0x01);
    assert_int_equal(get(&port, IIR), 0xc1);
    type(&port, "abcd", 1);
    rig_await_irq(port.rig, true);
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    while (get(&port, IIR) != 0xc4)
        assert_true(clock_mono_ns() < deadline_ns);
    assert_int_equal(get(&port, DATA), 'a');
    assert_false(rig_irq_level(port.rig));
    assert_int_equal(get(&port, IIR), 0xc1);
    assert_int_equal(get(&port, DATA), 'b');
    assert_int_equal(get(&port, DATA), 'c');
    assert_int_equal(get(&port, LSR), LSR_IDLE | 1);
    assert_int_equal(get(&port, DATA), 'd');
    assert_int_equal(get(&port, LSR), LSR_IDLE);
    port_close(&port);
}

static void few_bytes_interrupt_after_the_timeout(void **state)
{
    struct port port;
    port_open(&port, *state, true);
    put(&port, FCR, 0xc1); /* trigger at 14 */
    put(&port, IER, 0x01);
    peer_send(port.peer, "ab", 2);
    rig_await_irq(port.rig, true);
    assert_int_equal(get(&port, IIR), 0xcc);
    assert_int_equal(get(&port, DATA), 'a');
    rig_await_irq(port.rig, true); /* the other one is still waiting */
    assert_int_equal(get(&port, DATA), 'b');
    assert_false(rig_irq_level(port.rig));
    port_close(&port);
}

static void no_byte_is_lost_when_the_guest_is_slow(void **state)
{
    struct port port;
    char text[500];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (char)('!' + i % 90);
    for (unsigned fcr = 0; fcr < 2; fcr++) { /* without and with FIFOs */
        port_open(&port, *state, true);
        put(&port, FCR, (uint8_t)fcr);
        peer_send(port.peer, text, sizeof text);
        uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
        for (size_t i = 0; i < sizeof text; i++) {
            uint8_t lsr;
            while (!((lsr = get(&port, LSR)) & 1)) {
                assert_true(clock_mono_ns() < deadline_ns);
                rig_settle(port.rig);
            }
            assert_int_equal(lsr & 0x1e, 0);
            assert_int_equal(get(&port, DATA), text[i]);
        }
        port_close(&port);
        /* The next round makes its port at the same place. */
        rig_teardown(state);
        rig_setup(state);
    }
}

static void a_full_back_end_makes_the_guest_wait(void **state)
{
    struct port port;
    port_open(&port, *state, true);
    put(&port, FCR, 0x01);
    put(&port, IER, 0x02);
    get(&port, IIR);
    g_autoptr(GByteArray) sent = g_byte_array_new();
    /* As a driver does: write while THRE is set. */
    for (unsigned n_idle = 0; n_idle < 3;) {
        if (!(get(&port, LSR) & 0x20)) {
            n_idle++;
            rig_settle(port.rig);
            continue;
        }
        n_idle = 0;
        uint8_t byte = (uint8_t)(sent->len * 7);
        put(&port, DATA, byte);
        g_byte_array_append(sent, &byte, 1);
    }
    assert_int_equal(get(&port, IIR), 0xc1);
    assert_false(rig_irq_level(port.rig));
    peer_expect(port.peer, sent->data, sent->len);
    rig_await_irq(port.rig, true); /* room again */
    assert_int_equal(get(&port, IIR), 0xc2);
    assert_int_equal(get(&port, LSR), LSR_IDLE);
    put(&port, DATA, '!');
    peer_expect(port.peer, "!", 1);
    port_close(&port);
}

static void loop_back_returns_bytes_and_modem_lines(void **state)
{
    struct port port;
    port_open(&port, *state, true);
    put(&port, FCR, 0x01);
    get(&port, MSR);
    put(&port, MCR, 0x10);
    assert_int_equal(get(&port, MSR), 0x0b); /* CTS, DSR and DCD fell */
    put(&port, MCR, 0x1a);                   /* RTS and OUT2 */
    assert_int_equal(get(&port, MSR), 0x99);
    put(&port, MCR, 0x14); /* OUT1: RI rises, which leaves no trace */
    assert_int_equal(get(&port, MSR), 0x49);
    put(&port, MCR, 0x10);
    assert_int_equal(get(&port, MSR), 0x04); /* RI fell */

    for (unsigned i = 0; i < 17; i++)
        put(&port, DATA, (uint8_t)('A' + i));
    assert_int_equal(get(&port, LSR), LSR_IDLE | 0x03); /* one too many: overrun */
    assert_int_equal(get(&port, LSR), LSR_IDLE | 0x01);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(get(&port, DATA), 'A' + i);
    put(&port, MCR, 0x00);
    put(&port, DATA, 'z');
    peer_expect(port.peer, "z", 1); /* and nothing of the loop */
    port_close(&port);
}

static void interrupts_have_their_priorities(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    put(&port, FCR, 0x01);
    put(&port, MCR, 0x10);
    put(&port, IER, 0x0f);
    for (unsigned i = 0; i < 17; i++)
        put(&port, DATA, (uint8_t)i);
    assert_int_equal(get(&port, IIR), 0xc6); /* overrun */
    get(&port, LSR);
    assert_int_equal(get(&port, IIR), 0xc4); /* received data */
    for (unsigned i = 0; i < 16; i++)
        get(&port, DATA);
    assert_int_equal(get(&port, IIR), 0xc2); /* transmitter empty */
    assert_int_equal(get(&port, IIR), 0xc0); /* modem lines */
    get(&port, MSR);
    assert_int_equal(get(&port, IIR), 0xc1);
    assert_false(rig_irq_level(port.rig));
    port_close(&port);
}

static void fifo_control_clears(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    put(&port, FCR, 0x01);
    put(&port, MCR, 0x10);
    put(&port, DATA, 'a');
    assert_int_equal(get(&port, LSR) & 1, 1);
    put(&port, FCR, 0x03);
    assert_int_equal(get(&port, LSR) & 1, 0);
    put(&port, DATA, 'b');
    put(&port, FCR, 0x00); /* switching FIFOs empties them */
    assert_int_equal(get(&port, LSR) & 1, 0);
    assert_int_equal(get(&port, IIR), 0x01);
    put(&port, FCR, 0xc6); /* without the enable bit nothing of it counts */
    assert_int_equal(get(&port, IIR), 0x01);
    port_close(&port);
}

static void a_stopped_port_takes_no_input(void **state)
{
    struct port port;
    port_open(&port, *state, true);
    assert_true(device_stop(serial_device(port.serial), 0, NULL));
    peer_send(port.peer, "k", 1);
    rig_settle(port.rig);
    assert_int_equal(get(&port, LSR) & 1, 0);
    device_start(serial_device(port.serial));
    put(&port, IER, 0x01);
    rig_await_irq(port.rig, true);
    assert_int_equal(get(&port, DATA), 'k');
    port_close(&port);
}

static void a_move_keeps_fifos_registers_and_interrupts(void **state)
{
    void *other_state;
    rig_setup(&other_state);
    struct port from, to;
    port_open(&from, *state, true);
    port_open(&to, other_state, true);
    put(&from, FCR, 0x81);
    put(&from, SCR, 0x5a);
    put(&from, LCR, 0x80);
    put(&from, DATA, 0x02);
    put(&from, LCR, 0x1b);
    put(&from, IER, 0x03);
    get(&from, IIR);
    peer_send(from.peer, "typed", 5);
    rig_await_irq(from.rig, true);
    assert_true(device_stop(serial_device(from.serial), 0, NULL));
    assert_true(device_stop(serial_device(to.serial), 0, NULL));

    rig_move_state(serial_device(from.serial), serial_device(to.serial));
    device_start(serial_device(to.serial));
    rig_await_irq(to.rig, true);
    assert_int_equal(get(&to, IIR) & 0xc7, 0xc4);
    assert_int_equal(get(&to, LCR), 0x1b);
    assert_int_equal(get(&to, SCR), 0x5a);
    assert_int_equal(get(&to, DATA), 't');
    peer_send(to.peer, "!", 1);
    char rest[6] = "";
    uint64_t deadline_ns = clock_mono_ns() + RIG_GIVE_UP;
    for (size_t i = 0; i < 5;) {
        if (get(&to, LSR) & 1)
            rest[i++] = (char)get(&to, DATA);
        assert_true(clock_mono_ns() < deadline_ns);
        rig_settle(to.rig);
    }
    assert_string_equal(rest, "yped!");
    device_start(serial_device(from.serial));
    port_close(&from);
    port_close(&to);
    rig_teardown(&other_state);
}

static void bytes_the_back_end_did_not_take_move_along(void **state)
{
    void *other_state;
    rig_setup(&other_state);
    struct port from, to;
    port_open(&from, *state, true);
    port_open(&to, other_state, true);
    put(&from, FCR, 0x01);
    for (unsigned n_idle = 0; n_idle < 3;) {
        if (get(&from, LSR) & 0x20) {
            n_idle = 0;
            put(&from, DATA, '.');
        } else {
            n_idle++;
            rig_settle(from.rig);
        }
    }
    assert_true(device_stop(serial_device(from.serial), 0, NULL));
    assert_true(device_stop(serial_device(to.serial), 0, NULL));
    rig_move_state(serial_device(from.serial), serial_device(to.serial));
    device_start(serial_device(to.serial));
    assert_int_equal(get(&to, LSR), LSR_IDLE);
    peer_expect(to.peer, ".", 1);
    device_start(serial_device(from.serial));
    port_close(&from);
    port_close(&to);
    rig_teardown(&other_state);
}

static void any_access_is_harmless(void **state)
{
    struct port port;
    port_open(&port, *state, false);
    rig_attack(port.rig, BASE, SERIAL_SIZE, 200000);
    port_close(&port);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(it_starts_as_the_data_sheet_says),
        RIG_TEST(the_divisor_hides_behind_dlab),
        RIG_TEST(what_is_written_arrives),
        RIG_TEST(the_transmitter_interrupt_comes_and_goes),
        RIG_TEST(received_bytes_interrupt_at_the_trigger_level),
        RIG_TEST(few_bytes_interrupt_after_the_timeout),
        RIG_TEST(no_byte_is_lost_when_the_guest_is_slow),
        RIG_TEST(a_full_back_end_makes_the_guest_wait),
        RIG_TEST(loop_back_returns_bytes_and_modem_lines),
        RIG_TEST(interrupts_have_their_priorities),
        RIG_TEST(fifo_control_clears),
        RIG_TEST(a_stopped_port_takes_no_input),
        RIG_TEST(a_move_keeps_fifos_registers_and_interrupts),
        RIG_TEST(bytes_the_back_end_did_not_take_move_along),
        RIG_TEST(any_access_is_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
