/* SPDX-License-Identifier: MIT */
/*
 * The `virt` board: 64-bit RISC-V with software harts.
 *
 * Model: see virt.h for the address map. Harts begin in the mask ROM at 0x1000, which hands a0 =
 * hart id, a1 = device tree, a2 = dynamic information for OpenSBI to what stands at its start
 * address: the firmware, or with `--bios none` the kernel itself, in M-mode at the start of RAM.
 *
 * Boot files: firmware at the start of RAM; the kernel at the first multiple of 2 MiB after it (its
 * header's text offset, normally 2 MiB); the device tree in the last 2 MiB of RAM below 3 GiB of
 * it, with room behind it for the firmware to add to it; the initrd below the device tree.
 */
#include <elf.h>
#include <string.h>

#include "device/aclint.h"
#include "device/goldfish_rtc.h"
#include "device/plic.h"
#include "device/serial.h"
#include "device/syscon.h"
#include "godwit/error.h"
#include "machine/board.h"
#include "machine/firmware.h"
#include "machine/machine_life.h"
#include "machine/virt.h"
#include "machine/virt_fdt.h"

#define HEX              "0x%" G_GINT64_MODIFIER "x"
#define MIB(n)           ((uint64_t)(n) << 20)
#define GIB(n)           ((uint64_t)(n) << 30)
#define KERNEL_ALIGNMENT MIB(2)
#define DTB_ROOM         MIB(2)

struct virt {
    struct virt_layout layout;
    struct plic *plic;
};

/* ---- parts ----------------------------------------------------------------------------------- */

static bool virt_add_memory(struct machine *machine, GError **error)
{
    struct virt *virt = g_new0(struct virt, 1);
    const struct virt_range *ram = &virt->layout.ranges[VIRT_RAM];
    const struct virt_range *mrom = &virt->layout.ranges[VIRT_MROM];

    machine->board_data = virt;
    virt_layout_init(&virt->layout, machine->memory_bytes);
    return gw_memory_add_block(machine->memory, "ram", ram->gpa, ram->size, error) &&
           gw_memory_add_block(machine->memory, "mrom", mrom->gpa, mrom->size, error);
}

static void on_wish(void *opaque, enum syscon_wish wish, unsigned status)
{
    machine_request(opaque, wish == SYSCON_RESET ? MACHINE_REQUEST_RESET : MACHINE_REQUEST_OFF,
                    status);
}

static bool add_platform_devices(struct machine *machine, GError **error)
{
    struct virt *virt = machine->board_data;
    const struct virt_range *at = virt->layout.ranges;
    const struct cpu_backend_ops *cpu_ops = machine->board->cpu;

    virt->plic = plic_new("plic", machine->bus, at[VIRT_PLIC].gpa, machine->n_cpus, cpu_ops,
                          machine->cpu, error);
    if (!virt->plic || !machine_add_device(machine, plic_device(virt->plic), error))
        return false;
    struct aclint *aclint = aclint_new("aclint", machine->bus, at[VIRT_CLINT].gpa, machine->n_cpus,
                                       cpu_ops, machine->cpu, &machine->clock, error);
    if (!aclint || !machine_add_device(machine, aclint_device(aclint), error))
        return false;
    struct syscon *syscon =
        syscon_new("test", machine->bus, at[VIRT_TEST].gpa, on_wish, machine, error);
    if (!syscon || !machine_add_device(machine, syscon_device(syscon), error))
        return false;
    const struct goldfish_rtc_config rtc_config = {
        .bus = machine->bus,
        .loop = machine->loop,
        .gpa = at[VIRT_RTC].gpa,
        .irq = plic_irq(virt->plic, VIRT_IRQ_RTC),
    };
    struct goldfish_rtc *rtc = goldfish_rtc_new("rtc", &rtc_config, error);
    return rtc && machine_add_device(machine, goldfish_rtc_device(rtc), error);
}

static bool add_serial(struct machine *machine, const struct machine_config *config, GError **error)
{
    struct virt *virt = machine->board_data;
    struct chardev *chardev =
        machine_open_chardev(machine, config->console ? config->console : "null", error);

    if (!chardev)
        return false;
    const struct serial_config serial_config = {
        .bus = machine->bus,
        .loop = machine->loop,
        .gpa = virt->layout.ranges[VIRT_UART0].gpa,
        .irq = plic_irq(virt->plic, VIRT_IRQ_UART0),
        .chardev = chardev,
    };
    struct serial *serial = serial_new("uart0", &serial_config, error);
    return serial && machine_add_device(machine, serial_device(serial), error);
}

