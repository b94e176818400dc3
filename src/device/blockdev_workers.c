/* SPDX-License-Identifier: MIT */
/*
 * A few threads that execute block requests, for hosts without io_uring and for what it cannot do.
 *
 * Locks: lock guards the queue; it is held neither during I/O nor during done().
 */
#include <pthread.h>
#include <signal.h>

#include "device/blockdev_internal.h"

#define N_THREADS 4

struct blockdev_workers {
    /* fixed after construction */
    const struct blockdev_file *file;
    void (*done)(void *opaque, struct blockdev_request *request, int result);
    void *opaque;
    pthread_mutex_t lock;
    pthread_cond_t has_work;
    /* guarded by lock */
    struct blockdev_request *first, **last; /* last: where the next one is linked */
    pthread_t threads[N_THREADS];
    unsigned n_threads, n_idle; /* threads are made when work finds none idle */
    bool has_to_quit;
};

static void *worker(void *opaque)
{
    struct blockdev_workers *workers = opaque;
    pthread_mutex_lock(&workers->lock);
    for (;;) {
        while (!workers->first && !workers->has_to_quit) {
            workers->n_idle++;
            pthread_cond_wait(&workers->has_work, &workers->lock);
            workers->n_idle--;
        }
        struct blockdev_request *request = workers->first;
        if (!request)
            break;
        workers->first = request->next;
        if (!workers->first)
            workers->last = &workers->first;
        pthread_mutex_unlock(&workers->lock);
        workers->done(workers->opaque, request, blockdev_file_execute(workers->file, request));
        pthread_mutex_lock(&workers->lock);
    }
    pthread_mutex_unlock(&workers->lock);
    return NULL;
}

static void add_thread_locked(struct blockdev_workers *workers)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    if (pthread_create(&workers->threads[workers->n_threads], NULL, worker, workers) == 0)
        pthread_setname_np(workers->threads[workers->n_threads++], "blockdev");
    else if (workers->n_threads == 0)
        g_error("no thread for disk I/O");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

struct blockdev_workers *
blockdev_workers_new(const struct blockdev_file *file,
                     void (*done)(void *opaque, struct blockdev_request *request, int result),
                     void *opaque)
{
    struct blockdev_workers *workers = g_new0(struct blockdev_workers, 1);
    workers->file = file;
    workers->done = done;
    workers->opaque = opaque;
    workers->last = &workers->first;
    pthread_mutex_init(&workers->lock, NULL);
    pthread_cond_init(&workers->has_work, NULL);
    return workers;
}

void blockdev_workers_free(struct blockdev_workers *workers)
{
    pthread_mutex_lock(&workers->lock);
    workers->has_to_quit = true;
    pthread_cond_broadcast(&workers->has_work);
    unsigned n_threads = workers->n_threads;
    pthread_mutex_unlock(&workers->lock);
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(workers->threads[i], NULL);
    pthread_cond_destroy(&workers->has_work);
    pthread_mutex_destroy(&workers->lock);
    g_free(workers);
}

void blockdev_workers_queue(struct blockdev_workers *workers, struct blockdev_request *request)
{
    pthread_mutex_lock(&workers->lock);
    request->next = NULL;
    *workers->last = request;
    workers->last = &request->next;
    if (workers->n_idle == 0 && workers->n_threads < N_THREADS)
        add_thread_locked(workers);
    pthread_cond_signal(&workers->has_work);
    pthread_mutex_unlock(&workers->lock);
}
