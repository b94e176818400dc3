/* SPDX-License-Identifier: MIT */
/*
 * The destination asked for a plan: one probe at a time, beside everything else.
 *
 * Model: a probe is served by a thread of its own and changes nothing. What it asks about the
 * machine is answered by the control thread, like everything that looks at the embedder's objects;
 * the probe's thread waits for it.
 *
 * PEER: a probe takes one thread, one schema, one RAM map and one buffer, for PROBE_SERVE_NS. It
 * holds none of the places of connections that are not yet known, so that a migration can arrive
 * meanwhile, which ends it.
 */
#include "migrate/destination.h"
#include "migrate/probe.h"
#include "migrate/verdict.h"

struct destination_probe {
    struct gw_destination *destination;
    struct wire_stream *stream;
    pthread_t thread;

    /* guarded by destination.lock */
    const struct probe_question *question; /* due for the control thread; NULL: none */
    struct probe_answer *answer;
    bool is_answered; /* and, if refusal is NULL, answer is filled */
    const char *refusal;
    bool is_judging;              /* the control thread is in question and answer */
    bool is_unwanted, is_leaving; /* leaving: nothing follows but the thread's end */
};

static bool is_free_for_probes(unsigned state)
{
    return state == GW_DESTINATION_LISTENING || state == GW_DESTINATION_DISOWNED;
}

/* When the destination ends its control thread answers no more, unless it is at it. */
static bool probe_judge(void *opaque, const struct probe_question *question,
                        struct probe_answer *answer, GError **error)
{
    struct destination_probe *probe = opaque;
    struct gw_destination *destination = probe->destination;
    const char *refusal;

    pthread_mutex_lock(&destination->lock);
    probe->question = question;
    probe->answer = answer;
    pthread_mutex_unlock(&destination->lock);
    mailbox_put(&destination->box, mail_new(MAIL_PROBE));
    pthread_mutex_lock(&destination->lock);
    while (!probe->is_answered && (probe->is_judging || !destination->is_freeing))
        pthread_cond_wait(&destination->changed, &destination->lock);
    refusal = probe->is_answered ? probe->refusal : "the destination ends";
    probe->question = NULL;
    pthread_mutex_unlock(&destination->lock);
    if (refusal)
        g_set_error_literal(error, GW_ERROR, GW_ERROR_STATE, refusal);
    return refusal == NULL;
}

static bool probe_is_unwanted(void *opaque)
{
    struct destination_probe *probe = opaque;
    bool is_unwanted;

    pthread_mutex_lock(&probe->destination->lock);
    is_unwanted = probe->is_unwanted;
    pthread_mutex_unlock(&probe->destination->lock);
    return is_unwanted;
}

static void probe_leaves(void *opaque)
{
    struct destination_probe *probe = opaque;

    pthread_mutex_lock(&probe->destination->lock);
    probe->is_leaving = true;
    pthread_mutex_unlock(&probe->destination->lock);
}

static void *probe_main(void *opaque)
{
    struct destination_probe *probe = opaque;
    const struct probe_judge judge = {probe_judge, probe_is_unwanted, probe_leaves, probe};

    probe_serve(probe->stream, &judge, (int64_t)(clock_mono_ns() + PROBE_SERVE_NS), NULL);
    /* The peer sees the end now, whenever the thread is joined. */
    gw_channel_shutdown(wire_stream_channel(probe->stream));
    probe_leaves(probe);
    return NULL;
}

static void probe_join(struct gw_destination *destination)
{
    struct destination_probe *probe = g_steal_pointer(&destination->probe);

    gw_channel_wake(wire_stream_channel(probe->stream)); /* it is not waited for */
    pthread_join(probe->thread, NULL);
    wire_stream_free(probe->stream);
    g_free(probe);
}

static bool probe_is_leaving(struct gw_destination *destination)
{
    bool is_leaving;

    pthread_mutex_lock(&destination->lock);
    is_leaving = destination->probe->is_leaving;
    pthread_mutex_unlock(&destination->lock);
    return is_leaving;
}

void destination_on_probe(struct gw_destination *destination, struct mail *mail)
{
    struct destination_probe *probe;
    const char *reason = NULL;
    unsigned state = destination_state(destination);

    if (destination->probe && probe_is_leaving(destination))
        probe_join(destination);
    if (!is_free_for_probes(state))
        reason = state == GW_DESTINATION_RUNNING ? "the destination runs its guest"
                                                 : "the destination serves a migration";
    else if (destination->probe)
        reason = "the destination serves another probe";
    if (reason) {
        destination_refuse(destination, g_steal_pointer(&mail->stream), reason);
        return;
    }
    probe = destination->probe = g_new0(struct destination_probe, 1);
    probe->destination = destination;
    probe->stream = g_steal_pointer(&mail->stream);
    engine_thread_start(&probe->thread, "gw-probe", probe_main, probe);
}

static void judge(struct gw_destination *destination, const struct probe_question *question,
                  struct probe_answer *answer)
{
    g_autoptr(GError) error = NULL;
    struct verdict verdict;
    gsize n_bytes;
    const uint8_t *bytes = g_bytes_get_data(question->schema, &n_bytes);
    struct gw_schema *schema = gw_schema_parse(bytes, n_bytes, &error);

    answer->hello = destination_hello(destination);
    verdict_init(&verdict);
    verdict_compare_features(&verdict, question->hello.required, answer->hello.features);
    verdict_compare_ram(&verdict, destination->vm.memory, &question->map, NULL);
    if (schema) {
        struct gw_state_plan *plan = gw_state_plan_new(schema, destination->vm.registry);

        verdict_compare_schema(&verdict, plan);
        gw_state_plan_free(plan);
    } else {
        g_ptr_array_add(verdict.refusals, g_strdup(error->message));
    }
    answer->verdict = verdict_record(&verdict);
    verdict_clear(&verdict);
    if (answer->verdict.is_accepted)
        answer->report = destination_rehearse(destination);
}

void destination_on_probe_question(struct gw_destination *destination)
{
    struct destination_probe *probe = destination->probe;
    const struct probe_question *question = NULL;

    if (!probe)
        return;
    pthread_mutex_lock(&destination->lock);
    question = probe->is_answered ? NULL : probe->question;
    probe->is_judging = question != NULL;
    pthread_mutex_unlock(&destination->lock);
    if (!question)
        return;
    /* The thread waits: question and answer are ours until is_answered. */
    if (is_free_for_probes(destination_state(destination)))
        judge(destination, question, probe->answer);
    else
        probe->refusal = "a migration has begun, the probe ends";
    pthread_mutex_lock(&destination->lock);
    probe->is_answered = true;
    probe->is_judging = false;
    pthread_cond_broadcast(&destination->changed);
    pthread_mutex_unlock(&destination->lock);
}

void destination_end_probe(struct gw_destination *destination)
{
    if (!destination->probe)
        return;
    pthread_mutex_lock(&destination->lock);
    destination->probe->is_unwanted = true;
    pthread_mutex_unlock(&destination->lock);
}

void destination_free_probe(struct gw_destination *destination)
{
    if (destination->probe)
        probe_join(destination);
}
