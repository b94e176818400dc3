/* SPDX-License-Identifier: MIT */
/* A machine's parts: construction, the bus, the registry, and the facts others may ask for. */
#include "machine/machine.h"

#include <stdlib.h>
#include <string.h>

#include "base/latency.h"
#include "device/chardev.h"
#include "godwit/error.h"
#include "machine/board.h"
#include "machine/machine_life.h"

/* ---- boards ---------------------------------------------------------------------------------- */

/* In the order of preference; the last one is at home everywhere. */
static const struct board *const boards[] = {
#ifdef GODWIT_HAS_KVM
    &board_pc,
#endif
    &board_virt,
    NULL,
};

const struct board *const *board_all(void)
{
    return boards;
}

const char *machine_default_board(void)
{
    size_t i = 0;

    while (boards[i]->is_at_home && !boards[i]->is_at_home())
        i++;
    return boards[i]->name;
}

const struct board *board_find(const char *name)
{
    for (size_t i = 0; boards[i]; i++)
        if (strcmp(boards[i]->name, name) == 0)
            return boards[i];
    return NULL;
}

/* ---- what vCPUs call ------------------------------------------------------------------------- */

static bool bus_read(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    return mmio_bus_read(((struct machine *)opaque)->bus, gpa, size, value);
}

static bool bus_write(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    return mmio_bus_write(((struct machine *)opaque)->bus, gpa, size, value);
}

static bool port_read(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t *value)
{
    struct machine *machine = opaque;
    uint64_t wide;

    if (!machine->ports || !mmio_bus_read(machine->ports, port, size, &wide))
        return false;
    *value = (uint32_t)wide;
    return true;
}

static bool port_write(void *opaque, unsigned vcpu, uint16_t port, unsigned size, uint32_t value)
{
    struct machine *machine = opaque;
    return machine->ports && mmio_bus_write(machine->ports, port, size, value);
}

static const struct cpu_bus_ops bus_ops = {bus_read, bus_write, port_read, port_write};

static void cpu_reset(void *opaque, unsigned vcpu, const char *reason)
{
    machine_request(opaque, MACHINE_REQUEST_RESET, 0);
}

static void cpu_fatal(void *opaque, unsigned vcpu, const char *reason)
{
    machine_break(opaque, vcpu, reason);
}

/* ---- construction ---------------------------------------------------------------------------- */

bool machine_add_device(struct machine *machine, struct device *dev, GError **error)
{
    dev->host = &machine->device_host;
    g_ptr_array_add(machine->devices, dev);
    return !dev->state ||
           gw_state_registry_add(machine->registry, dev->id, dev->state, dev->state_object, error);
}

static bool check_config(const struct board *board, const struct machine_config *config,
                         GError **error)
{
    if (config->memory_bytes < board->min_memory_bytes ||
        config->memory_bytes > board->max_memory_bytes || config->memory_bytes % (1u << 20) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "memory of %" G_GUINT64_FORMAT
                    " bytes: machine %s takes whole MiB from %" G_GUINT64_FORMAT
                    " to %" G_GUINT64_FORMAT " MiB",
                    config->memory_bytes, board->name, board->min_memory_bytes >> 20,
                    board->max_memory_bytes >> 20);
        return false;
    }
    if (config->n_cpus < 1 || config->n_cpus > board->max_cpus) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "%u CPUs: machine %s takes 1 to %u",
                    config->n_cpus, board->name, board->max_cpus);
        return false;
    }
    return true;
}

static bool add_cpus(struct machine *machine, const struct machine_config *machine_config,
                     GError **error)
{
    struct cpu_config config = {
        .n_vcpus = machine->n_cpus,
        .memory = machine->memory,
        .clock = &machine->clock,
        .bus = &bus_ops,
        .bus_opaque = machine,
        .model = machine_config->cpu,
        .dirty_log = machine_config->dirty_log,
        .reset = cpu_reset,
        .fatal = cpu_fatal,
        .fatal_opaque = machine,
        .runs = machine_vcpu_runs,
        .runs_opaque = machine,
    };
    const struct cpu_backend_ops *ops = machine->board->cpu;

    machine->cpu = ops->create(&config, error);
    return machine->cpu && ops->add_state(machine->cpu, machine->registry, error);
}

static bool add_facts(struct machine *machine, GError **error)
{
    const char *board[] = {machine->board->name, NULL};
    g_autofree char *cpus = g_strdup_printf("%u", machine->n_cpus);
    const char *n_cpus[] = {cpus, NULL};

    return gw_state_registry_add(machine->registry, "machine", &machine_state_desc, machine,
                                 error) &&
           gw_state_registry_add_property(machine->registry, "machine", GW_PROPERTY_EQUAL, false,
                                          board, error) &&
           gw_state_registry_add_property(machine->registry, "cpus", GW_PROPERTY_EQUAL, false,
                                          n_cpus, error) &&
           gw_state_registry_add_property(machine->registry, "cpu-features", GW_PROPERTY_INCLUDE,
                                          false, machine->board->cpu->features(machine->cpu),
                                          error);
}

/* Reads the boot files, packs them and puts them into the "boot" block. A destination without files
 * gets an empty block, which the move fills. */
static bool add_boot(struct machine *machine, const struct machine_config *config, GError **error)
{
    g_autoptr(GBytes) packed = NULL;

    bool has_firmware = config->bios && strcmp(config->bios, "none") != 0;
    if (!config->is_incoming || config->kernel || has_firmware) {
        struct boot_plan plan = {0};
        g_autoptr(GPtrArray) keep = boot_keep_new();
        if (!machine->board->plan_boot(machine, config, &plan, keep, error))
            return false;
        packed = boot_pack(&plan, error);
        if (!packed)
            return false;
    }
    machine->boot_block = gw_memory_add_block(machine->memory, BOOT_BLOCK_NAME, GW_GPA_NONE,
                                              boot_block_bytes(packed), error);
    if (!machine->boot_block)
        return false;
    if (packed)
        boot_store(machine->boot_block, packed);
    return true;
}

