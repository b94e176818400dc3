/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board's ACPI tables.
 *
 * SPEC: ACPI 6.4, chapter 5 (tables) and PCI Firmware 3.3, 4.1.2 (MCFG). The hardware is the fixed
 * one of chapter 4, without a timer and without general-purpose events: a PC of the plain kind, so
 * that kernels take no special path. Legacy devices are what Linux probes for: a serial port and a
 * clock.
 */
#include "machine/acpi.h"

#include <string.h>

#include "device/acpi_pm.h"
#include "device/cmos.h"
#include "device/serial.h"
#include "machine/aml.h"
#include "machine/pc.h"

#define CREATOR     "GDWT"
#define OEM         "GODWIT"
#define OEM_TABLE   "GODWITPC"
#define N_PCI_SLOTS 32
#define N_PCI_PINS  4

/* ---- bytes ----------------------------------------------------------------------------------- */

static void put(GByteArray *to, uint64_t value, unsigned n_bytes)
{
    for (unsigned i = 0; i < n_bytes; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        g_byte_array_append(to, &byte, 1);
    }
}

static void put_text(GByteArray *to, const char *text)
{
    g_byte_array_append(to, (const guint8 *)text, (guint)strlen(text));
}

static void put_zeros(GByteArray *to, guint n_bytes)
{
    guint at = to->len;

    g_byte_array_set_size(to, at + n_bytes);
    memset(to->data + at, 0, n_bytes);
}

/* SPEC: 5.2.12.3 and others: a generic address of a port. */
static void put_port(GByteArray *to, uint16_t port, uint8_t n_bits)
{
    put(to, 1, 1);
    put(to, n_bits, 1);
    put(to, 0, 1);
    put(to, n_bits == 8 ? 1 : n_bits == 16 ? 2 : 3, 1);
    put(to, port, 8);
}

static uint8_t checksum(const uint8_t *bytes, guint n_bytes)
{
    uint8_t sum = 0;

    for (guint i = 0; i < n_bytes; i++)
        sum = (uint8_t)(sum + bytes[i]);
    return (uint8_t)-sum;
}

/* ---- tables ---------------------------------------------------------------------------------- */

struct tables {
    GByteArray *bytes; /* from PC_ACPI_GPA on */
};

static uint64_t gpa_of(const struct tables *tables, guint at)
{
    return PC_ACPI_GPA + at;
}

static void align(struct tables *tables, guint alignment)
{
    put_zeros(tables->bytes, (alignment - tables->bytes->len % alignment) % alignment);
}

/* SPEC: 5.2.6. Returns where the table begins; length and checksum are put in by finish. */
static guint begin(struct tables *tables, const char *signature, uint8_t revision)
{
    align(tables, 16);
    guint at = tables->bytes->len;
    put_text(tables->bytes, signature);
    put(tables->bytes, 0, 4);
    put(tables->bytes, revision, 1);
    put(tables->bytes, 0, 1);
    put_text(tables->bytes, OEM OEM_TABLE);
    put(tables->bytes, 1, 4);
    put_text(tables->bytes, CREATOR);
    put(tables->bytes, 1, 4);
    return at;
}

static uint64_t finish(struct tables *tables, guint at)
{
    uint32_t length = GUINT32_TO_LE(tables->bytes->len - at);

    memcpy(tables->bytes->data + at + 4, &length, sizeof length);
    tables->bytes->data[at + 9] = checksum(tables->bytes->data + at, tables->bytes->len - at);
    return gpa_of(tables, at);
}

/* ---- DSDT ------------------------------------------------------------------------------------ */

/* SPEC: 6.2.13: INTA of each slot, as pci_host routes it. */
static void add_interrupt_routes(struct aml *aml)
{
    aml_name(aml, "_PRT");
    aml_package(aml, N_PCI_SLOTS);
    for (unsigned slot = 0; slot < N_PCI_SLOTS; slot++) {
        aml_package(aml, 4);
        aml_integer(aml, (uint64_t)slot << 16 | 0xffff);
        aml_integer(aml, 0);
        aml_integer(aml, 0);
        aml_integer(aml, PC_IRQ_PCI + slot % N_PCI_PINS);
        aml_end(aml);
    }
    aml_end(aml);
}

static void add_identity(struct aml *aml, const char *device, const char *eisa_id)
{
    aml_device(aml, device);
    aml_name(aml, "_HID");
    aml_eisa_id(aml, eisa_id);
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
}

