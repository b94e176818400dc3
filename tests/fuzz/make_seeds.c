/* SPDX-License-Identifier: MIT */
/*
 * Writes the hand-made seeds of the corpora: inputs that are right, from which the fuzzer starts.
 *
 * usage: make-fuzz-seeds FOLDER   (writes FOLDER/NAME/seed-*)
 *
 * What the fuzzer itself has found useful lies beside them under its hash; see tests/fuzz/run.
 */
#include <elf.h>
#include <zstd.h>

#include "fuzz.h"
#include "fuzz_machine.h"
#include "gadget.h"
#include "machine/board.h"
#include "stream_build.h"
#include "wire/cursor.h"

static const char *folder;

static void put(const char *target, const char *name, const void *bytes, size_t size)
{
    g_autofree char *dir = g_build_filename(folder, target, NULL);
    g_autofree char *file = g_strconcat("seed-", name, NULL);
    g_autofree char *path = g_build_filename(dir, file, NULL);

    fuzz_check(g_mkdir_with_parents(dir, 0777) == 0);
    fuzz_check(g_file_set_contents(path, bytes, (gssize)size, NULL));
}

static void add_number(GByteArray *to, uint64_t value, unsigned n_bytes)
{
    uint8_t bytes[8];

    wire_store_u64(bytes, value);
    g_byte_array_append(to, bytes, n_bytes);
}

static void add_text(GByteArray *to, const char *text)
{
    add_number(to, strlen(text), 2);
    g_byte_array_append(to, (const uint8_t *)text, (guint)strlen(text));
}

/* ---- page numbers -----------------------------------------------------------------------------
 */

static void put_page_lists(void)
{
    GByteArray *runs = g_byte_array_new(), *bitmap = g_byte_array_new();

    add_number(runs, 0, 1); /* block 0 */
    add_number(runs, 1, 1); /* the form: runs */
    add_number(runs, 3, 8), add_number(runs, 5, 8);
    add_number(runs, 200, 8), add_number(runs, 56, 8);
    put("page_list", "runs", runs->data, runs->len);
    add_number(bitmap, 1, 1); /* block 1, of 67 pages */
    add_number(bitmap, 2, 1); /* the form: a bitmap */
    add_number(bitmap, UINT64_C(0xA5A5000000000001), 8);
    add_number(bitmap, 7, 1);
    put("page_list", "bitmap", bitmap->data, bitmap->len);
    /* And what has to be refused: the block ends within the last run, and before the last bit. */
    runs->data[runs->len - 8] = 57;
    put("page_list", "runs-outside", runs->data, runs->len);
    bitmap->data[bitmap->len - 1] = 15;
    put("page_list", "bitmap-outside", bitmap->data, bitmap->len);
    g_byte_array_unref(runs);
    g_byte_array_unref(bitmap);
}

/* ---- texts ----------------------------------------------------------------------------------- */

