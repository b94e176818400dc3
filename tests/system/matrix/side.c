/* SPDX-License-Identifier: MIT */
/* One side of a case: a process of its own with a guest and an engine. */
#include "side.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "guest.h"

#define RELAXED_NS (UINT64_C(120) * NS_PER_S)
#define N_ROUNDS   3
#define N_CHANNELS 2
#define KEPT_FD    3

struct actor {
    int fd;
    struct seat *seat;
    struct guest *guest;
    pthread_mutex_t lock; /* guards source, pace */
    enum side_pace pace;
    struct gw_source *source;
    struct gw_destination *destination;
};

static void tell(void *opaque)
{
    struct actor *actor = opaque;
    ssize_t n = send(actor->fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);

    (void)n; /* a full socket wakes the referee as well */
}

static void show(struct actor *actor, uint32_t state, const struct gw_migrate_failure *failure)
{
    actor->seat->failure_side = failure->side;
    actor->seat->failure_code = failure->code;
    g_strlcpy(actor->seat->reason, failure->reason, sizeof actor->seat->reason);
    atomic_fetch_or(&actor->seat->seen, 1u << state);
    atomic_store(&actor->seat->state, state);
    tell(actor);
}

static void on_source_event(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    struct actor *actor = opaque;
    struct gw_migrate_params relaxed = {.max_blackout_ns = RELAXED_NS};
    struct gw_source_status status;

    pthread_mutex_lock(&actor->lock);
    if (event == GW_MIGRATE_EVENT_STATE) {
        gw_source_get_status(actor->source, &status);
        show(actor, value, &status.failure);
    } else if (value == N_ROUNDS && actor->pace == SIDE_ROUNDS) {
        gw_source_set_budgets(actor->source, &relaxed);
    }
    pthread_mutex_unlock(&actor->lock);
}

static void on_destination_event(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    struct actor *actor = opaque;
    struct gw_destination_status status;

    if (event != GW_MIGRATE_EVENT_STATE)
        return;
    pthread_mutex_lock(&actor->lock);
    gw_destination_get_status(actor->destination, &status);
    show(actor, value, &status.failure);
    pthread_mutex_unlock(&actor->lock);
}

static void die(const char *what, GError *error)
{
    fprintf(stderr, "%s: %s\n", what, error ? error->message : "failed");
    _exit(3);
}

static void migrate(struct actor *actor, const struct side_order *order)
{
    struct gw_migrate_params params = {
        .max_blackout_ns = order->pace == SIDE_FAST ? RELAXED_NS : 1,
        .channels = N_CHANNELS,
        .mode = GW_MODE_PRECOPY, /* post-copy has tests of its own */
        .silence_limit_ns = order->silence_ms * NS_PER_MS,
    };
    struct gw_migrate_observer observer = {.event = on_source_event, .opaque = actor};
    struct gw_source *old = actor->source;
    GError *error = NULL;

    gw_source_free(old);
    pthread_mutex_lock(&actor->lock);
    actor->pace = order->pace;
    atomic_store(&actor->seat->state, 0);
    atomic_store(&actor->seat->seen, 0);
    actor->source = gw_source_start(guest_vm(actor->guest), order->uri, &params, &observer, &error);
    pthread_mutex_unlock(&actor->lock);
    if (!actor->source)
        die("gw_source_start", error);
}

static void obey(struct actor *actor, const struct side_order *order)
{
    struct gw_migrate_params relaxed = {.max_blackout_ns = RELAXED_NS};

    switch (order->what) {
    case SIDE_MIGRATE:
        migrate(actor, order);
        break;
    case SIDE_RELAX:
        gw_source_set_budgets(actor->source, &relaxed);
        break;
    case SIDE_RUN_HERE:
        gw_source_resolve(actor->source, GW_RESOLVE_RUN_HERE, NULL);
        break;
    case SIDE_CHECK:
        guest_check(actor->guest);
        break;
    }
    atomic_fetch_add(&actor->seat->n_answers, 1);
    tell(actor);
}

/* The child after fork; parent: the referee. */
static void __attribute__((noreturn))
side_main(int fd, struct board *board, unsigned seat, const char *uri, uint32_t silence_ms)
{
    struct actor *actor = g_new0(struct actor, 1);
    struct gw_migrate_params params = {.silence_limit_ns = silence_ms * NS_PER_MS};
    struct gw_migrate_observer observer = {.event = on_destination_event, .opaque = actor};
    struct side_order order;
    GError *error = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    actor->fd = fd;
    actor->seat = &board->seats[seat];
    pthread_mutex_init(&actor->lock, NULL);
    actor->guest = guest_new(board, seat, tell, actor);
    if (uri) {
        pthread_mutex_lock(&actor->lock);
        actor->destination =
            gw_destination_start(guest_vm(actor->guest), uri, &params, &observer, &error);
        pthread_mutex_unlock(&actor->lock);
        if (!actor->destination)
            die("gw_destination_start", error);
    } else {
        guest_boot(actor->guest);
    }
    atomic_fetch_add(&actor->seat->n_answers, 1);
    tell(actor);
    while (recv(fd, &order, sizeof order, MSG_WAITALL) == (ssize_t)sizeof order)
        obey(actor, &order);
    _exit(0);
}

static void side_start(struct side *side, struct board *board, unsigned seat, const char *uri,
                       uint32_t silence_ms)
{
    int fds[2];
    uint32_t n_answers = atomic_load(&board->seats[seat].n_answers);
    char byte;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        die("socketpair", NULL);
    side->seat = seat;
    side->pid = fork();
    if (side->pid < 0)
        die("fork", NULL);
    if (side->pid == 0) {
        /* Nothing of the referee's may stay open here: a copy would keep a dead link alive. */
        dup2(fds[1], KEPT_FD);
        close_range(KEPT_FD + 1, ~0u, 0);
        side_main(KEPT_FD, board, seat, uri, silence_ms);
    }
    close(fds[1]);
    side->fd = fds[0];
    while (atomic_load(&board->seats[seat].n_answers) == n_answers)
        if (recv(side->fd, &byte, 1, 0) == 0)
            die("a side ended before it began", NULL);
}

void side_start_destination(struct side *side, struct board *board, unsigned seat, const char *uri,
                            uint32_t silence_ms)
{
    side_start(side, board, seat, uri, silence_ms);
}

void side_start_source(struct side *side, struct board *board, unsigned seat)
{
    side_start(side, board, seat, NULL, 0);
}

void side_order(struct side *side, const struct side_order *order)
{
    if (send(side->fd, order, sizeof *order, MSG_NOSIGNAL) != (ssize_t)sizeof *order)
        fprintf(stderr, "an order was lost: %s\n", strerror(errno));
}

void side_kill(struct side *side, struct board *board)
{
    if (side->pid <= 0)
        return;
    kill(side->pid, SIGKILL);
    while (waitpid(side->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    atomic_fetch_and(&board->running, ~(1u << side->seat));
    close(side->fd);
    side->pid = 0;
    side->fd = -1;
}
