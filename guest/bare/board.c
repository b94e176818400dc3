/* SPDX-License-Identifier: MIT */
/* The `virt` board as the bare-metal programs see it: device tree, CLINT, test finisher.
 *
 * The device tree is read once, before anything may overwrite it. SPEC: Devicetree Specification
 * 0.4, chapter 5 (flattened format). */
#include "bare.h"

#define CLINT    0x02000000ul
#define FINISHER 0x00100000ul

enum { FDT_BEGIN_NODE = 1, FDT_END_NODE = 2, FDT_PROP = 3, FDT_NOP = 4, FDT_END = 9 };

static inline uint32_t be32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static inline uint64_t be64(const void *p)
{
    return (uint64_t)be32(p) << 32 | be32((const char *)p + 4);
}

static bool starts_with(const char *text, const char *prefix)
{
    while (*prefix) {
        if (*text++ != *prefix++) {
            return false;
        }
    }
    return true;
}

static bool is_same(const char *a, const char *b)
{
    return starts_with(a, b) && starts_with(b, a);
}

static size_t length_of(const char *text)
{
    size_t n = 0;
    while (text[n]) {
        n++;
    }
    return n;
}

enum node { NODE_OTHER, NODE_CHOSEN, NODE_MEMORY, NODE_CPUS };

static enum node node_kind(const char *name)
{
    return is_same(name, "chosen")        ? NODE_CHOSEN
           : starts_with(name, "memory@") ? NODE_MEMORY
           : is_same(name, "cpus")        ? NODE_CPUS
                                          : NODE_OTHER;
}

static void take_property(struct board *board, enum node node, const char *name, const char *value,
                          uint32_t length)
{
    if (node == NODE_CHOSEN && is_same(name, "bootargs")) {
        for (uint32_t i = 0; i < length && i < sizeof board->bootargs - 1; i++) {
            board->bootargs[i] = value[i];
        }
    } else if (node == NODE_MEMORY && is_same(name, "reg") && length >= 16) {
        board->ram_base = be64(value);
        board->ram_bytes = be64(value + 8);
    } else if (node == NODE_CPUS && is_same(name, "timebase-frequency")) {
        board->timebase_hz = be32(value);
    }
}

void board_read(struct board *board, const void *fdt)
{
    const char *base = fdt;
    const char *at, *strings;
    enum node node = NODE_OTHER;
    uint32_t depth = 0;

    *board = (struct board){.ram_base = 0x80000000ul, .timebase_hz = 10000000};
    if (be32(base) != 0xd00dfeed) {
        print("no device tree\n");
        finish_fail(3);
    }
    at = base + be32(base + 8);
    strings = base + be32(base + 12);
    for (;;) {
        uint32_t token = be32(at);
        at += 4;
        if (token == FDT_BEGIN_NODE) {
            if (++depth == 2) {
                node = node_kind(at);
            } else if (depth == 3 && node == NODE_CPUS && starts_with(at, "cpu@")) {
                board->harts++;
            }
            at += (length_of(at) + 4) & ~3ul;
        } else if (token == FDT_END_NODE) {
            depth--;
        } else if (token == FDT_PROP) {
            uint32_t length = be32(at);
            if (depth == 2) {
                take_property(board, node, strings + be32(at + 4), at + 8, length);
            }
            at += 8 + ((length + 3) & ~3u);
        } else if (token != FDT_NOP) {
            break;
        }
    }
    if (board->harts > MAX_HARTS) {
        board->harts = MAX_HARTS;
    }
}

/* The text after NAME= among the words of bootargs, or NULL. */
static const char *param_text(const struct board *board, const char *name)
{
    const char *at = board->bootargs;

    while (*at) {
        if (starts_with(at, name) && at[length_of(name)] == '=') {
            return at + length_of(name) + 1;
        }
        while (*at && *at != ' ') {
            at++;
        }
        while (*at == ' ') {
            at++;
        }
    }
    return NULL;
}

uint64_t board_param(const struct board *board, const char *name, uint64_t fallback)
{
    const char *text = param_text(board, name);
    uint64_t value = 0;

    if (!text) {
        return fallback;
    }
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return value;
}

int board_choice(const struct board *board, const char *name, const char *const *names,
                 int name_count, int fallback)
{
    const char *text = param_text(board, name);

    for (int i = 0; text && i < name_count; i++) {
        char after = starts_with(text, names[i]) ? text[length_of(names[i])] : 'x';
        if (after == '\0' || after == ' ') {
            return i;
        }
    }
    return fallback;
}

uint64_t mtime(void)
{
    return *(volatile uint64_t *)(CLINT + 0xbff8);
}

void mtimecmp_set(uint64_t hartid, uint64_t value)
{
    *(volatile uint64_t *)(CLINT + 0x4000 + 8 * hartid) = value;
}

void ipi_set(uint64_t hartid, bool is_raised)
{
    *(volatile uint32_t *)(CLINT + 4 * hartid) = is_raised;
}

static _Noreturn void finish(uint32_t value)
{
    for (;;) {
        *(volatile uint32_t *)FINISHER = value;
    }
}

_Noreturn void finish_pass(void)
{
    finish(0x5555);
}

_Noreturn void finish_fail(uint16_t code)
{
    finish((uint32_t)code << 16 | 0x3333);
}

_Noreturn void finish_reboot(void)
{
    finish(0x7777);
}

/* The compiler may call these for structures and loops. */
void *memset(void *to, int byte, size_t n)
{
    char *t = to;
    while (n--) {
        *t++ = (char)byte;
    }
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    char *t = to;
    const char *f = from;
    while (n--) {
        *t++ = *f++;
    }
    return to;
}
