/* SPDX-License-Identifier: MIT */
/* The agent's dirtier: one thread that writes and checks a buffer at a fixed rate. */
#ifndef GUEST_DIRTIER_H
#define GUEST_DIRTIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/workload.h"

struct dirtier;

struct dirtier_config {
    uint64_t mib;
    uint64_t rate_mib_per_s; /* 0: as fast as it goes */
    enum order order;
    enum fill fill;
};

struct dirtier *dirtier_new(void);

/* Stops what ran, fills the buffer, starts. False: no memory. */
bool dirtier_start(struct dirtier *d, const struct dirtier_config *config);
void dirtier_stop(struct dirtier *d);

/* Checks the whole buffer while the thread stands still; returns the number of bad pages. */
uint64_t dirtier_verify(struct dirtier *d);

/* One line of key=value pairs, without newline. */
void dirtier_status(struct dirtier *d, char *line, size_t size);

/* Parses MIB@RATE[,ORDER[,FILL]]. */
bool dirtier_parse(const char *text, struct dirtier_config *config);

#endif
