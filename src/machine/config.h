/* SPDX-License-Identifier: MIT */
/*
 * What a user asks a machine to be: plain data, filled by the command line.
 */
#ifndef GODWIT_MACHINE_CONFIG_H
#define GODWIT_MACHINE_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu/backend.h"

/* A device as asked for: "tap,ifname=t0,mac=..": its kind, its variant and its options. */
struct device_config {
    const struct device_kind *kind;
    const struct device_variant *variant;
    GHashTable *options; /* char * -> char *; a flag's value is "" */
    char *backend;       /* the variant's name and the options meant for the back end */
};

struct machine_config {
    const char *board; /* "virt" */
    const char *name;
    uint64_t memory_bytes;
    unsigned n_cpus;
    const char *cpu; /* "host,-avx512f"; NULL: the board's own */
    enum cpu_dirty_log dirty_log;
    const char *bios;   /* path, "none", or NULL: the default firmware */
    const char *kernel; /* path or NULL */
    const char *initrd;
    const char *append;
    const char *console; /* the first serial port's host side: "stdio", "file:PATH", ... */
    GPtrArray *devices;  /* struct device_config *, in order */
    bool is_prefaulted;  /* all guest RAM is made present before anything starts */
    bool is_incoming;    /* the guest comes from elsewhere: boot files may be absent */
};

/* Parses "variant,key=value,flag" of a device kind ("net", "disk", "rng", "balloon", "vconsole").
 * NULL with error that names the option. */
struct device_config *device_config_parse(const char *kind, const char *text, GError **error);
void device_config_free(struct device_config *device);
/* NULL when it was not given. */
const char *device_config_get(const struct device_config *device, const char *key);
bool device_config_has(const struct device_config *device, const char *key);
/* One line for each kind and variant with its options, for --help. g_free. */
char *device_config_help(void);

#endif
