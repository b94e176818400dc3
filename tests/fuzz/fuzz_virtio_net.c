/* SPDX-License-Identifier: MIT */
/* Fuzz target: virtio-net, its queues and registers, and frames from outside (fuzz_virtio.h). */
#include <sys/socket.h>

#include "cable.h"
#include "fuzz_virtio.h"

static struct device *create(const struct virtio_config *config, struct fuzz_virtio *fuzz)
{
    static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x67, 0x77, 0x01};
    struct cable *cable = cable_new(fuzz->rig, true, &fuzz->peer);

    return virtio_net_new(config, &cable->net, mac, NULL);
}

/* What was sent is taken off the cable; a frame comes, from there or (length's top bit) forwarded
 * by a host that the guest has left. */
static void host_event(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    static uint8_t frame[2048];
    size_t n, number = (size_t)fuzz_take(in, 2), len = number % sizeof frame;
    const uint8_t *bytes = fuzz_take_bytes(in, fuzz_take(in, 1), &n);

    while (recv(fuzz->peer, frame, sizeof frame, MSG_DONTWAIT) > 0)
        continue;
    memset(frame, 0xff, sizeof frame);
    memcpy(frame, bytes, n);
    if (number & 0x8000)
        device_take_frame(fuzz->dev, frame, (uint32_t)len, number & 0x4000);
    else
        send(fuzz->peer, frame, len, MSG_DONTWAIT);
    rig_settle(fuzz->rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_virtio fuzz = {
        .id = "virtio-net/0", .create = create, .host_event = host_event};

    return fuzz_virtio_run(&fuzz, data, size);
}
