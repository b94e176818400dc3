/* SPDX-License-Identifier: MIT */
/*
 * PCI Express host with an ECAM window: the `virt` board's "pci-host-ecam-generic", and the one
 * that `pc` names in its MCFG table.
 *
 * Model: PCI Express Base 3.0, 7.2.2: address = bus << 20 | device << 15 | function << 12 |
 * register. Only function 0 of the devices of bus 0 exists; everything else reads as all ones. The
 * bridge itself is device 0. INTA of slot s goes to line s % 4, a wired or.
 *
 * Locks: the bridge's dev.lock (held by the bus in ECAM accesses) -> a function's dev.lock ->
 * intx_lock -> the interrupt controller. slots is guarded by intx_lock.
 */
#include "device/pci_host.h"
#include "device/pci_regs.h"

#define N_SLOTS       32
#define N_LINES       4
#define BRIDGE_VENDOR 0x1b36
#define BRIDGE_DEVICE 0x0008
#define CLASS_BRIDGE  0x060000

struct pci_host {
    struct pci_function bridge;
    /* fixed after construction */
    struct pci_host_config config;
    pthread_mutex_t intx_lock;
    /* guarded by intx_lock */
    struct pci_function *slots[N_SLOTS];
    uint32_t asserted; /* bit s: slot s asserts INTA */
};

/* ---- for functions ---- */

struct mmio_bus *pci_host_bus(struct pci_host *host)
{
    return host->config.bus;
}

const struct msi_controller *pci_host_msi(const struct pci_host *host)
{
    return &host->config.msi;
}

static bool is_inside(uint64_t gpa, uint64_t size_bytes, uint64_t window_gpa, uint64_t window_size)
{
    return gpa >= window_gpa && size_bytes <= window_size &&
           gpa - window_gpa <= window_size - size_bytes;
}

bool pci_host_forwards(const struct pci_host *host, uint64_t gpa, uint64_t size_bytes)
{
    const struct pci_host_config *config = &host->config;
    return is_inside(gpa, size_bytes, config->mmio32_gpa, config->mmio32_size) ||
           is_inside(gpa, size_bytes, config->mmio64_gpa, config->mmio64_size);
}

static unsigned line_of(unsigned slot)
{
    return slot % N_LINES;
}

static uint32_t slots_of_line(unsigned line)
{
    return 0x11111111u << line;
}

void pci_host_note_intx(struct pci_host *host, unsigned slot, bool level)
{
    pthread_mutex_lock(&host->intx_lock);
    uint32_t bit = 1u << slot;
    host->asserted = level ? host->asserted | bit : host->asserted & ~bit;
    pthread_mutex_unlock(&host->intx_lock);
}

static void drive_locked(struct pci_host *host, unsigned line)
{
    irq_set(&host->config.intx[line], host->asserted & slots_of_line(line));
}

void pci_host_set_intx(struct pci_host *host, unsigned slot, bool level)
{
    pthread_mutex_lock(&host->intx_lock);
    uint32_t bit = 1u << slot;
    host->asserted = level ? host->asserted | bit : host->asserted & ~bit;
    drive_locked(host, line_of(slot));
    pthread_mutex_unlock(&host->intx_lock);
}

/* ---- configuration space ---- */

/* GUEST: any offset. The function it names, or NULL; *reg is 0..4095. */
static struct pci_function *decode(struct pci_host *host, uint64_t offset, unsigned *reg)
{
    *reg = (unsigned)(offset & 0xfff);
    uint64_t bus_device_function = offset >> 12;
    uint64_t slot = bus_device_function >> 3;
    if ((bus_device_function & 7) != 0 || slot >= N_SLOTS)
        return NULL;
    pthread_mutex_lock(&host->intx_lock);
    struct pci_function *fn = host->slots[slot];
    pthread_mutex_unlock(&host->intx_lock);
    return fn;
}

/* The bridge's own lock is held by the bus already. */
static void lock_function(struct pci_host *host, struct pci_function *fn)
{
    if (fn != &host->bridge)
        pthread_mutex_lock(&fn->dev.lock);
}

static void unlock_function(struct pci_host *host, struct pci_function *fn)
{
    if (fn != &host->bridge)
        pthread_mutex_unlock(&fn->dev.lock);
}

