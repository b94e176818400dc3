/* SPDX-License-Identifier: MIT */
/* The `virt` board's device tree, written front to back with libfdt's sequential writer. */
#include "machine/virt_fdt.h"

#include <libfdt.h>
#include <string.h>

#include "godwit/error.h"

#define FDT_MAX_BYTES (64u << 10)

/* Phandles: fixed numbers, so that a node can be named before it is written. */
enum {
    PHANDLE_PLIC = 1,
    PHANDLE_TEST = 2,
    PHANDLE_CPU_INTC = 16, /* + hart */
};

/* The cause numbers a hart's interrupt controller knows (SPEC: Privileged Architecture, mcause). */
enum { IRQ_M_SOFT = 3, IRQ_M_TIMER = 7, IRQ_S_EXT = 9, IRQ_M_EXT = 11 };

/* A writer that remembers its first failure; every put after it does nothing. */
struct writer {
    void *fdt;
    int rc;
};

static void begin(struct writer *w, const char *name)
{
    if (w->rc == 0)
        w->rc = fdt_begin_node(w->fdt, name);
}

static void begin_at(struct writer *w, const char *name, uint64_t gpa)
{
    char full[64];
    g_snprintf(full, sizeof full, "%s@%" G_GINT64_MODIFIER "x", name, gpa);
    begin(w, full);
}

static void end(struct writer *w)
{
    if (w->rc == 0)
        w->rc = fdt_end_node(w->fdt);
}

static void put(struct writer *w, const char *name, const void *value, size_t n_bytes)
{
    if (w->rc == 0)
        w->rc = fdt_property(w->fdt, name, value, (int)n_bytes);
}

static void put_flag(struct writer *w, const char *name)
{
    put(w, name, NULL, 0);
}

static void put_string(struct writer *w, const char *name, const char *value)
{
    put(w, name, value, strlen(value) + 1);
}

static void put_cell(struct writer *w, const char *name, uint32_t value)
{
    if (w->rc == 0)
        w->rc = fdt_property_u32(w->fdt, name, value);
}

static void put_u64(struct writer *w, const char *name, uint64_t value)
{
    if (w->rc == 0)
        w->rc = fdt_property_u64(w->fdt, name, value);
}

/* cells is changed to big-endian in place. */
static void put_cells(struct writer *w, const char *name, uint32_t *cells, size_t n_cells)
{
    for (size_t i = 0; i < n_cells; i++)
        cells[i] = cpu_to_fdt32(cells[i]);
    put(w, name, cells, n_cells * sizeof *cells);
}

static void put_reg(struct writer *w, const struct virt_range *range)
{
    uint32_t cells[] = {(uint32_t)(range->gpa >> 32), (uint32_t)range->gpa,
                        (uint32_t)(range->size >> 32), (uint32_t)range->size};
    put_cells(w, "reg", cells, G_N_ELEMENTS(cells));
}

static bool has_feature(const struct virt_fdt_params *p, const char *name)
{
    return p->cpu_features && g_strv_contains((const gchar *const *)p->cpu_features, name);
}

/* Multi-letter extensions in the order the ISA manual gives; present when the backend names them.
 */
static const char *const extensions[] = {
    "zicbom",      "zicboz", "zicntr", "zicsr",   "zifencei", "zihintntl",
    "zihintpause", "zihpm",  "zawrs",  "zba",     "zbb",      "zbc",
    "zbs",         "sstc",   "svadu",  "svinval", "svnapot",  "svpbmt",
};

static void write_isa(struct writer *w, const struct virt_fdt_params *p)
{
    g_autoptr(GString) isa = g_string_new("rv64imafdc");
    static const char single[] = "i\0m\0a\0f\0d\0c"; /* a stringlist, its last NUL included */
    g_autoptr(GByteArray) list = g_byte_array_new();

    g_byte_array_append(list, (const guint8 *)single, sizeof single);
    for (size_t i = 0; i < G_N_ELEMENTS(extensions); i++) {
        if (!has_feature(p, extensions[i]))
            continue;
        g_string_append_printf(isa, "_%s", extensions[i]);
        g_byte_array_append(list, (const guint8 *)extensions[i], strlen(extensions[i]) + 1);
    }
    put_string(w, "riscv,isa", isa->str);
    put_string(w, "riscv,isa-base", "rv64i");
    put(w, "riscv,isa-extensions", list->data, list->len);
}

