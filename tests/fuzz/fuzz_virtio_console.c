/* SPDX-License-Identifier: MIT */
/* Fuzz target: virtio-console, its queues and registers, and what its reader types (fuzz_virtio.h).
 */
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz_virtio.h"

static struct device *create(const struct virtio_config *config, struct fuzz_virtio *fuzz)
{
    g_autofree char *dir = g_dir_make_tmp("gw-fuzz-XXXXXX", NULL);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    g_autofree char *spec = g_strdup_printf("unix:%s/console", dir);
    struct device *dev =
        virtio_console_new(config, chardev_open(spec, config->loop, NULL, NULL, NULL), NULL);

    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/console", dir);
    fuzz->peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    fuzz_check(dev && !connect(fuzz->peer, (struct sockaddr *)&address, sizeof address));
    unlink(address.sun_path);
    rmdir(dir);
    return dev;
}

static void host_event(struct fuzz_virtio *fuzz, struct fuzz_input *in)
{
    static uint8_t taken[4096];
    size_t n;
    const uint8_t *bytes = fuzz_take_bytes(in, fuzz_take(in, 1), &n);

    while (recv(fuzz->peer, taken, sizeof taken, MSG_DONTWAIT) > 0)
        continue;
    send(fuzz->peer, bytes, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    rig_settle(fuzz->rig);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz_virtio fuzz = {
        .id = "virtio-console/0", .create = create, .host_event = host_event};

    return fuzz_virtio_run(&fuzz, data, size);
}
