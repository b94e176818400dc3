/* SPDX-License-Identifier: MIT */
/* Accesses that wait for us, by userfaultfd; see faults.h. */
#include "memory/faults.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/cond.h"
#include "base/fdio.h"
#include "memory/memory_internal.h"
#include "memory/uffd.h"

#define N_MESSAGES 16 /* that one handler takes at once, if it is the only one */

struct handler {
    struct faults *faults;
    int epoll; /* of its uffd and wake_fd */
    pthread_t thread;
    bool has_thread;
};

struct faults {
    /* Fixed after construction. */
    struct gw_memory *memory;
    enum faults_kind kind;
    fault_fn fn;
    void *opaque;
    int uffd;
    int wake_fd; /* eventfd: somebody rang, or the handlers are to end */
    struct handler handlers[FAULTS_MAX_HANDLERS];
    unsigned n_handlers; /* fixed before the first thread runs */

    bool is_ending; /* atomic: set before the last ring */
};

static const struct {
    uint64_t features;
    uint64_t mode;
} kinds[] = {
    [FAULTS_MISSING] = {UFFD_FEATURE_MISSING_SHMEM, UFFDIO_REGISTER_MODE_MISSING},
    [FAULTS_WRITES] = {UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
                       UFFDIO_REGISTER_MODE_WP},
};

static void *at_page(const struct gw_ram_block *block, uint64_t page)
{
    return block->host + (page << GW_PAGE_SHIFT);
}

/* ---- handlers -------------------------------------------------------------------------------- */

static void tell(struct faults *faults, uint64_t address, uint32_t thread)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(faults->memory); i++) {
        struct gw_ram_block *block = gw_memory_block(faults->memory, i);
        uint64_t offset = address - (uintptr_t)block->host;
        if (offset < block->size_bytes) {
            faults->fn(faults->opaque, block, offset >> GW_PAGE_SHIFT, thread);
            return;
        }
    }
}

/* Tells of what waits now; one of several handlers leaves the rest to the others. */
static bool take_faults(struct faults *faults)
{
    struct uffd_msg messages[N_MESSAGES];
    size_t most = faults->n_handlers > 1 ? 1 : N_MESSAGES;
    ssize_t n = read(faults->uffd, messages, most * sizeof *messages);

    for (ssize_t i = 0; i < n / (ssize_t)sizeof *messages; i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
            tell(faults, messages[i].arg.pagefault.address, messages[i].arg.pagefault.feat.ptid);
        }
    }
    return n >= 0 || errno == EAGAIN || errno == EINTR;
}

static void *handler_main(void *opaque)
{
    struct handler *handler = opaque;
    struct faults *faults = handler->faults;
    struct epoll_event event;
    bool is_ok = true;

    while (is_ok) {
        int n_ready = epoll_wait(handler->epoll, &event, 1, -1);
        if (__atomic_load_n(&faults->is_ending, __ATOMIC_ACQUIRE)) {
            faults_ring(faults); /* for the next one */
            break;
        }
        if (n_ready < 0) {
            is_ok = errno == EINTR;
        } else if (event.data.fd == faults->uffd) {
            is_ok = take_faults(faults);
        } else if (fd_event_take(faults->wake_fd) > 0) {
            faults->fn(faults->opaque, NULL, 0, 0);
        }
    }
    return NULL;
}

