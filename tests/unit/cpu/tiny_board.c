/* SPDX-License-Identifier: MIT */
/*
 * The test board: bus decoding, an ELF loader, and running to the exit register.
 */
#include <elf.h>
#include <pthread.h>
#include <string.h>

#include "tiny_board.h"

#define EXIT_BASE    UINT64_C(0x00100000)
#define ACLINT_BASE  UINT64_C(0x02000000)
#define CONSOLE_BASE UINT64_C(0x10000000)

static bool bus_read(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t *value)
{
    struct tiny_board *board = opaque;
    uint64_t offset = gpa - ACLINT_BASE;
    if (gpa == CONSOLE_BASE + 5) {
        *value = 0x60;
        return true;
    }
    if (offset < 4 * board->n_harts) {
        *value = __atomic_load_n(&board->msip, __ATOMIC_SEQ_CST) >> (offset / 4) & 1;
        return true;
    }
    if (offset - 0x4000 < 8 * board->n_harts) {
        *value = cpu_riscv_soft.get_timer(board->cpu, (unsigned)(offset - 0x4000) / 8);
        return true;
    }
    if (offset == 0xbff8) {
        *value = guest_clock_ticks(&board->clock);
        return true;
    }
    return gpa - CONSOLE_BASE < 8;
}

static void end(struct tiny_board *board, uint64_t value)
{
    pthread_mutex_lock(&board->lock);
    board->code = (value & 0xffff) == 0x5555 ? 0 : (unsigned)(value >> 16);
    board->has_ended = true;
    pthread_cond_broadcast(&board->ended);
    pthread_mutex_unlock(&board->lock);
}

static bool bus_write(void *opaque, unsigned vcpu, uint64_t gpa, unsigned size, uint64_t value)
{
    struct tiny_board *board = opaque;
    uint64_t offset = gpa - ACLINT_BASE;
    if (gpa == EXIT_BASE) {
        end(board, value);
        return true;
    }
    if (offset < 4 * board->n_harts) {
        unsigned hart = (unsigned)offset / 4;
        if (value & 1) {
            __atomic_fetch_or(&board->msip, UINT64_C(1) << hart, __ATOMIC_SEQ_CST);
        } else {
            __atomic_fetch_and(&board->msip, ~(UINT64_C(1) << hart), __ATOMIC_SEQ_CST);
        }
        cpu_riscv_soft.set_irq(board->cpu, hart, 3, value & 1);
        return true;
    }
    if (offset - 0x4000 < 8 * board->n_harts && size == 8) {
        cpu_riscv_soft.set_timer(board->cpu, (unsigned)(offset - 0x4000) / 8, value);
        return true;
    }
    if (gpa == CONSOLE_BASE) {
        pthread_mutex_lock(&board->lock);
        g_string_append_c(board->console, (char)value);
        pthread_mutex_unlock(&board->lock);
        return true;
    }
    if (gpa == CONSOLE_BASE + 0x100 || gpa == CONSOLE_BASE + 0x104) {
        if (value < board->n_harts) {
            cpu_riscv_soft.set_irq(board->cpu, (unsigned)value, 9, gpa == CONSOLE_BASE + 0x100);
        }
        return true;
    }
    return gpa - CONSOLE_BASE < 8;
}

static void told_fatal(void *opaque, unsigned vcpu, const char *reason)
{
    struct tiny_board *board = opaque;
    pthread_mutex_lock(&board->lock);
    g_free(board->fatal);
    board->fatal = g_strdup(reason);
    board->code = 0xdead;
    board->has_ended = true;
    pthread_cond_broadcast(&board->ended);
    pthread_mutex_unlock(&board->lock);
}

static const struct cpu_bus_ops bus_ops = {bus_read, bus_write};

