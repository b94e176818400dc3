/* SPDX-License-Identifier: MIT */
/*
 * The device requests (ioctl) that a running machine keeps, of one kind.
 *
 * Model: a filter of its own beside the one of sandbox.c, since it is a list of what is allowed: a
 * request whose type byte is the kind's and that is not in the list fails. It stands before every
 * entry of a vCPU into its guest, so it is straight code of the kernel's filter machine, and what
 * comes first in the list costs least.
 *
 * SPEC: Linux Documentation/userspace-api/seccomp_filter.rst; ioctl numbers:
 * include/uapi/asm-generic/ioctl.h. Only the lower half of the request counts, as for the kernel.
 */
#include "machine/sandbox.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "godwit/error.h"

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define OWN_ARCH AUDIT_ARCH_RISCV64
#else
#define OWN_ARCH 0
#endif

#define MAX_REQUESTS     200u /* the filter's jumps are bytes */
#define LOAD(member)     BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, member))
#define RETURN(what)     BPF_STMT(BPF_RET | BPF_K, (what))
/* Goes on when the value is this one, else over the next n instructions. */
#define UNLESS(value, n) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (n))
#define UPPER_OF_TYPE    8u

static unsigned build(struct sock_filter *filter, const unsigned long *allowed, unsigned n)
{
    const struct sock_filter head[] = {
        LOAD(arch),
        UNLESS(OWN_ARCH, 1),
        BPF_STMT(BPF_JMP | BPF_JA, 1),
        RETURN(SECCOMP_RET_KILL_PROCESS), /* calls of another architecture have other numbers */
        LOAD(nr),
        UNLESS(SYS_ioctl, 4),
        LOAD(args[1]),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, _IOC_TYPEMASK << _IOC_TYPESHIFT),
        UNLESS(_IOC_TYPE(allowed[0]) << _IOC_TYPESHIFT, 1),
        BPF_STMT(BPF_JMP | BPF_JA, 1),
        RETURN(SECCOMP_RET_ALLOW),
        LOAD(args[1]),
    };
    unsigned at = 0;

    for (; at < G_N_ELEMENTS(head); at++)
        filter[at] = head[at];
    for (unsigned i = 0; i < n; i++)
        filter[at++] =
            (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed[i], n - i, 0);
    filter[at++] = (struct sock_filter)RETURN(SECCOMP_RET_ERRNO | EPERM);
    filter[at++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    return at;
}

bool sandbox_drop_requests(const unsigned long *allowed, GError **error)
{
    struct sock_filter filter[MAX_REQUESTS + 16];
    unsigned n = 0;

    while (allowed[n])
        n++;
    if (n == 0 || n > MAX_REQUESTS || OWN_ARCH == 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "sandbox: %u requests cannot be listed",
                    n);
        return false;
    }
    const struct sock_fprog program = {.len = (unsigned short)build(filter, allowed, n),
                                       .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) == 0)
        return true;
    g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "sandbox: seccomp: %s", g_strerror(errno));
    return false;
}