static void write_cpus(struct writer *w, const struct virt_fdt_params *p)
{
    begin(w, "cpus");
    put_cell(w, "#address-cells", 1);
    put_cell(w, "#size-cells", 0);
    put_cell(w, "timebase-frequency", VIRT_TIMEBASE_HZ);
    for (unsigned hart = 0; hart < p->n_cpus; hart++) {
        begin_at(w, "cpu", hart);
        put_string(w, "device_type", "cpu");
        put_cell(w, "reg", hart);
        put_string(w, "status", "okay");
        put_string(w, "compatible", "riscv");
        put_string(w, "mmu-type", has_feature(p, "sv48") ? "riscv,sv48" : "riscv,sv39");
        write_isa(w, p);
        begin(w, "interrupt-controller");
        put_cell(w, "#interrupt-cells", 1);
        put_flag(w, "interrupt-controller");
        put_string(w, "compatible", "riscv,cpu-intc");
        put_cell(w, "phandle", PHANDLE_CPU_INTC + hart);
        end(w);
        end(w);
    }
    end(w);
}

/* interrupts-extended of a controller that reaches every hart with the same two causes. */
static void put_hart_irqs(struct writer *w, const struct virt_fdt_params *p, uint32_t first,
                          uint32_t second)
{
    uint32_t cells[VIRT_MAX_CPUS * 4];
    for (unsigned hart = 0; hart < p->n_cpus; hart++) {
        cells[4 * hart + 0] = PHANDLE_CPU_INTC + hart;
        cells[4 * hart + 1] = first;
        cells[4 * hart + 2] = PHANDLE_CPU_INTC + hart;
        cells[4 * hart + 3] = second;
    }
    put_cells(w, "interrupts-extended", cells, 4 * p->n_cpus);
}

static void write_irqchips(struct writer *w, const struct virt_fdt_params *p)
{
    const struct virt_range *clint = &p->layout->ranges[VIRT_CLINT];
    const struct virt_range *plic = &p->layout->ranges[VIRT_PLIC];

    begin_at(w, "clint", clint->gpa);
    put(w, "compatible", "sifive,clint0\0riscv,clint0", sizeof "sifive,clint0\0riscv,clint0");
    put_reg(w, clint);
    put_hart_irqs(w, p, IRQ_M_SOFT, IRQ_M_TIMER);
    end(w);

    begin_at(w, "plic", plic->gpa);
    put(w, "compatible", "sifive,plic-1.0.0\0riscv,plic0", sizeof "sifive,plic-1.0.0\0riscv,plic0");
    put_reg(w, plic);
    put_cell(w, "#interrupt-cells", 1);
    put_cell(w, "#address-cells", 0);
    put_flag(w, "interrupt-controller");
    put_hart_irqs(w, p, IRQ_M_EXT, IRQ_S_EXT);
    put_cell(w, "riscv,ndev", VIRT_N_IRQS);
    put_cell(w, "phandle", PHANDLE_PLIC);
    end(w);
}

static void put_plic_irq(struct writer *w, uint32_t irq)
{
    put_cell(w, "interrupts", irq);
    put_cell(w, "interrupt-parent", PHANDLE_PLIC);
}

static void write_simple_devices(struct writer *w, const struct virt_fdt_params *p)
{
    const struct virt_range *ranges = p->layout->ranges;

    begin_at(w, "serial", ranges[VIRT_UART0].gpa);
    put_string(w, "compatible", "ns16550a");
    put_reg(w, &ranges[VIRT_UART0]);
    put_cell(w, "clock-frequency", VIRT_UART_CLOCK_HZ);
    put_plic_irq(w, VIRT_IRQ_UART0);
    end(w);

    begin_at(w, "rtc", ranges[VIRT_RTC].gpa);
    put_string(w, "compatible", "google,goldfish-rtc");
    put_reg(w, &ranges[VIRT_RTC]);
    put_plic_irq(w, VIRT_IRQ_RTC);
    end(w);

    begin_at(w, "test", ranges[VIRT_TEST].gpa);
    static const char compatible[] = "sifive,test1\0sifive,test0\0syscon";
    put(w, "compatible", compatible, sizeof compatible);
    put_reg(w, &ranges[VIRT_TEST]);
    put_cell(w, "phandle", PHANDLE_TEST);
    end(w);
}

static void write_syscon_action(struct writer *w, const char *name, const char *compatible,
                                uint32_t value)
{
    begin(w, name);
    put_string(w, "compatible", compatible);
    put_cell(w, "regmap", PHANDLE_TEST);
    put_cell(w, "offset", 0);
    put_cell(w, "value", value);
    end(w);
}

/* One `ranges` row of the PCI host: space code, PCI address, CPU address, size. */
static void fill_range(uint32_t *cells, uint32_t space, const struct virt_range *range)
{
    cells[0] = space;
    cells[1] = cells[3] = (uint32_t)(range->gpa >> 32);
    cells[2] = cells[4] = (uint32_t)range->gpa;
    cells[5] = (uint32_t)(range->size >> 32);
    cells[6] = (uint32_t)range->size;
}

