/* SPDX-License-Identifier: MIT */
/* The agent's dirtier: one thread that writes and checks a buffer at a fixed rate.
 *
 * Threads: the worker visits pages in slices of a few milliseconds and holds `lock` during a slice;
 * everyone else takes `lock` to start, stop, verify or read. */
#include "agent/dirtier.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define SLICE_NS      5000000ull
#define PAGES_PER_MIB (1048576u / PAGE_BYTES)

struct dirtier {
    pthread_mutex_t lock;
    pthread_cond_t wake;

    /* guarded by lock */
    struct dirtier_config config;
    struct workload load;
    void *memory;
    bool is_running;
    uint64_t errors;
    uint64_t max_gap_ns; /* longest time between two slices: a blackout as the guest felt it */
    struct damage last_damage;
};

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void report_damage(const struct damage *b)
{
    printf("GODWIT-CORRUPT page %llu pass %llu word %u wanted %016llx found %016llx\n",
           (unsigned long long)b->page, (unsigned long long)b->pass, b->word,
           (unsigned long long)b->wanted, (unsigned long long)b->found);
    fflush(stdout);
}

/* Visits `pages` pages; without a rate, as many as fit into a slice of time. */
static void run_slice_locked(struct dirtier *d, uint64_t pages)
{
    uint64_t end_ns = now_ns(CLOCK_MONOTONIC) + SLICE_NS;

    for (uint64_t i = 0; i < pages; i++) {
        if (!workload_visit(&d->load, &d->last_damage)) {
            d->errors++;
            if (d->errors <= 10) {
                report_damage(&d->last_damage);
            }
        }
        if (d->config.rate_mib_per_s == 0 && now_ns(CLOCK_MONOTONIC) >= end_ns) {
            break;
        }
    }
}

static void *worker(void *opaque)
{
    struct dirtier *d = opaque;
    uint64_t last_ns = 0, due_ns = 0, owed_bytes = 0;

    for (;;) {
        pthread_mutex_lock(&d->lock);
        while (!d->is_running) {
            last_ns = 0;
            pthread_cond_wait(&d->wake, &d->lock);
        }
        uint64_t rate = d->config.rate_mib_per_s;
        uint64_t start_ns = now_ns(CLOCK_MONOTONIC);
        if (last_ns && start_ns - last_ns > d->max_gap_ns) {
            d->max_gap_ns = start_ns - last_ns;
        }
        last_ns = start_ns;
        owed_bytes += rate * 1048576u / (1000000000u / SLICE_NS);
        run_slice_locked(d, rate ? owed_bytes / PAGE_BYTES : UINT64_MAX);
        owed_bytes %= PAGE_BYTES;
        pthread_mutex_unlock(&d->lock);

        /* Time lost in a blackout is not caught up: the rate would burst just after it. */
        uint64_t end_ns = now_ns(CLOCK_MONOTONIC);
        due_ns += SLICE_NS;
        if (due_ns + 4 * SLICE_NS < end_ns || rate == 0) {
            due_ns = end_ns;
        }
        struct timespec due = {.tv_sec = (time_t)(due_ns / 1000000000u),
                               .tv_nsec = (long)(due_ns % 1000000000u)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
    }
    return NULL;
}

struct dirtier *dirtier_new(void)
{
    struct dirtier *d = calloc(1, sizeof *d);
    pthread_t thread;

    if (!d) {
        return NULL;
    }
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    if (pthread_create(&thread, NULL, worker, d) != 0) {
        free(d);
        return NULL;
    }
    pthread_detach(thread);
    return d;
}

static void release_locked(struct dirtier *d)
{
    if (d->memory) {
        munmap(d->memory, d->config.mib * 1048576u);
        d->memory = NULL;
    }
    d->is_running = false;
}

bool dirtier_start(struct dirtier *d, const struct dirtier_config *config)
{
    size_t bytes = config->mib * 1048576u;

    pthread_mutex_lock(&d->lock);
    release_locked(d);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory != MAP_FAILED) {
        d->config = *config;
        d->memory = memory;
        d->errors = 0;
        d->max_gap_ns = 0;
        workload_init(&d->load, memory, config->mib * PAGES_PER_MIB, now_ns(CLOCK_MONOTONIC),
                      config->order, config->fill);
        d->is_running = true;
        pthread_cond_signal(&d->wake);
    }
    pthread_mutex_unlock(&d->lock);
    return memory != MAP_FAILED;
}

void dirtier_stop(struct dirtier *d)
{
    pthread_mutex_lock(&d->lock);
    d->is_running = false;
    pthread_mutex_unlock(&d->lock);
}

uint64_t dirtier_verify(struct dirtier *d)
{
    uint64_t bad = 0;

    pthread_mutex_lock(&d->lock);
    if (d->memory) {
        bad = workload_verify(&d->load, &d->last_damage);
        if (bad) {
            report_damage(&d->last_damage);
        }
    }
    pthread_mutex_unlock(&d->lock);
    return bad;
}

void dirtier_status(struct dirtier *d, char *line, size_t size)
{
    pthread_mutex_lock(&d->lock);
    snprintf(line, size,
             "running=%d dirty=%llu@%llu order=%s fill=%s passes=%llu pages=%llu errors=%llu "
             "max_gap_ms=%llu",
             d->is_running, (unsigned long long)d->config.mib,
             (unsigned long long)d->config.rate_mib_per_s, order_names[d->config.order],
             fill_names[d->config.fill],
             (unsigned long long)(d->memory ? workload_passes(&d->load) : 0),
             (unsigned long long)d->load.visits, (unsigned long long)d->errors,
             (unsigned long long)(d->max_gap_ns / 1000000u));
    pthread_mutex_unlock(&d->lock);
}

static int find_name(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(name, names[i]) == 0) {
            return (int)i;
        }
    }
    return -1;
}

bool dirtier_parse(const char *text, struct dirtier_config *config)
{
    char order[16] = "random", fill[16] = "random";
    unsigned long long mib, rate;

    if (sscanf(text, "%llu@%llu,%15[a-z],%15[a-z]", &mib, &rate, order, fill) < 2 || mib == 0 ||
        mib > 1048576 || rate > 1048576) {
        return false;
    }
    int o = find_name(order, order_names, sizeof order_names / sizeof *order_names);
    int f = find_name(fill, fill_names, sizeof fill_names / sizeof *fill_names);
    if (o < 0 || f < 0) {
        return false;
    }
    *config = (struct dirtier_config){
        .mib = mib, .rate_mib_per_s = rate, .order = (enum order)o, .fill = (enum fill)f};
    return true;
}
