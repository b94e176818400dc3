/* SPDX-License-Identifier: MIT */
/*
 * The I/O loop: bells, timers, sources and calls, and that disabling and freeing mean it.
 */
#include "rig.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/fdio.h"
#include "device/io_poller.h"

struct subject {
    struct device dev;
    struct rig *rig;
    pthread_cond_t changed; /* with dev.lock */
    unsigned n_calls;
    pthread_t thread;
    int fd;
    struct io_source *source;
    struct io_bell *bell;
    struct io_timer *timer;
};

static const struct device_ops subject_ops = {.type = "subject"};

static void subject_init(struct subject *subject, struct rig *rig)
{
    *subject = (struct subject){.rig = rig};
    device_init(&subject->dev, &subject_ops, "subject", NULL, NULL);
    pthread_cond_init(&subject->changed, NULL);
}

static void subject_clear(struct subject *subject)
{
    pthread_cond_destroy(&subject->changed);
    device_clear(&subject->dev);
}

static void count(struct device *dev, void *opaque)
{
    struct subject *subject = opaque;
    assert_int_not_equal(pthread_mutex_trylock(&dev->lock), 0);
    subject->n_calls++;
    subject->thread = pthread_self();
    pthread_cond_broadcast(&subject->changed);
}

static void count_and_drain(struct device *dev, void *opaque, unsigned poll_events)
{
    struct subject *subject = opaque;
    assert_true(poll_events & POLLIN);
    fd_event_take(subject->fd);
    count(dev, opaque);
}

static void await_calls(struct subject *subject, unsigned n)
{
    struct timespec give_up;
    clock_gettime(CLOCK_REALTIME, &give_up);
    give_up.tv_sec += 20;
    pthread_mutex_lock(&subject->dev.lock);
    while (subject->n_calls < n)
        assert_int_equal(pthread_cond_timedwait(&subject->changed, &subject->dev.lock, &give_up),
                         0);
    pthread_mutex_unlock(&subject->dev.lock);
}

static unsigned calls(struct subject *subject)
{
    pthread_mutex_lock(&subject->dev.lock);
    unsigned n = subject->n_calls;
    pthread_mutex_unlock(&subject->dev.lock);
    return n;
}

static void a_bell_is_heard_on_the_loops_thread(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    struct io_bell *bell = io_bell_new(rig->loop, &subject.dev, "bell", count, &subject);
    io_bell_ring(bell);
    await_calls(&subject, 1);
    assert_false(pthread_equal(subject.thread, pthread_self()));
    rig_settle(rig);
    assert_int_equal(calls(&subject), 1);
    io_bell_free(bell);
    subject_clear(&subject);
}

static void a_ring_while_disabled_is_kept(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    struct io_bell *bell = io_bell_new(rig->loop, &subject.dev, "bell", count, &subject);
    io_bell_enable(bell, false);
    io_bell_ring(bell);
    io_bell_ring(bell);
    rig_settle(rig);
    assert_int_equal(calls(&subject), 0);
    io_bell_enable(bell, true);
    await_calls(&subject, 1);
    rig_settle(rig);
    assert_int_equal(calls(&subject), 1);
    io_bell_free(bell);
    subject_clear(&subject);
}

static void ring_again(struct device *dev, void *opaque)
{
    struct subject *subject = opaque;
    count(dev, opaque);
    if (subject->n_calls < 5)
        io_bell_ring(subject->bell);
}

static void a_ring_during_the_call_is_another_call(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    subject.bell = io_bell_new(rig->loop, &subject.dev, "bell", ring_again, &subject);
    io_bell_ring(subject.bell);
    await_calls(&subject, 5);
    io_bell_free(subject.bell);
    subject_clear(&subject);
}

