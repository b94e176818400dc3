/* SPDX-License-Identifier: MIT */
/* Peers that lie about memory they share: wrong descriptors, none, other ones, no proof. */
#include "attack.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "channel/descriptors.h"
#include "memory/share.h"
#include "migrate/share.h"

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* A source that offers: its key and descriptors, of which a test spoils some. */
struct offer {
    struct move move;
    struct attack attack;
    struct share_key *key;
    int fds[CHANNEL_MAX_DESCRIPTORS]; /* the key's, then ram's and ram.high's; all owned */
    unsigned n_fds;
    ino_t own; /* the destination's memory before */
};

static ino_t inode_of(const struct fake_vm *vm)
{
    struct stat stat;

    assert_int_equal(fstat(gw_memory_block(vm->memory, 0)->fd, &stat), 0);
    return stat.st_ino;
}

static void offer_init(struct offer *offer)
{
    struct gw_memory *memory;

    *offer = (struct offer){0};
    move_init(&offer->move);
    offer->attack.move = &offer->move;
    offer->attack.features = 1u << WIRE_FEATURE_RAM_SHARE;
    fake_vm_park(&offer->move.pair.source); /* what it saves stands still */
    memory = offer->move.pair.source.memory;
    offer->key = share_key_new(&offer->fds[0], NULL);
    for (uint32_t i = 0; i < 2; i++)
        offer->fds[1 + i] =
            fcntl(memory_share_reader(gw_memory_block(memory, i), NULL), F_DUPFD_CLOEXEC, 0);
    offer->n_fds = 3;
    offer->own = inode_of(&offer->move.pair.destination);
    move_start_destination(&offer->move);
    say_hello(&offer->attack, 1);
    send_schema(&offer->attack);
}

static void offer_clear(struct offer *offer)
{
    attack_end(&offer->attack);
    for (unsigned i = 0; i < offer->n_fds; i++)
        close(offer->fds[i]);
    share_key_close(offer->key);
    move_clear(&offer->move);
}

static bool send_offer(struct offer *offer)
{
    struct wire_share_block blocks[2] = {{.index = 0}, {.index = 1}};
    struct wire_ram_share share = {.n_blocks = 2, .blocks = blocks};

    return wire_send_with_descriptors(offer->attack.control, WIRE_RAM_SHARE, &share, sizeof share,
                                      offer->fds, offer->n_fds, limit_ns(), NULL);
}

/* The destination has told its end, runs nothing, and has memory of its own. */
static void check_disowned(struct offer *offer, int code, const char *words)
{
    struct gw_destination_status status;

    assert_true(gw_destination_wait(offer->move.destination, after_ms(PATIENCE_MS)));
    status = destination_status_of(&offer->move);
    assert_int_equal(status.state, GW_DESTINATION_DISOWNED);
    assert_int_equal(status.failure.code, code);
    if (!strstr(status.failure.reason, words))
        fail_msg("\"%s\" does not say \"%s\"", status.failure.reason, words);
    assert_int_equal(offer->move.pair.destination.n_runs, 0);
    assert_int_not_equal(inode_of(&offer->move.pair.destination),
                         inode_of(&offer->move.pair.source));
    memset(gw_memory_block(offer->move.pair.destination.memory, 0)->host, 0xEE, 4096);
    assert_int_not_equal(gw_memory_block(offer->move.pair.source.memory, 0)->host[0], 0xEE);
}

static void spoil(struct offer *offer, unsigned i, int fd)
{
    assert_true(fd >= 0);
    close(offer->fds[i]);
    offer->fds[i] = fd;
}