static void put_texts(void)
{
    static const struct {
        uint8_t parser;
        const char *name, *text;
    } options[] = {
        {0, "size", "64MiB"},
        {0, "size-huge", "17179869184G"},
        {1, "duration", "1.5s"},
        {1, "duration-us", "0.000001us"},
        {2, "number", "0x1000"},
        {3, "uri-tcp", "fault:cut@bytes=100@out;stall@record=3@in,rate:1000,tcp:[::1]:4444"},
        {3, "uri-unix", "unix:/run/vm"},
        {4, "fault", "corrupt@type=PAGES@in@mask=255@at=7@channel=page-1;delay@bytes=5@ms=10"},
        {5, "net-user", "user,hostfwd=tcp:127.0.0.1:22-:22,restrict=on,mac=52:54:00:00:00:01"},
        {5, "net-tap", "tap,ifname=t0"},
        {6, "disk", "disk.raw,ro,serial=abc"},
        {7, "vconsole", "unix:/run/c"},
        {9, "natural", "hart/9 hart/10"},
    };
    static const struct {
        const char *name, *text;
    } monitor[] = {
        {"hello", "{\"execute\":\"qmp_capabilities\",\"id\":1}{\"execute\":\"query-status\"}"},
        {"arguments", "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"migrate-set-parameters\","
                      "\"arguments\":{\"downtime-limit\":300,\"max-bandwidth\":1000}}"},
        {"queries", "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"query-commands\"}"
                    "{\"execute\":\"query-migrate\"}{\"execute\":\"query-cpus-fast\"}"
                    "{\"execute\":\"query-latency\"}{\"execute\":\"query-blackout\"}"},
        {"dangerous", "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"tcp:[::1]:1\"}}"},
        {"stop", "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\",\"id\":{\"a\":[]}}"
                 "{\"execute\":\"resolve\",\"arguments\":{\"decision\":\"run-here\"}}"},
        {"nonsense", "}]\"\\\"{[\n{\"execute\":null}\xff\n"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        g_autoptr(GByteArray) bytes = g_byte_array_new();

        add_number(bytes, options[i].parser, 1);
        g_byte_array_append(bytes, (const uint8_t *)options[i].text,
                            (guint)strlen(options[i].text));
        put("options", options[i].name, bytes->data, bytes->len);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(monitor); i++)
        put("qmp", monitor[i].name, monitor[i].text, strlen(monitor[i].text));
}

/* ---- streams --------------------------------------------------------------------------------- */

/* A record in the form that stream_build takes. */
static void add_record(GByteArray *to, uint16_t type, unsigned switches, const GByteArray *payload,
                       const uint8_t *bulk, size_t bulk_units)
{
    add_number(to, (type & 0x7F) | (type & WIRE_OPTIONAL ? 0x80 : 0), 1);
    add_number(to, switches, 1);
    add_number(to, payload->len, 2);
    if (switches & BUILD_HAS_BULK)
        add_number(to, bulk_units, 2);
    g_byte_array_append(to, payload->data, payload->len);
    if (switches & BUILD_HAS_BULK)
        g_byte_array_append(to, bulk, (guint)bulk_units);
}

#define FEATURES 0x8Fu /* all that a destination without shared memory knows */

static void add_hello(GByteArray *to, uint64_t ram_bytes, uint64_t features)
{
    g_autoptr(GByteArray) hello = g_byte_array_new();
    const struct {
        uint64_t value;
        unsigned n_bytes;
    } numbers[] = {{12, 4}, {256, 4}, {0, 4}, {0, 4}, {features, 8},
                   {0, 8},  {0, 4},   {0, 8}, {0, 8}, {0, 8}};

    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++)
        add_number(hello, numbers[i].value, numbers[i].n_bytes);
    add_number(hello, ram_bytes, 8);
    add_number(hello, 1, 8);
    add_number(hello, 1, 8);
    for (const char *const *text = (const char *const[]){"godwit", "", "", "h", NULL}; *text;
         text++)
        add_text(hello, *text);
    add_record(to, WIRE_HELLO, 0, hello, NULL, 0);
}

static void add_ram_map(GByteArray *to, uint64_t ram_bytes)
{
    g_autoptr(GByteArray) map = g_byte_array_new();

    add_number(map, ram_bytes, 8);
    add_number(map, 1, 4);
    add_number(map, 0, 4); /* index */
    add_number(map, 0, 8); /* gpa */
    add_number(map, ram_bytes, 8);
    add_text(map, "ram");
    add_number(map, 0, 4); /* extents: unknown */
    add_record(to, WIRE_RAM_MAP, 0, map, NULL, 0);
}

static void add_section(GByteArray *to, unsigned kind, const char *name, unsigned attempt,
                        const GByteArray *data)
{
    g_autoptr(GByteArray) begin = g_byte_array_new();
    g_autoptr(GByteArray) part = g_byte_array_new();
    g_autoptr(GByteArray) end = g_byte_array_new();

    add_number(begin, 0, 4);
    add_number(begin, kind, 4);
    add_number(begin, 0, 4);
    add_number(begin, 1, 4);
    add_number(begin, attempt, 4);
    add_number(begin, data->len, 8);
    add_text(begin, name);
    g_byte_array_set_size(part, 12);
    g_byte_array_set_size(end, 24);
    memset(part->data, 0, part->len);
    memset(end->data, 0, end->len);
    add_record(to, WIRE_SECTION_BEGIN, 0, begin, NULL, 0);
    add_record(to, WIRE_SECTION_PART, BUILD_HAS_BULK, part, data->data, data->len);
    add_record(to, WIRE_SECTION_END, 0, end, NULL, 0);
}

static void add_zeros(GByteArray *to, uint16_t type, size_t n_bytes, uint32_t first_word)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    g_byte_array_set_size(payload, (guint)n_bytes);
    memset(payload->data, 0, n_bytes);
    wire_store_u32(payload->data, first_word);
    add_record(to, type, 0, payload, NULL, 0);
}

