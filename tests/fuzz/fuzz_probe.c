/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the destination's end of a probe of the link.
 *
 * Input: records for stream_build, as a prober sends them after its preamble. Checked: the probe
 * ends, with an error or by GOODBYE; what it asks about the machine is asked at most once, and only
 * whole; our own machine's state stays as it was.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "gadget.h"
#include "migrate/probe.h"
#include "migrate/verdict.h"
#include "stream_build.h"

#define RAM_BYTES  (UINT64_C(256) << 10)
#define GIVE_UP_MS 20000

struct world {
    struct gw_memory *memory;
    struct gw_state_registry *registry;
    struct gadget gadget;
    unsigned n_asked; /* of one run */
};

static bool judge(void *opaque, const struct probe_question *question, struct probe_answer *answer,
                  GError **error)
{
    struct world *world = opaque;
    struct verdict verdict;
    gsize n_bytes;
    const uint8_t *bytes = g_bytes_get_data(question->schema, &n_bytes);
    struct gw_schema *schema = gw_schema_parse(bytes, n_bytes, error);

    fuzz_check(++world->n_asked == 1);
    fuzz_check(question->hello.page_shift == 12);
    if (!schema)
        return false;
    verdict_init(&verdict);
    verdict_compare_features(&verdict, question->hello.required, 3);
    verdict_compare_ram(&verdict, world->memory, &question->map, NULL);
    struct gw_state_plan *plan = gw_state_plan_new(schema, world->registry);
    verdict_compare_schema(&verdict, plan);
    gw_state_plan_free(plan);
    answer->hello = (struct wire_hello){.page_shift = 12, .max_packet_pages = 1};
    answer->verdict = verdict_record(&verdict);
    answer->report = (struct wire_rehearsal_report){.is_ok = true};
    verdict_clear(&verdict);
    return true;
}

static bool is_unwanted(void *opaque)
{
    return false;
}

static void leaves(void *opaque)
{
}

static void set_up(struct world *world)
{
    fuzz_check(GW_ERROR != 0); /* made here, before there are threads to race for it */
    world->memory = gw_memory_new();
    fuzz_check(gw_memory_add_block(world->memory, "ram", 0, RAM_BYTES, NULL));
    world->registry = gw_state_registry_new();
    fuzz_check(
        gw_state_registry_add(world->registry, "gadget/0", &gadget_desc, &world->gadget, NULL));
}

struct prober {
    int fd;
    const uint8_t *bytes;
    size_t n_bytes;
};

static void *sink_main(void *opaque)
{
    const struct prober *prober = opaque;
    uint8_t sink[4096];

    while (recv(prober->fd, sink, sizeof sink, 0) > 0)
        continue;
    return NULL;
}

static void *prober_main(void *opaque)
{
    const struct prober *prober = opaque;

    for (size_t done = 0; done < prober->n_bytes;) {
        ssize_t n = send(prober->fd, prober->bytes + done, prober->n_bytes - done, MSG_NOSIGNAL);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    shutdown(prober->fd, SHUT_WR);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    const struct probe_judge ops = {judge, is_unwanted, leaves, &world};
    const int64_t deadline_ns = (int64_t)(clock_mono_ns() + GIVE_UP_MS * NS_PER_MS);
    struct fuzz_input in = {data, size};
    struct stream_build build;
    g_autoptr(GError) error = NULL;
    pthread_t thread, sink;
    int fds[2];

    if (!world.memory)
        set_up(&world);
    world.n_asked = 0;
    stream_build_init(&build, WIRE_ROLE_PROBE, 0, WIRE_SIDE_SOURCE);
    while (stream_build_record(&build, &in) != 0)
        continue;
    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    struct prober prober = {fds[1], build.bytes->data, build.bytes->len};
    fuzz_check(pthread_create(&thread, NULL, prober_main, &prober) == 0);
    fuzz_check(pthread_create(&sink, NULL, sink_main, &prober) == 0);
    struct gw_channel *channel = gw_channel_new_fd(fds[0], "fuzz", NULL, NULL);
    struct wire_stream *stream = wire_stream_accept(channel, deadline_ns, &error);
    fuzz_check(stream && wire_stream_confirm(stream, deadline_ns, NULL));
    bool is_served = probe_serve(stream, &ops, deadline_ns, &error);
    fuzz_check(is_served == (error == NULL));
    fuzz_check(!is_served || world.n_asked == 1);
    fuzz_check(clock_mono_ns() < (uint64_t)deadline_ns);
    wire_stream_free(stream);
    pthread_join(thread, NULL);
    pthread_join(sink, NULL);
    close(fds[1]);
    stream_build_clear(&build);
    return 0;
}