/* First touch costs more than a copy; whoever wants it paid before the guest comes asks for this.
 */
static bool prefault(struct machine *machine, const struct machine_config *config, GError **error)
{
    for (uint32_t i = 0; config->is_prefaulted && i < gw_memory_n_blocks(machine->memory); i++) {
        struct gw_ram_block *block = gw_memory_block(machine->memory, i);

        if (!gw_memory_populate(block, 0, block->size_bytes, error)) {
            g_prefix_error(error, "--prefault: ");
            return false;
        }
    }
    return true;
}

static bool build(struct machine *machine, const struct machine_config *config, GError **error)
{
    machine->memory = gw_memory_new();
    machine->registry = gw_state_registry_new();
    machine->devices = g_ptr_array_new();
    machine->chardevs = g_ptr_array_new_with_free_func((GDestroyNotify)chardev_free);
    machine->listeners = g_array_new(FALSE, FALSE, sizeof(struct machine_listener));
    machine->book = latency_book_new();
    machine->bus = mmio_bus_new(machine->book);
    machine->loop = io_loop_new("devices", machine->book);
    guest_clock_init(&machine->clock, machine->board->clock_hz, 0);
    machine_vm_init(machine);
    machine_move_init(machine);

    return check_config(machine->board, config, error) &&
           machine->board->add_memory(machine, error) && prefault(machine, config, error) &&
           add_cpus(machine, config, error) && machine->board->build(machine, config, error) &&
           add_boot(machine, config, error) && add_facts(machine, error);
}

struct machine *machine_new(const struct machine_config *config, GMainContext *context,
                            GError **error)
{
    const struct board *board = board_find(config->board);
    if (!board) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID, "machine \"%s\" is not known",
                    config->board);
        return NULL;
    }
    struct machine *machine = g_new0(struct machine, 1);
    machine->board = board;
    machine->name = g_strdup(config->name);
    machine->memory_bytes = config->memory_bytes;
    machine->n_cpus = config->n_cpus;
    machine->context = g_main_context_ref(context);
    machine->main_queue = main_queue_new(context);
    machine_life_init(machine);
    if (!build(machine, config, error)) {
        machine_free(machine);
        return NULL;
    }
    machine_life_start(machine);
    return machine;
}

void machine_free(struct machine *machine)
{
    if (!machine)
        return;
    machine_life_end(machine);
    while (machine->devices && machine->devices->len > 0)
        device_free(g_ptr_array_steal_index(machine->devices, machine->devices->len - 1));
    if (machine->cpu)
        machine->board->cpu->free(machine->cpu);
    if (machine->board->free)
        machine->board->free(machine);
    g_clear_pointer(&machine->devices, g_ptr_array_unref);
    g_clear_pointer(&machine->chardevs, g_ptr_array_unref);
    g_clear_pointer(&machine->loop, io_loop_free);
    g_clear_pointer(&machine->bus, mmio_bus_free);
    g_clear_pointer(&machine->ports, mmio_bus_free);
    g_clear_pointer(&machine->registry, gw_state_registry_free);
    g_clear_pointer(&machine->memory, gw_memory_free);
    g_clear_pointer(&machine->book, latency_book_free);
    g_clear_pointer(&machine->listeners, g_array_unref);
    main_queue_free(machine->main_queue);
    g_main_context_unref(machine->context);
    g_free(machine->broken_reason);
    g_free(machine->name);
    g_free(machine);
}

/* ---- facts ----------------------------------------------------------------------------------- */

const char *machine_name(const struct machine *machine)
{
    return machine->name;
}

const char *machine_board(const struct machine *machine)
{
    return machine->board->name;
}

uint64_t machine_memory_bytes(const struct machine *machine)
{
    return machine->memory_bytes;
}

unsigned machine_n_cpus(const struct machine *machine)
{
    return machine->n_cpus;
}

void machine_cpu_stats(struct machine *machine, unsigned vcpu, struct cpu_stats *stats)
{
    machine->board->cpu->get_stats(machine->cpu, vcpu, stats);
}

/* The kernel knows each thread's name, which backends set. */
unsigned machine_cpu_thread(struct machine *machine, unsigned vcpu)
{
    g_autoptr(GDir) tasks = g_dir_open("/proc/self/task", 0, NULL);
    char wanted[32];
    const char *tid;

    g_snprintf(wanted, sizeof wanted, "%s-%u\n", machine->board->cpu->vcpu_name, vcpu);
    while (tasks && (tid = g_dir_read_name(tasks)) != NULL) {
        g_autofree char *path = g_build_filename("/proc/self/task", tid, "comm", NULL);
        g_autofree char *name = NULL;
        if (g_file_get_contents(path, &name, NULL, NULL) && strcmp(name, wanted) == 0)
            return (unsigned)strtoul(tid, NULL, 10);
    }
    return 0;
}

const unsigned long *machine_cpu_requests(const struct machine *machine)
{
    return machine->board->cpu->requests;
}

const char *machine_target(const struct machine *machine)
{
    return machine->board->target;
}

const struct gw_state_registry *machine_registry(const struct machine *machine)
{
    return machine->registry;
}

struct latency_book *machine_latency_book(struct machine *machine)
{
    return machine->book;
}

const struct gw_vm *machine_vm(struct machine *machine)
{
    return &machine->vm;
}
