/* SPDX-License-Identifier: MIT */
/*
 * Prints the handover's transition tables as Promela, so that the model and the code are one table.
 *
 * With arguments SIDE STATE EVENT NEXT ACTION one row is printed changed: the model must find the
 * fault that this is (tests/model/check.py).
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "migrate/handover.h"

static void print_name(char side, const char *infix, const char *name)
{
    printf("%c_%s", side, infix);
    for (; *name; name++)
        putchar(*name == '-' ? '_' : toupper((unsigned char)*name));
}

static void define_all(char side, const char *infix, const char *const *names, unsigned n)
{
    for (unsigned i = 1; i < n; i++) {
        printf("#define ");
        print_name(side, infix, names[i]);
        printf(" %u\n", i);
    }
}

/* A row that is to be printed wrong; side 0: none. */
struct fault {
    enum gw_side side;
    unsigned state, event, next, action;
};

static unsigned number_of(const char *name, const char *const *names, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "export_tables: no such name: %s\n", name);
    exit(2);
}

static struct fault parse_fault(char **arg)
{
    enum gw_side side = strcmp(arg[0], "source") == 0 ? GW_SIDE_SOURCE : GW_SIDE_DESTINATION;
    const struct handover_table *table = handover_table(side);
    return (struct fault){.side = side,
                          .state = number_of(arg[1], table->state_names, table->n_states),
                          .event = number_of(arg[2], table->event_names, table->n_events),
                          .next = number_of(arg[3], table->state_names, table->n_states),
                          .action = number_of(arg[4], table->action_names, table->n_actions)};
}

/* A C array [state][event]; 0 stands where the table has no row. */
static void print_array(const struct handover_table *table, const char *name, const char *what,
                        bool is_next, const struct fault *fault)
{
    printf("c_decl {\nstatic const unsigned char %s_%s[%u][%u] = {\n", name, what, table->n_states,
           table->n_events);
    for (unsigned state = 0; state < table->n_states; state++) {
        printf("    {");
        for (unsigned event = 0; event < table->n_events; event++) {
            const struct handover_row *row = handover_find(table, state, event);
            unsigned value = row ? is_next ? row->next : row->action : 0;
            if (fault->side == table->side && fault->state == state && fault->event == event)
                value = is_next ? fault->next : fault->action;
            printf("%u,%s", value, event + 1 < table->n_events ? " " : "},\n");
        }
    }
    printf("};\n}\n");
}

static void print_side(const struct handover_table *table, char side, const char *name,
                       const char *upper, const struct fault *fault)
{
    define_all(side, "", table->state_names, table->n_states);
    define_all(side, "EV_", table->event_names, table->n_events);
    define_all(side, "DO_", table->action_names, table->n_actions);
    printf("#define %s_INITIAL %u\n", upper, table->initial);
    print_array(table, name, "next", true, fault);
    print_array(table, name, "actions", false, fault);
}

int main(int argc, char **argv)
{
    struct fault fault = argc == 6 ? parse_fault(argv + 1) : (struct fault){0};

    printf("/* Printed by export_tables from src/migrate/handover.c. */\n");
    print_side(handover_table(GW_SIDE_SOURCE), 'S', "source", "SOURCE", &fault);
    print_side(handover_table(GW_SIDE_DESTINATION), 'D', "destination", "DESTINATION", &fault);
    return 0;
}
