/* SPDX-License-Identifier: MIT */
/*
 * The I/O loop: one thread that polls file descriptors, bells and timers for all devices.
 *
 * Model: each turn builds the poll set from the enabled sources (a dozen at most, so building it is
 * cheaper than keeping an epoll set right), asks the pollers (libslirp) for theirs, sleeps until a
 * descriptor, a timer or a wake-up, and dispatches. Work is found under loop->lock and run without
 * it, under the device's lock, after asking again whether it is still wanted: so disabling a source
 * or re-arming a timer with the device lock held takes effect at once.
 *
 * Locks: dev->lock -> loop->lock. loop->lock is a leaf and never held while a callback runs.
 *
 * Waking: ORDER: whoever adds work publishes it (seq_cst) and then reads is_sleeping; the loop sets
 * is_sleeping (seq_cst) and then looks for work once more before it polls. One of the two sees the
 * other, so a wake-up costs a system call only when the loop really sleeps.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/fdio.h"
#include "base/latency.h"
#include "device/io_poller.h"

#define TIMER_SLACK_NS 1000

/* What sources, bells, timers and pollers share. */
struct io_item {
    /* fixed after construction */
    struct io_loop *loop;
    struct device *dev;
    struct latency_probe *probe;
    void *opaque;
    GPtrArray *list; /* the loop's list of its kind */
};

struct io_source {
    struct io_item item;
    int fd;
    short poll_events;
    io_fn fn;
    bool is_enabled; /* guarded by loop->lock */
};

struct io_bell {
    struct io_item item;
    void (*fn)(struct device *dev, void *opaque);
    atomic_bool is_rung; /* set by any thread, cleared by the loop before it calls fn */
    atomic_bool is_enabled;
};

struct io_timer {
    struct io_item item;
    void (*fn)(struct device *dev, void *opaque);
    uint64_t deadline_ns; /* guarded by loop->lock */
};

struct io_poller {
    struct io_item item;
    const struct io_poller_ops *ops;
    /* owned by the loop's thread: its part of the poll set of this turn */
    guint first, n;
};

struct io_call {
    void (*fn)(void *opaque);
    void *opaque;
    bool *is_done; /* NULL: nobody waits; guarded by loop->lock */
};

struct io_loop {
    /* fixed after construction */
    struct latency_book *book;
    char *name;
    int wake_fd;
    pthread_t thread;
    /* atomic; written by the loop (true) and by who wakes it (false) */
    atomic_bool is_sleeping;
    pthread_mutex_t lock;
    /* guarded by lock */
    pthread_cond_t changed; /* current has changed, or a call is done */
    GPtrArray *sources, *bells, *timers, *pollers;
    GArray *calls;           /* of struct io_call */
    GPtrArray *ready;        /* items found in this turn; freed ones become NULL */
    GPtrArray *polled;       /* the source of each pollfd from [1] on; freed ones become NULL */
    struct io_item *current; /* being dispatched */
    bool has_to_quit;
    /* owned by the loop's thread */
    GArray *poll_set; /* of struct pollfd; [0] is wake_fd */
};

/* ---- waking ---- */

static void loop_wake(struct io_loop *loop)
{
    if (atomic_exchange(&loop->is_sleeping, false))
        fd_event_signal(loop->wake_fd);
}

static bool is_on_loop_thread(const struct io_loop *loop)
{
    return pthread_equal(loop->thread, pthread_self());
}

/* ---- items ---- */

static void item_init(struct io_item *item, struct io_loop *loop, struct device *dev,
                      const char *name, void *opaque, GPtrArray *list)
{
    item->loop = loop;
    item->dev = dev;
    item->opaque = opaque;
    item->list = list;
    item->probe = latency_book_probe_f(loop->book, "%s/%s", dev->id, name);
    pthread_mutex_lock(&loop->lock);
    g_ptr_array_add(list, item);
    pthread_mutex_unlock(&loop->lock);
}

static void forget(GPtrArray *items, const struct io_item *item)
{
    for (guint i = 0; i < items->len; i++)
        if (g_ptr_array_index(items, i) == item)
            g_ptr_array_index(items, i) = NULL;
}

