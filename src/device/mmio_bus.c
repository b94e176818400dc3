/* SPDX-License-Identifier: MIT */
/*
 * The MMIO bus: finds the region behind a guest-physical address and calls its device.
 *
 * Model: a sorted array of the mapped regions, searched by halves. Regions live as long as the bus;
 * a region that is not mapped is only missing from the array.
 *
 * Locks: bus->lock (reader-writer) guards the array and each region's gpa. It is a leaf: it is let
 * go before a device lock is taken for the access, and is taken with a device lock held when a BAR
 * moves. An access that has found its region just before a move reaches the region at its old
 * place, as on a real bus.
 */
#include "device/device.h"

#include <string.h>

#include "base/latency.h"

struct mmio_region {
    /* fixed after construction */
    struct mmio_bus *bus;
    char *name;
    struct device *dev;
    uint64_t size_bytes;
    const struct mmio_ops *ops;
    void *opaque;
    /* guarded by bus->lock */
    uint64_t gpa;        /* UINT64_MAX: not mapped */
    uint64_t wanted_gpa; /* differs from gpa while another region is in the way */
    struct wire {
        uint64_t offset;
        int fd;
        bool is_attached;
    } wires[MMIO_MAX_WIRES];
    unsigned n_wires;
};

struct mmio_bus {
    /* fixed after construction */
    struct latency_book *book;
    const struct mmio_wire_ops *wire_ops; /* NULL: no wires */
    void *wire_opaque;
    pthread_rwlock_t lock;
    /* guarded by lock */
    GPtrArray *all;    /* of struct mmio_region, owned */
    GPtrArray *mapped; /* the same, borrowed, by ascending gpa */
};

static void region_free(gpointer data)
{
    struct mmio_region *region = data;
    g_free(region->name);
    g_free(region);
}

struct mmio_bus *mmio_bus_new(struct latency_book *book)
{
    struct mmio_bus *bus = g_new0(struct mmio_bus, 1);
    bus->book = book;
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&bus->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    bus->all = g_ptr_array_new_with_free_func(region_free);
    bus->mapped = g_ptr_array_new();
    return bus;
}

void mmio_bus_free(struct mmio_bus *bus)
{
    if (!bus)
        return;
    g_ptr_array_free(bus->mapped, TRUE);
    g_ptr_array_free(bus->all, TRUE);
    pthread_rwlock_destroy(&bus->lock);
    g_free(bus);
}

static struct mmio_region *mapped_at(const struct mmio_bus *bus, guint i)
{
    return g_ptr_array_index(bus->mapped, i);
}

/* Index of the first mapped region that ends after gpa (mapped->len if none). */
static guint lower_bound(const struct mmio_bus *bus, uint64_t gpa)
{
    guint low = 0, high = bus->mapped->len;
    while (low < high) {
        guint mid = low + (high - low) / 2;
        const struct mmio_region *region = mapped_at(bus, mid);
        if (region->gpa + (region->size_bytes - 1) < gpa)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The region that is in the way of [gpa, gpa + size), or NULL. Does not wrap: checked before. */
static struct mmio_region *find_overlap(const struct mmio_bus *bus, uint64_t gpa,
                                        uint64_t size_bytes)
{
    guint i = lower_bound(bus, gpa);
    if (i == bus->mapped->len)
        return NULL;
    struct mmio_region *next = mapped_at(bus, i);
    return next->gpa <= gpa + (size_bytes - 1) ? next : NULL;
}

static bool range_wraps(uint64_t gpa, uint64_t size_bytes)
{
    return gpa + (size_bytes - 1) < gpa || gpa + (size_bytes - 1) == UINT64_MAX;
}

static void attach_wire(struct mmio_region *region, struct wire *wire)
{
    const struct mmio_bus *bus = region->bus;
    if (region->gpa != UINT64_MAX)
        wire->is_attached =
            bus->wire_ops->attach(bus->wire_opaque, region->gpa + wire->offset, wire->fd);
}

static void detach_wire(struct mmio_region *region, struct wire *wire)
{
    const struct mmio_bus *bus = region->bus;
    if (wire->is_attached)
        bus->wire_ops->detach(bus->wire_opaque, region->gpa + wire->offset, wire->fd);
    wire->is_attached = false;
}

static void map_locked(struct mmio_region *region, uint64_t gpa)
{
    region->gpa = gpa;
    g_ptr_array_insert(region->bus->mapped, (gint)lower_bound(region->bus, gpa), region);
    for (unsigned i = 0; i < region->n_wires; i++)
        attach_wire(region, &region->wires[i]);
}

static void unmap_locked(struct mmio_region *region)
{
    for (unsigned i = 0; i < region->n_wires; i++)
        detach_wire(region, &region->wires[i]);
    g_ptr_array_remove(region->bus->mapped, region);
    region->gpa = UINT64_MAX;
}

struct mmio_region *mmio_bus_add(struct mmio_bus *bus, const char *name, struct device *dev,
                                 uint64_t gpa, uint64_t size, const struct mmio_ops *ops,
                                 void *opaque, GError **error)
{
    if (size == 0 || (gpa != UINT64_MAX && range_wraps(gpa, size))) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "MMIO region %s: bad range 0x%" G_GINT64_MODIFIER
                    "x, size 0x%" G_GINT64_MODIFIER "x",
                    name, gpa, size);
        return NULL;
    }
    pthread_rwlock_wrlock(&bus->lock);
    struct mmio_region *other = gpa == UINT64_MAX ? NULL : find_overlap(bus, gpa, size);
    struct mmio_region *region = NULL;
    if (other) {
        g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                    "MMIO region %s at 0x%" G_GINT64_MODIFIER "x overlaps %s", name, gpa,
                    other->name);
    } else {
        region = g_new0(struct mmio_region, 1);
        region->bus = bus;
        region->name = g_strdup(name);
        region->dev = dev;
        region->size_bytes = size;
        region->ops = ops;
        region->opaque = opaque;
        region->gpa = UINT64_MAX;
        region->wanted_gpa = gpa;
        g_ptr_array_add(bus->all, region);
        if (gpa != UINT64_MAX)
            map_locked(region, gpa);
        if (!dev->probe)
            dev->probe = latency_book_probe_f(bus->book, "%s/mmio", dev->id);
    }
    pthread_rwlock_unlock(&bus->lock);
    return region;
}

