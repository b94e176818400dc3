/* SPDX-License-Identifier: MIT */
/*
 * USDT probes: points at which perf, bpftrace and SystemTap can look into a running process.
 *
 * Model: each is one nop in the code and a note in the ELF (provider "godwit"); it costs nothing
 * until somebody attaches. docs/probes.md lists them with their arguments; tests/unit/library holds
 * that page to the notes that are in the library and the program. Times are CLOCK_MONOTONIC ns.
 */
#ifndef BASE_PROBES_H
#define BASE_PROBES_H

#include <sys/sdt.h>

#define GW_PROBE2(name, a, b)    DTRACE_PROBE2(godwit, name, a, b)
#define GW_PROBE3(name, a, b, c) DTRACE_PROBE3(godwit, name, a, b, c)

#endif
