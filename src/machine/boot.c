/* SPDX-License-Identifier: MIT */
/* The boot plan: collecting, packing, storing and restoring what a reset needs. */
#include "machine/boot.h"

#include <string.h>
#include <sys/random.h>
#include <zstd.h>

#include "godwit/error.h"

#define BOOT_MAGIC      "GWBOOT\0\1"
#define BOOT_ZSTD_LEVEL 1 /* packing happens while somebody waits for the guest to start */
#define HEX             "0x%" G_GINT64_MODIFIER "x"

struct stored_header {
    char magic[8];
    uint32_t n_segments;
    uint32_t seed_bytes;
    uint64_t entry_pc;
    uint64_t seed_gpa;
};

struct stored_segment {
    uint64_t gpa;
    uint64_t size;
    uint64_t stored_at;
    uint64_t stored_bytes;
};

bool boot_plan_add(struct boot_plan *plan, const char *what, uint64_t gpa, const uint8_t *bytes,
                   uint64_t n_bytes, uint64_t size, GError **error)
{
    if (plan->n_segments == BOOT_MAX_SEGMENTS) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "%s: more than %u pieces to load", what,
                    BOOT_MAX_SEGMENTS);
        return false;
    }
    if (size == 0 || size > IMAGE_MAX_BYTES || gpa > UINT64_MAX - size) {
        g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                    "%s: " HEX " bytes at " HEX " cannot be loaded", what, size, gpa);
        return false;
    }
    for (unsigned i = 0; i < plan->n_segments; i++) {
        const struct boot_segment *other = &plan->segments[i];
        if (gpa < other->gpa + other->size && other->gpa < gpa + size) {
            g_set_error(error, GW_ERROR, GW_ERROR_INVALID,
                        "%s at " HEX "..." HEX " overlaps %s at " HEX "..." HEX, what, gpa,
                        gpa + size - 1, other->what, other->gpa, other->gpa + other->size - 1);
            return false;
        }
    }
    plan->segments[plan->n_segments++] = (struct boot_segment){
        .gpa = gpa, .size = size, .bytes = bytes, .n_bytes = n_bytes, .what = what};
    return true;
}

bool boot_plan_add_image(struct boot_plan *plan, const char *what, const struct image *image,
                         uint64_t gpa, uint64_t *entry, uint64_t *end, GError **error)
{
    uint64_t base = image->kind == IMAGE_ELF ? 0 : gpa;

    *entry = base + image->entry;
    *end = 0;
    for (unsigned i = 0; i < image->n_segments; i++) {
        const struct image_segment *s = &image->segments[i];
        if (!boot_plan_add(plan, what, base + s->gpa, s->bytes, s->n_bytes, s->memory_bytes, error))
            return false;
        *end = MAX(*end, base + s->gpa + s->memory_bytes);
    }
    return true;
}

struct keeper {
    void *what;
    GDestroyNotify free_what;
};

static void keeper_free(gpointer opaque)
{
    struct keeper *keeper = opaque;
    keeper->free_what(keeper->what);
    g_free(keeper);
}

GPtrArray *boot_keep_new(void)
{
    return g_ptr_array_new_with_free_func(keeper_free);
}

void boot_keep(GPtrArray *keep, void *what, GDestroyNotify free_what)
{
    struct keeper *keeper = g_new(struct keeper, 1);
    *keeper = (struct keeper){what, free_what};
    g_ptr_array_add(keep, keeper);
}

/* Appends one segment as a zstd frame; the zeros after its bytes cost next to nothing. */
static bool pack_segment(GByteArray *out, const struct boot_segment *segment,
                         struct stored_segment *stored, GError **error)
{
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    g_autofree uint8_t *chunk = g_malloc(ZSTD_CStreamOutSize());
    static const uint8_t zeros[4096];
    uint64_t done = 0;
    size_t rc = 0;

    stored->stored_at = out->len;
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, BOOT_ZSTD_LEVEL);
    ZSTD_CCtx_setPledgedSrcSize(zstd, segment->size);
    for (;;) {
        bool is_tail = done >= segment->n_bytes;
        uint64_t left = is_tail ? MIN(segment->size - done, sizeof zeros) : segment->n_bytes - done;
        ZSTD_inBuffer in = {is_tail ? zeros : segment->bytes + done, left, 0};
        bool is_last = done + left == segment->size;
        do {
            ZSTD_outBuffer to = {chunk, ZSTD_CStreamOutSize(), 0};
            rc = ZSTD_compressStream2(zstd, &to, &in, is_last ? ZSTD_e_end : ZSTD_e_continue);
            g_byte_array_append(out, chunk, (guint)to.pos);
        } while (!ZSTD_isError(rc) && (is_last ? rc != 0 : in.pos < in.size));
        done += left;
        if (is_last || ZSTD_isError(rc))
            break;
    }
    ZSTD_freeCCtx(zstd);
    if (ZSTD_isError(rc) || out->len > G_MAXINT32) {
        g_set_error(error, GW_ERROR, GW_ERROR_LIMIT, "%s: boot files do not fit their store: %s",
                    segment->what, ZSTD_isError(rc) ? ZSTD_getErrorName(rc) : "too large");
        return false;
    }
    stored->gpa = segment->gpa;
    stored->size = segment->size;
    stored->stored_bytes = out->len - stored->stored_at;
    return true;
}

