/* SPDX-License-Identifier: MIT */
/* The mailbox of a control thread, threads, and failures. */
#include "migrate/engine.h"

#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#define NICE_BEHIND 10

void engine_thread_start(pthread_t *thread, const char *name, void *(*fn)(void *), void *opaque)
{
    sigset_t all, before;
    int rc;

    /* The embedder's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(thread, NULL, fn, opaque);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0)
        g_error("pthread_create: %s", g_strerror(rc));
    pthread_setname_np(*thread, name);
}

void engine_go_behind(void)
{
    /* On Linux 0 is the thread, not the process; and to ask for less is always allowed. */
    setpriority(PRIO_PROCESS, 0, MAX(getpriority(PRIO_PROCESS, 0), NICE_BEHIND));
}

size_t engine_message_bytes(uint16_t type)
{
    static const struct {
        uint16_t type;
        size_t n_bytes;
    } sizes[] = {
        {WIRE_HELLO, sizeof(struct wire_hello)},
        {WIRE_SCHEMA_VERDICT, sizeof(struct wire_schema_verdict)},
        {WIRE_RAM_MAP, sizeof(struct wire_ram_map)},
        {WIRE_ROUND_BEGIN, sizeof(struct wire_round_begin)},
        {WIRE_ROUND_END, sizeof(struct wire_round_end)},
        {WIRE_ROUND_ACK, sizeof(struct wire_round_ack)},
        {WIRE_RESEND, sizeof(struct wire_resend)},
        {WIRE_SWITCHOVER_BEGIN, sizeof(struct wire_switchover_begin)},
        {WIRE_SWITCHOVER_CANCEL, sizeof(struct wire_switchover_cancel)},
        {WIRE_STATE_END, sizeof(struct wire_state_end)},
        {WIRE_LOADED, sizeof(struct wire_loaded)},
        {WIRE_COMMIT, sizeof(struct wire_commit)},
        {WIRE_RUNNING, sizeof(struct wire_running)},
        {WIRE_ABORT, sizeof(struct wire_abort)},
        {WIRE_CANCEL, sizeof(struct wire_cancel)},
        {WIRE_QUERY_OWNER, sizeof(struct wire_query_owner)},
        {WIRE_OWNER_ANSWER, sizeof(struct wire_owner_answer)},
        {WIRE_CLOCK_PING, sizeof(struct wire_clock_ping)},
        {WIRE_CLOCK_PONG, sizeof(struct wire_clock_pong)},
        {WIRE_REHEARSAL_REPORT, sizeof(struct wire_rehearsal_report)},
        {WIRE_LEDGER, sizeof(struct wire_ledger)},
        {WIRE_COST, sizeof(struct wire_cost)},
        {WIRE_FAULT_WAITS, sizeof(struct wire_fault_waits)},
        {WIRE_GOODBYE, sizeof(struct wire_goodbye)},
        {WIRE_END, sizeof(struct wire_end)},
        {WIRE_KEEPALIVE, sizeof(struct wire_keepalive)},
        {WIRE_RAM_SHARE, sizeof(struct wire_ram_share)},
        {WIRE_RAM_SHARED, sizeof(struct wire_ram_shared)},
        {WIRE_PACKET, sizeof(struct wire_packet)},
        {WIRE_PAGE_REQUEST, sizeof(struct wire_page_request)},
        {WIRE_RESUME, sizeof(struct wire_resume)},
        {WIRE_RESUMED, sizeof(struct wire_resumed)},
        {WIRE_WHOLE, sizeof(struct wire_whole)},
        {WIRE_PROBE, sizeof(struct wire_probe)},
        {WIRE_PROBE_ACK, sizeof(struct wire_probe_ack)},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(sizes); i++)
        if (sizes[i].type == type)
            return sizes[i].n_bytes;
    return 0;
}

struct mail *mail_new(enum mail_kind kind)
{
    struct mail *mail = g_new0(struct mail, 1);

