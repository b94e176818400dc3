/* SPDX-License-Identifier: MIT */
/* The agent in our Linux guests: dirties memory, echoes traffic, and obeys a line protocol.
 *
 * Ports: 7777/tcp control, 7007/tcp and udp echo. The console (stdin) speaks the control protocol
 * too, unless --no-console. One line is one command; each answer's last line starts with "ok" or
 * "error"; docs/guests.md lists the commands.
 *
 * Threads: one per connection, because that is the shortest thing that is right; the dirtier has
 * its own.  Not here: any defence. This program obeys whoever reaches it; it lives in test guests.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/dirtier.h"
#include "common/workload.h"

#define CONTROL_PORT 7777
#define ECHO_PORT    7007

struct session {
    struct dirtier *dirtier;
    FILE *out;
};

struct connection {
    struct dirtier *dirtier;
    int fd;
};

/* ---- commands ---- */

static bool reply_error(struct session *s, const char *why)
{
    fprintf(s->out, "error %s\n", why);
    return true;
}

static bool do_ping(struct session *s, const char *args)
{
    fprintf(s->out, "ok pong %s\n", args);
    return true;
}

static bool do_status(struct session *s, const char *args)
{
    char line[512], wall[64];
    struct timespec up, real;
    struct tm tm;

    dirtier_status(s->dirtier, line, sizeof line);
    clock_gettime(CLOCK_BOOTTIME, &up);
    clock_gettime(CLOCK_REALTIME, &real);
    gmtime_r(&real.tv_sec, &tm);
    strftime(wall, sizeof wall, "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(s->out, "ok %s uptime_ms=%lld wall=%s.%03ldZ wall_ms=%lld\n", line,
            (long long)up.tv_sec * 1000 + up.tv_nsec / 1000000, wall, real.tv_nsec / 1000000,
            (long long)real.tv_sec * 1000 + real.tv_nsec / 1000000);
    return true;
}

static bool do_dirty(struct session *s, const char *args)
{
    struct dirtier_config config;

    if (!dirtier_parse(args, &config)) {
        return reply_error(s, "usage: dirty MIB@RATE[,random|seq|hot[,random|text|sparse]]");
    }
    if (!dirtier_start(s->dirtier, &config)) {
        return reply_error(s, "not enough memory");
    }
    fprintf(s->out, "ok\n");
    return true;
}

static bool do_stop(struct session *s, const char *args)
{
    dirtier_stop(s->dirtier);
    fprintf(s->out, "ok\n");
    return true;
}

static bool do_verify(struct session *s, const char *args)
{
    uint64_t bad = dirtier_verify(s->dirtier);

    fprintf(s->out, "%s bad=%llu\n", bad ? "error" : "ok", (unsigned long long)bad);
    return true;
}

/* Output lines are marked, so that none can be taken for the answer. */
static bool do_sh(struct session *s, const char *args)
{
    char line[4096];
    FILE *pipe = popen(args, "re");

    if (!pipe) {
        return reply_error(s, strerror(errno));
    }
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, "\n")] = '\0';
        fprintf(s->out, "| %s\n", line);
    }
    int status = pclose(pipe);
    fprintf(s->out, "%s %d\n", status == 0 ? "ok" : "error",
            WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    return true;
}

static bool do_sha(struct session *s, const char *args)
{
    char command[4200];

    snprintf(command, sizeof command, "sha256sum '%s'", args);
    return do_sh(s, command);
}