static int memory_of(uint64_t n_bytes, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    assert_int_equal(ftruncate(fd, (off_t)n_bytes), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* ---- descriptors that will not do
 * ----------------------------------------------------------------
 */

static void no_descriptors(struct offer *offer)
{
    while (offer->n_fds > 0)
        close(offer->fds[--offer->n_fds]);
}

static void one_too_few(struct offer *offer)
{
    close(offer->fds[--offer->n_fds]);
}

static void a_pipe_for_memory(struct offer *offer)
{
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    close(ends[1]);
    spoil(offer, 1, ends[0]);
}

static void a_file_for_memory(struct offer *offer)
{
    g_autofree char *path = g_strconcat(offer->move.pair.dir, "/file", NULL);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    assert_int_equal(ftruncate(fd, FAKE_RAM_BYTES), 0);
    spoil(offer, 1, fd);
}

static void a_device_for_memory(struct offer *offer)
{
    spoil(offer, 1, open("/dev/zero", O_RDWR | O_CLOEXEC));
}

static void memory_that_can_shrink(struct offer *offer)
{
    spoil(offer, 1, memory_of(FAKE_RAM_BYTES, F_SEAL_GROW | F_SEAL_SEAL));
}

static void memory_that_can_be_sealed(struct offer *offer)
{
    spoil(offer, 1, memory_of(FAKE_RAM_BYTES, F_SEAL_SHRINK | F_SEAL_GROW));
}

static void memory_nobody_can_write(struct offer *offer)
{
    spoil(offer, 1, memory_of(FAKE_RAM_BYTES, SEALS | F_SEAL_WRITE));
}

static void memory_that_is_too_small(struct offer *offer)
{
    spoil(offer, 1, memory_of(FAKE_RAM_BYTES - 4096, SEALS));
}

static void a_key_that_can_shrink(struct offer *offer)
{
    spoil(offer, 0, memory_of(4096, F_SEAL_GROW | F_SEAL_SEAL));
}

static void a_key_that_is_empty(struct offer *offer)
{
    spoil(offer, 0, memory_of(0, SEALS));
}

static void a_key_nobody_can_write(struct offer *offer)
{
    char path[64];

    g_snprintf(path, sizeof path, "/proc/self/fd/%d", offer->fds[0]);
    spoil(offer, 0, open(path, O_RDONLY | O_CLOEXEC));
}

/* Whatever comes, it is told, and pages are taken instead. */
static void bad_descriptors_are_declined(void **state)
{
    static const struct {
        void (*make)(struct offer *offer);
        const char *words;
    } cases[] = {
        {no_descriptors, "no descriptors came"},
        {one_too_few, "no descriptors came"},
        {a_pipe_for_memory, "RAM block ram: its descriptor is no memory descriptor"},
        {a_file_for_memory, "RAM block ram: its descriptor is"},
        {a_device_for_memory, "RAM block ram: its descriptor is no memory descriptor"},
        {memory_that_can_shrink, "RAM block ram: its descriptor is not sealed against"},
        {memory_that_can_be_sealed, "RAM block ram: its descriptor is not sealed against"},
        {memory_nobody_can_write, "RAM block ram: its descriptor is sealed against writing"},
        {memory_that_is_too_small, "RAM block ram: its descriptor is smaller than the block"},
        {a_key_that_can_shrink, "the key: its descriptor is not sealed"},
        {a_key_that_is_empty, "the key: its descriptor is smaller"},
        {a_key_nobody_can_write, "cannot map the key"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        struct offer offer;
        struct wire_ram_shared answer;

        offer_init(&offer);
        cases[i].make(&offer);
        if (offer.n_fds > 0)
            assert_true(send_offer(&offer));
        else
            SEND(offer.attack.control, WIRE_RAM_SHARE,
                 (&(struct wire_ram_share){
                     .n_blocks = 2, .blocks = (struct wire_share_block[]){{0}, {.index = 1}}}));
        send_ram_map(&offer.attack);
        AWAIT(offer.attack.control, WIRE_RAM_SHARED, &answer);
        assert_false(answer.is_shared);
        if (!strstr(answer.reason, cases[i].words))
            fail_msg("\"%s\" does not say \"%s\"", answer.reason, cases[i].words);
        wire_message_clear(WIRE_RAM_SHARED, &answer);
        await_record(offer.attack.control, WIRE_SCHEMA_VERDICT);
        open_page_channel(&offer.attack);
        assert_int_equal(destination_status_of(&offer.move).state, GW_DESTINATION_RECEIVING);
        assert_int_equal(inode_of(&offer.move.pair.destination), offer.own);
        offer_clear(&offer);
    }
}

static void too_many_descriptors_end_it(void **state)
{
    struct offer offer;
    struct wire_keepalive keepalive = {0};

    offer_init(&offer);
    for (; offer.n_fds < CHANNEL_MAX_DESCRIPTORS; offer.n_fds++)
        offer.fds[offer.n_fds] = fcntl(offer.fds[0], F_DUPFD_CLOEXEC, 0);
    assert_true(send_offer(&offer)); /* three of them are meant, the rest waits */
    wire_send_with_descriptors(offer.attack.control, WIRE_KEEPALIVE, &keepalive, sizeof keepalive,
                               offer.fds, offer.n_fds, limit_ns(), NULL);
    check_disowned(&offer, GW_ERROR_LIMIT, "more than 65 descriptors came");
    offer_clear(&offer);
}

static void offers_out_of_order_end_it(void **state)
{
    struct offer offer;

    offer_init(&offer);
    assert_true(send_offer(&offer));
    assert_true(send_offer(&offer));
    check_disowned(&offer, GW_ERROR_CORRUPT, "offered its RAM out of order");
    offer_clear(&offer);
}

/* ---- after the memory is shared
 * ------------------------------------------------------------------
 */

static void share_up_to_rounds(struct offer *offer)
{
    struct wire_ram_shared answer;

    offer_init(offer);
    assert_true(send_offer(offer));
    send_ram_map(&offer->attack);
    AWAIT(offer->attack.control, WIRE_RAM_SHARED, &answer);
    if (!answer.is_shared)
        fail_msg("%s", answer.reason);
    assert_true(answer.proof_low == offer->key->proof_low);
    assert_true(answer.proof_high == offer->key->proof_high);
    wire_message_clear(WIRE_RAM_SHARED, &answer);
    await_record(offer->attack.control, WIRE_SCHEMA_VERDICT);
    open_page_channel(&offer->attack);
    assert_int_equal(inode_of(&offer->move.pair.destination), inode_of(&offer->move.pair.source));
}

/* Pages would be written where nothing can be written. */
static void pages_are_refused(void **state)
{
    for (unsigned is_zero = 0; is_zero < 2; is_zero++) {
        struct offer offer;
        struct wire_round_begin begin = {.round = 1};
        struct wire_pages_out *packet = wire_pages_out_new();
        uint8_t page[WIRE_PAGE_BYTES];

        memset(page, is_zero ? 0 : 0xEE, sizeof page);
        share_up_to_rounds(&offer);
        SEND(offer.attack.page, WIRE_ROUND_BEGIN, &begin);
        wire_pages_begin(packet, 1, 0);
        assert_true(wire_pages_add(packet, 0, page));
        wire_pages_send(packet, offer.attack.page, limit_ns(), NULL);
        wire_pages_out_free(packet);
        check_disowned(&offer, GW_ERROR_CORRUPT, "no pages are accepted now");
        offer_clear(&offer);
    }
}

static void share_up_to_commit(struct offer *offer)
{
    share_up_to_rounds(offer);
    for (uint32_t round = 1; round <= 1; round++) {
        struct wire_round_begin begin = {.round = round, .flags = WIRE_ROUND_GUEST_STOPPED};
        struct wire_round_end end = {.round = round};

        SEND(offer->attack.page, WIRE_ROUND_BEGIN, &begin);
        SEND(offer->attack.page, WIRE_ROUND_END, &end);
        await_record(offer->attack.control, WIRE_ROUND_ACK);
    }
    send_state(&offer->attack, 1);
    await_record(offer->attack.control, WIRE_LOADED);
    wire_stream_set_phase(offer->attack.control, WIRE_IN_COMMITTED);
}

static void send_commit(struct offer *offer, int ram, int high)
{
    struct wire_commit commit = {.attempt = 1, .state_digest = offer->attack.state_digest};
    const int fds[] = {ram, high};

    if (ram < 0)
        SEND(offer->attack.control, WIRE_COMMIT, &commit);
    else
        assert_true(wire_send_with_descriptors(offer->attack.control, WIRE_COMMIT, &commit,
                                               sizeof commit, fds, 2, limit_ns(), NULL));
}

static void commit_without_its_memory_does_not_count(void **state)
{
    enum { NONE, READ_ONLY, OTHER, SWAPPED, REVOKED, N_CASES };
    static const char *const words[] = {"COMMIT came without its descriptors", "cannot map",
                                        "is not that of the memory shown before",
                                        "RAM block ram: its descriptor",
                                        "the source took the guest back"};

    for (unsigned i = 0; i < N_CASES; i++) {
        struct offer offer;
        struct gw_memory *memory;
        int other = memory_of(FAKE_RAM_BYTES, SEALS);
        int ram, high;

        share_up_to_commit(&offer);
        memory = offer.move.pair.source.memory;
        ram = gw_memory_block(memory, 0)->fd;
        high = gw_memory_block(memory, 1)->fd;
        if (i == REVOKED)
            assert_int_equal(share_key_revoke(offer.key), SHARE_REVOKED);
        send_commit(&offer,
                    i == NONE      ? -1
                    : i == SWAPPED ? high
                                   : ram,
                    i == READ_ONLY ? offer.fds[2]
                    : i == OTHER   ? other
                    : i == SWAPPED ? ram
                                   : high);
        await_record(offer.attack.control, WIRE_ABORT);
        check_disowned(&offer,
                       i == READ_ONLY ? GW_ERROR_IO
                       : i == REVOKED ? GW_ERROR_LINK_LOST
                                      : GW_ERROR_CORRUPT,
                       words[i]);
        close(other);
        offer_clear(&offer);
    }
}

static void an_honest_commit_counts(void **state)
{
    struct offer offer;
    struct gw_memory *memory;

    share_up_to_commit(&offer);
    memory = offer.move.pair.source.memory;
    send_commit(&offer, gw_memory_block(memory, 0)->fd, gw_memory_block(memory, 1)->fd);
    await_record(offer.attack.control, WIRE_RUNNING);
    assert_int_equal(share_key_revoke(offer.key), SHARE_TAKEN);
    assert_true(gw_destination_wait(offer.move.destination, after_ms(PATIENCE_MS)));
    assert_int_equal(destination_status_of(&offer.move).state, GW_DESTINATION_RUNNING);
    offer_clear(&offer);
}

/* ---- destinations that lie
 * -----------------------------------------------------------------------
 */

static void claims_without_proof_are_not_believed(void **state)
{
    static const enum gw_ram_way ways[] = {GW_RAM_SHARE, GW_RAM_AUTO, GW_RAM_COPY};

    for (size_t i = 0; i < G_N_ELEMENTS(ways); i++) {
        struct move move;
        struct gw_listener *listener;
        struct gw_channel *channel;
        struct wire_stream *stream;
        struct wire_hello hello = {.page_shift = 12,
                                   .max_packet_pages = 256,
                                   .features = 0x1FF,
                                   .software = (char *)"x",
                                   .machine = (char *)"",
                                   .vm_name = (char *)"",
                                   .host = (char *)""};
        struct wire_ram_shared answer = {.is_shared = true, .reason = (char *)""};

        move_init(&move);
        move.source_params.ram = ways[i];
        listener = gw_listener_new(move.pair.uri, NULL, NULL);
        assert_non_null(listener);
        move_start_source(&move);
        channel = gw_listener_accept(listener, limit_ns(), NULL);
        assert_non_null(channel);
        stream = wire_stream_accept(channel, limit_ns(), NULL);
        assert_non_null(stream);
        assert_true(wire_stream_confirm(stream, limit_ns(), NULL));
        await_record(stream, WIRE_RAM_MAP);
        SEND(stream, WIRE_HELLO, &hello);
        SEND(stream, WIRE_RAM_SHARED, &answer);
        await_record(stream, WIRE_ABORT);
        wire_stream_free(stream);
        gw_listener_free(listener);
        move_finish(&move);
        expect_source_state(&move, GW_SOURCE_FAILED);
        assert_int_equal(source_status_of(&move).failure.code, GW_ERROR_CORRUPT);
        assert_non_null(strstr(source_status_of(&move).failure.reason,
                               ways[i] == GW_RAM_COPY ? "an offer of RAM that was not made"
                                                      : "cannot prove it"));
        assert_int_equal(move.pair.source.n_stops, 0);
        move_clear(&move);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_descriptors_are_declined),
        cmocka_unit_test(too_many_descriptors_end_it),
        cmocka_unit_test(offers_out_of_order_end_it),
        cmocka_unit_test(pages_are_refused),
        cmocka_unit_test(commit_without_its_memory_does_not_count),
        cmocka_unit_test(an_honest_commit_counts),
        cmocka_unit_test(claims_without_proof_are_not_believed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
