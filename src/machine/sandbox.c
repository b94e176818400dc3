/* SPDX-License-Identifier: MIT */
/* Landlock and seccomp: see sandbox.h. */
#include "machine/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/landlock.h>

#include "godwit/error.h"

/* ---- files ----------------------------------------------------------------------------------- */

#define ACCESS_NEVER                                                                               \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
#define ACCESS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define ACCESS_MAKE                                                                                \
    (LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_DIR |    \
     LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
     LANDLOCK_ACCESS_FS_REMOVE_DIR)
#define ACCESS_FILE (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE)
#define ACCESS_ALL  (ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | ACCESS_MAKE)

/* What the libraries read at run time, and the devices of back ends. */
static const struct {
    const char *path;
    uint64_t access;
} always[] = {
    {"/usr", ACCESS_READ},
    {"/lib", ACCESS_READ},
    {"/lib64", ACCESS_READ},
    {"/proc", ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE},
    {"/sys/devices/system", ACCESS_READ},
    {"/dev", ACCESS_READ | LANDLOCK_ACCESS_FS_WRITE_FILE},
    {"/etc/resolv.conf", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/hosts", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/host.conf", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/gai.conf", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/nsswitch.conf", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/services", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/localtime", LANDLOCK_ACCESS_FS_READ_FILE},
    {"/etc/ld.so.cache", LANDLOCK_ACCESS_FS_READ_FILE},
};

/* A path that does not exist adds nothing. */
static bool add_rule(int ruleset, const char *path, uint64_t access, GError **error)
{
    int fd = open(path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    struct stat st;
    bool is_added;

    if (fd < 0)
        return true;
    if (fstat(fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rule.allowed_access &= ACCESS_FILE;
    is_added = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
    if (!is_added)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "sandbox: %s: %s", path,
                    g_strerror(errno));
    close(fd);
    return is_added;
}

static bool add_rules(int ruleset, const char *const *folders, const char *const *files,
                      GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(always); i++)
        if (!add_rule(ruleset, always[i].path, always[i].access, error))
            return false;
    for (; *folders; folders++)
        if (!add_rule(ruleset, *folders, ACCESS_ALL, error))
            return false;
    for (; files && *files; files++)
        if (!add_rule(ruleset, *files, ACCESS_FILE, error))
            return false;
    return true;
}

bool sandbox_confine_files(const char *const *folders, const char *const *files, bool *is_confined,
                           GError **error)
{
    struct landlock_ruleset_attr attr = {.handled_access_fs = ACCESS_NEVER};
    bool is_done;
    int ruleset;

    if (folders)
        attr.handled_access_fs |= ACCESS_ALL;
    *is_confined = false;
    ruleset = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
    if (ruleset < 0 && (errno == ENOSYS || errno == EOPNOTSUPP))
        return true;
    is_done = ruleset >= 0 && (!folders || add_rules(ruleset, folders, files, error)) &&
              prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
              syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
    if (!is_done && error && !*error)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "sandbox: Landlock: %s",
                    g_strerror(errno));
    if (ruleset >= 0)
        close(ruleset);
    *is_confined = is_done;
    return is_done;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* A leak checker forks and traces its own process at the end. */
#if defined(__SANITIZE_ADDRESS__)
#define IS_TRACED_BY_ITSELF 1
#else
#define IS_TRACED_BY_ITSELF 0
#endif

static const int forbidden[] = {
    /* new programs and processes (clone: see below) */
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    /* other processes */
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(process_madvise),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(kcmp),
    SCMP_SYS(migrate_pages),
    SCMP_SYS(move_pages),
    /* identity and privileges */
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setreuid),
    SCMP_SYS(setregid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setresgid),
    SCMP_SYS(setfsuid),
    SCMP_SYS(setfsgid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
    SCMP_SYS(personality),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    /* the file system's shape */
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(open_tree),
    SCMP_SYS(move_mount),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(quotactl),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(fanotify_init),
    SCMP_SYS(mknod),
    SCMP_SYS(mknodat),
    /* namespaces */
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(sethostname),
    SCMP_SYS(setdomainname),
    /* the kernel */
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(reboot),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(syslog),
    SCMP_SYS(acct),
    SCMP_SYS(vhangup),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    /* the clock */
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
};

static int add_call_rules(scmp_filter_ctx filter)
{
    int rc = 0;

    for (size_t i = 0; i < G_N_ELEMENTS(forbidden) && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), forbidden[i], 0);
    if (rc == 0 && !IS_TRACED_BY_ITSELF)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ptrace), 0);
    /* Threads yes, processes no. clone3 hides its flags from filters; without it glibc uses
     * clone. */
    if (rc == 0 && !IS_TRACED_BY_ITSELF)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                              SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return rc;
}

bool sandbox_drop_calls(GError **error)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int rc = filter ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;

    if (rc == 0)
        seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree; it only saves time */
    if (rc == 0)
        rc = add_call_rules(filter);
    if (rc == 0)
        rc = seccomp_load(filter);
    if (filter)
        seccomp_release(filter);
    if (rc != 0)
        g_set_error(error, GW_ERROR, GW_ERROR_UNSUPPORTED, "sandbox: seccomp: %s", g_strerror(-rc));
    return rc == 0;
}
