/* SPDX-License-Identifier: MIT */
/* RAM that changes hands by its descriptors: who has which memory, whatever fails on the way. */
#include "attack.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "migrate/share.h"

static ino_t inode_of(const struct fake_vm *vm, uint32_t index)
{
    struct stat stat;

    assert_int_equal(fstat(gw_memory_block(vm->memory, index)->fd, &stat), 0);
    return stat.st_ino;
}

/* What is behind a host address, as the kernel tells it. */
struct mapped {
    ino_t inode;
    char flags[5];
};

static struct mapped mapping_of(const struct gw_ram_block *block)
{
    g_autofree char *maps = NULL;
    struct mapped mapped = {0};
    char **lines;

    assert_true(g_file_get_contents("/proc/self/maps", &maps, NULL, NULL));
    lines = g_strsplit(maps, "\n", -1);
    for (char **line = lines; *line; line++) {
        unsigned long start, end, inode;
        char flags[5];

        if (sscanf(*line, "%lx-%lx %4s %*s %*s %lu", &start, &end, flags, &inode) == 4 &&
            start <= (uintptr_t)block->host && (uintptr_t)block->host < end) {
            mapped.inode = inode;
            memcpy(mapped.flags, flags, sizeof flags);
        }
    }
    g_strfreev(lines);
    return mapped;
}

/* A move by sharing; what the source had is remembered. The guest's memory stands still, so that
 * its content can be compared. */
struct share_move {
    struct move move;
    ino_t inodes[2], own[2]; /* before the move: the source's, the destination's */
    uint8_t *content;
};

static void share_init(struct share_move *share)
{
    struct fake_pair *pair = &share->move.pair;
    const struct gw_ram_block *ram;

    *share = (struct share_move){0};
    move_init(&share->move);
    share->move.source_params.ram = GW_RAM_SHARE;
    fake_vm_park(&pair->source);
    pair->source.writes_per_ms = 0;
    fake_vm_run(&pair->source);
    ram = gw_memory_block(pair->source.memory, 0);
    share->content = g_memdup2(ram->host, ram->size_bytes);
    for (uint32_t i = 0; i < 2; i++) {
        share->inodes[i] = inode_of(&pair->source, i);
        share->own[i] = inode_of(&pair->destination, i);
        assert_int_not_equal(share->inodes[i], share->own[i]);
    }
}

static void share_clear(struct share_move *share)
{
    move_clear(&share->move);
    g_free(share->content);
}

static void check_memory(struct share_move *share, struct fake_vm *vm)
{
    const struct gw_ram_block *ram = gw_memory_block(vm->memory, 0);
    char high[4];

    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(inode_of(vm, i), share->inodes[i]);
        assert_int_equal(mapping_of(gw_memory_block(vm->memory, i)).inode, share->inodes[i]);
        assert_string_equal(mapping_of(gw_memory_block(vm->memory, i)).flags, "rw-s");
    }
    assert_memory_equal(ram->host, share->content, ram->size_bytes);
    assert_true(gw_memory_read(vm->memory, UINT64_C(1) << 32, high, sizeof high));
    assert_memory_equal(high, "high", 4);
}

/* Its memory is its own, empty, and nothing written to it reaches the guest. */
static void check_stranger(struct share_move *share, struct fake_vm *vm)
{
    const struct gw_ram_block *ram = gw_memory_block(vm->memory, 0);

    for (uint32_t i = 0; i < 2; i++) {
        assert_int_not_equal(inode_of(vm, i), share->inodes[i]);
        assert_int_equal(mapping_of(gw_memory_block(vm->memory, i)).inode, inode_of(vm, i));
        assert_string_equal(mapping_of(gw_memory_block(vm->memory, i)).flags, "rw-s");
    }
    for (uint64_t i = 0; i < ram->size_bytes; i += GW_PAGE_SIZE)
        assert_int_equal(ram->host[i], 0);
    ram->host[0] = 0xEE;
    assert_true(gw_memory_discard(gw_memory_block(vm->memory, 0), 0, ram->size_bytes, NULL));
}