static void a_source_runs_only_while_enabled(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    subject.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct io_source *source = io_source_new(rig->loop, &subject.dev, "source", subject.fd, POLLIN,
                                             count_and_drain, &subject);
    fd_event_signal(subject.fd);
    rig_settle(rig);
    assert_int_equal(calls(&subject), 0);
    io_source_enable(source, true);
    await_calls(&subject, 1);

    /* Disabled with the lock held: nothing runs from then on, whatever has been seen before. */
    pthread_mutex_lock(&subject.dev.lock);
    fd_event_signal(subject.fd);
    io_source_enable(source, false);
    unsigned n = subject.n_calls;
    pthread_mutex_unlock(&subject.dev.lock);
    rig_settle(rig);
    assert_int_equal(calls(&subject), n);
    io_source_free(source);
    close(subject.fd);
    subject_clear(&subject);
}

static void timers_fire_once_and_can_be_moved_or_switched_off(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    struct io_timer *timer = io_timer_new(rig->loop, &subject.dev, "timer", count, &subject);
    io_timer_set(timer, 0);
    await_calls(&subject, 1);
    rig_settle(rig);
    assert_int_equal(calls(&subject), 1);

    io_timer_set(timer, clock_mono_ns() + 3600 * NS_PER_S);
    io_timer_set(timer, clock_mono_ns() + NS_PER_MS);
    await_calls(&subject, 2);

    pthread_mutex_lock(&subject.dev.lock);
    io_timer_set(timer, 0);
    io_timer_set(timer, UINT64_MAX);
    pthread_mutex_unlock(&subject.dev.lock);
    rig_settle(rig);
    assert_int_equal(calls(&subject), 2);
    io_timer_free(timer);
    subject_clear(&subject);
}

static void enter_and_wait(struct device *dev, void *opaque)
{
    struct subject *subject = opaque;
    count(dev, opaque);
    /* Lets the other thread run into io_bell_free while we are still here. */
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 5000000;
    if (soon.tv_nsec >= 1000000000) {
        soon.tv_sec++;
        soon.tv_nsec -= 1000000000;
    }
    pthread_cond_timedwait(&subject->changed, &dev->lock, &soon);
    subject->n_calls = 100;
}

static void free_waits_for_the_running_call(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    subject_init(&subject, rig);
    struct io_bell *bell = io_bell_new(rig->loop, &subject.dev, "bell", enter_and_wait, &subject);
    io_bell_ring(bell);
    await_calls(&subject, 1);
    io_bell_free(bell);
    assert_int_equal(subject.n_calls, 100); /* not a race: the call is over */
    subject_clear(&subject);
}

static void add_one(void *opaque)
{
    ++*(unsigned *)opaque;
}

static void calls_run_in_order_and_sync_waits(void **state)
{
    struct rig *rig = *state;
    unsigned n = 0;
    for (unsigned i = 0; i < 100; i++)
        io_loop_run(rig->loop, add_one, &n);
    io_loop_run_sync(rig->loop, add_one, &n);
    assert_int_equal(n, 101);
}

static void call_sync_from_inside(void *opaque)
{
    void **args = opaque;
    io_loop_run_sync(args[0], add_one, args[1]);
}

static void sync_on_the_loops_own_thread_does_not_hang(void **state)
{
    struct rig *rig = *state;
    unsigned n = 0;
    void *args[2] = {rig->loop, &n};
    io_loop_run_sync(rig->loop, call_sync_from_inside, args);
    assert_int_equal(n, 1);
}

/* ---- pollers ---- */

struct polled {
    struct subject subject;
    int fd;
    uint64_t deadline_ns;
    unsigned n_ready;
};

static void polled_fill(struct device *dev, void *opaque, GArray *poll_set, uint64_t *deadline_ns)
{
    struct polled *polled = opaque;
    struct pollfd fd = {.fd = polled->fd, .events = POLLIN};
    g_array_append_val(poll_set, fd);
    *deadline_ns = MIN(*deadline_ns, polled->deadline_ns);
}

