/* SPDX-License-Identifier: MIT */
/* Accesses that wait for us, by userfaultfd; see faults.h. */
#include "memory/faults.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/cond.h"
#include "base/fdio.h"
#include "memory/memory_internal.h"
#include "memory/uffd.h"

#define N_MESSAGES 16

struct faults {
    /* Fixed after construction. */
    struct gw_memory *memory;
    enum faults_kind kind;
    fault_fn fn;
    void *opaque;
    int uffd;
    int wake_fd; /* eventfd: somebody rang, or the thread is to end */
    /* Owned by who starts and frees it. */
    pthread_t thread;
    bool has_thread;

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

/* ---- the thread ------------------------------------------------------------------------------ */

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

static void *thread_main(void *opaque)
{
    struct faults *faults = opaque;
    struct uffd_msg messages[N_MESSAGES];
    struct pollfd fds[] = {{.fd = faults->wake_fd, .events = POLLIN},
                           {.fd = faults->uffd, .events = POLLIN}};

    for (;;) {
        int n_ready = poll(fds, 2, -1);
        if (n_ready < 0 && errno != EINTR) {
            return NULL;
        }
        if (n_ready > 0 && fds[0].revents && fd_event_take(faults->wake_fd) > 0) {
            if (__atomic_load_n(&faults->is_ending, __ATOMIC_ACQUIRE)) {
                return NULL;
            }
            faults->fn(faults->opaque, NULL, 0, 0);
        }
        ssize_t n = read(faults->uffd, messages, sizeof messages);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return NULL;
        }
        for (ssize_t i = 0; i < n / (ssize_t)sizeof *messages; i++) {
            if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
                tell(faults, messages[i].arg.pagefault.address,
                     messages[i].arg.pagefault.feat.ptid);
            }
        }
    }
}

bool faults_start(struct faults *faults, GError **error)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&faults->thread, NULL, thread_main, faults);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc) {
        g_set_error(error, GW_ERROR, GW_ERROR_IO, "cannot start a thread: %s", g_strerror(rc));
        return false;
    }
    pthread_setname_np(faults->thread, "gw-faults");
    faults->has_thread = true;
    return true;
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
    if (faults->has_thread) {
        __atomic_store_n(&faults->is_ending, true, __ATOMIC_RELEASE);
        faults_ring(faults);
        pthread_join(faults->thread, NULL);
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