static void check_share(struct share_move *share)
{
    struct move *move = &share->move;
    struct fake_pair *pair = &move->pair;
    bool is_over = source_state_of(move) == GW_SOURCE_COMPLETED;
    struct fake_vm *owner = is_over ? &pair->destination : &pair->source;
    struct fake_vm *other = is_over ? &pair->source : &pair->destination;

    assert_false(pair->ran_twice);
    assert_true(gw_destination_wait(move->destination, after_ms(PATIENCE_MS)));
    assert_true(fake_vm_is_running(owner));
    assert_false(fake_vm_is_running(other));
    assert_int_equal(pair->source.n_released, is_over);
    assert_int_equal(pair->destination.n_runs, is_over);
    fake_vm_park(owner);
    check_stranger(share, other);
    check_memory(share, owner);
    fake_vm_run(owner);
}

static void check_no_page_was_sent(struct move *move)
{
    struct gw_source_status status = source_status_of(move);

    assert_true(status.is_ram_shared);
    assert_true(destination_status_of(move).is_ram_shared);
    assert_int_equal(status.pages_plain + status.pages_zero + status.pages_skipped, 0);
    assert_int_equal(status.remaining_bytes, 0);
}

static void share_finish(struct share_move *share)
{
    move_start_destination(&share->move);
    move_start_source(&share->move);
    move_finish(&share->move);
}

static void next_attempt_shares(struct share_move *share)
{
    struct move *move = &share->move;

    g_clear_pointer(&move->source, gw_source_free);
    g_clear_pointer(&move->source_uri, g_free);
    move->cancel_at = 0;
    move->refuse_from = 0;
    move->source_params.ram = GW_RAM_SHARE;
    move_start_source(move);
    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    check_no_page_was_sent(move);
    check_share(share);
}

/* ---- what it is for ----------------------------------------------------------------------------
 */

static void memory_changes_hands(void **state)
{
    static const enum gw_ram_way ways[] = {GW_RAM_SHARE, GW_RAM_AUTO};

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        struct share_move share;

        share_init(&share);
        share.move.source_params.ram = ways[i];
        share_finish(&share);
        expect_source_state(&share.move, GW_SOURCE_COMPLETED);
        check_no_page_was_sent(&share.move);
        check_share(&share);
        share_clear(&share);
    }
}

static unsigned n_descriptors(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir))
        n++;
    return n;
}

/* Twenty times, each move after the first by descriptors that themselves came from elsewhere; then
 * once by copying, for which the dirty log must start right. */
static void it_goes_back_and_forth(void **state)
{
    struct share_move share;
    struct fake_vm *from, *to;
    unsigned n_before = 0;

    share_init(&share);
    from = &share.move.pair.source;
    to = &share.move.pair.destination;
    for (unsigned i = 0; i <= 20; i++) {
        struct gw_migrate_params params = share.move.source_params;
        g_autoptr(GError) error = NULL;
        struct gw_destination *destination;
        struct gw_source *source;
        struct gw_source_status status;
        struct fake_vm *next = from;

        params.ram = i < 20 ? GW_RAM_SHARE : GW_RAM_COPY;
        destination = gw_destination_start(&to->vm, share.move.pair.uri, NULL, NULL, &error);
        assert_non_null(destination);
        source = gw_source_start(&from->vm, share.move.pair.uri, &params, NULL, &error);
        assert_non_null(source);
        assert_true(gw_source_wait(source, after_ms(PATIENCE_MS)));
        gw_source_get_status(source, &status);
        assert_int_equal(status.state, GW_SOURCE_COMPLETED);
        assert_true(gw_destination_wait(destination, after_ms(PATIENCE_MS)));
        gw_source_free(source);
        gw_destination_free(destination);
        assert_true(fake_vm_is_running(to));
        fake_vm_park(to);
        if (i < 20) {
            check_stranger(&share, from);
            check_memory(&share, to);
        } else {
            assert_int_equal(inode_of(from, 0), share.inodes[0]);
            assert_true(status.pages_plain > 0);
            assert_memory_equal(gw_memory_block(to->memory, 0)->host, share.content,
                                FAKE_RAM_BYTES);
        }
        fake_vm_run(to);
        from = to;
        to = next;
        /* Both machines have taken and given by then; nothing piles up. */
        if (i == 1)
            n_before = n_descriptors();
        else if (i > 1 && i < 20)
            assert_int_equal(n_descriptors(), n_before);
    }
    assert_false(share.move.pair.ran_twice);
    share_clear(&share);
}