struct tiny_board *tiny_board_new(unsigned n_harts, uint64_t ram_bytes)
{
    struct tiny_board *board = g_new0(struct tiny_board, 1);
    g_autoptr(GError) error = NULL;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&board->lock, NULL);
    pthread_cond_init(&board->ended, &attr);
    pthread_condattr_destroy(&attr);
    board->console = g_string_new(NULL);
    board->n_harts = n_harts;
    board->memory = gw_memory_new();
    board->ram = gw_memory_add_block(board->memory, "ram", TINY_RAM_BASE, ram_bytes, &error);
    g_assert_no_error(error);
    guest_clock_init(&board->clock, 10000000, 0);
    struct cpu_config config = {
        .n_vcpus = n_harts,
        .memory = board->memory,
        .clock = &board->clock,
        .bus = &bus_ops,
        .bus_opaque = board,
        .fatal = told_fatal,
        .fatal_opaque = board,
    };
    board->cpu = cpu_riscv_soft.create(&config, &error);
    g_assert_no_error(error);
    return board;
}

void tiny_board_free(struct tiny_board *board)
{
    cpu_riscv_soft.free(board->cpu);
    gw_memory_free(board->memory);
    g_string_free(board->console, TRUE);
    g_free(board->fatal);
    g_free(board->program);
    pthread_cond_destroy(&board->ended);
    pthread_mutex_destroy(&board->lock);
    g_free(board);
}

static bool fail(GError **error, const char *path, const char *why)
{
    g_set_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL, "%s: %s", path, why);
    return false;
}

bool tiny_board_load(struct tiny_board *board, const char *path, GError **error)
{
    g_autofree char *contents = NULL;
    gsize size;
    if (!g_file_get_contents(path, &contents, &size, error)) {
        return false;
    }
    const uint8_t *file = (const uint8_t *)contents;
    const Elf64_Ehdr *header = (const void *)file;
    if (size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) {
        return fail(error, path, "not an ELF file");
    }
    const Elf64_Phdr *segments = (const void *)(file + header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (segments[i].p_type != PT_LOAD || segments[i].p_memsz == 0) {
            continue;
        }
        uint8_t *host = gw_memory_host(board->memory, segments[i].p_paddr, segments[i].p_memsz);
        if (host == NULL || segments[i].p_offset + segments[i].p_filesz > size) {
            return fail(error, path, "a segment lies outside of RAM or of the file");
        }
        memcpy(host, file + segments[i].p_offset, segments[i].p_filesz);
        memset(host + segments[i].p_filesz, 0, segments[i].p_memsz - segments[i].p_filesz);
    }
    board->entry = header->e_entry;
    g_free(board->program);
    board->program = g_strdup(path);
    for (unsigned i = 0; i < board->n_harts; i++) {
        cpu_riscv_soft.set_entry(board->cpu, i, header->e_entry, i, 0);
    }
    return true;
}

uint64_t tiny_board_symbol(const struct tiny_board *board, const char *name)
{
    g_autofree char *contents = NULL;
    if (!g_file_get_contents(board->program, &contents, NULL, NULL)) {
        return 0;
    }
    const Elf64_Ehdr *header = (const void *)contents;
    const Elf64_Shdr *sections = (const void *)(contents + header->e_shoff);
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) {
            continue;
        }
        const Elf64_Sym *symbols = (const void *)(contents + sections[i].sh_offset);
        const char *names = contents + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++) {
            if (strcmp(names + symbols[s].st_name, name) == 0) {
                return symbols[s].st_value;
            }
        }
    }
    return 0;
}

bool tiny_board_run(struct tiny_board *board, unsigned deadline_ms, unsigned *code)
{
    struct timespec deadline;
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += deadline_ms / 1000;
    deadline.tv_nsec += (long)(deadline_ms % 1000) * 1000000;
    if (deadline.tv_nsec >= 1000000000) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000;
    }
    cpu_riscv_soft.start(board->cpu);
    pthread_mutex_lock(&board->lock);
    int result = 0;
    while (!board->has_ended && result == 0) {
        result = pthread_cond_timedwait(&board->ended, &board->lock, &deadline);
    }
    bool has_ended = board->has_ended;
    *code = board->code;
    board->has_ended = false;
    pthread_mutex_unlock(&board->lock);
    cpu_riscv_soft.stop(board->cpu);
    return has_ended;
}