/* Takes the item out of everything; when it returns the loop does not know it any more. */
static void item_remove(struct io_item *item)
{
    struct io_loop *loop = item->loop;
    pthread_mutex_lock(&loop->lock);
    g_ptr_array_remove(item->list, item);
    forget(loop->ready, item);
    forget(loop->polled, item);
    while (loop->current == item)
        pthread_cond_wait(&loop->changed, &loop->lock);
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop); /* the descriptor leaves the poll set before its owner closes it for long */
}

struct io_source *io_source_new(struct io_loop *loop, struct device *dev, const char *name, int fd,
                                unsigned poll_events, io_fn fn, void *opaque)
{
    struct io_source *source = g_new0(struct io_source, 1);
    source->fd = fd;
    source->poll_events = (short)poll_events;
    source->fn = fn;
    item_init(&source->item, loop, dev, name, opaque, loop->sources);
    return source;
}

void io_source_enable(struct io_source *source, bool is_enabled)
{
    struct io_loop *loop = source->item.loop;
    pthread_mutex_lock(&loop->lock);
    bool has_changed = source->is_enabled != is_enabled;
    source->is_enabled = is_enabled;
    pthread_mutex_unlock(&loop->lock);
    if (has_changed)
        loop_wake(loop);
}

void io_source_free(struct io_source *source)
{
    if (!source)
        return;
    item_remove(&source->item);
    g_free(source);
}

struct io_bell *io_bell_new(struct io_loop *loop, struct device *dev, const char *name,
                            void (*fn)(struct device *dev, void *opaque), void *opaque)
{
    struct io_bell *bell = g_new0(struct io_bell, 1);
    bell->fn = fn;
    atomic_init(&bell->is_enabled, true);
    item_init(&bell->item, loop, dev, name, opaque, loop->bells);
    return bell;
}

void io_bell_ring(struct io_bell *bell)
{
    if (!atomic_exchange(&bell->is_rung, true))
        loop_wake(bell->item.loop);
}

void io_bell_enable(struct io_bell *bell, bool is_enabled)
{
    atomic_store(&bell->is_enabled, is_enabled);
    if (is_enabled && atomic_load(&bell->is_rung))
        loop_wake(bell->item.loop);
}

void io_bell_free(struct io_bell *bell)
{
    if (!bell)
        return;
    item_remove(&bell->item);
    g_free(bell);
}

struct io_timer *io_timer_new(struct io_loop *loop, struct device *dev, const char *name,
                              void (*fn)(struct device *dev, void *opaque), void *opaque)
{
    struct io_timer *timer = g_new0(struct io_timer, 1);
    timer->fn = fn;
    timer->deadline_ns = UINT64_MAX;
    item_init(&timer->item, loop, dev, name, opaque, loop->timers);
    return timer;
}

void io_timer_set(struct io_timer *timer, uint64_t deadline_ns)
{
    struct io_loop *loop = timer->item.loop;
    pthread_mutex_lock(&loop->lock);
    bool is_sooner = deadline_ns < timer->deadline_ns;
    timer->deadline_ns = deadline_ns;
    pthread_mutex_unlock(&loop->lock);
    if (is_sooner) /* a later one is found out at the old wake-up */
        loop_wake(loop);
}

void io_timer_free(struct io_timer *timer)
{
    if (!timer)
        return;
    item_remove(&timer->item);
    g_free(timer);
}

struct io_poller *io_poller_new(struct io_loop *loop, struct device *dev, const char *name,
                                const struct io_poller_ops *ops, void *opaque)
{
    struct io_poller *poller = g_new0(struct io_poller, 1);
    poller->ops = ops;
    item_init(&poller->item, loop, dev, name, opaque, loop->pollers);
    loop_wake(loop);
    return poller;
}

void io_poller_kick(struct io_poller *poller)
{
    loop_wake(poller->item.loop);
}

void io_poller_free(struct io_poller *poller)
{
    if (!poller)
        return;
    item_remove(&poller->item);
    g_free(poller);
}

/* ---- dispatching (loop's thread) ---- */

/* Claims the i-th ready item for dispatch; NULL when it was freed meanwhile. */
static struct io_item *claim(struct io_loop *loop, guint i)
{
    pthread_mutex_lock(&loop->lock);
    struct io_item *item = g_ptr_array_index(loop->ready, i);
    loop->current = item;
    pthread_mutex_unlock(&loop->lock);
    return item;
}

static void release(struct io_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->current = NULL;
    pthread_cond_broadcast(&loop->changed);
    pthread_mutex_unlock(&loop->lock);
}

