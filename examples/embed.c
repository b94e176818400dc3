/* SPDX-License-Identifier: MIT */
/*
 * A program that is no VM moves to another process while it works.
 *
 * Its "machine" is memory that it mapped itself, a thread that keeps writing pages of it, and one
 * device-state table. Each page holds how often it was written, and words that follow from that and
 * from the page's number; the table holds how often all were written. So a page that arrives torn,
 * stale or in the wrong place is found, at whichever end the machine runs after all.
 *
 *   embed receive URI [MIB]                         waits for a machine, runs it, checks it
 *   embed send URI [MIB [WRITES [BANDWIDTH]]]       makes a machine that writes so many MiB/s and
 *                                                   sends it, with at most so many; Ctrl-C cancels
 * Exit status: 0 the machine runs at the destination, 1 failed (it goes on here), 2 usage,
 * 4 cancelled (it goes on here), 5 in doubt (it is stopped, and may run at the destination).
 */
#include <godwit/channel.h>
#include <godwit/migrate.h>
#include <godwit/tracker.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_WORDS (GW_PAGE_SIZE / sizeof(uint64_t))
#define MIB        (UINT64_C(1) << 20)

/* The device state: what the table describes travels with the machine. */
struct counter {
    uint64_t n_writes, seed;
};

static const struct gw_field counter_fields[] = {
    GW_U64(struct counter, n_writes),
    GW_U64(struct counter, seed),
    GW_FIELDS_END,
};

static const struct gw_state_desc counter_state = {.name = "embed-counter",
                                                   .version = 1,
                                                   .object_size = sizeof(struct counter),
                                                   .fields = counter_fields};

struct machine {
    uint64_t *memory;
    struct gw_tracker *tracker;
    uint64_t n_pages, pages_per_ms;
    pthread_mutex_t lock; /* held by the thread while it works; guards what follows */
    pthread_cond_t changed;
    bool runs, was_running;
    struct counter counter; /* the engine's while the thread rests */
};

static volatile sig_atomic_t is_interrupted;

static void on_interrupt(int number)
{
    is_interrupted = 1;
}

static uint64_t word_of(uint64_t page, uint64_t version, uint64_t i)
{
    return i ? page * 0x9e3779b97f4a7c15u + version * 0xbf58476d1ce4e5b9u + i : version;
}

static void write_page(struct machine *machine, uint64_t page, uint64_t version)
{
    for (uint64_t i = 0; i < PAGE_WORDS; i++)
        machine->memory[page * PAGE_WORDS + i] = word_of(page, version, i);
}

static void *machine_main(void *opaque)
{
    struct machine *machine = opaque;
    struct counter *counter = &machine->counter;
    struct timespec tick;

    pthread_mutex_lock(&machine->lock);
    for (;;) {
        while (!machine->runs)
            pthread_cond_wait(&machine->changed, &machine->lock);
        for (uint64_t i = 0; i < machine->pages_per_ms; i++, counter->n_writes++) {
            counter->seed = counter->seed * 6364136223846793005u + 1442695040888963407u;
            uint64_t page = (counter->seed >> 16) % machine->n_pages;
            write_page(machine, page, machine->memory[page * PAGE_WORDS] + 1);
        }
        pthread_cond_broadcast(&machine->changed);
        clock_gettime(CLOCK_REALTIME, &tick);
        tick.tv_sec += (tick.tv_nsec + 1000000) / 1000000000;
        tick.tv_nsec = (tick.tv_nsec + 1000000) % 1000000000;
        pthread_cond_timedwait(&machine->changed, &machine->lock, &tick);
    }
    return NULL;
}

/* Returns whether it ran; from then on the thread works or does not, as asked. */
static bool set_running(struct machine *machine, bool runs)
{
    pthread_mutex_lock(&machine->lock);
    bool ran = machine->runs;
    machine->runs = runs;
    pthread_cond_broadcast(&machine->changed);
    pthread_mutex_unlock(&machine->lock);
    return ran;
}

static bool check_memory(const struct machine *machine)
{
    uint64_t n_writes = 0, n_wrong = 0;

    for (uint64_t page = 0; page < machine->n_pages; page++) {
        const uint64_t *words = machine->memory + page * PAGE_WORDS;
        n_writes += words[0];
        for (uint64_t i = 1; i < PAGE_WORDS; i++)
            n_wrong += words[i] != word_of(page, words[0], i);
    }
    bool is_right = n_wrong == 0 && n_writes == machine->counter.n_writes;
    printf("memory is %s: %.0f words wrong, %.0f of %.0f writes\n", is_right ? "right" : "WRONG",
           (double)n_wrong, (double)n_writes, (double)machine->counter.n_writes);
    return is_right;
}

static bool stop(void *opaque, uint64_t deadline_ns, struct gw_ledger *ledger, GError **error)
{
    struct machine *machine = opaque;

    machine->was_running = set_running(machine, false);
    return true;
}

static void resume_at_source(void *opaque)
{
    set_running(opaque, ((struct machine *)opaque)->was_running);
}

static void run_at_destination(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    set_running(opaque, was_running);
}

