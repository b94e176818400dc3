/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller's command port.
 *
 * Model: the 8042's command 0xfe pulses the reset line. Reading gives 0: nothing to fetch, ready
 * for a command. There is no state.
 */
#include "device/reset_port.h"

struct reset_port {
    struct device dev;
    /* fixed after construction */
    void (*fn)(void *opaque);
    void *opaque;
};

static uint64_t port_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void port_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct reset_port *port = opaque;
    if (value == RESET_PORT_PULSE)
        port->fn(port->opaque);
}

static const struct mmio_ops port_ops = {
    .read = port_read, .write = port_write, .min_size = 1, .max_size = 1};

static void port_free(struct device *dev)
{
    device_clear(dev);
    g_free(dev);
}

static const struct device_ops reset_port_ops = {.type = "reset-port", .free = port_free};

struct device *reset_port_new(const char *id, struct mmio_bus *ports, uint16_t port,
                              void (*fn)(void *opaque), void *opaque, GError **error)
{
    struct reset_port *reset = g_new0(struct reset_port, 1);
    device_init(&reset->dev, &reset_port_ops, id, NULL, NULL);
    reset->fn = fn;
    reset->opaque = opaque;
    if (!mmio_bus_add(ports, id, &reset->dev, port, 1, &port_ops, reset, error)) {
        port_free(&reset->dev);
        return NULL;
    }
    return &reset->dev;
}
