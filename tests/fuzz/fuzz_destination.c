/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a whole destination, from the preamble to the running guest.
 *
 * Input: u8 mode (bit 0: a snapshot, else a live migration on one channel), then records for
 * stream_build. A live source waits for the answer where the protocol has one (verdict, round
 * acknowledgement, LOADED, RUNNING) so that what follows meets the state it is meant for.
 * Checked: the guest is run at most once, never before a load that passed all checks, never after
 * it was discarded; memory outside of the RAM blocks stays as it was (the sanitizer); the
 * destination ends whatever came.
 */
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gadget.h"
#include "godwit/migrate.h"
#include "stream_build.h"
#include "wire/cursor.h"

#define RAM_BYTES  (UINT64_C(256) << 10)
#define GIVE_UP_MS 20000

struct world {
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    struct gadget gadget;
    struct gw_vm vm;
    /* of one run; on the engine's control thread */
    bool is_ready, has_run;
};

static bool before_load(void *opaque, const struct gw_clock_facts *facts, GError **error)
{
    struct world *world = opaque;

    fuzz_check(!world->has_run);
    return true;
}

static bool after_load(void *opaque, GError **error)
{
    struct world *world = opaque;

    fuzz_check(world->gadget.limited <= 1000 && world->gadget.limited != 13);
    fuzz_check(world->gadget.fifo_len <= sizeof world->gadget.fifo);
    world->is_ready = true;
    return true;
}

static void run_at_destination(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    struct world *world = opaque;

    fuzz_check(world->is_ready && !world->has_run);
    world->has_run = true;
}

static void expect_packets(void *opaque)
{
    struct world *world = opaque;

    fuzz_check(world->is_ready && !world->has_run);
}

static void take_packet(void *opaque, const char *device, const void *frame, uint32_t n_bytes,
                        bool is_last)
{
    struct world *world = opaque;
    const uint8_t *bytes = frame;
    volatile uint8_t read = 0; /* for the sanitizers */

    fuzz_check(world->has_run && n_bytes <= 65565);
    fuzz_check(g_str_equal(device, "gadget/0"));
    for (uint32_t i = 0; i < n_bytes; i++)
        read = bytes[i];
    (void)read;
}

static void discarded(void *opaque, const GError *why)
{
    struct world *world = opaque;

    fuzz_check(!world->has_run);
    world->is_ready = false;
    fuzz_check(world->gadget.limited == 0); /* rolled back */
}

static void set_up(struct world *world)
{
    fuzz_check(GW_ERROR != 0); /* made here, before there are threads to race for it */
    world->memory = gw_memory_new();
    fuzz_check(gw_memory_add_block(world->memory, "ram", 0, RAM_BYTES, NULL));
    world->registry = gw_state_registry_new();
    fuzz_check(
        gw_state_registry_add(world->registry, "gadget/0", &gadget_desc, &world->gadget, NULL));
    world->vm = (struct gw_vm){
        .memory = world->memory,
        .registry = world->registry,
        .opaque = world,
        .before_load = before_load,
        .after_load = after_load,
        .run_at_destination = run_at_destination,
        .discarded = discarded,
        .expect_packets = expect_packets,
        .packet = take_packet,
    };
}

/* ---- the source ------------------------------------------------------------------------------ */

/* The record that answers a record of ours, 0 if none does. */
static uint16_t answer_to(uint16_t type)
{
    static const uint16_t answers[][2] = {
        {WIRE_RAM_MAP, WIRE_SCHEMA_VERDICT},
        {WIRE_ROUND_END, WIRE_ROUND_ACK},
        {WIRE_STATE_END, WIRE_LOADED},
        {WIRE_COMMIT, WIRE_RUNNING},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(answers); i++)
        if (answers[i][0] == type)
            return answers[i][1];
    return 0;
}

static bool read_exactly(int fd, uint8_t *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = recv(fd, to + done, n - done, 0);

        if (got <= 0) /* the end, or the receive timeout */
            return false;
        done += (size_t)got;
    }
    return true;
}

/* Reads answers until one of this type; false: the destination has hung up or has nothing to say.
 */
static bool await(int fd, uint16_t type)
{
    uint8_t head[WIRE_HEADER_BYTES];
    uint8_t rest[4096];
    uint64_t limit_ns = clock_mono_ns() + 100 * NS_PER_MS; /* keep-alives may come for ever */

    for (;;) {
        if (clock_mono_ns() > limit_ns || !read_exactly(fd, head, sizeof head))
            return false;
        for (size_t left = wire_load_u32(head + 4) + wire_load_u32(head + 16); left > 0;) {
            size_t n = MIN(left, sizeof rest);

            if (!read_exactly(fd, rest, n))
                return false;
            left -= n;
        }
        if (wire_load_u16(head) == type)
            return true;
    }
}

static bool send_all(int fd, const uint8_t *bytes, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t sent = send(fd, bytes + done, n - done, MSG_NOSIGNAL);

        if (sent <= 0)
            return false;
        done += (size_t)sent;
    }
    return true;
}

static void play_source(int fd, struct fuzz_input *in)
{
    /* An answer that does not come: the records were not worth one. */
    const struct timeval patience = {.tv_usec = 20000};
    const struct timeval limit = {.tv_sec = GIVE_UP_MS / 1000};
    struct stream_build build;
    uint8_t preamble[WIRE_PREAMBLE_BYTES];
    uint16_t type;

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    stream_build_init(&build, WIRE_ROLE_CONTROL, 0, WIRE_SIDE_SOURCE);
    bool is_open = send_all(fd, build.bytes->data, build.bytes->len) &&
                   read_exactly(fd, preamble, sizeof preamble);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    g_byte_array_set_size(build.bytes, 0);
    while (is_open && (type = stream_build_record(&build, in)) != 0) {
        is_open = send_all(fd, build.bytes->data, build.bytes->len);
        g_byte_array_set_size(build.bytes, 0);
        if (is_open && answer_to(type))
            await(fd, answer_to(type));
    }
    shutdown(fd, SHUT_WR);
    await(fd, 0); /* until it hangs up: it has taken all of it */
    stream_build_clear(&build);
}

static int snapshot_of(struct fuzz_input *in)
{
    int fd = memfd_create("snapshot", MFD_CLOEXEC);
    struct stream_build build;

    stream_build_init(&build, WIRE_ROLE_SNAPSHOT, 0, WIRE_SIDE_SOURCE);
    while (stream_build_record(&build, in))
        continue;
    fuzz_check(write(fd, build.bytes->data, build.bytes->len) == (ssize_t)build.bytes->len);
    lseek(fd, 0, SEEK_SET);
    stream_build_clear(&build);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    struct fuzz_input in = {data, size};
    bool is_snapshot = fuzz_take(&in, 1) & 1;
    int fds[2];

    if (!world.memory)
        set_up(&world);
    world.is_ready = world.has_run = false;
    world.gadget = (struct gadget){0};
    if (is_snapshot)
        fds[0] = snapshot_of(&in);
    else
        fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    g_autofree char *uri = g_strdup_printf("fd:%d", fds[0]);
    g_autoptr(GError) error = NULL;
    struct gw_destination *destination = gw_destination_start(&world.vm, uri, NULL, NULL, &error);
    fuzz_check(destination != NULL);
    if (!is_snapshot) {
        play_source(fds[1], &in);
    }
    /* Whatever came, it comes to an end: nobody speaks any more. */
    fuzz_check(gw_destination_wait(destination, clock_mono_ns() + GIVE_UP_MS * NS_PER_MS));
    if (!is_snapshot)
        close(fds[1]);
    gw_destination_free(destination);
    return 0;
}
