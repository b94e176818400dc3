/* SPDX-License-Identifier: MIT */
/* Fuzz target: virtio-rng, its queue and registers (fuzz_virtio.h). */
#include "fuzz_virtio.h"

static struct device *create(const struct virtio_config *config, struct fuzz_virtio *fuzz)
{
    return virtio_rng_new(config, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_virtio fuzz = {.id = "virtio-rng/0", .create = create};

    return fuzz_virtio_run(&fuzz, data, size);
}