static int send_machine(struct machine *machine, const struct gw_vm *vm, const char *uri,
                        uint64_t bandwidth, GError **error)
{
    struct gw_migrate_params params = {.max_bandwidth_bytes = bandwidth};
    struct gw_source_status now;

    for (uint64_t page = 0; page < machine->n_pages; page++)
        write_page(machine, page, 0);
    signal(SIGINT, on_interrupt);
    set_running(machine, true);
    struct gw_source *source = gw_source_start(vm, uri, &params, NULL, error);
    if (!source)
        return 1;
    do {
        if (is_interrupted)
            gw_source_cancel(source);
        gw_source_get_status(source, &now);
        printf("%s: round %.0f, %.0f MiB sent at %.0f MiB/s, dirtied at %.0f MiB/s\n",
               gw_source_state_name(now.state), (double)now.round, (double)now.bytes_sent / MIB,
               (double)now.bandwidth_bytes_per_s / MIB, (double)now.dirty_bytes_per_s / MIB);
    } while (!gw_source_wait(source, (uint64_t)gw_deadline_after_ms(200)) &&
             !(is_interrupted && now.state == GW_SOURCE_IN_DOUBT));
    gw_source_get_status(source, &now);
    gw_source_free(source);
    printf("%s after %.3f s, blackout %.3f ms. %s\n", gw_source_state_name(now.state),
           now.total_ns / 1e9, now.blackout_ns / 1e6, now.failure.reason);
    if (now.state == GW_SOURCE_COMPLETED)
        return 0;
    if (!gw_source_state_is_final(now.state))
        return 5; /* nobody knows who owns it: it must not run here */
    set_running(machine, false);
    return check_memory(machine) && now.state == GW_SOURCE_CANCELLED ? 4 : 1;
}

static int receive_machine(struct machine *machine, const struct gw_vm *vm, const char *uri,
                           GError **error)
{
    struct gw_destination_status now;
    struct gw_destination *destination = gw_destination_start(vm, uri, NULL, NULL, error);

    if (!destination)
        return 1;
    printf("listening at %s\n", gw_destination_uri(destination));
    gw_destination_wait(destination, UINT64_MAX);
    /* Whoever sent the machine has to hear that it runs here before this process may end. */
    gw_destination_get_status(destination, &now);
    while (now.state == GW_DESTINATION_RUNNING && !now.is_source_told) {
        pthread_mutex_lock(&machine->lock);
        pthread_cond_wait(&machine->changed, &machine->lock); /* it works for a millisecond */
        pthread_mutex_unlock(&machine->lock);
        gw_destination_get_status(destination, &now);
    }
    gw_destination_free(destination);
    printf("%s. %s\n", gw_destination_state_name(now.state), now.failure.reason);
    set_running(machine, false);
    return now.state == GW_DESTINATION_RUNNING && check_memory(machine) ? 0 : 1;
}

/* The machine's memory is our own mapping; a tracker finds what the machine's thread writes. */
static bool describe(struct machine *machine, struct gw_vm *vm, GError **error)
{
    size_t size = machine->n_pages * GW_PAGE_SIZE;
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct gw_ram_block *block =
        gw_memory_adopt_block(vm->memory, "memory", GW_GPA_NONE, at, size, -1, error);
    machine->tracker = block ? gw_tracker_new(vm->memory, GW_TRACKER_AUTO, error) : NULL;

    machine->memory = at; /* a failed mapping is refused by adopt_block */
    return machine->tracker && gw_tracker_add(machine->tracker, block, error) &&
           gw_state_registry_add(vm->registry, "counter", &counter_state, &machine->counter, error);
}

int main(int argc, char **argv)
{
    struct machine machine = {.lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER};
    struct gw_vm vm = {.memory = gw_memory_new(),
                       .registry = gw_state_registry_new(),
                       .opaque = &machine,
                       .stop = stop,
                       .resume_at_source = resume_at_source,
                       .run_at_destination = run_at_destination};
    uint64_t mib = argc > 3 ? strtoull(argv[3], NULL, 0) : 1024;
    uint64_t writes_mib = argc > 4 ? strtoull(argv[4], NULL, 0) : 64;
    uint64_t bandwidth_mib = argc > 5 ? strtoull(argv[5], NULL, 0) : 0;
    g_autoptr(GError) error = NULL;
    pthread_t thread;
    int status = 1;
    if (argc < 3 || mib == 0) {
        fprintf(stderr, "usage: embed send|receive URI [MIB [WRITES_MIB/S [BANDWIDTH_MIB/S]]]\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    machine.n_pages = mib * MIB / GW_PAGE_SIZE;
    machine.pages_per_ms = (writes_mib * MIB / GW_PAGE_SIZE + 999) / 1000;
    if (describe(&machine, &vm, &error) &&
        pthread_create(&thread, NULL, machine_main, &machine) == 0)
        status = strcmp(argv[1], "send") == 0
                     ? send_machine(&machine, &vm, argv[2], bandwidth_mib * MIB, &error)
                     : receive_machine(&machine, &vm, argv[2], &error);
    if (error)
        fprintf(stderr, "embed: %s\n", error->message);
    gw_tracker_free(machine.tracker);
    gw_state_registry_free(vm.registry);
    gw_memory_free(vm.memory); /* the mapping stays, and the thread may still use it */
    return status;
}
