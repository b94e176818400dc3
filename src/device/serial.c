/* SPDX-License-Identifier: MIT */
/*
 * ns16550a serial port.
 *
 * Model: National Semiconductor PC16550D data sheet, section 8 (registers) with FIFOs of 16 bytes.
 * The line is infinitely fast: a byte leaves when the back end takes it, at once as a rule. When
 * the back end is full the byte stays in the transmitter, THRE stays clear and the guest waits;
 * nothing is lost and no vCPU blocks. Baud rate and parity have no effect, but the character time
 * of the divisor sets the receive timeout (8.4.3: four characters).
 *
 * Errors in received characters do not occur, but for overrun (loop-back only: the back end gives
 * no more than there is room for) and break.
 */
#include "device/serial.h"

#include <string.h>

#include "base/clock.h"

enum {
    REG_DATA = 0, /* RBR, THR; divisor low */
    REG_IER = 1,  /* divisor high */
    REG_IIR = 2,  /* FCR when written */
    REG_LCR = 3,
    REG_MCR = 4,
    REG_LSR = 5,
    REG_MSR = 6,
    REG_SCR = 7,
};

#define IER_RX   0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MSR  0x08

#define IIR_NONE    0x01
#define IIR_MSR     0x00
#define IIR_THRE    0x02
#define IIR_RX      0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     0xc9 /* enable, DMA mode, trigger */

#define LCR_DLAB 0x80

#define MCR_DTR  0x01
#define MCR_RTS  0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_READY   0x01
#define LSR_OVERRUN 0x02
#define LSR_BREAK   0x10
#define LSR_THRE    0x20
#define LSR_EMPTY   0x40
#define LSR_ERRORS  (LSR_OVERRUN | LSR_BREAK)

#define MSR_DELTAS 0x0f
#define MSR_TERI   0x04 /* set by the falling edge of RI only */
#define MSR_CTS    0x10
#define MSR_DSR    0x20
#define MSR_RI     0x40
#define MSR_DCD    0x80

#define FIFO_BYTES 16u

struct serial {
    struct device dev;
    /* fixed after construction */
    uint32_t clock_hz;
    struct irq_line irq;
    struct chardev *chardev;
    struct io_timer *timeout_timer;
    /* guarded by dev.lock */
    bool is_running;  /* between start and stop */
    bool is_irq_high; /* what the line was told last */
    /* guarded by dev.lock; saved */
    uint8_t ier, lcr, mcr, msr, scr, fcr;
    uint8_t line_errors; /* LSR_ERRORS bits */
    uint16_t divisor;
    bool is_thre_pending;
    bool is_timeout_pending;
    uint8_t rx[FIFO_BYTES];
    uint8_t n_rx;
    uint8_t tx[FIFO_BYTES]; /* what the back end did not take yet */
    uint8_t n_tx;
};

/* ---- interrupts ---- */

static unsigned fifo_depth(const struct serial *serial)
{
    return serial->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static unsigned rx_trigger(const struct serial *serial)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return serial->fcr & FCR_ENABLE ? levels[serial->fcr >> 6] : 1;
}

/* The highest-priority pending interrupt, in the data sheet's order (table IV). */
static uint8_t interrupt_id(const struct serial *serial)
{
    if (serial->ier & IER_LINE && serial->line_errors)
        return IIR_LINE;
    if (serial->ier & IER_RX && serial->n_rx >= rx_trigger(serial))
        return IIR_RX;
    if (serial->ier & IER_RX && serial->is_timeout_pending)
        return IIR_TIMEOUT;
    if (serial->ier & IER_THRE && serial->is_thre_pending)
        return IIR_THRE;
    if (serial->ier & IER_MSR && serial->msr & MSR_DELTAS)
        return IIR_MSR;
    return IIR_NONE;
}

static void update_irq(struct serial *serial)
{
    bool is_high = interrupt_id(serial) != IIR_NONE;
    if (is_high != serial->is_irq_high)
        irq_set(&serial->irq, is_high);
    serial->is_irq_high = is_high;
}

/* ---- receiver ---- */

static uint64_t four_characters_ns(const struct serial *serial)
{
    uint64_t divisor = serial->divisor ? serial->divisor : 1;
    return 4 * 10 * 16 * divisor * NS_PER_S / serial->clock_hz;
}

