/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver for any virtio device: see fuzz_virtio.h.
 */
#include "fuzz_virtio.h"

#include <linux/virtio_pci.h>

#include "base/clock.h"

#define SLOT         4
#define QUEUE_SIZE   8
#define WINDOW_BYTES 0x10000u /* buffers, below what rig_alloc gives */
#define RINGS_BYTES  0x8000u  /* what eight small queues take, rounded up */
#define MAX_STEPS    200
#define STOP_NS      (UINT64_C(20) * 1000000000)

static void set_up(struct fuzz_virtio *fuzz)
{
    struct virtio_config config;

    fuzz->rig = rig_new();
    config = rig_config(fuzz->rig, fuzz->id, SLOT);
    fuzz->dev = fuzz->create(&config, fuzz);
    fuzz_check(fuzz->dev != NULL);
    fuzz->registry = gw_state_registry_new();
    fuzz_check(gw_state_registry_add(fuzz->registry, fuzz->dev->id, fuzz->dev->state,
                                     fuzz->dev->state_object, NULL));
    fuzz->plan = gw_state_plan_new(gw_schema_new(fuzz->registry), fuzz->registry);
    device_reset(fuzz->dev);
    device_start(fuzz->dev);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Mostly in the window; sometimes the rings, the end of RAM, or anything. */
static uint64_t take_gpa(struct fuzz_input *in)
{
    unsigned where = (unsigned)fuzz_take(in, 1);

    switch (where) {
    case 0xff:
        return fuzz_take(in, 8);
    case 0xfe:
        return RIG_HIGH_GPA - 64 + fuzz_take(in, 1);
    case 0xfd:
        return RIG_HIGH_GPA + RIG_HIGH_BYTES - fuzz_take(in, 1);
    case 0xfc:
        return RIG_RAM_GPA + WINDOW_BYTES + fuzz_take(in, 2) % RINGS_BYTES;
    default:
        return RIG_RAM_GPA + where * 256u;
    }
}

static struct drv_queue *take_queue(struct fuzz_virtio *fuzz, struct fuzz_input *in,
                                    unsigned *index)
{
    *index = (unsigned)fuzz_take(in, 1) % fuzz->drv.vdev->n_queues;
    return &fuzz->drv.queues[*index];
}

/* As a vCPU stores: while the device reads, and no business of ThreadSanitizer. */
__attribute__((no_sanitize_thread)) static void write_guest(struct fuzz_virtio *fuzz, uint64_t gpa,
                                                            const uint8_t *bytes, size_t n)
{
    volatile uint8_t *host = n ? gw_memory_host(fuzz->rig->memory, gpa, n) : NULL;

    for (size_t i = 0; host && i < n; i++)
        host[i] = bytes[i];
}

static void step_desc(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned index;
    struct drv_queue *queue = take_queue(fuzz, in, &index);
    unsigned at = (unsigned)fuzz_take(in, 1);
    uint64_t gpa = take_gpa(in);
    uint32_t len = (uint32_t)fuzz_take(in, 2);
    uint16_t flags = (uint16_t)(fuzz_take(in, 1) & 0x0f);
    uint16_t next = (uint16_t)fuzz_take(in, 1);

    if (flags & 8) /* a length of 32 bits */
        len = (uint32_t)fuzz_take(in, 4);
    if (queue->desc)
        drv_write_desc(&fuzz->drv, index, (uint16_t)(at % QUEUE_SIZE), gpa, len, flags & 7u, next);
}

/* The driver may have taken the BAR away, then nobody answers. */
static void notify(struct fuzz_virtio *fuzz, unsigned index)
{
    mmio_bus_write(fuzz->rig->bus, fuzz->drv.notify + index * fuzz->drv.notify_multiplier, 2,
                   index);
}

/* A chain of n descriptors with right links, which the fuzzer would take long to find. */
static void step_chain(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned index, how = (unsigned)fuzz_take(in, 1);
    struct drv_queue *queue = take_queue(fuzz, in, &index);
    struct drv_segment segments[4];
    unsigned n = 1 + how % G_N_ELEMENTS(segments);
    unsigned n_out = (how >> 2) % (n + 1);

    for (unsigned i = 0; i < n; i++)
        segments[i] = (struct drv_segment){
            .gpa = take_gpa(in), .len = (uint32_t)fuzz_take(in, 2), .is_in = i >= n_out};
    if (!queue->desc)
        return;
    if (how & 0x80)
        drv_add_indirect(&fuzz->drv, index, segments, n);
    else
        drv_add(&fuzz->drv, index, segments, n);
    if (how & 0x40)
        notify(fuzz, index);
}

static void step_publish(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned index;
    struct drv_queue *queue = take_queue(fuzz, in, &index);
    uint16_t head = (uint16_t)fuzz_take(in, 1);

    if (queue->desc) {
        drv_publish(&fuzz->drv, index, head);
        notify(fuzz, index);
    }
}

static void step_data(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    uint64_t gpa = take_gpa(in);
    size_t n;
    const uint8_t *bytes = fuzz_take_bytes(in, fuzz_take(in, 1), &n);

    write_guest(fuzz, gpa, bytes, n);
}

/* Any word of the rings: flags, indexes, elements, event indexes. */
static void step_ring(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned index;
    struct drv_queue *queue = take_queue(fuzz, in, &index);
    unsigned which = (unsigned)fuzz_take(in, 1);
    uint64_t offset = fuzz_take(in, 1);
    uint8_t word[2] = {(uint8_t)fuzz_take(in, 1), (uint8_t)fuzz_take(in, 1)};

    if (queue->desc)
        write_guest(fuzz,
                    (which % 3 == 0   ? queue->desc
                     : which % 3 == 1 ? queue->avail
                                      : queue->used) +
                        offset,
                    word, 2);
}

static void step_register(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned how = (unsigned)fuzz_take(in, 1);
    uint64_t bases[] = {fuzz->drv.common, fuzz->drv.notify, fuzz->drv.isr,
                        fuzz->drv.config ? fuzz->drv.config : fuzz->drv.common};
    uint64_t gpa = bases[how % 4] + fuzz_take(in, 1);
    unsigned size = 1u << ((how >> 2) % 4);
    uint64_t value = 0;

    if (how & 0x80)
        mmio_bus_read(fuzz->rig->bus, gpa, size, &value);
    else
        mmio_bus_write(fuzz->rig->bus, gpa, size, fuzz_take(in, size));
}

static void step_config_space(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned how = (unsigned)fuzz_take(in, 1);
    uint64_t gpa = RIG_ECAM_GPA + ((uint64_t)SLOT << 15) + fuzz_take(in, 1);
    unsigned size = 1u << (how % 3);
    uint64_t value = 0;

    if (how & 0x80)
        mmio_bus_read(fuzz->rig->bus, gpa, size, &value);
    else
        mmio_bus_write(fuzz->rig->bus, gpa, size, fuzz_take(in, size));
}

static void step_host(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    if (fuzz->host_event)
        fuzz->host_event(fuzz, in);
    else
        rig_settle(fuzz->rig);
}

static void step_settle(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    rig_settle(fuzz->rig);
}

static void step_pause(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    fuzz_check(device_stop(fuzz->dev, clock_mono_ns() + STOP_NS, NULL));
    device_start(fuzz->dev);
}

/* ---- a run ----------------------------------------------------------------------------------- */

/* Small queues and the features the input wants. */
static void bring_up(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    uint64_t features = ~fuzz_take(in, 8); /* an empty input wants all */

    drv_probe(&fuzz->drv, fuzz->rig, fuzz->dev, SLOT);
    drv_negotiate(&fuzz->drv, features);
    for (unsigned i = 0; i < fuzz->drv.vdev->n_queues; i++)
        drv_setup_queue(&fuzz->drv, i, QUEUE_SIZE);
    drv_ok(&fuzz->drv);
}

static void check_can_move(struct fuzz_virtio *fuzz)
{
    g_autoptr(GByteArray) saved = g_byte_array_new();
    g_autoptr(GByteArray) again = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    struct gw_state_load *load;

    if (!gw_state_save(fuzz->registry, 0, saved, &error))
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(error == NULL);
    load = gw_state_load_begin(fuzz->plan, NULL);
    if (!gw_state_load_add(load, 0, saved->data, saved->len, &error) ||
        !gw_state_load_commit(load, &error))
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(error == NULL);
    gw_state_load_keep(load);
    gw_state_load_free(load);
    fuzz_check(gw_state_save(fuzz->registry, 0, again, NULL));
    fuzz_check(saved->len == again->len && memcmp(saved->data, again->data, saved->len) == 0);
}

int fuzz_virtio_run(struct fuzz_virtio *fuzz, const uint8_t *data, size_t size)
{
    static void (*const steps[])(struct fuzz_virtio * fuzz, struct fuzz_input * in) = {
        step_desc,     step_chain,        step_publish, step_data,   step_ring,
        step_register, step_config_space, step_host,    step_settle, step_pause,
    };
    struct fuzz_input in = {data, size};

    if (!fuzz->rig)
        set_up(fuzz);
    fuzz->rig->next_free_gpa = RIG_RAM_GPA + WINDOW_BYTES;
    memset(rig_host(fuzz->rig, RIG_RAM_GPA, WINDOW_BYTES), 0, WINDOW_BYTES);
    bring_up(fuzz, &in);
    for (unsigned i = 0; i < MAX_STEPS && fuzz_more(&in); i++)
        steps[fuzz_take(&in, 1) % G_N_ELEMENTS(steps)](fuzz, &in);
    rig_settle(fuzz->rig);
    fuzz_check(device_stop(fuzz->dev, clock_mono_ns() + STOP_NS, NULL));
    check_can_move(fuzz);
    device_reset(fuzz->dev);
    device_start(fuzz->dev);
    return 0;
}
