/* SPDX-License-Identifier: MIT */
/*
 * Faults on purpose in front of a disk: requests that hang or fail, for tests of all above.
 *
 * Syntax (the style of the channels' faults): ACTION@OP=N[@times=COUNT][@ms=LENGTH][;...]
 *     ACTION  stall (the request reaches the disk only after LENGTH; default 1000 ms) | fail (EIO)
 *     OP      read | write | flush, counted from 0 each; N is the first that is hit
 *     times   how many from there on (default 1)
 *
 * Locks: the client's dev.lock guards everything after parsing.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "device/blockdev_internal.h"

#define MAX_RULES 16u

struct rule {
    bool is_fail;
    enum blockdev_op op;
    uint64_t first, times, stall_ms;
};

struct held {
    struct blockdev_request *request;
    uint64_t due_ns;
};

struct blockdev_fault {
    /* fixed after construction */
    struct rule rules[MAX_RULES];
    unsigned n_rules;
    void (*pass)(void *opaque, struct blockdev_request *request);
    void *opaque;
    struct io_timer *timer;
    /* guarded by the client's dev.lock */
    uint64_t n_seen[BLOCKDEV_WRITE_ZEROES_UNMAP + 1]; /* by op */
    GArray *held;                                     /* struct held */
};

/* ---- syntax ---- */

static bool parse_number(const char *text, uint64_t *number)
{
    guint64 value = 0;
    if (!g_ascii_string_to_unsigned(text, 10, 0, G_MAXINT32, &value, NULL))
        return false;
    *number = value;
    return true;
}

static bool parse_place(const char *word, struct rule *rule)
{
    static const struct {
        const char *prefix;
        enum blockdev_op op;
    } ops[] = {{"read=", BLOCKDEV_READ}, {"write=", BLOCKDEV_WRITE}, {"flush=", BLOCKDEV_FLUSH}};

    for (size_t i = 0; i < G_N_ELEMENTS(ops); i++) {
        if (g_str_has_prefix(word, ops[i].prefix)) {
            rule->op = ops[i].op;
            return parse_number(word + strlen(ops[i].prefix), &rule->first);
        }
    }
    return false;
}

static bool parse_rule(const char *spec, struct rule *rule)
{
    g_auto(GStrv) words = g_strsplit(spec, "@", -1);

    *rule = (struct rule){.times = 1, .stall_ms = 1000};
    if (g_strv_length(words) < 2 || !parse_place(words[1], rule))
        return false;
    rule->is_fail = strcmp(words[0], "fail") == 0;
    if (!rule->is_fail && strcmp(words[0], "stall") != 0)
        return false;
    for (char **word = words + 2; *word; word++) {
        bool is_times = g_str_has_prefix(*word, "times=");
        if (!is_times && !g_str_has_prefix(*word, "ms="))
            return false;
        if (!parse_number(strchr(*word, '=') + 1, is_times ? &rule->times : &rule->stall_ms))
            return false;
    }
    return true;
}

struct blockdev_fault *
blockdev_fault_new(const char *spec, void (*pass)(void *opaque, struct blockdev_request *request),
                   void *opaque, GError **error)
{
    g_auto(GStrv) specs = g_strsplit(spec, ";", -1);
    struct blockdev_fault *fault = g_new0(struct blockdev_fault, 1);

    for (char **at = specs; *at; at++) {
        if (fault->n_rules == MAX_RULES || !parse_rule(*at, &fault->rules[fault->n_rules++])) {
            g_set_error(error, GW_DEVICE_ERROR, GW_DEVICE_ERROR_CONFIG,
                        "disk fault \"%s\" is not ACTION@OP=N[@times=COUNT][@ms=LENGTH]", *at);
            g_free(fault);
            return NULL;
        }
    }
    fault->pass = pass;
    fault->opaque = opaque;
    fault->held = g_array_new(FALSE, FALSE, sizeof(struct held));
    return fault;
}

void blockdev_fault_free(struct blockdev_fault *fault)
{
    if (!fault)
        return;
    io_timer_free(fault->timer);
    g_array_unref(fault->held);
    g_free(fault);
}

/* ---- at work ---- */

static void arm(struct blockdev_fault *fault)
{
    uint64_t due_ns = UINT64_MAX;

    for (guint i = 0; i < fault->held->len; i++)
        due_ns = MIN(due_ns, g_array_index(fault->held, struct held, i).due_ns);
    if (fault->held->len > 0)
        io_timer_set(fault->timer, due_ns);
}

static void on_due(struct device *dev, void *opaque)
{
    struct blockdev_fault *fault = opaque;
    uint64_t now_ns = clock_mono_ns();

    for (guint i = 0; i < fault->held->len;) {
        struct held held = g_array_index(fault->held, struct held, i);
        if (held.due_ns > now_ns) {
            i++;
            continue;
        }
        g_array_remove_index(fault->held, i);
        fault->pass(fault->opaque, held.request);
    }
    arm(fault);
}

void blockdev_fault_set_client(struct blockdev_fault *fault, struct io_loop *loop,
                               struct device *dev)
{
    fault->timer = io_timer_new(loop, dev, "disk-fault", on_due, fault);
}

enum blockdev_fault_verdict blockdev_fault_take(struct blockdev_fault *fault,
                                                struct blockdev_request *request)
{
    uint64_t n = fault->n_seen[request->op]++;

    for (unsigned i = 0; i < fault->n_rules; i++) {
        const struct rule *rule = &fault->rules[i];
        if (rule->op != request->op || n < rule->first || n - rule->first >= rule->times)
            continue;
        if (rule->is_fail)
            return BLOCKDEV_FAULT_FAIL;
        struct held held = {.request = request,
                            .due_ns = clock_mono_ns() + rule->stall_ms * NS_PER_MS};
        g_array_append_val(fault->held, held);
        arm(fault);
        return BLOCKDEV_FAULT_HELD;
    }
    return BLOCKDEV_FAULT_PASS;
}
