/* SPDX-License-Identifier: MIT */
/* A `virt` machine with one device of every kind, made once in a process, never started. */
#ifndef GODWIT_TESTS_FUZZ_MACHINE_H
#define GODWIT_TESTS_FUZZ_MACHINE_H

#include "machine/machine.h"

#define FUZZ_DISK_BYTES (1u << 20)

/* A disk image in memory: a path that names it (g_free). */
char *fuzz_disk_path(void);
struct machine *fuzz_machine(GMainContext *context);

#endif
