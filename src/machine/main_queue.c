/* SPDX-License-Identifier: MIT */
/* Calls handed from any thread to the thread of a main context. */
#include "machine/main_queue.h"

#include <errno.h>
#include <glib-unix.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct call {
    struct call *next;
    void (*fn)(void *opaque);
    void *opaque;
    GDestroyNotify free_opaque;
};

struct main_queue {
    int event_fd;
    GSource *source;
    pthread_mutex_t lock;
    struct call *first, **end; /* guarded by lock */
};

static struct call *take(struct main_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    struct call *call = queue->first;
    if (call) {
        queue->first = call->next;
        if (!queue->first)
            queue->end = &queue->first;
    }
    pthread_mutex_unlock(&queue->lock);
    return call;
}

static void call_free(struct call *call)
{
    if (call->free_opaque)
        call->free_opaque(call->opaque);
    g_free(call);
}

static gboolean on_event(gint fd, GIOCondition condition, gpointer opaque)
{
    struct main_queue *queue = opaque;
    uint64_t count;

    while (read(fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
    for (struct call *call; (call = take(queue)) != NULL; call_free(call))
        call->fn(call->opaque);
    return G_SOURCE_CONTINUE;
}

struct main_queue *main_queue_new(GMainContext *context)
{
    struct main_queue *queue = g_new0(struct main_queue, 1);

    queue->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g_assert(queue->event_fd >= 0);
    queue->end = &queue->first;
    pthread_mutex_init(&queue->lock, NULL);
    queue->source = g_unix_fd_source_new(queue->event_fd, G_IO_IN);
    g_source_set_callback(queue->source, G_SOURCE_FUNC(on_event), queue, NULL);
    g_source_attach(queue->source, context);
    return queue;
}

void main_queue_free(struct main_queue *queue)
{
    if (!queue)
        return;
    g_source_destroy(queue->source);
    g_source_unref(queue->source);
    for (struct call *call; (call = take(queue)) != NULL;)
        call_free(call);
    pthread_mutex_destroy(&queue->lock);
    close(queue->event_fd);
    g_free(queue);
}

void main_queue_post(struct main_queue *queue, void (*fn)(void *opaque), void *opaque,
                     GDestroyNotify free_opaque)
{
    struct call *call = g_new(struct call, 1);
    const uint64_t one = 1;

    *call = (struct call){.fn = fn, .opaque = opaque, .free_opaque = free_opaque};
    pthread_mutex_lock(&queue->lock);
    *queue->end = call;
    queue->end = &call->next;
    pthread_mutex_unlock(&queue->lock);
    while (write(queue->event_fd, &one, sizeof one) < 0 && errno == EINTR)
        ; /* EAGAIN: it is ringing already */
}