/* Of the handlers that sleep, each fault and each ring wakes one. */
static bool handler_watch(struct handler *handler, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = fd};

    return epoll_ctl(handler->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool handler_init(struct handler *handler, struct faults *faults, GError **error)
{
    *handler = (struct handler){.faults = faults, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    if (handler->epoll >= 0 && handler_watch(handler, faults->wake_fd) &&
        handler_watch(handler, faults->uffd)) {
        return true;
    }
    g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot wait for faults: %s", g_strerror(errno));
    gw_clear_fd(&handler->epoll);
    return false;
}

static bool handler_start(struct handler *handler, GError **error)
{
    int rc = pthread_create(&handler->thread, NULL, handler_main, handler);

    handler->has_thread = rc == 0;
    if (rc) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot start a thread: %s", g_strerror(rc));
        return false;
    }
    pthread_setname_np(handler->thread, "gw-faults");
    return true;
}

bool faults_start(struct faults *faults, unsigned n_handlers, GError **error)
{
    sigset_t all, before;
    bool is_ok = true;

    while (faults->n_handlers < n_handlers) {
        if (!handler_init(&faults->handlers[faults->n_handlers], faults, error)) {
            return false;
        }
        faults->n_handlers++;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; is_ok && i < n_handlers; i++) {
        is_ok = handler_start(&faults->handlers[i], error);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return is_ok;
}

void faults_ring(struct faults *faults)
{
    fd_event_signal(faults->wake_fd);
}

/* ---- life ------------------------------------------------------------------------------------ */

static bool register_blocks(struct faults *faults, GError **error)
{
    for (uint32_t i = 0; i < gw_memory_n_blocks(faults->memory); i++) {
        const struct gw_ram_block *block = gw_memory_block(faults->memory, i);
        int rc =
            uffd_register(faults->uffd, block->host, block->size_bytes, kinds[faults->kind].mode);
        if (rc) {
            g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED,
                        "RAM block %s: the kernel cannot watch its mapping: %s", block->name,
                        g_strerror(rc));
            return false;
        }
    }
    return true;
}

bool faults_are_possible(enum faults_kind kind, GError **error)
{
    gw_autofd int uffd = uffd_open(0, kinds[kind].features, UFFD_FEATURE_THREAD_ID, error);

    return uffd >= 0;
}

struct faults *faults_new(struct gw_memory *memory, enum faults_kind kind, fault_fn fn,
                          void *opaque, GError **error)
{
    gw_autofd int uffd = uffd_open(0, kinds[kind].features, UFFD_FEATURE_THREAD_ID, error);

    if (uffd < 0) {
        g_prefix_error(error, "faults of the kernel cannot be handled (this takes root, "
                              "vm.unprivileged_userfaultfd=1 or access to /dev/userfaultfd): ");
        return NULL;
    }
    struct faults *faults = g_new0(struct faults, 1);
    *faults = (struct faults){.memory = memory,
                              .kind = kind,
                              .fn = fn,
                              .opaque = opaque,
                              .uffd = gw_steal_fd(&uffd),
                              .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (faults->wake_fd < 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "eventfd: %s", g_strerror(errno));
        faults_free(faults);
        return NULL;
    }
    if (!register_blocks(faults, error)) {
        faults_free(faults);
        return NULL;
    }
    return faults;
}

void faults_free(struct faults *faults)
{
    if (!faults) {
        return;
    }
    __atomic_store_n(&faults->is_ending, true, __ATOMIC_RELEASE);
    if (faults->n_handlers > 0) {
        faults_ring(faults);
    }
    for (unsigned i = 0; i < faults->n_handlers; i++) {
        if (faults->handlers[i].has_thread) {
            pthread_join(faults->handlers[i].thread, NULL);
        }
        gw_clear_fd(&faults->handlers[i].epoll);
    }
    /* Closing it ends every registration and protection, and lets go whoever waits. */
    gw_clear_fd(&faults->uffd);
    gw_clear_fd(&faults->wake_fd);
    g_free(faults);
}

/* ---- pages ----------------------------------------------------------------------------------- */

static bool set_error(const struct gw_ram_block *block, uint64_t page, const char *what, int code,
                      GError **error)
{
    g_set_error(error, GW_ERROR, GW_ERROR_IO,
                "RAM block %s: cannot %s page %" G_GUINT64_FORMAT ": %s", block->name, what, page,
                g_strerror(code));
    return false;
}

bool faults_place(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                  uint64_t n_pages, const uint8_t *bytes, GError **error)
{
    uint64_t done = 0;

    while (done < n_pages) {
        uint64_t n_copied = 0;
        int rc = uffd_copy(faults->uffd, at_page(block, first + done), bytes + done * GW_PAGE_SIZE,
                           (n_pages - done) << GW_PAGE_SHIFT, &n_copied);
        done += n_copied >> GW_PAGE_SHIFT;
        if (rc == EEXIST) {
            /* It is there: another thread was first, or nobody could have waited for it. */
            faults_wake(faults, block, first + done, 1);
            done++;
        } else if (rc && rc != EAGAIN) {
            return set_error(block, first + done, "place", rc, error);
        }
    }
    return true;
}

bool faults_place_zero(struct faults *faults, struct gw_ram_block *block, uint64_t page,
                       GError **error)
{
    int rc;

    do {
        rc = uffd_zero_page(faults->uffd, at_page(block, page), GW_PAGE_SIZE);
    } while (rc == EAGAIN);
    if (rc == EEXIST) {
        faults_wake(faults, block, page, 1);
        rc = 0;
    }
    return rc == 0 || set_error(block, page, "place", rc, error);
}

static bool protect(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                    uint64_t n_pages, bool is_protected, GError **error)
{
    int rc;

    do {
        rc = uffd_protect(faults->uffd, at_page(block, first), n_pages << GW_PAGE_SHIFT,
                          is_protected);
    } while (rc == EAGAIN);
    return rc == 0 || set_error(block, first, is_protected ? "protect" : "release", rc, error);
}

bool faults_protect(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                    uint64_t n_pages, GError **error)
{
    return protect(faults, block, first, n_pages, true, error);
}

bool faults_release(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                    uint64_t n_pages, GError **error)
{
    return protect(faults, block, first, n_pages, false, error);
}

void faults_wake(struct faults *faults, struct gw_ram_block *block, uint64_t first,
                 uint64_t n_pages)
{
    uffd_wake(faults->uffd, at_page(block, first), n_pages << GW_PAGE_SHIFT);
}

/* ---- guard, wholeness ------------------------------------------------------------------------ */

void memory_set_guard(struct gw_memory *memory, memory_guard_fn fn, void *opaque)
{
    gw_lock_guard(&memory->guard_lock);

    memory->guard = fn;
    memory->guard_opaque = opaque;
}

void memory_set_whole(struct gw_memory *memory, bool is_whole)
{
    gw_lock_guard(&memory->whole_lock);

    memory->is_partial = !is_whole;
    pthread_cond_broadcast(&memory->whole_changed);
}

bool memory_is_whole(struct gw_memory *memory)
{
    gw_lock_guard(&memory->whole_lock);

    return !memory->is_partial;
}

bool memory_await_whole(struct gw_memory *memory, uint64_t deadline_ns)
{
    gw_lock_guard(&memory->whole_lock);
    bool is_in_time = true;

    while (memory->is_partial && is_in_time) {
        is_in_time = cond_wait_until(&memory->whole_changed, &memory->whole_lock, deadline_ns);
    }
    return !memory->is_partial;
}