/* Starts the time after which few bytes interrupt as well, or stops it. */
static void restart_timeout(struct serial *serial)
{
    bool is_waiting = serial->is_running && serial->fcr & FCR_ENABLE && serial->n_rx > 0 &&
                      serial->n_rx < rx_trigger(serial) && !serial->is_timeout_pending;
    io_timer_set(serial->timeout_timer,
                 is_waiting ? clock_mono_ns() + four_characters_ns(serial) : UINT64_MAX);
}

static void timeout_due(struct device *dev, void *opaque)
{
    struct serial *serial = opaque;
    if (serial->is_running && serial->n_rx > 0) {
        serial->is_timeout_pending = true;
        update_irq(serial);
    }
}

static size_t input_room(void *opaque)
{
    struct serial *serial = opaque;
    if (!serial->is_running || serial->mcr & MCR_LOOP || serial->n_rx >= fifo_depth(serial))
        return 0;
    return fifo_depth(serial) - serial->n_rx;
}

static void want_input(struct serial *serial)
{
    chardev_want_input(serial->chardev, input_room(serial) > 0);
}

static void push_rx(struct serial *serial, uint8_t byte)
{
    if (serial->n_rx >= fifo_depth(serial)) {
        serial->line_errors |= LSR_OVERRUN;
        if (!(serial->fcr & FCR_ENABLE))
            serial->rx[0] = byte; /* without FIFO the new character takes the old one's place */
        return;
    }
    serial->rx[serial->n_rx++] = byte;
}

static void input(void *opaque, const uint8_t *bytes, size_t len)
{
    struct serial *serial = opaque;
    for (size_t i = 0; i < len; i++)
        push_rx(serial, bytes[i]);
    want_input(serial);
    restart_timeout(serial);
    update_irq(serial);
}

static void input_break(void *opaque)
{
    struct serial *serial = opaque;
    if (!serial->is_running)
        return;
    push_rx(serial, 0);
    serial->line_errors |= LSR_BREAK;
    restart_timeout(serial);
    update_irq(serial);
}

static uint8_t pop_rx(struct serial *serial)
{
    uint8_t byte = serial->rx[0];
    if (serial->n_rx == 0)
        return byte;
    serial->n_rx--;
    memmove(serial->rx, serial->rx + 1, serial->n_rx);
    serial->is_timeout_pending = false;
    restart_timeout(serial);
    want_input(serial);
    return byte;
}

static void clear_rx(struct serial *serial)
{
    serial->n_rx = 0;
    serial->is_timeout_pending = false;
    serial->line_errors = 0;
    restart_timeout(serial);
    want_input(serial);
}

/* ---- transmitter ---- */

/* Hands over what waits; a transmitter that runs empty says so. */
static void transmit(struct serial *serial)
{
    if (serial->n_tx == 0)
        return;
    size_t n = chardev_write(serial->chardev, serial->tx, serial->n_tx);
    serial->n_tx = (uint8_t)(serial->n_tx - n);
    memmove(serial->tx, serial->tx + n, serial->n_tx);
    if (serial->n_tx == 0)
        serial->is_thre_pending = true;
}

static void writable(void *opaque)
{
    struct serial *serial = opaque;
    if (!serial->is_running)
        return; /* start() tries again */
    transmit(serial);
    update_irq(serial);
}

static void write_thr(struct serial *serial, uint8_t byte)
{
    serial->is_thre_pending = false;
    if (serial->mcr & MCR_LOOP) {
        push_rx(serial, byte);
        restart_timeout(serial);
        serial->is_thre_pending = true;
        return;
    }
    /* GUEST: a byte written although THRE is clear takes the last one's place, as in the chip. */
    if (serial->n_tx >= fifo_depth(serial))
        serial->n_tx = (uint8_t)(fifo_depth(serial) - 1);
    serial->tx[serial->n_tx++] = byte;
    transmit(serial);
}

/* ---- registers ---- */