GBytes *boot_pack(const struct boot_plan *plan, GError **error)
{
    struct stored_header header = {
        .n_segments = plan->n_segments,
        .seed_bytes = plan->seed_bytes,
        .entry_pc = plan->entry_pc,
        .seed_gpa = plan->seed_gpa,
    };
    struct stored_segment table[BOOT_MAX_SEGMENTS];
    g_autoptr(GByteArray) out = g_byte_array_new();
    guint table_bytes = (guint)(plan->n_segments * sizeof table[0]);

    memcpy(header.magic, BOOT_MAGIC, sizeof header.magic);
    g_byte_array_set_size(out, sizeof header + table_bytes);
    for (unsigned i = 0; i < plan->n_segments; i++)
        if (!pack_segment(out, &plan->segments[i], &table[i], error))
            return NULL;
    memcpy(out->data, &header, sizeof header);
    memcpy(out->data + sizeof header, table, table_bytes);
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}

uint64_t boot_block_bytes(GBytes *packed)
{
    uint64_t wanted = packed ? g_bytes_get_size(packed) : 0;
    uint64_t size = BOOT_BLOCK_MIN_BYTES;

    while (size < wanted)
        size *= 2;
    return size;
}

void boot_store(struct gw_ram_block *block, GBytes *packed)
{
    g_assert(g_bytes_get_size(packed) <= block->size_bytes);
    memcpy(block->host, g_bytes_get_data(packed, NULL), g_bytes_get_size(packed));
    gw_memory_note_write(block, 0, g_bytes_get_size(packed));
}

bool boot_is_stored(const struct gw_ram_block *block)
{
    return memcmp(block->host, BOOT_MAGIC, 8) == 0;
}

static bool restore_segment(const struct gw_ram_block *block, struct gw_memory *memory,
                            const struct stored_segment *s, GError **error)
{
    /* PEER: all four numbers may be anything. */
    if (s->stored_at > block->size_bytes || s->stored_bytes > block->size_bytes - s->stored_at) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "boot store: segment for " HEX " lies outside the block", s->gpa);
        return false;
    }
    uint8_t *to = s->size ? gw_memory_host(memory, s->gpa, s->size) : NULL;
    if (!to) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "boot store: " HEX " bytes at " HEX " are not RAM", s->size, s->gpa);
        return false;
    }
    size_t n = ZSTD_decompress(to, s->size, block->host + s->stored_at, s->stored_bytes);
    struct gw_ram_block *ram = gw_memory_find(memory, s->gpa, s->size);
    gw_memory_note_write(ram, s->gpa - ram->gpa, s->size);
    if (ZSTD_isError(n) || n != s->size) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "boot store: segment for " HEX ": %s",
                    s->gpa, ZSTD_isError(n) ? ZSTD_getErrorName(n) : "shorter than stated");
        return false;
    }
    return true;
}

bool boot_restore(const struct gw_ram_block *block, struct gw_memory *memory, uint64_t *entry_pc,
                  GError **error)
{
    struct stored_header header;
    uint8_t seed[BOOT_MAX_SEED_BYTES];

    memcpy(&header, block->host, sizeof header);
    if (memcmp(header.magic, BOOT_MAGIC, sizeof header.magic) != 0) {
        g_set_error(error, GW_ERROR, GW_ERROR_STATE, "there are no boot files");
        return false;
    }
    if (header.n_segments > BOOT_MAX_SEGMENTS || header.seed_bytes > BOOT_MAX_SEED_BYTES) {
        g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT,
                    "boot store: %u segments, %u seed bytes: more than allowed", header.n_segments,
                    header.seed_bytes);
        return false;
    }
    for (unsigned i = 0; i < header.n_segments; i++) {
        struct stored_segment segment;
        memcpy(&segment, block->host + sizeof header + i * sizeof segment, sizeof segment);
        if (!restore_segment(block, memory, &segment, error))
            return false;
    }
    if (header.seed_bytes) {
        if (getrandom(seed, header.seed_bytes, GRND_NONBLOCK) != (ssize_t)header.seed_bytes)
            memset(seed, 0,
                   sizeof seed); /* the host has no entropy yet: then neither has the guest */
        else if (!gw_memory_write(memory, header.seed_gpa, seed, header.seed_bytes)) {
            g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "boot store: seed at " HEX " is not RAM",
                        header.seed_gpa);
            return false;
        }
    }
    *entry_pc = header.entry_pc;
    return true;
}