/* Starts a turn's list of ready items; claim() is the only other reader until the next begin. */
static void ready_begin(struct io_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    g_ptr_array_set_size(loop->ready, 0);
}

static void ready_end(struct io_loop *loop)
{
    pthread_mutex_unlock(&loop->lock);
}

static void dispatch_sources(struct io_loop *loop)
{
    ready_begin(loop);
    for (guint k = 0; k < loop->polled->len; k++) {
        bool is_ready = g_array_index(loop->poll_set, struct pollfd, k + 1).revents != 0;
        g_ptr_array_add(loop->ready, is_ready ? g_ptr_array_index(loop->polled, k) : NULL);
    }
    ready_end(loop);
    for (guint k = 0; k < loop->ready->len; k++) {
        struct io_source *source = (struct io_source *)claim(loop, k);
        if (!source)
            continue;
        short events = g_array_index(loop->poll_set, struct pollfd, k + 1).revents;
        struct io_item item = source->item;
        uint64_t began_ns = latency_begin();
        pthread_mutex_lock(&item.dev->lock);
        pthread_mutex_lock(&loop->lock);
        bool is_wanted = source->is_enabled;
        pthread_mutex_unlock(&loop->lock);
        if (is_wanted)
            source->fn(item.dev, item.opaque, (unsigned short)events);
        pthread_mutex_unlock(&item.dev->lock);
        if (is_wanted)
            latency_end(item.probe, began_ns, 0);
        release(loop);
    }
}

static bool bell_is_ready(struct io_bell *bell)
{
    return atomic_load(&bell->is_rung) && atomic_load(&bell->is_enabled);
}

static void dispatch_bells(struct io_loop *loop)
{
    ready_begin(loop);
    for (guint i = 0; i < loop->bells->len; i++)
        if (bell_is_ready(g_ptr_array_index(loop->bells, i)))
            g_ptr_array_add(loop->ready, g_ptr_array_index(loop->bells, i));
    ready_end(loop);
    for (guint i = 0; i < loop->ready->len; i++) {
        struct io_bell *bell = (struct io_bell *)claim(loop, i);
        if (!bell)
            continue;
        struct io_item item = bell->item;
        uint64_t began_ns = latency_begin();
        pthread_mutex_lock(&item.dev->lock);
        bool is_wanted = atomic_load(&bell->is_enabled) && atomic_exchange(&bell->is_rung, false);
        if (is_wanted)
            bell->fn(item.dev, item.opaque);
        pthread_mutex_unlock(&item.dev->lock);
        if (is_wanted)
            latency_end(item.probe, began_ns, 0);
        release(loop);
    }
}

static void dispatch_timers(struct io_loop *loop)
{
    uint64_t now_ns = clock_mono_ns();
    ready_begin(loop);
    for (guint i = 0; i < loop->timers->len; i++) {
        struct io_timer *timer = g_ptr_array_index(loop->timers, i);
        if (timer->deadline_ns <= now_ns)
            g_ptr_array_add(loop->ready, timer);
    }
    ready_end(loop);
    for (guint i = 0; i < loop->ready->len; i++) {
        struct io_timer *timer = (struct io_timer *)claim(loop, i);
        if (!timer)
            continue;
        struct io_item item = timer->item;
        uint64_t began_ns = latency_begin();
        pthread_mutex_lock(&item.dev->lock);
        pthread_mutex_lock(&loop->lock);
        bool is_due = timer->deadline_ns <= now_ns;
        if (is_due)
            timer->deadline_ns = UINT64_MAX;
        pthread_mutex_unlock(&loop->lock);
        if (is_due)
            timer->fn(item.dev, item.opaque);
        pthread_mutex_unlock(&item.dev->lock);
        if (is_due)
            latency_end(item.probe, began_ns, 0);
        release(loop);
    }
}

static void dispatch_pollers(struct io_loop *loop)
{
    ready_begin(loop);
    for (guint i = 0; i < loop->pollers->len; i++)
        g_ptr_array_add(loop->ready, g_ptr_array_index(loop->pollers, i));
    ready_end(loop);
    for (guint i = 0; i < loop->ready->len; i++) {
        struct io_poller *poller = (struct io_poller *)claim(loop, i);
        if (!poller)
            continue;
        struct io_item item = poller->item;
        struct pollfd *fds = &g_array_index(loop->poll_set, struct pollfd, 0) + poller->first;
        guint n = poller->n;
        poller->n = 0; /* a poller that is new in this turn has none */
        uint64_t began_ns = latency_begin();
        pthread_mutex_lock(&item.dev->lock);
        poller->ops->dispatch(item.dev, item.opaque, fds, n);
        pthread_mutex_unlock(&item.dev->lock);
        latency_end(item.probe, began_ns, 0);
        release(loop);
    }
}

