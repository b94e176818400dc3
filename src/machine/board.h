/* SPDX-License-Identifier: MIT */
/*
 * What a board is: a name, a vCPU backend, and the functions that place memory, devices and boot
 * files. The machine does the rest.
 */
#ifndef GODWIT_MACHINE_BOARD_H
#define GODWIT_MACHINE_BOARD_H

#include <glib.h>
#include <pthread.h>

#include "cpu/backend.h"
#include "device/device.h"
#include "device/pci.h"
#include "machine/boot.h"
#include "machine/machine.h"
#include "machine/main_queue.h"

struct board {
    const char *name;
    const char *title;
    const char *target; /* QEMU's name of the instruction set */
    const struct cpu_backend_ops *cpu;
    uint64_t min_memory_bytes, max_memory_bytes;
    unsigned max_cpus;
    uint64_t clock_hz;
    /* Does this host run ordinary guests of this board well? NULL: every host does. */
    bool (*is_at_home)(void);
    /* Adds RAM blocks and bus devices to the machine (machine_add_device), in start order. The
     * vCPUs exist already. */
    bool (*build)(struct machine *machine, const struct machine_config *config, GError **error);
    /* Adds the guest-visible blocks of RAM. */
    bool (*add_memory)(struct machine *machine, GError **error);
    /* Places firmware, kernel and the rest. */
    bool (*plan_boot)(struct machine *machine, const struct machine_config *config,
                      struct boot_plan *plan, GPtrArray *keep, GError **error);
    /* After a reset: where vCPUs begin. NULL: all of them at entry_pc with their number. */
    void (*set_entry)(struct machine *machine, uint64_t entry_pc);
    /* A user asks the guest to switch off. Life thread. NULL: the board has no power button. */
    void (*press_power_button)(struct machine *machine);
    void (*free)(struct machine *machine); /* what build made that is no device; may be NULL */
};

const struct board *board_find(const char *name);
/* NULL-terminated. */
const struct board *const *board_all(void);
extern const struct board board_virt;
#ifdef GODWIT_HAS_KVM
extern const struct board board_pc;
#endif

/* What the guest asked of the platform and has not got yet. Saved with the machine. */
enum machine_request {
    MACHINE_REQUEST_NONE = 0,
    MACHINE_REQUEST_RESET,
    MACHINE_REQUEST_OFF,
    MACHINE_N_REQUESTS,
};

struct machine_job;

struct machine {
    /* fixed after construction */
    const struct board *board;
    char *name;
    uint64_t memory_bytes;
    unsigned n_cpus;
    GMainContext *context;
    struct main_queue *main_queue; /* to the context's thread */
    struct gw_memory *memory;
    struct gw_ram_block *boot_block;
    struct latency_book *book;
    struct mmio_bus *bus;
    struct mmio_bus *ports; /* I/O ports, made by boards that have them; else NULL */
    struct io_loop *loop;
    struct cpu_backend *cpu;
    struct pci_host *pci; /* one of the devices */
    GPtrArray *devices;   /* struct device *, in start order; stopped in the reverse order */
    GPtrArray *chardevs;  /* struct chardev *; freed after the devices */
    struct gw_state_registry *registry;
    struct gw_vm vm;
    struct device_host device_host;
    void *board_data;
    pthread_t life_thread;
    bool has_life_thread;

    bool parts_run; /* owned by who has the turn: devices and vCPUs are started */
    /* Owned by the engine's control thread: how long these took last. */
    uint64_t last_stop_ns, last_flush_ns, last_resume_ns;
    bool expects_packets;          /* likewise: of the move that is being finished */
    struct gw_packet_sink packets; /* fixed while devices forward */
    /* Atomic; set by the control thread, cleared by the first vCPU, the first sender. */
    uint32_t first_run_is_due, first_sent_is_due;

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t wake; /* a job, a request, a state change, a free turn; CLOCK_MONOTONIC */
    bool has_turn;       /* somebody starts, stops or resets the parts */
    enum life_state state;
    bool ran_before_blackout;
    struct machine_job *first_job, *last_job;
    bool wants_exit;
    bool is_held;        /* an incoming guest stays paused */
    bool may_not_reboot; /* the guest's reset switches off */
    char *broken_reason;
    void (*discarded)(void *opaque, const GError *why);
    void *discarded_opaque;
    void (*lost)(void *opaque, const char *reason);
    void *lost_opaque;

    /* owned by the main thread */
    GArray *listeners;
    void (*marked)(void *opaque, const char *name, uint64_t at_ns);
    void *marked_opaque;
    struct machine_announce announce;
    GSource *announce_timer;
    unsigned announce_done;

    /* Saved members. request and request_code: guarded by lock, stable while vCPUs are stopped.
     * The others belong to who saves or loads. */
    struct guest_clock clock;
    uint32_t request; /* enum machine_request */
    uint32_t request_code;
    uint64_t saved_ticks;
    uint64_t saved_real_ns;
};

/* Takes over the device: starts, stops, resets, saves and frees it from now on. */
bool machine_add_device(struct machine *machine, struct device *dev, GError **error);
/* The guest asks for a reset or to be switched off (exit code). From vCPU threads. */
void machine_request(struct machine *machine, enum machine_request request, unsigned code);
/* devices.c: makes the PCI host, and the devices of the command line in its slots from 1 on. */
bool machine_add_pci(struct machine *machine, const struct pci_host_config *host,
                     const struct machine_config *config, GError **error);

/* Opens a host side for a serial port, which borrows it: the machine keeps and frees it. */
struct chardev *machine_open_chardev(struct machine *machine, const char *spec, GError **error);

extern const struct gw_state_desc machine_state_desc;

#endif