    mail->kind = kind;
    mail->channel = CHANNEL_CONTROL;
    mail->weight = MAIL_MIN_WEIGHT;
    mail->arrived_ns = clock_mono_ns();
    return mail;
}

void mail_free(struct mail *mail)
{
    if (!mail)
        return;
    if (mail->type && engine_message_bytes(mail->type))
        wire_message_clear(mail->type, &mail->message);
    if (mail->kind == MAIL_SECTION)
        wire_section_clear(&mail->section);
    g_clear_pointer(&mail->frame, g_bytes_unref);
    if (mail->stream)
        wire_stream_free(mail->stream);
    g_clear_error(&mail->error);
    g_free(mail->text);
    gw_listener_free(mail->listener);
    g_free(mail);
}

void mailbox_init(struct mailbox *box)
{
    *box = (struct mailbox){0};
    pthread_mutex_init(&box->lock, NULL);
    cond_init_mono(&box->has_mail);
}

void mailbox_clear(struct mailbox *box)
{
    struct mail *mail = box->first;

    while (mail) {
        struct mail *next = mail->next;

        mail_free(mail);
        mail = next;
    }
    pthread_cond_destroy(&box->has_mail);
    pthread_mutex_destroy(&box->lock);
}

static void mailbox_append(struct mailbox *box, struct mail *mail, const uint32_t *should_stop)
{
    pthread_mutex_lock(&box->lock);
    while (should_stop && !box->is_closed && box->n_bytes > MAILBOX_MAX_BYTES &&
           !__atomic_load_n(should_stop, __ATOMIC_RELAXED))
        pthread_cond_wait(&box->has_mail, &box->lock);
    if (box->is_closed) {
        pthread_mutex_unlock(&box->lock);
        mail_free(mail);
        return;
    }
    box->n_bytes += mail->weight;
    if (box->last)
        box->last->next = mail;
    else
        box->first = mail;
    box->last = mail;
    pthread_cond_broadcast(&box->has_mail);
    pthread_mutex_unlock(&box->lock);
}

void mailbox_put(struct mailbox *box, struct mail *mail)
{
    mailbox_append(box, mail, NULL);
}

void mailbox_put_bounded(struct mailbox *box, struct mail *mail, const uint32_t *should_stop)
{
    mailbox_append(box, mail, should_stop);
}

void mailbox_wake(struct mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    pthread_cond_broadcast(&box->has_mail);
    pthread_mutex_unlock(&box->lock);
}

struct mail *mailbox_take(struct mailbox *box, uint64_t deadline_ns)
{
    struct mail *mail;

    pthread_mutex_lock(&box->lock);
    while (!box->first && cond_wait_until(&box->has_mail, &box->lock, deadline_ns))
        continue;
    mail = box->first;
    if (mail) {
        box->first = mail->next;
        if (!box->first)
            box->last = NULL;
        mail->next = NULL;
        box->n_bytes -= mail->weight;
        pthread_cond_broadcast(&box->has_mail);
    }
    pthread_mutex_unlock(&box->lock);
    return mail;
}

void mailbox_close(struct mailbox *box)
{
    pthread_mutex_lock(&box->lock);
    box->is_closed = true;
    pthread_cond_broadcast(&box->has_mail);
    pthread_mutex_unlock(&box->lock);
}

void engine_book_cpu(uint64_t *seen_ns, uint64_t *total_ns)
{
    uint64_t now_ns = clock_thread_cpu_ns();

    __atomic_fetch_add(total_ns, now_ns - *seen_ns, __ATOMIC_RELAXED);
    *seen_ns = now_ns;
}

uint32_t engine_channels_for_cores(uint32_t n_cores)
{
    return n_cores < 2 ? 1 : CLAMP(n_cores / 2, 2, ENGINE_MAX_AUTO_CHANNELS);
}

void engine_failure_set(struct gw_migrate_failure *failure, enum gw_side side, int code,
                        const char *reason)
{
    failure->side = side;
    failure->code = code;
    g_strlcpy(failure->reason, reason ? reason : "", sizeof failure->reason);
}
