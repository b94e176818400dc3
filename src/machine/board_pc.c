/* SPDX-License-Identifier: MIT */
/*
 * The `pc` board: x86-64 on KVM.
 *
 * Model: pc.h has the address map, boot_pc.c what stands in memory at the start. Interrupt
 * controllers and the PIT are the kernel's; a virtio device's vector is an eventfd that the kernel
 * turns into a message, and its notifications are eventfds that the kernel signals, so that neither
 * direction passes through another thread of ours. Everything else is as on `virt`.
 */
#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fdio.h"
#include "cpu/kvm/kvm.h"
#include "device/acpi_pm.h"
#include "device/cmos.h"
#include "device/reset_port.h"
#include "device/serial.h"
#include "godwit/error.h"
#include "machine/board.h"
#include "machine/boot_pc.h"
#include "machine/machine_life.h"
#include "machine/pc.h"

struct pc {
    struct acpi_pm *pm;
};

/* ---- home ------------------------------------------------------------------------------------ */

/* SPEC: Intel SDM 2, CPUID leaf 1, ECX bit 5 (VMX); AMD APM 3, leaf 0x80000001, ECX bit 2 (SVM).
 * There are KVMs that do without both, by running the guest's kernel in user mode or by emulating
 * it: they run what was made for them, and a stock kernel not at all or very slowly. */
static bool has_processor_extensions(void)
{
    unsigned a, b, c, d;

    return (__get_cpuid(1, &a, &b, &c, &d) && c & 1u << 5) ||
           (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & 1u << 2);
}

static bool pc_is_at_home(void)
{
    return has_processor_extensions() && kvm_check_host(NULL);
}

/* ---- interrupts by message ------------------------------------------------------------------- */

struct msi_vector {
    struct cpu_backend *cpu;
    unsigned gsi;
    int fd;
};

static void vector_free(struct msi_vector *vector)
{
    kvm_irqfd_detach(vector->cpu, vector->fd, vector->gsi);
    kvm_gsi_free(vector->cpu, vector->gsi);
    close(vector->fd);
    g_free(vector);
}

static struct msi_vector *vector_new(void *opaque, GError **error)
{
    struct cpu_backend *cpu = ((struct machine *)opaque)->cpu;
    unsigned gsi;

    if (!kvm_gsi_alloc(cpu, &gsi, error))
        return NULL;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "eventfd: %s", g_strerror(errno));
    if (fd < 0 || !kvm_irqfd_attach(cpu, fd, gsi, error)) {
        kvm_gsi_free(cpu, gsi);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    struct msi_vector *vector = g_new(struct msi_vector, 1);
    *vector = (struct msi_vector){cpu, gsi, fd};
    return vector;
}

static void vector_set_message(struct msi_vector *vector, uint64_t address, uint32_t data)
{
    g_autoptr(GError) error = NULL;

    kvm_gsi_set_msi(vector->cpu, vector->gsi, address, data);
    if (!kvm_gsi_commit(vector->cpu, &error))
        g_warning("%s", error->message);
}

static void vector_send(struct msi_vector *vector)
{
    fd_event_signal(vector->fd);
}

static const struct msi_controller_ops msi_ops = {vector_new, vector_free, vector_set_message,
                                                  vector_send};

/* ---- notifications --------------------------------------------------------------------------- */

static bool attach_wire(void *opaque, uint64_t gpa, int fd)
{
    const struct kvm_doorbell where = {.at = gpa};

    return kvm_doorbell_attach(((struct machine *)opaque)->cpu, &where, fd, NULL);
}

static void detach_wire(void *opaque, uint64_t gpa, int fd)
{
    const struct kvm_doorbell where = {.at = gpa};

    kvm_doorbell_detach(((struct machine *)opaque)->cpu, &where, fd);
}

static const struct mmio_wire_ops wire_ops = {attach_wire, detach_wire};

/* ---- parts ----------------------------------------------------------------------------------- */

static bool pc_add_memory(struct machine *machine, GError **error)
{
    uint64_t low_bytes = MIN(machine->memory_bytes, PC_HOLE_GPA);
    uint64_t high_bytes = machine->memory_bytes - low_bytes;

    machine->board_data = g_new0(struct pc, 1);
    return gw_memory_add_block(machine->memory, "ram", 0, low_bytes, error) &&
           (!high_bytes ||
            gw_memory_add_block(machine->memory, "ram.high", PC_HIGH_GPA, high_bytes, error)) &&
           gw_memory_add_block(machine->memory, "rom", PC_ROM_GPA, PC_ROM_BYTES, error);
}

static struct irq_line pin(struct machine *machine, unsigned number)
{
    return (struct irq_line){.set = kvm_set_pin, .opaque = machine->cpu, .number = number};
}

