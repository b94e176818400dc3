/* SPDX-License-Identifier: MIT */
/* Fuzz target: virtio-blk over a disk in memory, its queue and registers (fuzz_virtio.h). */
#include "fuzz_machine.h"
#include "fuzz_virtio.h"

static struct device *create(const struct virtio_config *config, struct fuzz_virtio *fuzz)
{
    g_autofree char *path = fuzz_disk_path();
    g_autofree char *spec = g_strconcat(path, ",engine=threads", NULL);

    return virtio_blk_new(config, blockdev_open(spec, false, config->loop, NULL), "fuzz", NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_virtio fuzz = {.id = "virtio-blk/0", .create = create};

    return fuzz_virtio_run(&fuzz, data, size);
}
