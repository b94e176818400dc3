/* SPDX-License-Identifier: MIT */
/*
 * Device state, described once: a table of fields gives save, load, schema, comparison, checks.
 *
 * Use: a device declares
 *
 *     static const struct gw_field uart_fields[] = {
 *         GW_U8(struct uart, lcr),
 *         GW_U16(struct uart, divisor, .since = 2, .fallback = 1),
 *         GW_U8(struct uart, rx_len, .max = UART_FIFO_SIZE),
 *         GW_BUFFER(struct uart, rx_fifo),
 *         GW_FIELDS_END,
 *     };
 *     const struct gw_state_desc uart_state = {
 *         .name = "ns16550a", .version = 2, .object_size = sizeof(struct uart),
 *         .fields = uart_fields, .validate = uart_validate, .post_load = uart_post_load,
 *     };
 *
 * Loading is decode -> check -> commit -> arm. Decoding and checking work on a shadow copy of the
 * object; commit copies the described members (and only them) into the object; a failure at any
 * step leaves the object as it was. arm() runs later, when the machine starts to run.
 *
 * Fields of the writer and the reader are matched by name, never by position: the writer's schema
 * comes first (see gw_schema below). Owner of this header: the state room.
 */
#ifndef GODWIT_STATE_H
#define GODWIT_STATE_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* PROVISIONAL: the state room completes this header; the names of the GW_* field macros and the
 * members of gw_state_desc below are settled and may be used at once. */

/* Higher loads earlier. */
enum gw_state_priority {
    GW_PRIORITY_LATE = 0,
    GW_PRIORITY_DEVICE = 100,
    GW_PRIORITY_BUS = 200,     /* PCI host and the like */
    GW_PRIORITY_IRQCHIP = 300, /* PLIC, ACLINT */
    GW_PRIORITY_CPU = 400,
    GW_PRIORITY_CLOCK = 500,
};

struct gw_field;

struct gw_state_desc {
    const char *name;     /* type name on the wire, stable for ever */
    uint32_t version;     /* of the description; fields say since which version they exist */
    size_t object_size;   /* sizeof the C struct the offsets refer to */
    int priority;         /* enum gw_state_priority; 0 means GW_PRIORITY_LATE */
    const struct gw_field *fields;                  /* ends with GW_FIELDS_END */
    const struct gw_state_desc *const *subsections; /* NULL-terminated, or NULL */
    bool (*is_needed)(const void *object);          /* subsections only */
    bool (*pre_save)(void *object, GError **error); /* may refresh members from live sources */
    bool (*validate)(const void *shadow, GError **error); /* cross-field rules, before commit */
    bool (*post_load)(void *object, GError **error); /* after commit: derived members */
    void (*arm)(void *object); /* machine about to run: timers, interrupts, host resources */
};

#ifdef __cplusplus
}
#endif
#endif
