/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a whole source, against a destination that says what it likes.
 *
 * Input: steps, each u8: one of the honest answers (made right from what the source said), or any
 * record (stream_build). Before an honest answer the source's record that it answers is awaited.
 * Checked: the guest goes on here if and only if the source says that it failed or was cancelled;
 * it is let go only when the destination has said RUNNING; once COMMIT went out, it comes back only
 * by the destination's word.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "godwit/migrate.h"
#include "stream_build.h"
#include "wire/cursor.h"

#define RAM_BYTES  (UINT64_C(256) << 10)
#define SILENCE_MS 400
#define GIVE_UP_MS 20000
#define MAX_STEPS  64

struct gadget {
    uint32_t value;
};
static const struct gw_field gadget_fields[] = {GW_U32(struct gadget, value), GW_FIELDS_END};
static const struct gw_state_desc gadget_desc = {.name = "gadget",
                                                 .version = 1,
                                                 .object_size = sizeof(struct gadget),
                                                 .priority = GW_PRIORITY_DEVICE,
                                                 .fields = gadget_fields};

struct world {
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    struct gadget gadget;
    struct gw_vm vm;
    /* of one run; on the engine's control thread */
    bool runs, is_released;
};

static bool stop(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct world *world = opaque;

    fuzz_check(world->runs && !world->is_released);
    world->runs = false;
    return true;
}

static bool flush(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    return true;
}

static void resume_at_source(void *opaque)
{
    struct world *world = opaque;

    fuzz_check(!world->is_released);
    world->runs = true;
}

static void released(void *opaque)
{
    struct world *world = opaque;

    fuzz_check(!world->runs);
    world->is_released = true;
}

static bool is_running(void *opaque)
{
    return ((struct world *)opaque)->runs;
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
        .stop = stop,
        .flush = flush,
        .resume_at_source = resume_at_source,
        .released = released,
        .is_running = is_running,
    };
}

/* ---- the destination ------------------------------------------------------------------------- */

struct destination {
    int fd;
    struct stream_build build;
    uint8_t round_end[28], state_end[24]; /* the last that came */
    uint32_t attempt;
    bool saw_commit, said_running, said_not_here;
};

static bool read_exactly(int fd, uint8_t *to, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = recv(fd, to + done, n - done, 0);

        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}

/* Reads one record of the source and keeps what answers need of it; its type, 0 at the end. */
static uint16_t read_record(struct destination *d)
{
    uint8_t head[WIRE_HEADER_BYTES], payload[8192];

    if (!read_exactly(d->fd, head, sizeof head))
        return 0;
    uint16_t type = wire_load_u16(head);
    size_t n = wire_load_u32(head + 4), left = wire_load_u32(head + 16);
    if (n > sizeof payload || !read_exactly(d->fd, payload, n))
        return 0;
    for (uint8_t sink[4096]; left > 0; left -= MIN(left, sizeof sink))
        if (!read_exactly(d->fd, sink, MIN(left, sizeof sink)))
            return 0;
    if (type == WIRE_ROUND_END && n == sizeof d->round_end)
        memcpy(d->round_end, payload, n);
    if (type == WIRE_STATE_END && n == sizeof d->state_end && wire_load_u32(payload) != 0)
        memcpy(d->state_end, payload, n);
    d->saw_commit |= type == WIRE_COMMIT;
    return type;
}

static bool await(struct destination *d, uint16_t wanted)
{
    uint64_t limit_ns = clock_mono_ns() + 100 * NS_PER_MS; /* keep-alives may come for ever */
    uint16_t type = 1;

    while (type != wanted && type != 0 && clock_mono_ns() < limit_ns)
        type = read_record(d);
    return type == wanted;
}

static bool send_built(struct destination *d)
{
    GByteArray *bytes = d->build.bytes;
    bool is_sent = send(d->fd, bytes->data, bytes->len, MSG_NOSIGNAL) == (ssize_t)bytes->len;

    g_byte_array_set_size(bytes, 0);
    return is_sent;
}

static bool say(struct destination *d, uint16_t type, const uint8_t *payload, size_t n)
{
    stream_build_add(&d->build, type, BUILD_LIES, payload, n, NULL, 0);
    return send_built(d);
}

static bool say_hello(struct destination *d)
{
    uint8_t payload[92] = {12};

    await(d, WIRE_HELLO);
    wire_store_u32(payload + 4, 256);
    wire_store_u64(payload + 16, 15); /* features */
    return say(d, WIRE_HELLO, payload, sizeof payload);
}

static bool say_verdict(struct destination *d)
{
    static const uint8_t payload[5] = {1};

    await(d, WIRE_RAM_MAP);
    return say(d, WIRE_SCHEMA_VERDICT, payload, sizeof payload);
}