static void add_devices(struct aml *aml)
{
    add_identity(aml, "PCI0", "PNP0A03");
    aml_name(aml, "_BBN");
    aml_integer(aml, 0);
    aml_resources(aml);
    aml_bus_numbers(aml, 0, 0);
    aml_memory_window(aml, PC_PCI_MMIO_GPA, PC_PCI_MMIO_GPA + PC_PCI_MMIO_BYTES - 1);
    aml_resources_end(aml);
    add_interrupt_routes(aml);
    aml_end(aml);

    /* Nobody may put anything onto the configuration space. */
    add_identity(aml, "ECAM", "PNP0C02");
    aml_resources(aml);
    aml_memory(aml, PC_ECAM_GPA, PC_ECAM_BYTES);
    aml_ports(aml, PC_PORT_PM1, ACPI_PM_N_PORTS);
    aml_resources_end(aml);
    aml_end(aml);

    add_identity(aml, "COM1", "PNP0501");
    aml_resources(aml);
    aml_ports(aml, PC_PORT_UART0, SERIAL_N_REGISTERS);
    aml_irq(aml, PC_IRQ_UART0);
    aml_resources_end(aml);
    aml_end(aml);

    add_identity(aml, "RTC0", "PNP0B00");
    aml_resources(aml);
    aml_ports(aml, PC_PORT_CMOS, CMOS_N_PORTS);
    aml_irq(aml, PC_IRQ_RTC);
    aml_resources_end(aml);
    aml_end(aml);
}

static uint64_t add_dsdt(struct tables *tables)
{
    struct aml aml;
    guint at = begin(tables, "DSDT", 2);

    aml_init(&aml, tables->bytes);
    /* SPEC: 7.4.2: what to write to reach S5, off. */
    aml_name(&aml, "\\_S5_");
    aml_package(&aml, 4);
    aml_integer(&aml, ACPI_PM_TYPE_OFF);
    aml_integer(&aml, ACPI_PM_TYPE_OFF);
    aml_integer(&aml, 0);
    aml_integer(&aml, 0);
    aml_end(&aml);
    aml_scope(&aml, "\\_SB_");
    add_devices(&aml);
    aml_end(&aml);
    return finish(tables, at);
}

/* ---- FADT ------------------------------------------------------------------------------------ */

/* SPEC: 5.2.10: nobody waits for the global lock or a waking vector, but there must be one. */
static uint64_t add_facs(struct tables *tables)
{
    align(tables, 64);
    guint at = tables->bytes->len;
    put_text(tables->bytes, "FACS");
    put(tables->bytes, 64, 4);
    put_zeros(tables->bytes, 24);
    put(tables->bytes, 2, 1); /* version */
    put_zeros(tables->bytes, 64 - 33);
    return gpa_of(tables, at);
}

/* SPEC: 5.2.9, table 5.9. */
static uint64_t add_fadt(struct tables *tables)
{
    enum {
        BOOT_HAS_LEGACY_DEVICES = 1 << 0,
        BOOT_HAS_NO_VGA = 1 << 2,
        WBINVD_WORKS = 1 << 0,
        C1_WORKS = 1 << 2,
        SLEEP_BUTTON_IS_NOT_FIXED = 1 << 5,
        CLOCK_DOES_NOT_WAKE = 1 << 6,
        HAS_RESET_REGISTER = 1 << 10,
        IS_HEADLESS = 1 << 12,
    };
    uint64_t facs = add_facs(tables), dsdt = add_dsdt(tables);
    guint at = begin(tables, "FACP", 6);
    GByteArray *to = tables->bytes;

    put(to, facs, 4);
    put(to, dsdt, 4);
    put(to, 0, 1);
    put(to, 4, 1); /* profile: enterprise server */
    put(to, PC_IRQ_SCI, 2);
    put_zeros(to, 4 + 4); /* no SMI: always in ACPI mode */
    put(to, PC_PORT_PM1 + ACPI_PM_EVENTS, 4);
    put(to, 0, 4);
    put(to, PC_PORT_PM1 + ACPI_PM_CONTROL, 4);
    put_zeros(to, 4 + 4 + 4 + 4 + 4); /* PM1b, PM2, timer, events 0 and 1 */
    put(to, 4, 1);                    /* lengths: PM1 events, PM1 control */
    put(to, 2, 1);
    put_zeros(to, 6);
    put(to, 0xffff, 2); /* C2 and C3 do not exist */
    put(to, 0xffff, 2);
    put_zeros(to, 2 + 2 + 1 + 1 + 1 + 1); /* flushing, duty cycle, alarm */
    put(to, CMOS_CENTURY, 1);
    put(to, BOOT_HAS_LEGACY_DEVICES | BOOT_HAS_NO_VGA, 2);
    put(to, 0, 1);
    put(to,
        WBINVD_WORKS | C1_WORKS | SLEEP_BUTTON_IS_NOT_FIXED | CLOCK_DOES_NOT_WAKE |
            HAS_RESET_REGISTER | IS_HEADLESS,
        4);
    put_port(to, PC_PORT_RESET, 8);
    put(to, PC_RESET_VALUE, 1);
    put_zeros(to, 2);
    put(to, 4, 1); /* minor version */
    put(to, 0, 8); /* the FACS is named by its 32-bit address */
    put(to, dsdt, 8);
    put_port(to, PC_PORT_PM1 + ACPI_PM_EVENTS, 32);
    put_zeros(to, 12);
    put_port(to, PC_PORT_PM1 + ACPI_PM_CONTROL, 16);
    put_zeros(to, 12 + 12 + 12 + 12 + 12); /* PM1b, PM2, timer, events 0 and 1 */
    put_zeros(to, 12 + 12);                /* sleep registers of other hardware */
    put_text(to, OEM);                     /* hypervisor */
    put_zeros(to, 2);
    return finish(tables, at);
}

