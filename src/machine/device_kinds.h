/* SPDX-License-Identifier: MIT */
/*
 * The rows of the device option table (config.c): kinds of devices, their variants and options.
 */
#ifndef GODWIT_MACHINE_DEVICE_KINDS_H
#define GODWIT_MACHINE_DEVICE_KINDS_H

#include <glib.h>
#include <stdbool.h>

#include "machine/config.h"

#define DEVICE_MAX_VARIANTS 4
#define DEVICE_MAX_OPTIONS  8

struct device_option {
    const char *key;
    const char *argument; /* what --help calls the value; NULL: a flag */
    bool is_required;
    const char *help;
    bool is_backend; /* handed on to the back end, in order, repeated as often as given */
};

struct device_variant {
    const char *name;      /* the first word; "" when there is none */
    const char *first_key; /* or: the first word is the value of this option */
    struct device_option options[DEVICE_MAX_OPTIONS];
};

struct device_kind {
    const char *name;
    struct device_variant variants[DEVICE_MAX_VARIANTS];
};

const struct device_kind *device_kind_find(const char *name);

typedef struct device_config device_config_t;
G_DEFINE_AUTOPTR_CLEANUP_FUNC(device_config_t, device_config_free)

#endif
