/* SPDX-License-Identifier: MIT */
/*
 * Traps and interrupts: where they go, what they save, and the way back.
 *
 * SPEC: privileged ISA 1.12, 3.1.6-3.1.9, 3.3.2, 3.7 (trap entry), 4.1.
 */
#include "cpu/riscv/hart.h"

static uint64_t vector_target(uint64_t tvec, uint64_t cause)
{
    uint64_t base = tvec & ~UINT64_C(3);
    bool is_vectored = (tvec & 1) && (cause & CAUSE_INTERRUPT);
    return is_vectored ? base + 4 * (cause & ~CAUSE_INTERRUPT) : base;
}

static void set_bit(uint64_t *word, uint64_t bit, bool value)
{
    *word = value ? *word | bit : *word & ~bit;
}

/* A trap handler whose own first instruction cannot be fetched traps for ever. */
static void report_broken(struct hart *h)
{
    const struct cpu_config *config = &h->cpu->config;
    h->is_broken = true;
    if (config->fatal != NULL) {
        g_autofree char *reason = g_strdup_printf(
            "hart %u cannot fetch its trap handler at %#" G_GINT64_MODIFIER "x", h->id, h->s.pc);
        riscv_quiet_enter(h);
        config->fatal(config->fatal_opaque, h->id, reason);
        riscv_quiet_leave(h);
    }
}

static bool is_fetch_fault(uint64_t cause)
{
    return cause == CAUSE_FETCH_ACCESS || cause == CAUSE_FETCH_PAGE;
}

void riscv_take_trap(struct hart *h, uint64_t cause, uint64_t tval)
{
    struct riscv_hart_state *s = &h->s;
    bool is_interrupt = cause & CAUSE_INTERRUPT;
    uint64_t deleg = is_interrupt ? s->mideleg : s->medeleg;
    bool to_s = s->priv != PRIV_M && (deleg >> (cause & 63) & 1);

    const struct riscv_trace *trace = h->cpu->trace;
    if (trace != NULL && trace->trap != NULL) {
        trace->trap(trace->opaque, h->id, s->pc, cause, tval);
    }
    s->has_reservation = false;
    s->is_waiting = false;
    if (to_s) {
        s->scause = cause;
        s->stval = tval;
        s->sepc = s->pc;
        set_bit(&s->mstatus, MSTATUS_SPIE, s->mstatus & MSTATUS_SIE);
        set_bit(&s->mstatus, MSTATUS_SPP, s->priv == PRIV_S);
        s->mstatus &= ~MSTATUS_SIE;
        s->priv = PRIV_S;
        s->pc = vector_target(s->stvec, cause);
    } else {
        s->mcause = cause;
        s->mtval = tval;
        s->mepc = s->pc;
        set_bit(&s->mstatus, MSTATUS_MPIE, s->mstatus & MSTATUS_MIE);
        s->mstatus = (s->mstatus & ~MSTATUS_MPP) | (uint64_t)s->priv << 11;
        s->mstatus &= ~MSTATUS_MIE;
        bool was_m = s->priv == PRIV_M;
        s->priv = PRIV_M;
        s->pc = vector_target(s->mtvec, cause);
        if (was_m && is_fetch_fault(cause) && s->pc == s->mepc) {
            report_broken(h);
        }
    }
    riscv_update_view(h);
}

bool riscv_take_interrupt(struct hart *h)
{
    static const uint8_t priority[] = {IRQ_MEI, IRQ_MSI, IRQ_MTI, IRQ_SEI, IRQ_SSI, IRQ_STI};
    struct riscv_hart_state *s = &h->s;
    if (__atomic_load_n(&h->pending, __ATOMIC_RELAXED) & PENDING_IRQ) {
        riscv_timer_update(h); /* mtimecmp may have moved since the last look */
    }
    uint64_t pending = riscv_mip_now(h) & s->mie;
    if (pending == 0) {
        return false;
    }
    bool m_enabled = s->priv != PRIV_M || (s->mstatus & MSTATUS_MIE);
    bool s_enabled = s->priv == PRIV_U || (s->priv == PRIV_S && (s->mstatus & MSTATUS_SIE));
    uint64_t ready = m_enabled ? pending & ~s->mideleg : 0;
    if (ready == 0 && s_enabled) {
        ready = pending & s->mideleg;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(priority); i++) {
        if (ready & IRQ_BIT(priority[i])) {
            riscv_take_trap(h, CAUSE_INTERRUPT | priority[i], 0);
            return true;
        }
    }
    return false;
}

bool riscv_sret(struct hart *h)
{
    struct riscv_hart_state *s = &h->s;
    if (s->priv == PRIV_U || (s->priv == PRIV_S && (s->mstatus & MSTATUS_TSR))) {
        return false;
    }
    s->priv = s->mstatus & MSTATUS_SPP ? PRIV_S : PRIV_U;
    set_bit(&s->mstatus, MSTATUS_SIE, s->mstatus & MSTATUS_SPIE);
    s->mstatus |= MSTATUS_SPIE;
    s->mstatus &= ~(MSTATUS_SPP | MSTATUS_MPRV);
    s->pc = s->sepc;
    riscv_update_view(h);
    return true;
}

bool riscv_mret(struct hart *h)
{
    struct riscv_hart_state *s = &h->s;
    if (s->priv != PRIV_M) {
        return false;
    }
    s->priv = (s->mstatus & MSTATUS_MPP) >> 11;
    set_bit(&s->mstatus, MSTATUS_MIE, s->mstatus & MSTATUS_MPIE);
    s->mstatus |= MSTATUS_MPIE;
    s->mstatus &= ~MSTATUS_MPP;
    if (s->priv != PRIV_M) {
        s->mstatus &= ~MSTATUS_MPRV;
    }
    s->pc = s->mepc;
    riscv_update_view(h);
    return true;
}

bool riscv_wfi_allowed(const struct hart *h)
{
    return h->s.priv == PRIV_M || (h->s.priv == PRIV_S && !(h->s.mstatus & MSTATUS_TW));
}
