/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a whole destination, from the preamble to the running guest.
 *
 * Input: u8 mode (bit 0: a snapshot, else a live migration on one channel; bit 1: descriptors
 * travel with RAM_SHARE and COMMIT; bits 2..6 spoil them), then records for stream_build. A live
 * source waits for the answer where the protocol has one (verdict, round acknowledgement, LOADED,
 * RUNNING) so that what follows meets the state it is meant for. Checked: the guest is run at most
 * once, never before a load that passed all checks, never after it was discarded; the source's own
 * memory, which the destination may have mapped, is never written unless the guest was run; memory
 * outside of the RAM blocks stays as it was (the sanitizer); the destination ends whatever came.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gadget.h"
#include "godwit/migrate.h"
#include "migrate/share.h"
#include "stream_build.h"
#include "wire/cursor.h"

#define RAM_BYTES  (UINT64_C(256) << 10)
#define GIVE_UP_MS 20000
#define SEALS      (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define PATTERN    0x5A

enum {
    MODE_SNAPSHOT = 1,
    MODE_SHARE = 2,
    MODE_UNSEALED = 4,
    MODE_ONE_FEWER = 8,
    MODE_REVOKED = 16,
    MODE_READ_ONLY = 32, /* COMMIT's */
    MODE_OTHER = 64,     /* COMMIT's is no memory that was shown before */
};

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

/* Memory that is offered. */
struct lender {
    unsigned mode;
    struct share_key *key;
    int key_fd, ram_fd, reader_fd, other_fd;
    uint8_t *host;
};

static int ram_file(int seals)
{
    int fd = memfd_create("fuzz-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    fuzz_check(fd >= 0 && ftruncate(fd, (off_t)RAM_BYTES) == 0);
    fuzz_check(fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

static void lender_init(struct lender *lender, unsigned mode)
{
    char path[64];

    lender->mode = mode;
    lender->key = share_key_new(&lender->key_fd, NULL);
    lender->ram_fd = ram_file(mode & MODE_UNSEALED ? 0 : SEALS);
    lender->other_fd = ram_file(SEALS);
    lender->host = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, lender->ram_fd, 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", lender->ram_fd);
    lender->reader_fd = open(path, O_RDONLY | O_CLOEXEC);
    fuzz_check(lender->key && lender->host != MAP_FAILED && lender->reader_fd >= 0);
    memset(lender->host, PATTERN, RAM_BYTES);
}

static void lender_clear(struct lender *lender, bool has_run)
{
    for (size_t i = 0; i < RAM_BYTES && !has_run; i++)
        fuzz_check(lender->host[i] == PATTERN);
    munmap(lender->host, RAM_BYTES);
    share_key_close(lender->key);
    close(lender->key_fd);
    close(lender->ram_fd);
    close(lender->reader_fd);
    close(lender->other_fd);
}

/* The descriptors that go beside a record of this type. */
static size_t lend(const struct lender *lender, uint16_t type, int fds[2])
{
    if (!(lender->mode & MODE_SHARE))
        return 0;
    if (type == WIRE_RAM_SHARE) {
        fds[0] = lender->key_fd;
        fds[1] = lender->reader_fd;
        return lender->mode & MODE_ONE_FEWER ? 1 : 2;
    }
    if (type != WIRE_COMMIT)
        return 0;
    if (lender->mode & MODE_REVOKED)
        share_key_revoke(lender->key);
    fds[0] = lender->mode & MODE_OTHER       ? lender->other_fd
             : lender->mode & MODE_READ_ONLY ? lender->reader_fd
                                             : lender->ram_fd;
    return 1;
}

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

/* Sends one byte with descriptors beside it. */
static bool send_beside(int fd, const uint8_t *byte, const int *fds, size_t n_fds)
{
    union {
        char bytes[CMSG_SPACE(2 * sizeof(int))];
        struct cmsghdr aligned;
    } control = {0};
    struct iovec iov = {(void *)(uintptr_t)byte, 1};
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = CMSG_SPACE(n_fds * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
    memcpy(CMSG_DATA(header), fds, n_fds * sizeof(int));
    return sendmsg(fd, &message, MSG_NOSIGNAL) == 1;
}

static bool send_all(int fd, const uint8_t *bytes, size_t n, const int *fds, size_t n_fds)
{
    size_t done = 0;

    if (n_fds && n && !send_beside(fd, bytes, fds, n_fds))
        return false;
    for (done = n_fds && n ? 1 : 0; done < n;) {
        ssize_t sent = send(fd, bytes + done, n - done, MSG_NOSIGNAL);

        if (sent <= 0)
            return false;
        done += (size_t)sent;
    }
    return true;
}

static void play_source(int fd, const struct lender *lender, struct fuzz_input *in)
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
    bool is_open = send_all(fd, build.bytes->data, build.bytes->len, NULL, 0) &&
                   read_exactly(fd, preamble, sizeof preamble);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    g_byte_array_set_size(build.bytes, 0);
    while (is_open && (type = stream_build_record(&build, in)) != 0) {
        int fds[2];
        size_t n_fds = lend(lender, type, fds);

        is_open = send_all(fd, build.bytes->data, build.bytes->len, fds, n_fds);
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
    unsigned mode = (unsigned)fuzz_take(&in, 1);
    bool is_snapshot = mode & MODE_SNAPSHOT;
    struct lender lender;
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
    lender_init(&lender, mode);
    if (!is_snapshot) {
        play_source(fds[1], &lender, &in);
    }
    /* Whatever came, it comes to an end: nobody speaks any more. */
    fuzz_check(gw_destination_wait(destination, clock_mono_ns() + GIVE_UP_MS * NS_PER_MS));
    if (!is_snapshot)
        close(fds[1]);
    gw_destination_free(destination);
    lender_clear(&lender, world.has_run);
    return 0;
}