/* While state is loaded the memory can be read, and only read: the kernel sees to it. */
static bool see_mapping(void *opaque, GError **error)
{
    struct fake_vm *vm = opaque;
    const struct gw_ram_block *ram = gw_memory_block(vm->memory, 0);

    vm->n_after++;
    assert_string_equal(mapping_of(ram).flags, "r--s");
    assert_int_equal(mapping_of(ram).inode, inode_of(&vm->pair->source, 0));
    assert_int_equal(fcntl(ram->fd, F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_false(gw_memory_discard(gw_memory_block(vm->memory, 0), 0, GW_PAGE_SIZE, NULL));
    return true;
}

static void nothing_can_be_written_before_commit(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.pair.destination.vm.after_load = see_mapping;
    share_finish(&share);
    expect_source_state(&share.move, GW_SOURCE_COMPLETED);
    assert_int_equal(share.move.pair.destination.n_after, 1);
    check_share(&share);
    share_clear(&share);
}

/* From COMMIT on the source does not even give pages back to the host: they are the guest's. */
static void try_to_discard(void *opaque, bool was_running, struct gw_ledger *ledger)
{
    struct fake_vm *vm = opaque;
    struct gw_ram_block *ram = gw_memory_block(vm->pair->source.memory, 0);
    g_autoptr(GError) error = NULL;

    assert_false(gw_memory_discard(ram, 0, ram->size_bytes, &error));
    assert_non_null(strstr(error->message, "its memory was handed over"));
    vm->n_runs++;
    fake_vm_run(vm);
}

static void the_source_discards_nothing_after_commit(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.pair.destination.vm.run_at_destination = try_to_discard;
    share_finish(&share);
    expect_source_state(&share.move, GW_SOURCE_COMPLETED);
    check_share(&share);
    share_clear(&share);
}

/* ---- when it cannot be -------------------------------------------------------------------------
 */

static void expect_refused(struct share_move *share, const char *words)
{
    struct gw_source_status status = source_status_of(&share->move);

    expect_source_state(&share->move, GW_SOURCE_FAILED);
    assert_int_equal(status.failure.code, GW_ERROR_REFUSED);
    if (!strstr(status.failure.reason, words))
        fail_msg("\"%s\" does not say \"%s\"", status.failure.reason, words);
    assert_int_equal(share->move.pair.source.n_stops, 0); /* nothing was stopped */
    assert_true(fake_vm_is_running(&share->move.pair.source));
}

static void expect_copied(struct share_move *share)
{
    expect_source_state(&share->move, GW_SOURCE_COMPLETED);
    assert_false(source_status_of(&share->move).is_ram_shared);
    assert_false(destination_status_of(&share->move).is_ram_shared);
    assert_true(source_status_of(&share->move).pages_plain > 0);
    check_one_owner(&share->move);
}

static void it_can_be_forbidden(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.source_params.ram = GW_RAM_COPY;
    share_finish(&share);
    expect_copied(&share);
    share_clear(&share);

    share_init(&share);
    share.move.source_params.ram = GW_RAM_AUTO;
    share.move.destination_params.ram = GW_RAM_COPY;
    share_finish(&share);
    expect_copied(&share);
    share_clear(&share);

    share_init(&share);
    share.move.destination_params.ram = GW_RAM_COPY;
    share_finish(&share);
    expect_refused(&share, "the destination does not know how");
    share_clear(&share);
}

static void tcp_cannot(void **state)
{
    struct share_move share;

    share_init(&share);
    g_free(share.move.pair.uri);
    share.move.pair.uri = g_strdup("tcp:127.0.0.1:0");
    move_start_destination(&share.move);
    share.move.source_uri = g_strdup(gw_destination_uri(share.move.destination));
    move_start_source(&share.move);
    move_finish(&share.move);
    expect_refused(&share, "through UNIX sockets only, not through tcp:127.0.0.1");
    /* The destination was not even troubled. */
    assert_int_equal(destination_status_of(&share.move).state, GW_DESTINATION_LISTENING);
    gw_source_free(share.move.source);
    share.move.source_params.ram = GW_RAM_AUTO;
    move_start_source(&share.move);
    move_finish(&share.move);
    expect_copied(&share);
    share_clear(&share);
}

/* Filters hold bytes back, cut and count them; descriptors pass all the same. */
static void filters_let_descriptors_pass(void **state)
{
    struct share_move share;
    g_autofree char *trace = g_dir_make_tmp("godwit-trace-XXXXXX", NULL);
    g_autofree char *command = g_strdup_printf("rm -r %s", trace);

    share_init(&share);
    share.move.source_uri = g_strdup_printf(
        "trace:%s,fault:delay@type=COMMIT@ms=20,rate:100000000,%s", trace, share.move.pair.uri);
    share_finish(&share);
    expect_source_state(&share.move, GW_SOURCE_COMPLETED);
    check_no_page_was_sent(&share.move);
    check_share(&share);
    assert_true(g_spawn_command_line_sync(command, NULL, NULL, NULL, NULL));
    share_clear(&share);
}

/* Somebody between the two who carries bytes and nothing else. */
struct relay {
    int listening;
    char *target;
    pthread_t thread;
    GPtrArray *pumps;
};

struct pump {
    int from, to;
    pthread_t thread;
};

static void *pump_main(void *opaque)
{
    struct pump *pump = opaque;
    char bytes[65536];
    ssize_t n;

    while ((n = read(pump->from, bytes, sizeof bytes)) > 0)
        for (ssize_t done = 0, m; done < n; done += m)
            if ((m = send(pump->to, bytes + done, (size_t)(n - done), MSG_NOSIGNAL)) <= 0)
                n = 0;
    shutdown(pump->from, SHUT_RD);
    shutdown(pump->to, SHUT_WR);
    return NULL;
}

static void relay_pump(struct relay *relay, int from, int to)
{
    struct pump *pump = g_new0(struct pump, 1);

    pump->from = dup(from);
    pump->to = dup(to);
    g_ptr_array_add(relay->pumps, pump);
    assert_int_equal(pthread_create(&pump->thread, NULL, pump_main, pump), 0);
}

static void *relay_main(void *opaque)
{
    struct relay *relay = opaque;
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    g_strlcpy(address.sun_path, relay->target, sizeof address.sun_path);
    for (;;) {
        gw_autofd int near = accept(relay->listening, NULL, NULL);
        gw_autofd int far = socket(AF_UNIX, SOCK_STREAM, 0);

        if (near < 0)
            return NULL;
        assert_int_equal(connect(far, (struct sockaddr *)&address, sizeof address), 0);
        relay_pump(relay, near, far);
        relay_pump(relay, far, near);
    }
}

static void relay_start(struct relay *relay, struct move *move)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *relay = (struct relay){.listening = socket(AF_UNIX, SOCK_STREAM, 0),
                            .target = g_strconcat(move->pair.dir, "/socket", NULL),
                            .pumps = g_ptr_array_new()};
    g_snprintf(address.sun_path, sizeof address.sun_path, "%s/relay", move->pair.dir);
    assert_int_equal(bind(relay->listening, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(relay->listening, 8), 0);
    move->source_uri = g_strconcat("unix:", address.sun_path, NULL);
    assert_int_equal(pthread_create(&relay->thread, NULL, relay_main, relay), 0);
}

/* After both engines are gone. */
static void relay_end(struct relay *relay)
{
    shutdown(relay->listening, SHUT_RDWR);
    pthread_join(relay->thread, NULL);
    close(relay->listening);
    for (guint i = 0; i < relay->pumps->len; i++) {
        struct pump *pump = g_ptr_array_index(relay->pumps, i);

        pthread_join(pump->thread, NULL);
        close(pump->from);
        close(pump->to);
        g_free(pump);
    }
    g_ptr_array_unref(relay->pumps);
    g_free(relay->target);
}

static void a_relay_is_found_out(void **state)
{
    static const enum gw_ram_way ways[] = {GW_RAM_SHARE, GW_RAM_AUTO};

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        struct share_move share;
        struct relay relay;

        share_init(&share);
        share.move.source_params.ram = ways[i];
        move_start_destination(&share.move);
        relay_start(&relay, &share.move);
        move_start_source(&share.move);
        move_finish(&share.move);
        if (ways[i] == GW_RAM_SHARE)
            expect_refused(&share, "no descriptors came");
        else
            expect_copied(&share);
        share_clear(&share);
        relay_end(&relay);
    }
}

/* Memory that is not behind a sealed descriptor. */
static void private_memory_cannot(void **state)
{
    struct share_move share;
    struct gw_memory *memory = gw_memory_new();
    void *at =
        mmap(NULL, FAKE_RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    share_init(&share);
    assert_non_null(gw_memory_adopt_block(memory, "ram", 0, at, FAKE_RAM_BYTES, -1, NULL));
    share.move.pair.source.vm.memory = memory;
    share_finish(&share);
    expect_refused(&share, "RAM block ram is not backed by a memory descriptor");
    share_clear(&share);
    gw_memory_free(memory);
    munmap(at, FAKE_RAM_BYTES);
}

/* ---- failures on the way -----------------------------------------------------------------------
 */

static void failures_leave_it_at_the_source(void **state)
{
    static const enum gw_source_state cancels[] = {GW_SOURCE_HANDSHAKE, GW_SOURCE_ROUNDS,
                                                   GW_SOURCE_BLACKOUT};
    static const char *const cuts[] = {"RAM_SHARE", "RAM_MAP", "SWITCHOVER_BEGIN", "STATE_END",
                                       "COMMIT"};

    for (size_t i = 0; i < G_N_ELEMENTS(cancels); i++) {
        struct share_move share;

        share_init(&share);
        share.move.cancel_at = cancels[i];
        share_finish(&share);
        expect_source_state(&share.move, GW_SOURCE_CANCELLED);
        check_share(&share);
        next_attempt_shares(&share);
        share_clear(&share);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(cuts); i++) {
        struct share_move share;

        share_init(&share);
        share.move.source_uri =
            g_strdup_printf("fault:cut@type=%s@channel=control-0,%s", cuts[i], share.move.pair.uri);
        share_finish(&share);
        expect_source_state(&share.move, GW_SOURCE_FAILED);
        check_share(&share);
        next_attempt_shares(&share);
        share_clear(&share);
    }
}

/* Frees a source that has ended, when its successor shares. */
static void free_the_last(void *opaque, enum gw_migrate_event event, uint32_t value)
{
    struct gw_source **last = opaque;

    if (event == GW_MIGRATE_EVENT_STATE && value == GW_SOURCE_ROUNDS)
        g_clear_pointer(last, gw_source_free);
}

static void a_source_that_has_ended_may_be_freed_late(void **state)
{
    struct share_move share;
    struct move *move = &share.move;
    struct gw_migrate_observer observer = {.event = free_the_last};
    struct gw_source *last;

    share_init(&share);
    move->source_uri =
        g_strdup_printf("fault:cut@type=RAM_MAP@channel=control-0,%s", move->pair.uri);
    share_finish(&share);
    expect_source_state(move, GW_SOURCE_FAILED);
    check_share(&share); /* the destination has got over it, too */
    last = g_steal_pointer(&move->source);
    observer.opaque = &last;
    move->source = gw_source_start(&move->pair.source.vm, move->pair.uri, &move->source_params,
                                   &observer, NULL);
    move_finish(move);
    expect_source_state(move, GW_SOURCE_COMPLETED);
    assert_null(last);
    check_no_page_was_sent(move);
    check_share(&share);
    share_clear(&share);
}

static void a_failing_load_leaves_it_at_the_source(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.pair.destination.fails_after_load = true;
    share_finish(&share);
    expect_source_state(&share.move, GW_SOURCE_FAILED);
    assert_int_equal(share.move.pair.source.n_resumes, 1);
    check_share(&share);
    share.move.pair.destination.fails_after_load = false;
    next_attempt_shares(&share);
    share_clear(&share);
}

/* An attempt that is put off costs nothing: the memory is where it was. */
static void it_can_be_put_off(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.pair.source.fail_stops = 1;
    share.move.pair.source.fail_flushes = 1;
    share_finish(&share);
    expect_source_state(&share.move, GW_SOURCE_COMPLETED);
    assert_int_equal(source_status_of(&share.move).failed_attempts, 2);
    check_no_page_was_sent(&share.move);
    check_share(&share);
    share_clear(&share);
}

/* ---- in doubt: the key knows, though nobody can be asked
 * ------------------------------------------
 */

static void a_lost_commit_is_revoked(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.source_uri =
        g_strdup_printf("fault:cut@type=COMMIT@channel=control-0,%s", share.move.pair.uri);
    share.move.refuse_from = 2; /* control and page channel; no question gets through */
    share_finish(&share);
    assert_true(atomic_load(&share.move.seen_states) & (1u << GW_SOURCE_IN_DOUBT));
    expect_source_state(&share.move, GW_SOURCE_FAILED);
    check_share(&share);
    next_attempt_shares(&share);
    share_clear(&share);
}

static void a_lost_running_is_known(void **state)
{
    struct share_move share;

    share_init(&share);
    share.move.source_uri =
        g_strdup_printf("fault:cut@type=RUNNING@in@channel=control-0,%s", share.move.pair.uri);
    share.move.refuse_from = 2;
    share_finish(&share);
    assert_true(atomic_load(&share.move.seen_states) & (1u << GW_SOURCE_IN_DOUBT));
    expect_source_state(&share.move, GW_SOURCE_COMPLETED);
    check_share(&share);
    share_clear(&share);
}

static void a_key_has_one_owner(void **state)
{
    int fd = -1;
    struct share_key *ours = share_key_new(&fd, NULL);
    struct share_key *theirs = share_key_open(fcntl(fd, F_DUPFD_CLOEXEC, 0), NULL);

    assert_non_null(ours);
    assert_non_null(theirs);
    assert_true(theirs->proof_low == ours->proof_low && theirs->proof_high == ours->proof_high);
    assert_true(theirs->proof_low != 0 || theirs->proof_high != 0);
    assert_true(share_key_take(theirs));
    assert_false(share_key_take(theirs));
    assert_int_equal(share_key_revoke(ours), SHARE_TAKEN);
    __atomic_store_n(&theirs->owner, SHARE_OPEN, __ATOMIC_SEQ_CST);
    assert_int_equal(share_key_revoke(ours), SHARE_REVOKED);
    assert_int_equal(share_key_revoke(ours), SHARE_REVOKED);
    assert_false(share_key_take(theirs));
    __atomic_store_n(&theirs->owner, 77, __ATOMIC_SEQ_CST);
    assert_int_equal(share_key_revoke(ours), SHARE_OPEN);
    assert_false(share_key_take(theirs));
    share_key_close(theirs);
    share_key_close(ours);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_changes_hands),
        cmocka_unit_test(it_goes_back_and_forth),
        cmocka_unit_test(nothing_can_be_written_before_commit),
        cmocka_unit_test(the_source_discards_nothing_after_commit),
        cmocka_unit_test(it_can_be_forbidden),
        cmocka_unit_test(tcp_cannot),
        cmocka_unit_test(filters_let_descriptors_pass),
        cmocka_unit_test(a_relay_is_found_out),
        cmocka_unit_test(private_memory_cannot),
        cmocka_unit_test(failures_leave_it_at_the_source),
        cmocka_unit_test(a_source_that_has_ended_may_be_freed_late),
        cmocka_unit_test(a_failing_load_leaves_it_at_the_source),
        cmocka_unit_test(it_can_be_put_off),
        cmocka_unit_test(a_lost_commit_is_revoked),
        cmocka_unit_test(a_lost_running_is_known),
        cmocka_unit_test(a_key_has_one_owner),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