/* ---- MADT, MCFG ------------------------------------------------------------------------------ */

/* SPEC: 5.2.12.5. */
static void add_override(GByteArray *to, unsigned irq, unsigned pin, unsigned flags)
{
    put(to, 2, 1);
    put(to, 10, 1);
    put(to, 0, 1); /* bus: ISA */
    put(to, irq, 1);
    put(to, pin, 4);
    put(to, flags, 2);
}

/* SPEC: 5.2.12. */
static uint64_t add_madt(struct tables *tables, unsigned n_cpus)
{
    enum { HAS_PICS = 1, IS_ENABLED = 1, ACTIVE_HIGH = 1, LEVEL = 3 << 2, ALL_CPUS = 0xff };
    guint at = begin(tables, "APIC", 5);
    GByteArray *to = tables->bytes;

    put(to, PC_LAPIC_GPA, 4);
    put(to, HAS_PICS, 4);
    for (unsigned i = 0; i < n_cpus; i++) {
        put(to, 0, 1);
        put(to, 8, 1);
        put(to, i, 1);
        put(to, i, 1);
        put(to, IS_ENABLED, 4);
    }
    put(to, 1, 1); /* IOAPIC */
    put(to, 12, 1);
    put(to, 0, 2);
    put(to, PC_IOAPIC_GPA, 4);
    put(to, 0, 4);
    add_override(to, PC_IRQ_TIMER, PC_TIMER_PIN, 0);
    add_override(to, PC_IRQ_SCI, PC_IRQ_SCI, ACTIVE_HIGH | LEVEL);
    put(to, 4, 1); /* NMI at LINT1 of each */
    put(to, 6, 1);
    put(to, ALL_CPUS, 1);
    put(to, 0, 2);
    put(to, 1, 1);
    return finish(tables, at);
}

static uint64_t add_mcfg(struct tables *tables)
{
    guint at = begin(tables, "MCFG", 1);
    GByteArray *to = tables->bytes;

    put_zeros(to, 8);
    put(to, PC_ECAM_GPA, 8);
    put(to, 0, 2); /* segment */
    put(to, 0, 1); /* first and last bus */
    put(to, 0, 1);
    put_zeros(to, 4);
    return finish(tables, at);
}

/* ---- all ------------------------------------------------------------------------------------- */

/* SPEC: 5.2.5.3. Its place at the start was kept free. */
static void fill_rsdp(struct tables *tables, uint64_t xsdt)
{
    enum { OLD_BYTES = 20, BYTES = 36 };
    g_autoptr(GByteArray) rsdp = g_byte_array_new();

    put_text(rsdp, "RSD PTR ");
    put(rsdp, 0, 1);
    put_text(rsdp, OEM);
    put(rsdp, 2, 1);
    put(rsdp, 0, 4);
    put(rsdp, BYTES, 4);
    put(rsdp, xsdt, 8);
    put_zeros(rsdp, 4);
    rsdp->data[8] = checksum(rsdp->data, OLD_BYTES);
    rsdp->data[32] = checksum(rsdp->data, BYTES);
    memcpy(tables->bytes->data, rsdp->data, BYTES);
}

GBytes *acpi_build(unsigned n_cpus)
{
    struct tables tables = {g_byte_array_new()};

    put_zeros(tables.bytes, 64);
    uint64_t fadt = add_fadt(&tables), madt = add_madt(&tables, n_cpus), mcfg = add_mcfg(&tables);
    guint at = begin(&tables, "XSDT", 1);
    put(tables.bytes, fadt, 8);
    put(tables.bytes, madt, 8);
    put(tables.bytes, mcfg, 8);
    fill_rsdp(&tables, finish(&tables, at));
    g_assert(tables.bytes->len <= PC_ACPI_BYTES);
    return g_byte_array_free_to_bytes(tables.bytes);
}
