/* SPDX-License-Identifier: MIT */
/*
 * Message-signalled interrupts: what a board's interrupt controller offers to those who send them.
 *
 * A vector is a wire from a device to the controller. The guest programs what goes over it, an
 * address and a datum; whoever owns the vector says so with set_message and then sends as often as
 * it likes, without any lock of the machine.
 *
 * Threads: send from any thread; the others with the owner's device lock held, or before the
 * machine starts. All vectors are freed before the controller.
 */
#ifndef GODWIT_DEVICE_MSI_H
#define GODWIT_DEVICE_MSI_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct msi_vector;

struct msi_controller_ops {
    /* A vector that has no message yet. NULL with error when there are no more. */
    struct msi_vector *(*vector_new)(void *opaque, GError **error);
    void (*vector_free)(struct msi_vector *vector);
    /* GUEST: any address and datum; what the controller does not understand is never delivered. */
    void (*set_message)(struct msi_vector *vector, uint64_t address, uint32_t data);
    void (*send)(struct msi_vector *vector);
};

/* Copyable value; ops is NULL where there is no such controller. */
struct msi_controller {
    const struct msi_controller_ops *ops;
    void *opaque;
};

#endif