static void on_off(void *opaque)
{
    machine_request(opaque, MACHINE_REQUEST_OFF, 0);
}

static void on_reset(void *opaque)
{
    machine_request(opaque, MACHINE_REQUEST_RESET, 0);
}

static bool add_platform_devices(struct machine *machine, GError **error)
{
    struct pc *pc = machine->board_data;
    const struct acpi_pm_config pm_config = {
        .ports = machine->ports,
        .port = PC_PORT_PM1,
        .sci = pin(machine, PC_IRQ_SCI),
        .off = on_off,
        .opaque = machine,
    };
    const struct cmos_config cmos_config = {
        .ports = machine->ports,
        .loop = machine->loop,
        .port = PC_PORT_CMOS,
        .irq = pin(machine, PC_IRQ_RTC),
    };

    pc->pm = acpi_pm_new("acpi-pm", &pm_config, error);
    if (!pc->pm || !machine_add_device(machine, acpi_pm_device(pc->pm), error))
        return false;
    struct cmos *cmos = cmos_new("cmos", &cmos_config, error);
    if (!cmos || !machine_add_device(machine, cmos_device(cmos), error))
        return false;
    struct device *reset =
        reset_port_new("reset", machine->ports, PC_PORT_RESET, on_reset, machine, error);
    return reset && machine_add_device(machine, reset, error);
}

static bool add_serial(struct machine *machine, const struct machine_config *config, GError **error)
{
    struct chardev *chardev =
        machine_open_chardev(machine, config->console ? config->console : "null", error);

    if (!chardev)
        return false;
    const struct serial_config serial_config = {
        .bus = machine->ports,
        .loop = machine->loop,
        .gpa = PC_PORT_UART0,
        .size = SERIAL_N_REGISTERS,
        .clock_hz = SERIAL_PC_CLOCK_HZ,
        .irq = pin(machine, PC_IRQ_UART0),
        .chardev = chardev,
    };
    struct serial *serial = serial_new("uart0", &serial_config, error);
    return serial && machine_add_device(machine, serial_device(serial), error);
}

static bool pc_build(struct machine *machine, const struct machine_config *config, GError **error)
{
    struct pci_host_config host = {
        .bus = machine->bus,
        .ecam_gpa = PC_ECAM_GPA,
        .ecam_size = PC_ECAM_BYTES,
        .mmio32_gpa = PC_PCI_MMIO_GPA,
        .mmio32_size = PC_PCI_MMIO_BYTES,
        .msi = {&msi_ops, machine},
    };

    machine->ports = mmio_bus_new(machine->book);
    mmio_bus_set_wires(machine->bus, &wire_ops, machine);
    for (unsigned i = 0; i < G_N_ELEMENTS(host.intx); i++)
        host.intx[i] = pin(machine, PC_IRQ_PCI + i);
    return add_platform_devices(machine, error) && add_serial(machine, config, error) &&
           machine_add_pci(machine, &host, config, error);
}

static void pc_free(struct machine *machine)
{
    g_clear_pointer(&machine->board_data, g_free);
}

static void pc_press_power_button(struct machine *machine)
{
    acpi_pm_press_power_button(((struct pc *)machine->board_data)->pm);
}

/* ---- boot ------------------------------------------------------------------------------------ */

static bool pc_plan_boot(struct machine *machine, const struct machine_config *config,
                         struct boot_plan *plan, GPtrArray *keep, GError **error)
{
    return boot_pc_plan(config, plan, keep, error);
}

static void pc_set_entry(struct machine *machine, uint64_t entry_pc)
{
    const struct kvm_long_entry entry = {
        .rip = entry_pc,
        .rsi = PC_ZERO_PAGE_GPA,
        .rsp = PC_STACK_TOP_GPA,
        .cr3 = PC_TABLES_GPA,
        .gdt_gpa = PC_GDT_GPA,
        .gdt_bytes = PC_GDT_BYTES,
    };

    if (entry_pc == BOOT_PC_REAL_ENTRY)
        kvm_set_entry_real(machine->cpu, (uint16_t)(entry_pc >> 4 & 0xf000), entry_pc & 0xffff);
    else
        kvm_set_entry_long(machine->cpu, &entry);
}

const struct board board_pc = {
    .name = "pc",
    .title = "x86-64, KVM",
    .target = "x86_64",
    .cpu = &cpu_kvm,
    .min_memory_bytes = PC_MIN_RAM_BYTES,
    .max_memory_bytes = PC_MAX_RAM_BYTES,
    .max_cpus = PC_MAX_CPUS,
    .clock_hz = NS_PER_S,
    .is_at_home = pc_is_at_home,
    .add_memory = pc_add_memory,
    .build = pc_build,
    .plan_boot = pc_plan_boot,
    .set_entry = pc_set_entry,
    .press_power_button = pc_press_power_button,
    .free = pc_free,
};