/* Writes or checks MIB mebibytes of pattern number SEED on a disk or file, from OFFSET_MIB on. */
static bool disk_pass(struct session *s, const char *args, bool is_write)
{
    char path[256];
    unsigned long long offset_mib, mib, seed, bad = 0;
    uint64_t *page = NULL;
    struct damage damage;

    if (sscanf(args, "%255s %llu %llu %llu", path, &offset_mib, &mib, &seed) != 4) {
        return reply_error(s, "usage: disk-write|disk-check PATH OFFSET_MIB MIB SEED");
    }
    int fd = open(path, (is_write ? O_WRONLY | O_CREAT : O_RDONLY) | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 || posix_memalign((void **)&page, PAGE_BYTES, PAGE_BYTES) != 0) {
        return reply_error(s, strerror(errno));
    }
    bool is_ok = true;
    for (uint64_t i = 0; i < mib * 256 && is_ok; i++) {
        off_t at = (off_t)(offset_mib * 1048576u + i * PAGE_BYTES);
        /* A region of one page whose salt says where on the disk it lies. */
        struct region r = {.words = page, .pages = 1, .salt = seed * GOLDEN + i};
        if (is_write) {
            page_write(&r, 0, seed);
            is_ok = pwrite(fd, page, PAGE_BYTES, at) == (ssize_t)PAGE_BYTES;
        } else {
            is_ok = pread(fd, page, PAGE_BYTES, at) == (ssize_t)PAGE_BYTES;
            bad += is_ok && !page_check(&r, 0, seed, &damage);
        }
    }
    if (is_ok && is_write) {
        is_ok = fsync(fd) == 0;
    }
    int saved = errno;
    free(page);
    close(fd);
    if (!is_ok) {
        return reply_error(s, strerror(saved));
    }
    fprintf(s->out, "%s bad=%llu\n", bad ? "error" : "ok", bad);
    return true;
}

static bool do_disk_write(struct session *s, const char *args)
{
    return disk_pass(s, args, true);
}

static bool do_disk_check(struct session *s, const char *args)
{
    return disk_pass(s, args, false);
}

/* Until the asker has what was written, or for a second: a machine that is reset forgets it. */
static void await_acknowledged(struct session *s)
{
    int n_left = 0;

    for (int i = 0; i < 1000 && ioctl(fileno(s->out), SIOCOUTQ, &n_left) == 0 && n_left > 0; i++)
        usleep(1000);
}

static bool leave(struct session *s, int how)
{
    fprintf(s->out, "ok\n");
    fflush(s->out);
    await_acknowledged(s);
    sync();
    reboot(how);
    return reply_error(s, strerror(errno));
}

static bool do_reboot(struct session *s, const char *args)
{
    return leave(s, RB_AUTOBOOT);
}

static bool do_poweroff(struct session *s, const char *args)
{
    return leave(s, RB_POWER_OFF);
}

static bool do_bye(struct session *s, const char *args)
{
    fprintf(s->out, "ok\n");
    return false;
}

static bool do_help(struct session *s, const char *args);

static const struct command {
    const char *name;
    bool (*run)(struct session *s, const char *args); /* false: end the session */
    const char *help;
} commands[] = {
    {"ping", do_ping, "[TEXT]  answer pong TEXT"},
    {"status", do_status, "the dirtier's counters, uptime and wall clock"},
    {"dirty", do_dirty, "MIB@RATE[,ORDER[,FILL]]  start dirtying"},
    {"stop", do_stop, "stop dirtying; the buffer stays for verify"},
    {"verify", do_verify, "check every page of the buffer now"},
    {"sh", do_sh, "COMMAND  run it; its output comes in lines that start with |"},
    {"sha", do_sha, "PATH  SHA-256 of a file or disk"},
    {"disk-write", do_disk_write, "PATH OFFSET_MIB MIB SEED  write a pattern and flush"},
    {"disk-check", do_disk_check, "PATH OFFSET_MIB MIB SEED  check that pattern"},
    {"reboot", do_reboot, "sync and reboot at once"},
    {"poweroff", do_poweroff, "sync and power off at once"},
    {"bye", do_bye, "end the connection"},
    {"help", do_help, "this list"},
};

static bool do_help(struct session *s, const char *args)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        fprintf(s->out, "| %s %s\n", commands[i].name, commands[i].help);
    }
    fprintf(s->out, "ok\n");
    return true;
}