static uint64_t ecam_read(struct device *dev, void *opaque, uint64_t offset, unsigned size)
{
    struct pci_host *host = opaque;
    unsigned reg;
    struct pci_function *fn = decode(host, offset, &reg);
    if (!fn)
        return UINT64_MAX;
    lock_function(host, fn);
    uint32_t value = pci_function_config_read(fn, reg, size);
    unlock_function(host, fn);
    return value;
}

static void ecam_write(struct device *dev, void *opaque, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pci_host *host = opaque;
    unsigned reg;
    struct pci_function *fn = decode(host, offset, &reg);
    if (!fn)
        return;
    lock_function(host, fn);
    pci_function_config_write(fn, reg, size, (uint32_t)value);
    unlock_function(host, fn);
}

static const struct mmio_ops ecam_mmio = {
    .read = ecam_read, .write = ecam_write, .min_size = 1, .max_size = 4};

/* ---- life ---- */

static bool bridge_post_load(void *object, GError **error)
{
    pci_function_post_load(&((struct pci_host *)object)->bridge);
    return true;
}

static const struct gw_field bridge_fields[] = {
    GW_STRUCT(struct pci_host, bridge, &pci_function_state),
    GW_FIELDS_END,
};

static const struct gw_state_desc bridge_state = {
    .name = "pci-host",
    .version = 1,
    .object_size = sizeof(struct pci_host),
    .priority = GW_PRIORITY_BUS,
    .fields = bridge_fields,
    .post_load = bridge_post_load,
};

static void bridge_reset(struct device *dev)
{
    pci_function_reset(&((struct pci_host *)dev)->bridge);
}

static void bridge_start(struct device *dev)
{
    struct pci_host *host = (struct pci_host *)dev;
    pthread_mutex_lock(&host->intx_lock);
    for (unsigned line = 0; line < N_LINES; line++)
        drive_locked(host, line);
    pthread_mutex_unlock(&host->intx_lock);
}

static void bridge_free(struct device *dev)
{
    pci_host_free((struct pci_host *)dev);
}

static const struct device_ops bridge_ops = {
    .type = "pci-host", .reset = bridge_reset, .start = bridge_start, .free = bridge_free};

struct pci_host *pci_host_new(const struct pci_host_config *config, GError **error)
{
    static const struct pci_ids ids = {.vendor = BRIDGE_VENDOR,
                                       .device = BRIDGE_DEVICE,
                                       .subsystem_vendor = 0x1af4,
                                       .subsystem = 0x1100,
                                       .class_code = CLASS_BRIDGE};
    struct pci_host *host = g_new0(struct pci_host, 1);
    host->config = *config;
    pthread_mutex_init(&host->intx_lock, NULL);
    pci_function_init(&host->bridge, host, 0, &bridge_ops, "pci-host", &ids, &bridge_state, host);
    host->slots[0] = &host->bridge;
    if (!mmio_bus_add(config->bus, "pci-ecam", &host->bridge.dev, config->ecam_gpa,
                      config->ecam_size, &ecam_mmio, host, error)) {
        pci_host_free(host);
        return NULL;
    }
    return host;
}

void pci_host_free(struct pci_host *host)
{
    if (!host)
        return;
    device_clear(&host->bridge.dev);
    pthread_mutex_destroy(&host->intx_lock);
    g_free(host);
}

struct device *pci_host_device(struct pci_host *host)
{
    return &host->bridge.dev;
}

bool pci_host_attach(struct pci_host *host, struct pci_function *fn, GError **error)
{
    pthread_mutex_lock(&host->intx_lock);
    bool is_free = fn->slot < N_SLOTS && !host->slots[fn->slot];
    if (is_free) {
        fn->config[PCI_INTERRUPT_PIN] = 1;
        pci_function_built(fn);
        host->slots[fn->slot] = fn;
    } else {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG, "%s: PCI slot %u %s",
                    fn->dev.id, fn->slot, fn->slot < N_SLOTS ? "is taken" : "does not exist");
    }
    pthread_mutex_unlock(&host->intx_lock);
    return is_free;
}

void pci_host_detach(struct pci_host *host, struct pci_function *fn)
{
    pthread_mutex_lock(&host->intx_lock);
    if (fn->slot < N_SLOTS && host->slots[fn->slot] == fn) {
        host->slots[fn->slot] = NULL;
        host->asserted &= ~(1u << fn->slot);
    }
    pthread_mutex_unlock(&host->intx_lock);
}