/* One plain page and two zero pages of block 0. */
static void add_pages(GByteArray *to, uint32_t round)
{
    g_autoptr(GByteArray) pages = g_byte_array_new();

    add_number(pages, round, 4);
    add_number(pages, 0, 4);
    add_number(pages, 0, 8);
    add_number(pages, 2, 2);
    add_number(pages, 3, 2);
    add_number(pages, 1, 4);
    add_number(pages, 0, 4); /* run 0: plain */
    add_number(pages, 1, 2);
    add_number(pages, 1, 2);
    add_number(pages, WIRE_PAGE_BYTES, 4);
    add_number(pages, 2, 4); /* run 1: zero */
    add_number(pages, 2, 2);
    add_number(pages, 2, 2);
    add_number(pages, 0, 4);
    add_number(pages, 0, 8); /* the digest is made right */
    add_number(to, WIRE_PAGES, 1);
    add_number(to, BUILD_HAS_BULK | BUILD_BULK_PAGES, 1);
    add_number(to, pages->len, 2);
    add_number(to, 1, 2);
    g_byte_array_append(to, pages->data, pages->len);
    add_number(to, 0x5A, 1);
}

/* Two pages of block 2 as one run of the encoding, with the bytes of its bulk. */
static void add_encoded(GByteArray *to, unsigned encoding, const uint8_t *bulk, size_t bulk_bytes)
{
    g_autoptr(GByteArray) pages = g_byte_array_new();

    add_number(pages, 1, 4);
    add_number(pages, 2, 4);
    add_number(pages, 3, 8);
    add_number(pages, 1, 2);
    add_number(pages, 2, 2);
    add_number(pages, 2, 4);
    add_number(pages, 0, 4);
    add_number(pages, 2, 2);
    add_number(pages, encoding, 2);
    add_number(pages, bulk_bytes, 4);
    add_number(pages, 0, 8);
    add_number(pages, 0, 8);
    add_number(to, WIRE_PAGES, 1);
    add_number(to, BUILD_HAS_BULK, 1);
    add_number(to, pages->len, 2);
    add_number(to, bulk_bytes, 2);
    g_byte_array_append(to, pages->data, pages->len);
    g_byte_array_append(to, bulk, (guint)bulk_bytes);
}

static void put_encoded_pages(void)
{
    static const uint8_t deltas[] = {5, 0, 16, 0, 1, 0, 7, 9, 0, 0, 0, 5, 0, 1, 2, 3, 4, 5};
    g_autofree uint8_t *content = g_malloc0(2 * WIRE_PAGE_BYTES);
    g_autoptr(GByteArray) input = g_byte_array_new();
    uint8_t frame[512];

    for (size_t i = 0; i < 600; i++)
        content[i * 13] = (uint8_t)(i % 7);
    size_t n = ZSTD_compress(frame, sizeof frame, content, 2 * WIRE_PAGE_BYTES, 1);
    fuzz_check(!ZSTD_isError(n));
    add_number(input, 1, 1);
    add_number(input, 0xFF, 1); /* all features are agreed */
    add_encoded(input, 4, frame, n);
    add_encoded(input, 3, deltas, sizeof deltas);
    put("pages", "encoded", input->data, input->len);
}

static void add_round(GByteArray *to, uint32_t round, bool is_stopped, bool has_pages)
{
    g_autoptr(GByteArray) begin = g_byte_array_new();
    g_autoptr(GByteArray) end = g_byte_array_new();

    add_number(begin, round, 4);
    add_number(begin, is_stopped, 4);
    add_number(begin, 3, 8);
    add_record(to, WIRE_ROUND_BEGIN, 0, begin, NULL, 0);
    if (has_pages)
        add_pages(to, round);
    add_number(end, round, 4);
    add_number(end, has_pages ? 3 : 0, 8);
    add_number(end, has_pages ? 1 : 0, 8);
    add_number(end, has_pages ? WIRE_HEADER_BYTES + 24 + 24 + 8 + WIRE_PAGE_BYTES : 0, 8);
    add_record(to, WIRE_ROUND_END, 0, end, NULL, 0);
}