static bool add_pci(struct machine *machine, const struct machine_config *config, GError **error)
{
    struct virt *virt = machine->board_data;
    const struct virt_range *at = virt->layout.ranges;
    struct pci_host_config host = {
        .bus = machine->bus,
        .ecam_gpa = at[VIRT_ECAM].gpa,
        .ecam_size = at[VIRT_ECAM].size,
        .mmio32_gpa = at[VIRT_PCI_MMIO].gpa,
        .mmio32_size = at[VIRT_PCI_MMIO].size,
        .mmio64_gpa = at[VIRT_PCI_MMIO64].gpa,
        .mmio64_size = at[VIRT_PCI_MMIO64].size,
    };

    for (unsigned pin = 0; pin < G_N_ELEMENTS(host.intx); pin++)
        host.intx[pin] = plic_irq(virt->plic, VIRT_IRQ_PCI + pin);
    return machine_add_pci(machine, &host, config, error);
}

static bool virt_build(struct machine *machine, const struct machine_config *config, GError **error)
{
    return add_platform_devices(machine, error) && add_serial(machine, config, error) &&
           add_pci(machine, config, error);
}

static void virt_free(struct machine *machine)
{
    g_clear_pointer(&machine->board_data, g_free);
}

/* ---- boot ------------------------------------------------------------------------------------ */

/* What the files say, while the plan is made. */
struct placement {
    const struct machine_config *config;
    const struct virt_layout *layout;
    struct boot_plan *plan;
    GPtrArray *keep; /* frees what the plan borrows */
    uint64_t start;  /* where the mask ROM jumps to */
    uint64_t kernel_entry;
    uint64_t free_from; /* first byte of RAM after firmware and kernel */
    uint64_t initrd_gpa, initrd_bytes;
    uint64_t dtb_gpa;
};

static const struct image *open_image(struct placement *at, const char *path, const char *what,
                                      GError **error)
{
    struct image *image = image_open(path, EM_RISCV, what, error);
    if (image)
        boot_keep(at->keep, image, (GDestroyNotify)image_free);
    return image;
}

static bool place_firmware(struct placement *at, GError **error)
{
    uint64_t ram = at->layout->ranges[VIRT_RAM].gpa;
    g_autofree char *path = firmware_find(at->config->bios, error);

    if (!path)
        return false;
    const struct image *image = open_image(at, path, "firmware", error);
    return image &&
           boot_plan_add_image(at->plan, "firmware", image, ram, &at->start, &at->free_from, error);
}

static bool place_kernel(struct placement *at, bool is_bare, GError **error)
{
    uint64_t ram = at->layout->ranges[VIRT_RAM].gpa;
    uint64_t end;
    const struct image *image = open_image(at, at->config->kernel, "kernel", error);

    if (!image)
        return false;
    uint64_t gpa = ram;
    if (!is_bare) {
        uint64_t wanted = image->kind == IMAGE_LINUX ? ram + image->text_offset : ram;
        uint64_t first =
            (at->free_from + KERNEL_ALIGNMENT - 1) / KERNEL_ALIGNMENT * KERNEL_ALIGNMENT;
        gpa = MAX(wanted, first);
    }
    if (!boot_plan_add_image(at->plan, "kernel", image, gpa, &at->kernel_entry, &end, error))
        return false;
    if (is_bare)
        at->start = at->kernel_entry;
    at->free_from = MAX(at->free_from, end);
    return true;
}

static bool place_initrd(struct placement *at, GError **error)
{
    GMappedFile *file = image_map(at->config->initrd, "initrd", error);

    if (!file)
        return false;
    boot_keep(at->keep, file, (GDestroyNotify)g_mapped_file_unref);
    uint64_t n_bytes = g_mapped_file_get_length(file);
    if (n_bytes == 0 || n_bytes > at->dtb_gpa - at->free_from) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "initrd \"%s\" has %" G_GUINT64_FORMAT " bytes, %" G_GUINT64_FORMAT
                    " are free between kernel and device tree",
                    at->config->initrd, n_bytes, at->dtb_gpa - at->free_from);
        return false;
    }
    at->initrd_bytes = n_bytes;
    at->initrd_gpa = (at->dtb_gpa - n_bytes) & ~(GW_PAGE_SIZE - 1);
    return boot_plan_add(at->plan, "initrd", at->initrd_gpa,
                         (const uint8_t *)g_mapped_file_get_contents(file), n_bytes, n_bytes,
                         error);
}

