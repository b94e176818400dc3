/* SPDX-License-Identifier: MIT */
/* A `virt` machine with one device of every kind: see fuzz_machine.h. */
#include "fuzz_machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"

char *fuzz_disk_path(void)
{
    int fd = memfd_create("disk", MFD_CLOEXEC);

    fuzz_check(fd >= 0 && ftruncate(fd, FUZZ_DISK_BYTES) == 0);
    return g_strdup_printf("/proc/self/fd/%d", fd);
}

static void add(GPtrArray *devices, const char *kind, const char *options)
{
    struct device_config *device = device_config_parse(kind, options, NULL);

    fuzz_check(device != NULL);
    g_ptr_array_add(devices, device);
}

struct machine *fuzz_machine(GMainContext *context)
{
    g_autofree char *path = fuzz_disk_path();
    g_autoptr(GPtrArray) devices =
        g_ptr_array_new_with_free_func((GDestroyNotify)device_config_free);
    g_autoptr(GError) error = NULL;

    add(devices, "net", "none");
    add(devices, "disk", path);
    add(devices, "rng", "");
    add(devices, "balloon", "");
    add(devices, "vconsole", "null");
    const struct machine_config config = {
        .board = "virt",
        .name = "fuzz",
        .memory_bytes = UINT64_C(64) << 20,
        .n_cpus = 1,
        .console = "null",
        .devices = devices,
        .is_incoming = true,
    };
    struct machine *machine = machine_new(&config, context, &error);
    if (!machine)
        fprintf(stderr, "%s\n", error->message);
    fuzz_check(machine != NULL);
    return machine;
}
