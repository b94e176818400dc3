/* SPDX-License-Identifier: MIT */
/*
 * Calls handed from any thread to the thread of a main context.
 *
 * GLib could do this with idle sources, but its locks are invisible to ThreadSanitizer: every datum
 * handed over would look like a race. Here the hand-over is a pthread mutex; GLib only watches an
 * eventfd.
 *
 * Threads: post from any thread; everything else belongs to the context's thread.
 */
#ifndef GODWIT_MACHINE_MAIN_QUEUE_H
#define GODWIT_MACHINE_MAIN_QUEUE_H

#include <glib.h>

struct main_queue;

struct main_queue *main_queue_new(GMainContext *context);
/* Calls that were not made are dropped (their data freed). Nobody may post any more. */
void main_queue_free(struct main_queue *queue);
/* fn(opaque) runs soon on the context's thread, in the order of the posts, never at once; then, or
 * when the queue is freed before, free_opaque(opaque) (may be NULL). */
void main_queue_post(struct main_queue *queue, void (*fn)(void *opaque), void *opaque,
                     GDestroyNotify free_opaque);

#endif