static void add_switchover(GByteArray *to, uint32_t round, const GByteArray *state)
{
    g_autoptr(GByteArray) begin = g_byte_array_new();

    add_number(begin, 1, 4);
    add_number(begin, round, 4);
    add_number(begin, 1, 1);
    add_number(begin, 0, 8);
    add_number(begin, 0, 8);
    add_number(begin, 0, 8);
    add_record(to, WIRE_SWITCHOVER_BEGIN, 0, begin, NULL, 0);
    add_section(to, 2, "gadget/0", 1, state);
    add_zeros(to, WIRE_STATE_END, 24, 1);
}

/* The first n_bytes of a live migration, and frames that follow the guest. */
static void add_packets(GByteArray *to, const GByteArray *live, guint n_bytes)
{
    uint8_t frame[WIRE_PACKET_HEADER_BYTES + 60] = {0};

    memset(frame + WIRE_PACKET_HEADER_BYTES, 0xff, 6);
    g_byte_array_append(to, live->data, n_bytes);
    for (uint32_t i = 0; i < 4; i++) {
        g_autoptr(GByteArray) packet = g_byte_array_new();

        add_number(packet, i == 2 ? 7 : 0, 4); /* there is one device */
        add_number(packet, i == 3 ? WIRE_PACKET_LAST : 0, 4);
        add_record(to, WIRE_PACKET, BUILD_HAS_BULK, packet, frame, i == 3 ? 0 : sizeof frame);
    }
    add_zeros(to, WIRE_GOODBYE, 1 + 3, 1);
}

/* Memory that is shared: with the descriptors right, and each way wrong. */
static void put_shared(const GByteArray *encoded, const GByteArray *state, uint64_t ram_bytes)
{
    static const struct {
        const char *name;
        uint8_t mode;
        bool has_pages;
    } modes[] = {{"shared", 2, false},          {"shared-pages", 2, true},
                 {"shared-unsealed", 6, true},  {"shared-one-fewer", 10, true},
                 {"shared-revoked", 18, false}, {"shared-read-only", 34, false},
                 {"shared-other", 66, false}};

    for (size_t i = 0; i < G_N_ELEMENTS(modes); i++) {
        g_autoptr(GByteArray) live = g_byte_array_new();
        g_autoptr(GByteArray) share = g_byte_array_new();

        add_number(live, modes[i].mode, 1);
        add_hello(live, ram_bytes, FEATURES | 1u << WIRE_FEATURE_RAM_SHARE);
        add_section(live, 1, "schema", 0, encoded);
        add_number(share, 1, 4);
        add_number(share, 0, 4);
        add_number(share, 0, 8);
        add_record(live, WIRE_RAM_SHARE, 0, share, NULL, 0);
        add_ram_map(live, ram_bytes);
        add_round(live, 1, true, modes[i].has_pages);
        add_switchover(live, 1, state);
        add_zeros(live, WIRE_COMMIT, 20, 1);
        add_zeros(live, WIRE_GOODBYE, 1 + 3, 1);
        put("destination", modes[i].name, live->data, live->len);
    }
}

/* A whole probe: what a migration says first, then pings and bytes. */
static void put_probe(const GByteArray *encoded, uint64_t ram_bytes)
{
    g_autoptr(GByteArray) probe = g_byte_array_new();
    const uint8_t bulk[] = {1, 2, 3, 4};
    g_autoptr(GByteArray) digest = g_byte_array_new();
    g_autoptr(GByteArray) goodbye = g_byte_array_new();

    add_hello(probe, ram_bytes, FEATURES);
    add_section(probe, 1, "schema", 0, encoded);
    add_ram_map(probe, ram_bytes);
    add_zeros(probe, WIRE_CLOCK_PING, 20, 1);
    add_number(digest, 0, 8);
    for (unsigned i = 0; i < 2; i++)
        add_record(probe, WIRE_PROBE, BUILD_HAS_BULK, digest, bulk, sizeof bulk);
    add_number(goodbye, 1, 1);
    add_record(probe, WIRE_GOODBYE, 0, goodbye, NULL, 0);
    put("probe", "whole", probe->data, probe->len);
    g_byte_array_prepend(probe, (const uint8_t *)"\x21", 1); /* the record target's mode */
    put("record", "probe", probe->data, probe->len);
}