static bool place_dtb(struct placement *at, const struct machine *machine, GError **error)
{
    const struct virt_fdt_params params = {
        .layout = at->layout,
        .n_cpus = machine->n_cpus,
        .cpu_features = machine->board->cpu->features(machine->cpu),
        .bootargs = at->config->append,
        .initrd_gpa = at->initrd_gpa,
        .initrd_bytes = at->initrd_bytes,
    };
    uint64_t seed_offset;
    GBytes *dtb = virt_fdt_build(&params, &seed_offset, error);
    if (!dtb)
        return false;
    boot_keep(at->keep, dtb, (GDestroyNotify)g_bytes_unref);
    at->plan->seed_gpa = at->dtb_gpa + seed_offset;
    at->plan->seed_bytes = VIRT_SEED_BYTES;
    return boot_plan_add(at->plan, "device tree", at->dtb_gpa, g_bytes_get_data(dtb, NULL),
                         g_bytes_get_size(dtb), g_bytes_get_size(dtb), error);
}

/* The mask ROM: SPEC: OpenSBI, firmware with dynamic information, version 2. */
static bool place_mrom(struct placement *at, GError **error)
{
    static const uint32_t code[] = {
        0x00000297, /* auipc t0, 0 */
        0x02828613, /* addi  a2, t0, 40 */
        0xf1402573, /* csrr  a0, mhartid */
        0x0202b583, /* ld    a1, 32(t0) */
        0x0182b283, /* ld    t0, 24(t0) */
        0x00028067, /* jr    t0 */
    };
    enum { NEXT_MODE_S = 1, VERSION = 2 };
    struct mrom {
        uint32_t code[6];
        uint64_t start;
        uint64_t dtb;
        uint64_t magic, version, next_addr, next_mode, options, boot_hart;
    } *mrom = g_new0(struct mrom, 1);

    boot_keep(at->keep, mrom, g_free);
    memcpy(mrom->code, code, sizeof code);
    mrom->start = at->start;
    mrom->dtb = at->dtb_gpa;
    mrom->magic = 0x4942534f; /* "OSBI" */
    mrom->version = VERSION;
    mrom->next_addr = at->kernel_entry;
    mrom->next_mode = NEXT_MODE_S;
    at->plan->entry_pc = at->layout->ranges[VIRT_MROM].gpa;
    return boot_plan_add(at->plan, "mask ROM", at->plan->entry_pc, (const uint8_t *)mrom,
                         sizeof *mrom, at->layout->ranges[VIRT_MROM].size, error);
}

static bool virt_plan_boot(struct machine *machine, const struct machine_config *config,
                           struct boot_plan *plan, GPtrArray *keep, GError **error)
{
    struct virt *virt = machine->board_data;
    const struct virt_range *ram = &virt->layout.ranges[VIRT_RAM];
    bool is_bare = config->bios && strcmp(config->bios, "none") == 0;
    struct placement at = {.config = config,
                           .layout = &virt->layout,
                           .plan = plan,
                           .keep = keep,
                           .start = ram->gpa,
                           .free_from = ram->gpa};

    if (is_bare && !config->kernel) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "there is neither firmware nor kernel");
        return false;
    }
    at.dtb_gpa = ram->gpa + MIN(ram->size, GIB(3)) - DTB_ROOM;
    if ((!is_bare && !place_firmware(&at, error)) ||
        (config->kernel && !place_kernel(&at, is_bare, error)))
        return false;
    if (at.free_from > at.dtb_gpa) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "firmware and kernel need memory up to " HEX ", there is room up to " HEX,
                    at.free_from, at.dtb_gpa);
        return false;
    }
    return (!config->initrd || place_initrd(&at, error)) && place_dtb(&at, machine, error) &&
           place_mrom(&at, error);
}

const struct board board_virt = {
    .name = "virt",
    .title = "RISC-V 64, software harts",
    .target = "riscv64",
    .cpu = &cpu_riscv_soft,
    .min_memory_bytes = VIRT_MIN_RAM_BYTES,
    .max_memory_bytes = VIRT_MAX_RAM_BYTES,
    .max_cpus = VIRT_MAX_CPUS,
    .clock_hz = VIRT_TIMEBASE_HZ,
    .add_memory = virt_add_memory,
    .build = virt_build,
    .plan_boot = virt_plan_boot,
    .free = virt_free,
};