static bool obey(struct session *s, char *line)
{
    line[strcspn(line, "\r\n")] = '\0';
    size_t length = strcspn(line, " ");
    if (length == 0) {
        return true;
    }
    const char *args = line[length] ? line + length + 1 : "";
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strlen(commands[i].name) == length && strncmp(line, commands[i].name, length) == 0) {
            return commands[i].run(s, args);
        }
    }
    return reply_error(s, "no such command; try help");
}

static void serve(struct dirtier *dirtier, FILE *in, FILE *out)
{
    struct session s = {.dirtier = dirtier, .out = out};
    char line[4096];

    while (fgets(line, sizeof line, in)) {
        bool wants_more = obey(&s, line);
        if (fflush(out) != 0 || !wants_more) {
            break;
        }
    }
}

/* ---- servers ---- */

static void *control_session(void *opaque)
{
    struct connection *c = opaque;
    FILE *in = fdopen(c->fd, "r");
    FILE *out = fdopen(dup(c->fd), "w");

    if (in && out) {
        serve(c->dirtier, in, out);
    }
    if (out) {
        fclose(out);
    }
    if (in) {
        fclose(in);
    }
    free(c);
    return NULL;
}

static void *echo_session(void *opaque)
{
    struct connection *c = opaque;
    char buffer[16384];
    ssize_t got;

    while ((got = recv(c->fd, buffer, sizeof buffer, 0)) > 0) {
        for (ssize_t sent = 0, n; sent < got; sent += n) {
            n = send(c->fd, buffer + sent, (size_t)(got - sent), MSG_NOSIGNAL);
            if (n < 0) {
                goto out;
            }
        }
    }
out:
    close(c->fd);
    free(c);
    return NULL;
}

static int bound_socket(int type, uint16_t port)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
    int on = 1, off = 0;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (fd < 0 || bind(fd, (struct sockaddr *)&any, sizeof any) != 0 ||
        (type == SOCK_STREAM && listen(fd, 16) != 0)) {
        perror("agent: cannot listen");
        exit(1);
    }
    return fd;
}

static void *udp_echo(void *opaque)
{
    int fd = *(int *)opaque;
    struct sockaddr_storage peer;
    char buffer[2048];

    for (;;) {
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&peer, &length);
        if (got >= 0) {
            sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&peer, length);
        }
    }
    return NULL;
}

struct server {
    struct dirtier *dirtier;
    int fd;
    void *(*session)(void *);
};

static bool start_thread(void *(*run)(void *), void *opaque)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, run, opaque) != 0) {
        return false;
    }
    pthread_detach(thread);
    return true;
}

static void *accept_loop(void *opaque)
{
    struct server *server = opaque;
    int on = 1;

    for (;;) {
        int fd = accept(server->fd, NULL, NULL);
        if (fd < 0) {
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = malloc(sizeof *c);
        if (c) {
            *c = (struct connection){.dirtier = server->dirtier, .fd = fd};
        }
        if (!c || !start_thread(server->session, c)) {
            close(fd);
            free(c);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct dirtier *dirtier = dirtier_new();
    struct dirtier_config config;
    bool wants_console = true;

    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct server control = {dirtier, bound_socket(SOCK_STREAM, CONTROL_PORT), control_session};
    struct server echo = {dirtier, bound_socket(SOCK_STREAM, ECHO_PORT), echo_session};
    int udp_fd = bound_socket(SOCK_DGRAM, ECHO_PORT);
    if (!dirtier || !start_thread(accept_loop, &control) || !start_thread(accept_loop, &echo) ||
        !start_thread(udp_echo, &udp_fd)) {
        perror("agent: cannot start");
        return 1;
    }
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--no-console") == 0) {
            wants_console = false;
        } else if (!dirtier_parse(argv[i], &config) || !dirtier_start(dirtier, &config)) {
            fprintf(stderr, "agent: cannot dirty %s\n", argv[i]);
        }
    }
    printf("GODWIT-READY\n");
    if (wants_console) {
        serve(dirtier, stdin, stdout);
    }
    for (;;) {
        pause();
    }
}
