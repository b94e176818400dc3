/* SPDX-License-Identifier: MIT */
/*
 * The least program that fetches touched pages: userfaultfd over one loopback TCP connection. What
 * the latency of Godwit's post-copy faults is measured against.
 *
 * Model: the source is a process of its own that answers page numbers (8 bytes) by pages (4096
 * bytes), one after the other. At the destination one thread touches every page once, in an order
 * without locality, and measures each touch; a second one reads the fault, asks, receives the page
 * and places it.
 *
 * Use: faultfloor [--pages N]
 * Prints one JSON object, times in us. Exit status 77: userfaultfd is not allowed here.
 *
 * Not here: digests, records, a background push, several connections, whoever else has to run.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE     4096u
#define N_WARMUP 64u /* touches that are not counted */

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

struct destination {
    uint8_t *memory;
    int uffd, socket;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint8_t *map_memory(size_t n_bytes)
{
    int fd = memfd_create("faultfloor", MFD_CLOEXEC);
    void *at;

    if (fd < 0 || ftruncate(fd, (off_t)n_bytes) < 0)
        err(1, "memfd");
    at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED)
        err(1, "mmap");
    close(fd);
    return at;
}

static void send_all(int socket, const void *from, size_t n_bytes)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = send(socket, (const uint8_t *)from + done, n_bytes - done, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err(1, "send");
        done += (size_t)n;
    }
}

/* False: the connection ended before the first byte. */
static bool receive_all(int socket, void *to, size_t n_bytes)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = recv(socket, (uint8_t *)to + done, n_bytes - done, MSG_WAITALL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 && done == 0)
            return false;
        if (n <= 0)
            errx(1, "the connection ended");
        done += (size_t)n;
    }
    return true;
}

/* The source: its pages are made before the first question. */
static void answer(int socket, size_t n_pages)
{
    uint8_t *memory = map_memory(n_pages * PAGE);
    uint64_t page;

    for (size_t i = 0; i < n_pages; i++)
        memset(memory + i * PAGE, (int)(i % 255) + 1, PAGE);
    send_all(socket, "", 1);
    while (receive_all(socket, &page, sizeof page)) {
        if (page >= n_pages)
            errx(1, "there is no page %" PRIu64, page);
        send_all(socket, memory + page * PAGE, PAGE);
    }
}

static int open_uffd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0 && errno == EPERM) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC);
    }
    return fd;
}

static void watch(struct destination *destination, size_t n_bytes)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
    struct uffdio_register range = {.range = {(uintptr_t)destination->memory, n_bytes},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};

    destination->uffd = open_uffd();
    if (destination->uffd < 0) {
        warn("userfaultfd");
        exit(77);
    }
    if (ioctl(destination->uffd, UFFDIO_API, &api) < 0 ||
        ioctl(destination->uffd, UFFDIO_REGISTER, &range) < 0)
        err(1, "userfaultfd");
}

static void *handler_main(void *opaque)
{
    struct destination *destination = opaque;
    static uint8_t bytes[PAGE];
    struct uffd_msg message;

    for (;;) {
        if (read(destination->uffd, &message, sizeof message) != sizeof message)
            err(1, "userfaultfd: read");
        uint64_t page = (message.arg.pagefault.address - (uintptr_t)destination->memory) / PAGE;
        struct uffdio_copy copy = {.dst = (uintptr_t)destination->memory + page * PAGE,
                                   .src = (uintptr_t)bytes,
                                   .len = PAGE};

        send_all(destination->socket, &page, sizeof page);
        if (!receive_all(destination->socket, bytes, PAGE))
            errx(1, "the connection ended");
        if (ioctl(destination->uffd, UFFDIO_COPY, &copy) < 0)
            err(1, "userfaultfd: copy");
    }
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* The order is that of a full-period generator, so that every page comes once. */
static void touch_all(struct destination *destination, size_t n_pages, uint64_t *latency)
{
    size_t size = 1, page = 1;

    while (size < n_pages)
        size *= 2;
    for (size_t i = 0; i < n_pages; page = (page * 5 + 12345) & (size - 1)) {
        if (page >= n_pages)
            continue;
        uint64_t start = now_ns();
        uint8_t got = *(volatile uint8_t *)(destination->memory + page * PAGE + 99);

        latency[i++] = now_ns() - start;
        if (got != page % 255 + 1)
            errx(1, "page %zu holds the wrong bytes", page);
    }
}

static void connect_both(int *source, int *destination)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof address;
    const int on = 1;

    *destination = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || *destination < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 1) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        err(1, "listen");
    if (connect(*destination, (struct sockaddr *)&address, sizeof address) < 0 ||
        (*source = accept(listener, NULL, NULL)) < 0 ||
        setsockopt(*destination, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0 ||
        setsockopt(*source, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0)
        err(1, "connect");
    close(listener);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"pages", required_argument, NULL, 'p'},
                                            {NULL, 0, NULL, 0}};
    struct destination destination;
    size_t n_pages = 20000, n;
    uint64_t *latency;
    pthread_t handler;
    int source, status, option;
    uint8_t byte;
    pid_t child;

    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        if (option == 'p')
            n_pages = strtoul(optarg, NULL, 10);
        else
            return 2;
    if (n_pages < 2 * N_WARMUP || n_pages > 1u << 24)
        errx(2, "--pages from %u to %u", 2 * N_WARMUP, 1u << 24);
    connect_both(&source, &destination.socket);
    if ((child = fork()) < 0)
        err(1, "fork");
    if (child == 0) {
        close(destination.socket);
        answer(source, n_pages);
        return 0;
    }
    close(source);
    destination.memory = map_memory(n_pages * PAGE);
    watch(&destination, n_pages * PAGE);
    latency = calloc(n_pages, sizeof *latency);
    if (!latency || pthread_create(&handler, NULL, handler_main, &destination) != 0)
        errx(1, "no memory, or no thread");
    if (!receive_all(destination.socket, &byte, 1))
        errx(1, "the source ended");
    touch_all(&destination, n_pages, latency);
    /* The handler waits for a fault that does not come. */
    shutdown(destination.socket, SHUT_RDWR);
    if (waitpid(child, &status, 0) != child || status != 0)
        errx(1, "the source failed");
    n = n_pages - N_WARMUP;
    qsort(latency + N_WARMUP, n, sizeof *latency, by_value);
    printf("{\"faults\": %zu, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f}\n",
           n, (double)latency[N_WARMUP + n / 2] / 1e3, (double)latency[N_WARMUP + n * 9 / 10] / 1e3,
           (double)latency[N_WARMUP + n * 99 / 100] / 1e3, (double)latency[n_pages - 1] / 1e3);
    return 0;
}