static uint8_t modem_lines(const struct serial *serial)
{
    if (!(serial->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD; /* somebody is always at the other end */
    uint8_t lines = 0;
    lines |= serial->mcr & MCR_RTS ? MSR_CTS : 0;
    lines |= serial->mcr & MCR_DTR ? MSR_DSR : 0;
    lines |= serial->mcr & MCR_OUT1 ? MSR_RI : 0;
    lines |= serial->mcr & MCR_OUT2 ? MSR_DCD : 0;
    return lines;
}

static void update_msr(struct serial *serial)
{
    uint8_t old = serial->msr & (uint8_t)~MSR_DELTAS, now = modem_lines(serial);
    uint8_t deltas = (uint8_t)((old ^ now) >> 4);
    if (now & MSR_RI) /* a rising RI leaves no trace */
        deltas &= (uint8_t)~MSR_TERI;
    serial->msr = (uint8_t)(now | (serial->msr & MSR_DELTAS) | deltas);
}

static void write_fcr(struct serial *serial, uint8_t value)
{
    bool has_switched = (serial->fcr ^ value) & FCR_ENABLE;
    if (!(value & FCR_ENABLE))
        value = 0; /* the other bits are only taken together with the enable bit */
    serial->fcr = value & FCR_KEPT;
    if (has_switched || value & FCR_CLEAR_RX)
        clear_rx(serial);
    if ((has_switched || value & FCR_CLEAR_TX) && serial->n_tx > 0) {
        serial->n_tx = 0;
        serial->is_thre_pending = true;
    }
    restart_timeout(serial);
}

static void write_ier(struct serial *serial, uint8_t value)
{
    bool is_thre_new = value & ~serial->ier & IER_THRE;
    serial->ier = value & 0x0f;
    if (is_thre_new && serial->n_tx == 0)
        serial->is_thre_pending = true;
}

static uint8_t read_lsr(struct serial *serial)
{
    uint8_t value = serial->line_errors;
    value |= serial->n_rx > 0 ? LSR_READY : 0;
    value |= serial->n_tx == 0 ? LSR_THRE | LSR_EMPTY : 0;
    serial->line_errors = 0;
    return value;
}

static uint8_t read_iir(struct serial *serial)
{
    uint8_t id = interrupt_id(serial);
    if (id == IIR_THRE)
        serial->is_thre_pending = false;
    return id | (serial->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_register(struct serial *serial, uint64_t offset)
{
    bool is_divisor = serial->lcr & LCR_DLAB;
    uint8_t value;
    switch (offset) {
    case REG_DATA:
        return is_divisor ? (uint8_t)serial->divisor : pop_rx(serial);
    case REG_IER:
        return is_divisor ? (uint8_t)(serial->divisor >> 8) : serial->ier;
    case REG_IIR:
        return read_iir(serial);
    case REG_LCR:
        return serial->lcr;
    case REG_MCR:
        return serial->mcr;
    case REG_LSR:
        return read_lsr(serial);
    case REG_MSR:
        value = serial->msr;
        serial->msr &= (uint8_t)~MSR_DELTAS;
        return value;
    case REG_SCR:
        return serial->scr;
    default:
        return 0;
    }
}

static uint64_t serial_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct serial *serial = opaque;
    uint8_t value = read_register(serial, offset);
    if (offset != REG_LCR && offset != REG_MCR && offset != REG_SCR)
        update_irq(serial);
    return value;
}

static void write_register(struct serial *serial, uint64_t offset, uint8_t value)
{
    bool is_divisor = serial->lcr & LCR_DLAB;
    switch (offset) {
    case REG_DATA:
        if (is_divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0xff00) | value);
        else
            write_thr(serial, value);
        return;
    case REG_IER:
        if (is_divisor)
            serial->divisor = (uint16_t)((serial->divisor & 0x00ff) | value << 8);
        else
            write_ier(serial, value);
        return;
    case REG_IIR:
        write_fcr(serial, value);
        return;
    case REG_LCR:
        serial->lcr = value;
        return;
    case REG_MCR:
        serial->mcr = value & MCR_MASK;
        update_msr(serial);
        want_input(serial);
        return;
    case REG_SCR:
        serial->scr = value;
        return;
    default:
        return; /* LSR, MSR: read only */
    }
}

static void serial_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct serial *serial = opaque;
    write_register(serial, offset, (uint8_t)value);
    update_irq(serial);
}

static const struct mmio_ops serial_mmio = {
    .read = serial_read, .write = serial_write, .min_size = 1, .max_size = 4};

/* ---- state ---- */

static const struct gw_field serial_fields[] = {
    GW_U8(struct serial, ier, .mask = 0x0f),
    GW_U8(struct serial, lcr),
    GW_U8(struct serial, mcr, .mask = MCR_MASK),
    GW_U8(struct serial, msr),
    GW_U8(struct serial, scr),
    GW_U8(struct serial, fcr, .mask = FCR_KEPT),
    GW_U8(struct serial, line_errors, .mask = LSR_ERRORS),
    GW_U16(struct serial, divisor),
    GW_BOOL(struct serial, is_thre_pending),
    GW_BOOL(struct serial, is_timeout_pending),
    GW_VBUFFER(struct serial, rx, n_rx),
    GW_VBUFFER(struct serial, tx, n_tx),
    GW_FIELDS_END,
};

static bool serial_validate(const void *shadow, GError **error)
{
    const struct serial *serial = shadow;
    if (serial->n_rx > fifo_depth(serial) || serial->n_tx > fifo_depth(serial)) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "FIFOs hold %u and %u bytes, deep are %u", serial->n_rx, serial->n_tx,
                    fifo_depth(serial));
        return false;
    }
    return true;
}

