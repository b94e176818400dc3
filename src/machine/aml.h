/* SPDX-License-Identifier: MIT */
/*
 * Writing ACPI Machine Language: the few terms a board's tables need.
 *
 * SPEC: ACPI 6.4, chapter 20 (AML), 6.4 (resources). Terms are appended to a byte array; those that
 * hold others are opened and closed, and their length is put in when they are closed. Names are
 * one segment of exactly four characters, after a backslash if it is one of the root ("\\_SB_").
 */
#ifndef GODWIT_MACHINE_AML_H
#define GODWIT_MACHINE_AML_H

#include <glib.h>
#include <stdint.h>

#define AML_MAX_DEPTH 8

struct aml {
    GByteArray *bytes;
    guint open[AML_MAX_DEPTH]; /* where the lengths of open terms go */
    unsigned depth;
};

void aml_init(struct aml *aml, GByteArray *bytes);

void aml_scope(struct aml *aml, const char *path);
void aml_device(struct aml *aml, const char *name);
/* A package of n_elements, which follow. Unnamed: inside another one, or after aml_name. */
void aml_package(struct aml *aml, uint8_t n_elements);
void aml_end(struct aml *aml);

/* Begins a named object; its value follows. */
void aml_name(struct aml *aml, const char *path);
void aml_integer(struct aml *aml, uint64_t value);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0A03" */

/* _CRS; resources follow. */
void aml_resources(struct aml *aml);
void aml_resources_end(struct aml *aml);
void aml_bus_numbers(struct aml *aml, uint16_t first, uint16_t last);
/* A window that a bridge forwards. */
void aml_memory_window(struct aml *aml, uint32_t first, uint32_t last);
void aml_memory(struct aml *aml, uint32_t gpa, uint32_t size);
void aml_ports(struct aml *aml, uint16_t first, uint8_t n_ports);
void aml_irq(struct aml *aml, unsigned irq); /* ISA: edge, active high */

#endif
