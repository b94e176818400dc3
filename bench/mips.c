/* SPDX-License-Identifier: MIT */
/*
 * The speed of one software hart: runs a bare-metal ELF on the smallest board there is (no device
 * threads, no monitor) and prints what the program reports as JSON.
 *
 * usage: mips PROGRAM.elf
 *
 * The program prints lines "mips: NAME instret N us N mips N [sum HEX]" (guest/bare/mips.c) and
 * ends by the test finisher. Exit status: 0; 1 when it failed, 2 on misuse.
 */
#include <jansson.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>

#include "tiny_board.h"

#define RAM_BYTES   (UINT64_C(64) << 20)
#define DEADLINE_MS 600000

/* The little that the program reads of a device tree, at the end of RAM. Returns its address. */
static uint64_t place_device_tree(struct tiny_board *board)
{
    uint64_t gpa = TINY_RAM_BASE + RAM_BYTES - GW_PAGE_SIZE;
    void *fdt = gw_memory_host(board->memory, gpa, GW_PAGE_SIZE);
    uint64_t reg[2] = {GUINT64_TO_BE(TINY_RAM_BASE), GUINT64_TO_BE(RAM_BYTES)};
    bool is_ok = fdt_create(fdt, GW_PAGE_SIZE) == 0 && fdt_finish_reservemap(fdt) == 0 &&
                 fdt_begin_node(fdt, "") == 0 && fdt_begin_node(fdt, "memory@80000000") == 0 &&
                 fdt_property(fdt, "reg", reg, sizeof reg) == 0 && fdt_end_node(fdt) == 0 &&
                 fdt_begin_node(fdt, "cpus") == 0 &&
                 fdt_property_u32(fdt, "timebase-frequency", 10000000) == 0 &&
                 fdt_begin_node(fdt, "cpu@0") == 0 && fdt_end_node(fdt) == 0 &&
                 fdt_end_node(fdt) == 0 && fdt_end_node(fdt) == 0 && fdt_finish(fdt) == 0;
    g_assert(is_ok);
    return gpa;
}

/* One line of the program's report; NULL when it is not one. */
static json_t *parse_line(const char *line)
{
    char name[32], sum[32] = "";
    unsigned long long instructions, us, mips;
    int n = sscanf(line, "mips: %31s instret %llu us %llu mips %llu sum %31s", name, &instructions,
                   &us, &mips, sum);
    if (n < 4) {
        return NULL;
    }
    return json_pack("{s:s, s:I, s:I, s:f, s:s}", "name", name, "instructions",
                     (json_int_t)instructions, "us", (json_int_t)us, "mips",
                     us ? (double)instructions / (double)us : 0.0, "sum", sum);
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    unsigned code = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: mips PROGRAM.elf\n");
        return 2;
    }
    struct tiny_board *board = tiny_board_new(1, RAM_BYTES);
    if (!tiny_board_load(board, argv[1], &error)) {
        fprintf(stderr, "mips: %s\n", error->message);
        return 2;
    }
    cpu_riscv_soft.set_entry(board->cpu, 0, board->entry, 0, place_device_tree(board));
    bool has_ended = tiny_board_run(board, DEADLINE_MS, &code);
    g_auto(GStrv) lines = g_strsplit(board->console->str, "\n", -1);
    json_t *sections = json_array();
    for (char **line = lines; *line != NULL; line++) {
        json_t *section = parse_line(*line);
        if (section != NULL) {
            json_array_append_new(sections, section);
        }
    }
    json_t *report = json_pack("{s:s, s:b, s:i, s:o}", "program", argv[1], "ended", has_ended,
                               "code", (int)code, "sections", sections);
    json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    putchar('\n');
    if (json_array_size(sections) == 0) {
        fprintf(stderr, "mips: the program reported nothing; its console: %s\n",
                board->console->str);
    }
    json_decref(report);
    tiny_board_free(board);
    return has_ended && code == 0 ? 0 : 1;
}
