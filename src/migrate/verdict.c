/* SPDX-License-Identifier: MIT */
/* Compares the source's machine with ours and makes one list of what does not fit. */
#include "migrate/verdict.h"

#define MAX_SENTENCES 200u

void verdict_init(struct verdict *verdict)
{
    verdict->refusals = g_ptr_array_new_with_free_func(g_free);
    verdict->warnings = g_ptr_array_new_with_free_func(g_free);
}

void verdict_clear(struct verdict *verdict)
{
    g_clear_pointer(&verdict->refusals, g_ptr_array_unref);
    g_clear_pointer(&verdict->warnings, g_ptr_array_unref);
}

static void refuse(struct verdict *verdict, char *text)
{
    g_ptr_array_add(verdict->refusals, text);
}

/* Our block of this name if it fits, else NULL and a sentence. */
static struct gw_ram_block *compare_block(struct verdict *verdict, const struct gw_memory *memory,
                                          const struct wire_ram_block *from)
{
    struct gw_ram_block *ours = gw_memory_block_by_name(memory, from->name);

    if (!ours)
        refuse(verdict,
               g_strdup_printf("RAM block %s does not exist at the destination", from->name));
    else if (ours->size_bytes != from->size_bytes)
        refuse(verdict, g_strdup_printf("RAM block %s: the destination has %" G_GUINT64_FORMAT
                                        " bytes, the source has %" G_GUINT64_FORMAT,
                                        from->name, ours->size_bytes, from->size_bytes));
    else if (ours->gpa != from->gpa)
        refuse(verdict,
               g_strdup_printf("RAM block %s: the destination has it at 0x%" G_GINT64_MODIFIER
                               "x, the source at 0x%" G_GINT64_MODIFIER "x",
                               from->name, ours->gpa, from->gpa));
    else
        return ours;
    return NULL;
}

void verdict_compare_ram(struct verdict *verdict, const struct gw_memory *memory,
                         const struct wire_ram_map *map, struct gw_ram_block **blocks)
{
    for (uint32_t i = 0; i < map->n_blocks; i++) {
        struct gw_ram_block *ours = compare_block(verdict, memory, &map->blocks[i]);

        if (blocks)
            blocks[i] = ours;
    }
    for (uint32_t i = 0; i < gw_memory_n_blocks(memory); i++) {
        const struct gw_ram_block *ours = gw_memory_block(memory, i);
        bool is_named = false;

        for (uint32_t j = 0; j < map->n_blocks && !is_named; j++)
            is_named = g_str_equal(map->blocks[j].name, ours->name);
        if (!is_named)
            refuse(verdict,
                   g_strdup_printf("RAM block %s does not exist at the source", ours->name));
    }
}

void verdict_compare_features(struct verdict *verdict, uint64_t required, uint64_t ours)
{
    uint64_t missing = required & ~ours;

    if (missing)
        refuse(verdict, g_strdup_printf("the source requires features that are unknown here: "
                                        "0x%" G_GINT64_MODIFIER "x",
                                        missing));
}

void verdict_compare_schema(struct verdict *verdict, const struct gw_state_plan *plan)
{
    uint32_t n = 0;
    const struct gw_finding *findings = gw_state_plan_findings(plan, &n);

    for (uint32_t i = 0; i < n; i++)
        g_ptr_array_add(findings[i].severity == GW_SEVERITY_REFUSE ? verdict->refusals
                                                                   : verdict->warnings,
                        g_strdup(findings[i].sentence));
}

static void add_sentences(struct wire_schema_verdict *record, const GPtrArray *sentences,
                          uint8_t severity)
{
    for (guint i = 0; i < sentences->len && record->n_sentences < MAX_SENTENCES; i++) {
        struct wire_sentence *to = &record->sentences[record->n_sentences++];

        to->severity = severity;
        if (record->n_sentences == MAX_SENTENCES && i + 1 < sentences->len)
            to->text = g_strdup_printf("and %u more", sentences->len - i);
        else
            to->text = g_strndup(g_ptr_array_index(sentences, i), WIRE_MAX_SENTENCE);
    }
}

struct wire_schema_verdict verdict_record(const struct verdict *verdict)
{
    struct wire_schema_verdict record = {
        .is_accepted = verdict->refusals->len == 0,
        .sentences = g_new0(struct wire_sentence, MAX_SENTENCES),
    };

    add_sentences(&record, verdict->refusals, 2);
    add_sentences(&record, verdict->warnings, 1);
    return record;
}