static void put_streams(void)
{
    const uint64_t ram_bytes = UINT64_C(256) << 10;
    struct gadget gadget = {.limited = 12, .fifo = {1, 2, 3}, .fifo_len = 3};
    struct gw_state_registry *registry = gw_state_registry_new();
    g_autoptr(GByteArray) state = g_byte_array_new();
    g_autoptr(GByteArray) live = g_byte_array_new();
    g_autoptr(GByteArray) packets = g_byte_array_new();
    guint n_committed;
    g_autoptr(GByteArray) snapshot = g_byte_array_new();
    g_autoptr(GByteArray) pages = g_byte_array_new();

    fuzz_check(gw_state_registry_add(registry, "gadget/0", &gadget_desc, &gadget, NULL));
    fuzz_check(gw_state_save(registry, 0, state, NULL));
    struct gw_schema *schema = gw_schema_new(registry);
    g_autoptr(GByteArray) encoded = gw_schema_encode(schema);

    add_number(live, 0, 1);
    add_hello(live, ram_bytes, FEATURES);
    add_section(live, 1, "schema", 0, encoded);
    add_ram_map(live, ram_bytes);
    add_round(live, 1, false, true);
    add_zeros(live, 0x8001, 8, 1);
    add_zeros(live, WIRE_CLOCK_PING, 20, 1);
    add_round(live, 2, true, true);
    add_switchover(live, 2, state);
    put("destination", "live-uncommitted", live->data, live->len);
    add_zeros(live, WIRE_COMMIT, 20, 1);
    n_committed = live->len;
    add_zeros(live, WIRE_GOODBYE, 1 + 3, 1);
    put("destination", "live", live->data, live->len);
    add_packets(packets, live, n_committed);
    put("destination", "live-packets", packets->data, packets->len);

    put_shared(encoded, state, ram_bytes);
    put_probe(encoded, ram_bytes);

    add_number(snapshot, 1, 1);
    add_hello(snapshot, ram_bytes, FEATURES);
    add_section(snapshot, 1, "schema", 0, encoded);
    add_ram_map(snapshot, ram_bytes);
    add_round(snapshot, 1, true, true);
    add_switchover(snapshot, 1, state);
    add_zeros(snapshot, WIRE_END, 40, 0);
    put("destination", "snapshot", snapshot->data, snapshot->len);
    snapshot->data[0] = 3; /* the record target's modes: role snapshot, then control */
    put("record", "snapshot", snapshot->data, snapshot->len);
    live->data[0] = 4;
    put("record", "live", live->data, live->len);

    add_number(pages, 1, 2);
    add_pages(pages, 1);
    add_pages(pages, 2);
    put("pages", "two-packets", pages->data, pages->len);
    put_encoded_pages();

    g_autoptr(GByteArray) raw = g_byte_array_new();
    struct stream_build build;
    struct fuzz_input in = {snapshot->data + 1, snapshot->len - 1};
    stream_build_init(&build, WIRE_ROLE_SNAPSHOT, 0, WIRE_SIDE_SOURCE);
    while (stream_build_record(&build, &in))
        continue;
    add_number(raw, 0, 1);
    g_byte_array_append(raw, build.bytes->data, build.bytes->len);
    put("record", "raw", raw->data, raw->len);
    stream_build_clear(&build);
    gw_schema_free(schema);
    gw_state_registry_free(registry);
}

/* Two threads that waited for pages; the name of the first one as given. */
static void add_fault_waits(GByteArray *to, const char *name)
{
    g_autoptr(GByteArray) waits = g_byte_array_new();

    for (unsigned i = 0; i < 4; i++)
        add_number(waits, i + 5, 8);
    add_number(waits, 2, 4);
    add_text(waits, name);
    for (unsigned i = 0; i < 5; i++)
        add_number(waits, i + 7, 8);
    add_text(waits, "others");
    for (unsigned i = 0; i < 5; i++)
        add_number(waits, i, 8);
    add_record(to, WIRE_FAULT_WAITS, 0, waits, NULL, 0);
}

/* A post-copy's last words: what becomes a report, and what must not reach a terminal. */
static void put_fault_waits(void)
{
    static const uint8_t until_running[] = {0, 1, 2, 3, 3, 4, 5, 0x80};
    static const char *const names[][2] = {{"waits", "hart-0"}, {"waits-escape", "\x1b[2J"}};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(GByteArray) source = g_byte_array_new();
        g_autoptr(GByteArray) record = g_byte_array_new();

        g_byte_array_append(source, until_running, sizeof until_running);
        add_fault_waits(source, names[i][1]);
        add_number(source, 6, 1); /* GOODBYE */
        put("source", names[i][0], source->data, source->len);
        add_number(record, 0x14, 1); /* a control channel of the destination */
        add_fault_waits(record, names[i][1]);
        put("record", names[i][0], record->data, record->len);
    }
}