static void polled_dispatch(struct device *dev, void *opaque, const struct pollfd *fds, unsigned n)
{
    struct polled *polled = opaque;
    assert_true(n <= 1);
    if (n == 1 && fds[0].revents & POLLIN) {
        assert_int_equal(fds[0].fd, polled->fd);
        fd_event_take(polled->fd);
        polled->n_ready++;
        count(dev, &polled->subject);
    } else if (polled->deadline_ns <= clock_mono_ns()) {
        polled->deadline_ns = UINT64_MAX;
        count(dev, &polled->subject);
    }
}

static void pollers_bring_descriptors_and_deadlines(void **state)
{
    static const struct io_poller_ops ops = {.fill = polled_fill, .dispatch = polled_dispatch};
    struct rig *rig = *state;
    struct polled polled = {.deadline_ns = UINT64_MAX};
    subject_init(&polled.subject, rig);
    polled.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct io_poller *poller =
        io_poller_new(rig->loop, &polled.subject.dev, "poller", &ops, &polled);
    fd_event_signal(polled.fd);
    await_calls(&polled.subject, 1);
    pthread_mutex_lock(&polled.subject.dev.lock);
    assert_int_equal(polled.n_ready, 1);
    polled.deadline_ns = clock_mono_ns() + NS_PER_MS;
    pthread_mutex_unlock(&polled.subject.dev.lock);
    io_poller_kick(poller);
    await_calls(&polled.subject, 2);
    io_poller_free(poller);
    close(polled.fd);
    subject_clear(&polled.subject);
}

/* ---- stress ---- */

#define STRESS_ROUNDS 3000u

static void *ring_and_rearm(void *opaque)
{
    struct subject *subject = opaque;
    for (unsigned i = 0; i < STRESS_ROUNDS; i++) {
        io_bell_ring(subject->bell);
        io_timer_set(subject->timer, i % 2 ? UINT64_MAX : clock_mono_ns());
        pthread_mutex_lock(&subject->dev.lock);
        io_source_enable(subject->source, i % 2);
        pthread_mutex_unlock(&subject->dev.lock);
        fd_event_signal(subject->fd);
    }
    return NULL;
}

static void take(struct device *dev, void *opaque, unsigned poll_events)
{
    struct subject *subject = opaque;
    fd_event_take(subject->fd);
    count(dev, opaque);
}

static void several_threads_use_everything_at_once(void **state)
{
    struct rig *rig = *state;
    struct subject subject;
    pthread_t threads[2];
    subject_init(&subject, rig);
    subject.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    subject.bell = io_bell_new(rig->loop, &subject.dev, "bell", count, &subject);
    subject.timer = io_timer_new(rig->loop, &subject.dev, "timer", count, &subject);
    subject.source =
        io_source_new(rig->loop, &subject.dev, "source", subject.fd, POLLIN, take, &subject);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ring_and_rearm, &subject), 0);
    /* Meanwhile items come and go. */
    for (unsigned i = 0; i < 200; i++) {
        struct io_bell *bell = io_bell_new(rig->loop, &subject.dev, "visitor", count, &subject);
        io_bell_ring(bell);
        io_bell_free(bell);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    unsigned before = calls(&subject);
    io_bell_ring(subject.bell);
    await_calls(&subject, before + 1);
    io_source_free(subject.source);
    io_timer_free(subject.timer);
    io_bell_free(subject.bell);
    close(subject.fd);
    subject_clear(&subject);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        RIG_TEST(a_bell_is_heard_on_the_loops_thread),
        RIG_TEST(a_ring_while_disabled_is_kept),
        RIG_TEST(a_ring_during_the_call_is_another_call),
        RIG_TEST(a_source_runs_only_while_enabled),
        RIG_TEST(timers_fire_once_and_can_be_moved_or_switched_off),
        RIG_TEST(free_waits_for_the_running_call),
        RIG_TEST(calls_run_in_order_and_sync_waits),
        RIG_TEST(sync_on_the_loops_own_thread_does_not_hang),
        RIG_TEST(pollers_bring_descriptors_and_deadlines),
        RIG_TEST(several_threads_use_everything_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
