/* SPDX-License-Identifier: MIT */
/* The sandbox: what fails inside, and that the rest still works. Each test forks, since nobody ever
 * comes out of it again. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "machine/sandbox.h"

/* Runs the body in a child; it returns 0 or the number of the line that was wrong. */
static void in_a_child(int (*body)(void *opaque), void *opaque)
{
    int status = 0;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(body(opaque));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return __LINE__ % 255 + 1;                                                             \
    } while (0)

static void *early_main(void *opaque)
{
    int *pipes = opaque;
    char byte;

    if (read(pipes[0], &byte, 1) != 1)
        return (void *)1;
    /* Made before the filter, and yet under it. */
    return unshare(CLONE_NEWNS) == -1 && errno == EPERM ? NULL : (void *)2;
}

static void *nothing(void *opaque)
{
    return NULL;
}

static int drop_calls(void *opaque)
{
    char *const arguments[] = {(char *)"true", NULL};
    pthread_t early, late;
    void *result;
    int pipes[2];

    EXPECT(pipe(pipes) == 0 && pthread_create(&early, NULL, early_main, pipes) == 0);
    EXPECT(sandbox_drop_calls(NULL));
    EXPECT(execv("/bin/true", arguments) == -1 && errno == EPERM);
    EXPECT(mount("none", "/mnt", "tmpfs", 0, NULL) == -1 && errno == EPERM);
    EXPECT(syscall(SYS_bpf, 0, NULL, 0) == -1 && errno == EPERM);
    EXPECT(syscall(SYS_init_module, NULL, 0, "") == -1 && errno == EPERM);
    EXPECT(setuid(1) == -1 && errno == EPERM);
#if !defined(__SANITIZE_ADDRESS__)
    EXPECT(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1 && errno == EPERM);
    EXPECT(fork() == -1 && errno == EPERM);
#endif
    EXPECT(write(pipes[1], "x", 1) == 1);
    EXPECT(pthread_join(early, &result) == 0 && result == NULL);
    EXPECT(pthread_create(&late, NULL, nothing, NULL) == 0 && pthread_join(late, NULL) == 0);
    EXPECT(socket(AF_UNIX, SOCK_STREAM, 0) >= 0 && open("/dev/null", O_RDWR) >= 0);
    return 0;
}

static void forbidden_calls_fail_in_every_thread(void **state)
{
    in_a_child(drop_calls, NULL);
}

/* Requests of the terminals' kind ('T'): one that is on the list, one that is not. */
static int drop_requests(void *opaque)
{
    const unsigned long allowed[] = {TCGETS, FIONBIO, 0};
    int pipes[2], n;

    EXPECT(pipe(pipes) == 0 && ioctl(pipes[0], FIONREAD, &n) == 0);
    EXPECT(sandbox_drop_requests(allowed, NULL));
    EXPECT(ioctl(pipes[0], FIONREAD, &n) == -1 && errno == EPERM);
    n = 1;
    EXPECT(ioctl(pipes[0], FIONBIO, &n) == 0);
    EXPECT(ioctl(pipes[0], TCGETS, NULL) == -1 && errno == ENOTTY);
    /* Other kinds and other calls go on as before. */
    EXPECT(ioctl(pipes[0], _IO(0xae, 1), 0) == -1 && errno == ENOTTY);
    EXPECT(write(pipes[1], "x", 1) == 1);
    return 0;
}

static void requests_that_are_not_listed_fail(void **state)
{
    in_a_child(drop_requests, NULL);
}

static int confine_nothing_but_execution(void *opaque)
{
    bool is_confined;

    EXPECT(sandbox_confine_files(NULL, NULL, &is_confined, NULL));
    EXPECT(open("/etc/passwd", O_RDONLY) >= 0);
    if (is_confined) {
        char *const arguments[] = {(char *)"true", NULL};

        EXPECT(execv("/bin/true", arguments) == -1 && errno == EACCES);
    }
    return 0;
}

static void nothing_can_be_executed(void **state)
{
    in_a_child(confine_nothing_but_execution, NULL);
}

static int confine(void *opaque)
{
    const char *dir = opaque;
    g_autofree char *inside = g_build_filename(dir, "made", NULL);
    g_autofree char *outside = g_strconcat(dir, "-outside", NULL);
    g_autofree char *given = g_strconcat(dir, "-given", NULL);
    const char *const folders[] = {dir, NULL};
    const char *const files[] = {given, "/nowhere/at/all", NULL};
    bool is_confined;
    int fd;

    EXPECT(sandbox_confine_files(folders, files, &is_confined, NULL));
    if (!is_confined)
        return 0;
    fd = open(inside, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && write(fd, "x", 1) == 1 && unlink(inside) == 0);
    EXPECT(open(given, O_RDWR) >= 0);
    EXPECT(open(outside, O_CREAT | O_RDWR, 0600) == -1 && errno == EACCES);
    EXPECT(open("/etc/passwd", O_RDONLY) == -1 && errno == EACCES);
    EXPECT(unlink(given) == -1 && errno == EACCES);
    EXPECT(open("/dev/urandom", O_RDONLY) >= 0);
    return 0;
}

static void files_are_confined_to_folders(void **state)
{
    g_autofree char *dir = g_dir_make_tmp("gw-sandbox-XXXXXX", NULL);
    g_autofree char *given = g_strconcat(dir, "-given", NULL);

    assert_true(g_file_set_contents(given, "x", 1, NULL));
    in_a_child(confine, dir);
    assert_int_equal(unlink(given), 0);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forbidden_calls_fail_in_every_thread),
        cmocka_unit_test(requests_that_are_not_listed_fail),
        cmocka_unit_test(nothing_can_be_executed),
        cmocka_unit_test(files_are_confined_to_folders),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