static void run_calls(struct io_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    while (loop->calls->len > 0) {
        struct io_call call = g_array_index(loop->calls, struct io_call, 0);
        g_array_remove_index(loop->calls, 0);
        pthread_mutex_unlock(&loop->lock);
        call.fn(call.opaque);
        pthread_mutex_lock(&loop->lock);
        if (call.is_done) {
            *call.is_done = true;
            pthread_cond_broadcast(&loop->changed);
        }
    }
    pthread_mutex_unlock(&loop->lock);
}

/* ---- one turn (loop's thread) ---- */

/* Fills the poll set; returns the nearest deadline. */
static uint64_t build_poll_set(struct io_loop *loop)
{
    uint64_t deadline_ns = UINT64_MAX;
    struct pollfd wake = {.fd = loop->wake_fd, .events = POLLIN};
    g_array_set_size(loop->poll_set, 0);
    g_array_append_val(loop->poll_set, wake);

    pthread_mutex_lock(&loop->lock);
    g_ptr_array_set_size(loop->polled, 0);
    for (guint i = 0; i < loop->sources->len; i++) {
        struct io_source *source = g_ptr_array_index(loop->sources, i);
        if (!source->is_enabled)
            continue;
        struct pollfd fd = {.fd = source->fd, .events = source->poll_events};
        g_array_append_val(loop->poll_set, fd);
        g_ptr_array_add(loop->polled, source);
    }
    for (guint i = 0; i < loop->timers->len; i++) {
        const struct io_timer *timer = g_ptr_array_index(loop->timers, i);
        deadline_ns = MIN(deadline_ns, timer->deadline_ns);
    }
    pthread_mutex_unlock(&loop->lock);
    return deadline_ns;
}

static uint64_t fill_pollers(struct io_loop *loop, uint64_t deadline_ns)
{
    ready_begin(loop);
    for (guint i = 0; i < loop->pollers->len; i++)
        g_ptr_array_add(loop->ready, g_ptr_array_index(loop->pollers, i));
    ready_end(loop);
    for (guint i = 0; i < loop->ready->len; i++) {
        struct io_poller *poller = (struct io_poller *)claim(loop, i);
        if (!poller)
            continue;
        pthread_mutex_lock(&poller->item.dev->lock);
        poller->first = loop->poll_set->len;
        poller->ops->fill(poller->item.dev, poller->item.opaque, loop->poll_set, &deadline_ns);
        poller->n = loop->poll_set->len - poller->first;
        pthread_mutex_unlock(&poller->item.dev->lock);
        release(loop);
    }
    return deadline_ns;
}

/* Anything that came between building the set and going to sleep? */
static bool has_work(struct io_loop *loop)
{
    bool has = false;
    pthread_mutex_lock(&loop->lock);
    has = loop->calls->len > 0 || loop->has_to_quit;
    for (guint i = 0; i < loop->bells->len && !has; i++)
        has = bell_is_ready(g_ptr_array_index(loop->bells, i));
    pthread_mutex_unlock(&loop->lock);
    return has;
}

static void sleep_until(struct io_loop *loop, uint64_t deadline_ns, bool may_sleep)
{
    struct timespec timeout = {0};
    if (may_sleep && deadline_ns != UINT64_MAX) {
        uint64_t now_ns = clock_mono_ns();
        timeout = clock_timespec(deadline_ns > now_ns ? deadline_ns - now_ns : 0);
    }
    bool is_endless = may_sleep && deadline_ns == UINT64_MAX;
    struct pollfd *fds = &g_array_index(loop->poll_set, struct pollfd, 0);
    int n = ppoll(fds, loop->poll_set->len, is_endless ? NULL : &timeout, NULL);
    if (n < 0) /* EINTR, ENOMEM: nothing is known to be ready */
        for (guint i = 0; i < loop->poll_set->len; i++)
            fds[i].revents = 0;
    if (fds[0].revents)
        fd_event_take(loop->wake_fd);
}