static void write_pci(struct writer *w, const struct virt_fdt_params *p)
{
    const struct virt_range *ranges = p->layout->ranges;
    enum { SPACE_MEM32 = 0x02000000, SPACE_MEM64 = 0x03000000, N_PINS = 4 };
    uint32_t windows[14];
    uint32_t map[N_PINS * N_PINS * 6]; /* slots repeat with period 4 */
    uint32_t mask[] = {0x1800, 0, 0, 7};
    uint32_t buses[] = {0, (uint32_t)(ranges[VIRT_ECAM].size >> 20) - 1};

    fill_range(windows, SPACE_MEM32, &ranges[VIRT_PCI_MMIO]);
    fill_range(windows + 7, SPACE_MEM64, &ranges[VIRT_PCI_MMIO64]);
    for (uint32_t slot = 0; slot < N_PINS; slot++)
        for (uint32_t pin = 0; pin < N_PINS; pin++) {
            uint32_t *row = &map[(slot * N_PINS + pin) * 6];
            row[0] = slot << 11;
            row[1] = row[2] = 0;
            row[3] = pin + 1;
            row[4] = PHANDLE_PLIC;
            row[5] = VIRT_IRQ_PCI + (slot + pin) % N_PINS;
        }

    begin_at(w, "pci", ranges[VIRT_ECAM].gpa);
    put_string(w, "compatible", "pci-host-ecam-generic");
    put_string(w, "device_type", "pci");
    put_reg(w, &ranges[VIRT_ECAM]);
    put_cell(w, "#address-cells", 3);
    put_cell(w, "#size-cells", 2);
    put_cell(w, "#interrupt-cells", 1);
    put_cell(w, "linux,pci-domain", 0);
    put_flag(w, "dma-coherent");
    put_cells(w, "bus-range", buses, G_N_ELEMENTS(buses));
    put_cells(w, "ranges", windows, G_N_ELEMENTS(windows));
    put_cells(w, "interrupt-map-mask", mask, G_N_ELEMENTS(mask));
    put_cells(w, "interrupt-map", map, G_N_ELEMENTS(map));
    end(w);
}

static void write_chosen(struct writer *w, const struct virt_fdt_params *p)
{
    static const uint8_t no_seed[VIRT_SEED_BYTES];
    char console[48];

    g_snprintf(console, sizeof console, "/soc/serial@%" G_GINT64_MODIFIER "x",
               p->layout->ranges[VIRT_UART0].gpa);
    begin(w, "chosen");
    put_string(w, "stdout-path", console);
    put(w, "rng-seed", no_seed, sizeof no_seed);
    if (p->bootargs)
        put_string(w, "bootargs", p->bootargs);
    if (p->initrd_bytes) {
        put_u64(w, "linux,initrd-start", p->initrd_gpa);
        put_u64(w, "linux,initrd-end", p->initrd_gpa + p->initrd_bytes);
    }
    end(w);
}

static void write_tree(struct writer *w, const struct virt_fdt_params *p)
{
    begin(w, "");
    put_cell(w, "#address-cells", 2);
    put_cell(w, "#size-cells", 2);
    put_string(w, "compatible", "riscv-virtio");
    put_string(w, "model", "riscv-virtio,godwit");
    write_chosen(w, p);
    begin_at(w, "memory", p->layout->ranges[VIRT_RAM].gpa);
    put_string(w, "device_type", "memory");
    put_reg(w, &p->layout->ranges[VIRT_RAM]);
    end(w);
    write_cpus(w, p);
    write_syscon_action(w, "poweroff", "syscon-poweroff", 0x5555);
    write_syscon_action(w, "reboot", "syscon-reboot", 0x7777);
    begin(w, "soc");
    put_cell(w, "#address-cells", 2);
    put_cell(w, "#size-cells", 2);
    put_string(w, "compatible", "simple-bus");
    put_flag(w, "ranges");
    write_irqchips(w, p);
    write_simple_devices(w, p);
    write_pci(w, p);
    end(w);
    end(w);
}

GBytes *virt_fdt_build(const struct virt_fdt_params *params, uint64_t *seed_offset, GError **error)
{
    g_autofree uint8_t *blob = g_malloc0(FDT_MAX_BYTES);
    struct writer w = {.fdt = blob};

    w.rc = fdt_create(blob, FDT_MAX_BYTES);
    if (w.rc == 0)
        w.rc = fdt_finish_reservemap(blob);
    write_tree(&w, params);
    if (w.rc == 0)
        w.rc = fdt_finish(blob);
    if (w.rc < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "device tree of %u bytes: %s", FDT_MAX_BYTES,
                    fdt_strerror(w.rc));
        return NULL;
    }
    int chosen = fdt_path_offset(blob, "/chosen");
    const uint8_t *seed = fdt_getprop(blob, chosen, "rng-seed", NULL);
    g_assert(seed);
    *seed_offset = (uint64_t)(seed - blob);
    return g_bytes_new(blob, fdt_totalsize(blob));
}