static bool say_rehearsed(struct destination *d)
{
    static const uint8_t payload[23] = {[20] = 1};

    return say(d, WIRE_REHEARSAL_REPORT, payload, sizeof payload);
}

static bool say_acknowledged(struct destination *d)
{
    uint8_t payload[38] = {0};

    await(d, WIRE_ROUND_END);
    memcpy(payload, d->round_end, 4);
    wire_store_u16(payload + 4, WIRE_NO_CHANNEL);
    memcpy(payload + 6, d->round_end + 4, 8);
    memcpy(payload + 14, d->round_end + 20, 8);
    return say(d, WIRE_ROUND_ACK, payload, sizeof payload);
}

static bool say_loaded(struct destination *d)
{
    uint8_t payload[32] = {0};

    await(d, WIRE_STATE_END);
    memcpy(payload, d->state_end, 8);
    memcpy(payload + 16, d->state_end + 16, 8);
    return say(d, WIRE_LOADED, payload, sizeof payload);
}

static bool say_running(struct destination *d)
{
    uint8_t payload[13] = {0};

    await(d, WIRE_COMMIT);
    memcpy(payload, d->state_end, 4);
    payload[4] = 1;
    d->said_running = true;
    return say(d, WIRE_RUNNING, payload, sizeof payload);
}

static bool say_goodbye(struct destination *d)
{
    static const uint8_t payload[1] = {1};

    return say(d, WIRE_GOODBYE, payload, sizeof payload);
}

static bool say_anything(struct destination *d, struct fuzz_input *in)
{
    uint16_t type = stream_build_record(&d->build, in);

    d->said_running |= type == WIRE_RUNNING;
    d->said_not_here |= type == WIRE_ABORT || type == WIRE_OWNER_ANSWER;
    return send_built(d);
}

static bool greet(struct destination *d)
{
    uint8_t preamble[WIRE_PREAMBLE_BYTES];

    if (!read_exactly(d->fd, preamble, sizeof preamble))
        return false;
    stream_build_set_id(&d->build, preamble + 16);
    return send_built(d);
}

static void play(struct destination *d, struct fuzz_input *in)
{
    static bool (*const answers[])(struct destination * d) = {
        say_hello,  say_verdict, say_rehearsed, say_acknowledged,
        say_loaded, say_running, say_goodbye,
    };
    const struct timeval patience = {.tv_usec = 30000};
    bool is_open;

    stream_build_init(&d->build, WIRE_ROLE_CONTROL, 0, WIRE_SIDE_DESTINATION);
    is_open = greet(d);
    setsockopt(d->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (unsigned i = 0; i < MAX_STEPS && is_open && fuzz_more(in); i++) {
        unsigned step = (unsigned)fuzz_take(in, 1);

        is_open = step < G_N_ELEMENTS(answers) ? answers[step](d) : say_anything(d, in);
    }
    shutdown(d->fd, SHUT_WR);
    while (read_record(d))
        continue; /* a COMMIT may be among the last words */
    stream_build_clear(&d->build);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    struct fuzz_input in = {data, size};
    struct gw_migrate_params params = {.silence_limit_ns = SILENCE_MS * NS_PER_MS,
                                       .max_blackout_ns = 5 * NS_PER_S};
    struct gw_source_status status;
    struct destination d = {0};
    uint64_t limit_ns = clock_mono_ns() + GIVE_UP_MS * NS_PER_MS;
    int fds[2];

    if (!world.memory)
        set_up(&world);
    world.runs = true;
    world.is_released = false;
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    d.fd = fds[1];
    g_autofree char *uri = g_strdup_printf("fd:%d", fds[0]);
    struct gw_source *source = gw_source_start(&world.vm, uri, &params, NULL, NULL);
    fuzz_check(source != NULL);
    play(&d, &in);
    do {
        fuzz_check(clock_mono_ns() < limit_ns);
        gw_source_wait(source, clock_mono_ns() + 20 * NS_PER_MS);
        gw_source_get_status(source, &status);
    } while (!gw_source_state_is_final(status.state) && status.state != GW_SOURCE_IN_DOUBT);
    gw_source_free(source);
    close(d.fd);
    if (status.state == GW_SOURCE_COMPLETED) {
        fuzz_check(d.said_running && !world.runs && world.is_released);
    } else if (status.state == GW_SOURCE_IN_DOUBT) {
        fuzz_check(!world.runs && !world.is_released);
    } else {
        fuzz_check(world.runs && !world.is_released);
        fuzz_check(!d.saw_commit || d.said_not_here);
    }
    return 0;
}