static const struct gw_state_desc serial_state = {
    .name = "ns16550a",
    .version = 1,
    .object_size = sizeof(struct serial),
    .priority = GW_PRIORITY_DEVICE,
    .fields = serial_fields,
    .validate = serial_validate,
};

/* ---- life ---- */

static void serial_reset(struct device *dev)
{
    struct serial *serial = (struct serial *)dev;
    serial->ier = 0;
    serial->lcr = 0;
    serial->mcr = 0;
    serial->fcr = 0;
    serial->line_errors = 0;
    serial->scr = 0;
    serial->divisor = 0;
    serial->is_thre_pending = false;
    serial->is_timeout_pending = false;
    serial->n_rx = 0;
    serial->n_tx = 0;
    serial->msr = modem_lines(serial);
    restart_timeout(serial);
    want_input(serial);
    update_irq(serial);
}

static void serial_start(struct device *dev)
{
    struct serial *serial = (struct serial *)dev;
    serial->is_running = true;
    transmit(serial);
    restart_timeout(serial);
    want_input(serial);
    serial->is_irq_high = interrupt_id(serial) != IIR_NONE;
    irq_set(&serial->irq, serial->is_irq_high); /* the state may have been loaded */
}

static bool serial_stop(struct device *dev, uint64_t deadline_ns, GError **error)
{
    struct serial *serial = (struct serial *)dev;
    serial->is_running = false;
    restart_timeout(serial);
    want_input(serial);
    return true;
}

static void serial_free(struct device *dev)
{
    struct serial *serial = (struct serial *)dev;
    chardev_clear_client(serial->chardev);
    io_timer_free(serial->timeout_timer);
    device_clear(dev);
    g_free(serial);
}

static const struct device_ops serial_ops = {
    .type = "ns16550a",
    .reset = serial_reset,
    .start = serial_start,
    .stop = serial_stop,
    .free = serial_free,
};

struct serial *serial_new(const char *id, const struct serial_config *config, GError **error)
{
    struct serial *serial = g_new0(struct serial, 1);
    device_init(&serial->dev, &serial_ops, id, &serial_state, serial);
    serial->clock_hz = config->clock_hz ? config->clock_hz : SERIAL_CLOCK_HZ;
    serial->irq = config->irq;
    serial->chardev = config->chardev;
    serial->msr = modem_lines(serial);
    serial->timeout_timer =
        io_timer_new(config->loop, &serial->dev, "rx-timeout", timeout_due, serial);
    if (!mmio_bus_add(config->bus, id, &serial->dev, config->gpa,
                      config->size ? config->size : SERIAL_SIZE, &serial_mmio, serial, error)) {
        io_timer_free(serial->timeout_timer);
        device_clear(&serial->dev);
        g_free(serial);
        return NULL;
    }
    const struct chardev_client client = {
        .dev = &serial->dev,
        .input_room = input_room,
        .input = input,
        .input_break = input_break,
        .writable = writable,
        .opaque = serial,
    };
    chardev_set_client(config->chardev, &client);
    return serial;
}

struct device *serial_device(struct serial *serial)
{
    return &serial->dev;
}
