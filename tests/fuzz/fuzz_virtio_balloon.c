/* SPDX-License-Identifier: MIT */
/* Fuzz target: virtio-balloon, its queues and registers, and its owner's wishes (fuzz_virtio.h). */
#include "fuzz_virtio.h"

static struct device *create(const struct virtio_config *config, struct fuzz_virtio *fuzz)
{
    return virtio_balloon_new(config, NULL);
}

static void host_event(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    unsigned what = (unsigned)fuzz_take(in, 1);
    struct virtio_balloon_info info;

    if (what & 1)
        virtio_balloon_set_target(fuzz->dev, fuzz_take(in, 4));
    if (what & 2)
        virtio_balloon_ask_stats(fuzz->dev);
    virtio_balloon_get_info(fuzz->dev, &info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_virtio fuzz = {
        .id = "virtio-balloon/0", .create = create, .host_event = host_event};

    return fuzz_virtio_run(&fuzz, data, size);
}