/* Maps what had to wait for others to go, oldest region first. */
static void map_waiting_locked(struct mmio_bus *bus)
{
    for (guint i = 0; i < bus->all->len; i++) {
        struct mmio_region *region = g_ptr_array_index(bus->all, i);
        if (region->gpa == UINT64_MAX && region->wanted_gpa != UINT64_MAX &&
            !find_overlap(bus, region->wanted_gpa, region->size_bytes))
            map_locked(region, region->wanted_gpa);
    }
}

bool mmio_region_move(struct mmio_region *region, uint64_t gpa)
{
    struct mmio_bus *bus = region->bus;
    if (gpa != UINT64_MAX && range_wraps(gpa, region->size_bytes))
        gpa = UINT64_MAX;
    pthread_rwlock_wrlock(&bus->lock);
    if (gpa != region->wanted_gpa) {
        region->wanted_gpa = gpa;
        if (region->gpa != UINT64_MAX)
            unmap_locked(region);
        /* GUEST: a BAR may be programmed onto anything; what is there already stays there. */
        map_waiting_locked(bus);
    }
    bool is_there = region->gpa == gpa;
    pthread_rwlock_unlock(&bus->lock);
    return is_there;
}

void mmio_bus_set_wires(struct mmio_bus *bus, const struct mmio_wire_ops *ops, void *opaque)
{
    bus->wire_ops = ops;
    bus->wire_opaque = opaque;
}

bool mmio_bus_has_wires(const struct mmio_bus *bus)
{
    return bus->wire_ops != NULL;
}

void mmio_region_wire(struct mmio_region *region, uint64_t offset, int fd)
{
    struct mmio_bus *bus = region->bus;
    if (!bus->wire_ops)
        return;
    pthread_rwlock_wrlock(&bus->lock);
    g_assert(region->n_wires < MMIO_MAX_WIRES && offset < region->size_bytes);
    struct wire *wire = &region->wires[region->n_wires++];
    *wire = (struct wire){.offset = offset, .fd = fd};
    attach_wire(region, wire);
    pthread_rwlock_unlock(&bus->lock);
}

void mmio_region_unwire(struct mmio_region *region)
{
    pthread_rwlock_wrlock(&region->bus->lock);
    for (unsigned i = 0; i < region->n_wires; i++)
        detach_wire(region, &region->wires[i]);
    region->n_wires = 0;
    pthread_rwlock_unlock(&region->bus->lock);
}

/* Finds who answers all of an access; false when nobody does or it is not naturally aligned. */
static struct mmio_region *find(struct mmio_bus *bus, uint64_t gpa, unsigned size, uint64_t *offset)
{
    if (gpa & (size - 1))
        return NULL;
    struct mmio_region *region = NULL;
    pthread_rwlock_rdlock(&bus->lock);
    guint i = lower_bound(bus, gpa);
    if (i < bus->mapped->len) {
        region = mapped_at(bus, i);
        *offset = gpa - region->gpa;
        if (region->gpa > gpa || region->size_bytes - *offset < size)
            region = NULL;
    }
    pthread_rwlock_unlock(&bus->lock);
    return region;
}

static uint64_t size_mask(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

bool mmio_bus_read(struct mmio_bus *bus, uint64_t gpa, unsigned size, uint64_t *value)
{
    uint64_t offset;
    struct mmio_region *region = find(bus, gpa, size, &offset);
    if (!region)
        return false;
    *value = 0;
    if (size < region->ops->min_size || size > region->ops->max_size)
        return true;
    struct device *dev = region->dev;
    uint64_t began_ns = latency_begin();
    pthread_mutex_lock(&dev->lock);
    *value = region->ops->read(dev, region->opaque, offset, size) & size_mask(size);
    pthread_mutex_unlock(&dev->lock);
    latency_end(dev->probe, began_ns, offset);
    return true;
}

bool mmio_bus_write(struct mmio_bus *bus, uint64_t gpa, unsigned size, uint64_t value)
{
    uint64_t offset;
    struct mmio_region *region = find(bus, gpa, size, &offset);
    if (!region)
        return false;
    if (size < region->ops->min_size || size > region->ops->max_size)
        return true;
    struct device *dev = region->dev;
    uint64_t began_ns = latency_begin();
    value &= size_mask(size);
    if (!region->ops->doorbell ||
        !region->ops->doorbell(dev, region->opaque, offset, size, value)) {
        pthread_mutex_lock(&dev->lock);
        region->ops->write(dev, region->opaque, offset, size, value);
        pthread_mutex_unlock(&dev->lock);
    }
    latency_end(dev->probe, began_ns, offset);
    return true;
}
