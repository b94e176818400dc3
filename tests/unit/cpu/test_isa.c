/* SPDX-License-Identifier: MIT */
/*
 * Runs the assembly programs of isa/ (found in $ISA_DIR) on the hart: one test for each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tiny_board.h"

struct program {
    const char *name;
    unsigned n_harts;
    unsigned code; /* expected; not 0 only where a failure is the point */
};

static const struct program programs[] = {
    {"broken", 1, 42}, {"integer", 1, 0}, {"float", 1, 0}, {"control", 1, 0},
    {"atomic", 1, 0},  {"trap", 1, 0},    {"vm", 1, 0},    {"pmp", 1, 0},
    {"timer", 1, 0},   {"selfmod", 1, 0}, {"harts", 4, 0},
};

static void test_program(void **state)
{
    const struct program *program = *state;
    g_autofree char *name = g_strconcat(program->name, ".elf", NULL);
    g_autofree char *path = g_build_filename(g_getenv("ISA_DIR"), name, NULL);
    g_autoptr(GError) error = NULL;
    unsigned code = 0;
    struct tiny_board *board = tiny_board_new(program->n_harts, 8 << 20);
    if (!tiny_board_load(board, path, &error)) {
        fail_msg("%s", error->message);
    }
    if (!tiny_board_run(board, 120000, &code)) {
        fail_msg("%s did not end", program->name);
    }
    assert_int_equal(code, program->code);
    tiny_board_free(board);
}

int main(void)
{
    struct CMUnitTest tests[G_N_ELEMENTS(programs)];
    for (size_t i = 0; i < G_N_ELEMENTS(programs); i++) {
        tests[i] = (struct CMUnitTest){
            .name = programs[i].name,
            .test_func = test_program,
            .initial_state = (void *)&programs[i],
        };
    }
    return cmocka_run_group_tests_name("isa", tests, NULL, NULL);
}