/* Answers by number: see fuzz_source.c. 0x80 begins a record of any kind. */
static void put_answers(void)
{
    static const uint8_t honest[] = {0, 1, 2, 3, 3, 4, 5, 6};
    static const uint8_t refused[] = {0, 0x80, WIRE_SCHEMA_VERDICT, 0, 5, 0, 0, 0, 0, 0, 0};
    static const uint8_t aborted[] = {0, 1, 2, 3, 3, 4, 0x80, WIRE_ABORT, 0, 5, 0, 2, 1, 0, 0, 0};

    put("source", "honest", honest, sizeof honest);
    put("source", "refused", refused, sizeof refused);
    put("source", "aborted", aborted, sizeof aborted);
    put_fault_waits();
}

/* ---- device state ---------------------------------------------------------------------------- */

static void put_states(void)
{
    struct machine *machine = fuzz_machine(g_main_context_default());
    struct gw_schema *schema = gw_schema_new(machine->registry);
    g_autoptr(GByteArray) encoded = gw_schema_encode(schema);
    g_autoptr(GByteArray) input = g_byte_array_new();

    for (guint i = 0; i < machine->devices->len; i++)
        device_reset(machine->devices->pdata[i]);
    machine->board->cpu->reset(machine->cpu);
    for (uint32_t i = 0; i < gw_state_registry_n(machine->registry); i++) {
        g_autofree char *name = g_strdup(gw_state_registry_id(machine->registry, i));

        g_byte_array_set_size(input, 0);
        add_number(input, i, 1);
        add_number(input, 3, 1); /* run devices and hart */
        add_number(input, 0, 2);
        fuzz_check(gw_state_save(machine->registry, i, input, NULL));
        put("state", g_strdelimit(name, "/", '-'), input->data, input->len);
    }
    g_byte_array_set_size(input, 0);
    add_number(input, encoded->len, 2);
    g_byte_array_append(input, encoded->data, encoded->len);
    put("schema", "virt", input->data, input->len);
    gw_schema_free(schema);
    machine_free(machine);
}

/* ---- boot files ------------------------------------------------------------------------------ */

static void put_images(void)
{
    struct {
        Elf64_Ehdr header;
        Elf64_Phdr segments[2];
        uint8_t code[64];
    } elf = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = 243,
                   .e_version = EV_CURRENT,
                   .e_entry = 0x80000000,
                   .e_phoff = sizeof(Elf64_Ehdr),
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_phentsize = sizeof(Elf64_Phdr),
                   .e_phnum = 2},
        .segments = {{.p_type = PT_LOAD,
                      .p_offset = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Phdr),
                      .p_paddr = 0x80000000,
                      .p_vaddr = 0x80000000,
                      .p_filesz = 64,
                      .p_memsz = 256},
                     {.p_type = PT_LOAD, .p_paddr = 0x80001000, .p_memsz = 4096}},
    };
    uint8_t linux_image[128] = {0};
    struct {
        uint32_t n_segments, seed_bytes;
        uint64_t entry, seed_gpa;
        struct {
            uint64_t gpa, size, stored_at, stored_bytes;
        } segments[1];
        uint8_t frame[13];
    } __attribute__((packed)) store = {
        .n_segments = 1,
        .seed_bytes = 16,
        .entry = 0x80000000,
        .seed_gpa = 0x80000100,
        .segments = {{0x80000000, 4, 64, 13}},
        /* a zstd frame of four bytes, stored raw */
        .frame = {0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x04, 0x21, 0x00, 0x00, 1, 2, 3, 4},
    };

    put("image", "elf", &elf, sizeof elf);
    wire_store_u64(linux_image + 8, UINT64_C(2) << 20);
    wire_store_u64(linux_image + 16, 0x10000);
    memcpy(linux_image + 48, "RISCV\0\0\0", 8);
    wire_store_u32(linux_image + 56, 0x05435352);
    put("image", "linux", linux_image, sizeof linux_image);
    put("image", "raw", "raw bytes", 9);
    put("bootstore", "one-segment", &store, sizeof store);
}