static void *loop_thread(void *opaque)
{
    struct io_loop *loop = opaque;
    sigset_t all;
    sigfillset(&all); /* signals are the main thread's; a write to a broken pipe just fails here */
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    for (;;) {
        pthread_mutex_lock(&loop->lock);
        bool has_to_quit = loop->has_to_quit;
        pthread_mutex_unlock(&loop->lock);
        if (has_to_quit) {
            run_calls(loop);
            return NULL;
        }

        /* Set before the set is built: a change from here on clears it and rings wake_fd. */
        atomic_store(&loop->is_sleeping, true);
        uint64_t deadline_ns = build_poll_set(loop);
        deadline_ns = fill_pollers(loop, deadline_ns);
        sleep_until(loop, deadline_ns, !has_work(loop));
        atomic_store(&loop->is_sleeping, false);

        run_calls(loop);
        dispatch_bells(loop);
        dispatch_sources(loop);
        dispatch_timers(loop);
        dispatch_pollers(loop);
    }
}

/* ---- the loop itself ---- */

struct io_loop *io_loop_new(const char *name, struct latency_book *book)
{
    struct io_loop *loop = g_new0(struct io_loop, 1);
    loop->book = book;
    loop->name = g_strdup(name);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0)
        g_error("io_loop: eventfd: %s", g_strerror(errno));
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->changed, NULL);
    loop->sources = g_ptr_array_new();
    loop->bells = g_ptr_array_new();
    loop->timers = g_ptr_array_new();
    loop->pollers = g_ptr_array_new();
    loop->calls = g_array_new(FALSE, FALSE, sizeof(struct io_call));
    loop->ready = g_ptr_array_new();
    loop->poll_set = g_array_new(FALSE, FALSE, sizeof(struct pollfd));
    loop->polled = g_ptr_array_new();
    /* The thread begins with taking the lock, so it does not miss its own name in loop->thread. */
    pthread_mutex_lock(&loop->lock);
    int rc = pthread_create(&loop->thread, NULL, loop_thread, loop);
    pthread_mutex_unlock(&loop->lock);
    if (rc != 0)
        g_error("io_loop: pthread_create: %s", g_strerror(rc));
    g_autofree char *short_name = g_strndup(name, 15);
    pthread_setname_np(loop->thread, short_name);
    return loop;
}

void io_loop_free(struct io_loop *loop)
{
    if (!loop)
        return;
    assert(!is_on_loop_thread(loop));
    pthread_mutex_lock(&loop->lock);
    loop->has_to_quit = true;
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
    pthread_join(loop->thread, NULL);
    assert(loop->sources->len + loop->bells->len + loop->timers->len + loop->pollers->len == 0);
    g_ptr_array_free(loop->sources, TRUE);
    g_ptr_array_free(loop->bells, TRUE);
    g_ptr_array_free(loop->timers, TRUE);
    g_ptr_array_free(loop->pollers, TRUE);
    g_array_free(loop->calls, TRUE);
    g_ptr_array_free(loop->ready, TRUE);
    g_array_free(loop->poll_set, TRUE);
    g_ptr_array_free(loop->polled, TRUE);
    pthread_cond_destroy(&loop->changed);
    pthread_mutex_destroy(&loop->lock);
    close(loop->wake_fd);
    g_free(loop->name);
    g_free(loop);
}

static void add_call(struct io_loop *loop, void (*fn)(void *opaque), void *opaque, bool *is_done)
{
    struct io_call call = {.fn = fn, .opaque = opaque, .is_done = is_done};
    pthread_mutex_lock(&loop->lock);
    g_array_append_val(loop->calls, call);
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
}

void io_loop_run(struct io_loop *loop, void (*fn)(void *opaque), void *opaque)
{
    add_call(loop, fn, opaque, NULL);
}

void io_loop_run_sync(struct io_loop *loop, void (*fn)(void *opaque), void *opaque)
{
    if (is_on_loop_thread(loop)) {
        fn(opaque);
        return;
    }
    bool is_done = false;
    add_call(loop, fn, opaque, &is_done);
    pthread_mutex_lock(&loop->lock);
    while (!is_done)
        pthread_cond_wait(&loop->changed, &loop->lock);
    pthread_mutex_unlock(&loop->lock);
}