/* A bzImage of the least kind, and a program; each after a byte that adds to RAM. */
static void put_bzimages(void)
{
    uint8_t file[1 + 2048] = {64};
    uint8_t *at = file + 1;

    at[0x1f1] = 1;
    wire_store_u16(at + 0x1fe, 0xaa55);
    at[0x201] = 0x6a;
    memcpy(at + 0x202, "HdrS", 4);
    wire_store_u16(at + 0x206, 0x020f);
    at[0x211] = 1;
    wire_store_u32(at + 0x22c, 0x7fffffff);
    wire_store_u32(at + 0x230, 0x200000);
    at[0x234] = 1;
    wire_store_u16(at + 0x236, 1);
    wire_store_u32(at + 0x238, 2047);
    wire_store_u64(at + 0x258, 0x1000000);
    wire_store_u32(at + 0x260, 0x10000);
    put("bzimage", "bzimage", file, sizeof file);
    file[0] = 0;
    wire_store_u32(at + 0x260, 0x800000);
    put("bzimage", "moved", file, sizeof file);
    put("bzimage", "raw", "\1\xf4", 2);
}

/* Code that sets satp, goes to supervisor and user mode, uses atomics and floating point. */
static void put_code(void)
{
    static const uint32_t words[] = {
        0x00053283, /* ld t0, 0(a0) */
        0x0055b423, /* sd t0, 8(a1): into the code itself */
        0x0000100f, /* fence.i */
        0x1005252f, /* lr.w a0, (a0) */
        0x1865232f, /* sc.w t1, t1, (a0) */
        0xf2000053, /* fmv.d.x ft0, zero */
        0x02007053, /* fadd.d ft0, ft0, ft0 */
        0x12000073, /* sfence.vma */
        0x18029073, /* csrw satp, t0 */
        0x14029073, /* csrw sscratch, t0 */
        0x34151073, /* csrw mepc, a0 */
        0x30200073, /* mret */
        0x00000000, 0xffffffff,
    };
    g_autoptr(GByteArray) input = g_byte_array_new();

    add_number(input, sizeof words, 2);
    g_byte_array_append(input, (const uint8_t *)words, sizeof words);
    add_number(input, UINT64_C(0x8000000000080000), 8);
    put("hart", "code", input->data, input->len);
}

/* ---- drivers --------------------------------------------------------------------------------- */

/* Steps of fuzz_virtio.c: data for a request's header, a chain, the notification, settling. */
static void put_drivers(void)
{
    static const char *const targets[] = {"virtio_rng", "virtio_blk", "virtio_net",
                                          "virtio_console", "virtio_balloon"};
    static const uint8_t features[8] = {0};
    static const uint8_t
        steps[] =
            {
                3, 0x10, 16,   0,    0,    0,    0,    0,    0,    0,    0, 0, 0, 0,
                0, 0,    0,    0,    0, /* a header in the window */
                1, 0x46, 0,    0x10, 16,   0,    0x20, 0,    2,    0x30, 1, 0, /* out, in, in;
                                                                                  kicked */
                8,                                                             /* settle */
                1, 0xc1, 1,    0x40, 0,    1,    0x41, 64,   0,    8, /* indirect, queue 1 */
                7, 64,   0,    20,   0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4,
                5, 6,    8,    0,    0,    0,    0,    0,    0,    0,    2, 0, 3, /* publish any
                                                                                     head */
                4, 0,    1,    2,    9,    0,       /* a word of the rings */
                9,                                  /* pause */
                5, 0x80, 0x14, 5,    0x00, 0x14, 0, /* read status; reset */
            };
    static const uint8_t bus[] = {3, 0x40, 3, 0x43, 2, 0, 0x10, 0, 0, 0, 4, 7, 1, 0, 0x80, 1, 6};

    for (size_t i = 0; i < G_N_ELEMENTS(targets); i++) {
        g_autoptr(GByteArray) input = g_byte_array_new();

        g_byte_array_append(input, features, sizeof features);
        g_byte_array_append(input, steps, sizeof steps);
        put(targets[i], "request", input->data, input->len);
    }
    put("pci", "bars", bus, sizeof bus);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make-fuzz-seeds FOLDER\n");
        return 2;
    }
    folder = argv[1];
    put_texts();
    put_page_lists();
    put_streams();
    put_answers();
    put_states();
    put_images();
    put_bzimages();
    put_drivers();
    put_code();
    return 0;
}
