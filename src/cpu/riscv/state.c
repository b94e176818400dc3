/* SPDX-License-Identifier: MIT */
/*
 * The hart's saved form: its table, its reset values, and what a stranger's values must obey.
 *
 * PEER: every value comes from outside; validate() accepts only what the hart itself could hold.
 */
#include "godwit/error.h"

#include "cpu/riscv/hart_state.h"

void riscv_hart_state_reset(struct riscv_hart_state *state)
{
    *state = (struct riscv_hart_state){
        .priv = PRIV_M,
        .mstatus = MSTATUS_XL64,
        .mtimecmp = UINT64_MAX,
        .stimecmp = UINT64_MAX,
        .scounteren = COUNTER_CY | COUNTER_TM | COUNTER_IR,
    };
}

static bool refuse(GError **error, const char *field, uint64_t value, const char *why)
{
    g_set_error(error, GW_ERROR, GW_ERROR_CORRUPT, "hart: %s is %#" G_GINT64_MODIFIER "x, %s",
                field, value, why);
    return false;
}

static bool validate_status(const struct riscv_hart_state *s, GError **error)
{
    if (s->priv != PRIV_U && s->priv != PRIV_S && s->priv != PRIV_M) {
        return refuse(error, "priv", s->priv, "which is not a privilege mode");
    }
    if ((s->mstatus & ~MSTATUS_WRITABLE) != MSTATUS_XL64) {
        return refuse(error, "mstatus", s->mstatus, "which sets bits this hart does not have");
    }
    if ((s->mstatus & MSTATUS_MPP) >> 11 == 2) {
        return refuse(error, "mstatus", s->mstatus, "whose MPP is not a privilege mode");
    }
    if (s->is_waiting && s->priv == PRIV_U) {
        return refuse(error, "is_waiting", 1, "but user mode has no wfi");
    }
    return true;
}

static bool validate_memory(const struct riscv_hart_state *s, GError **error)
{
    uint64_t mode = SATP_MODE(s->satp);
    if (s->satp != 0 && mode != SATP_SV39 && mode != SATP_SV48) {
        return refuse(error, "satp", s->satp, "whose mode this hart does not have");
    }
    for (unsigned i = 0; i < RISCV_N_PMP; i++) {
        if ((s->pmpcfg[i] & (PMP_R | PMP_W)) == PMP_W) {
            return refuse(error, "pmpcfg", s->pmpcfg[i], "writable but not readable");
        }
    }
    uint64_t size = s->reservation_size;
    if (s->has_reservation &&
        ((size != 4 && size != 8) || (s->reservation_gpa & (size - 1)) != 0)) {
        return refuse(error, "reservation_gpa", s->reservation_gpa,
                      "with a size or alignment that lr cannot have");
    }
    return true;
}

static bool hart_validate(const void *shadow, GError **error)
{
    const struct riscv_hart_state *s = shadow;
    if (s->x[0] != 0) {
        return refuse(error, "x[0]", s->x[0], "which is always 0");
    }
    if (s->pc & 1) {
        return refuse(error, "pc", s->pc, "which is odd");
    }
    if ((s->mtvec & 3) > 1 || (s->stvec & 3) > 1) {
        return refuse(error, "mtvec or stvec", (s->mtvec & 3) > 1 ? s->mtvec : s->stvec,
                      "whose mode is reserved");
    }
    return validate_status(s, error) && validate_memory(s, error);
}

#define S struct riscv_hart_state

static const struct gw_field hart_fields[] = {
    GW_U64_ARRAY(S, x),
    GW_U64_ARRAY(S, f),
    GW_U64(S, pc),
    GW_U8(S, priv, .max = 3),
    GW_U8(S, frm, .max = 7),
    GW_U8(S, fflags, .max = 31),
    GW_BOOL(S, is_waiting),
    GW_BOOL(S, has_reservation),
    GW_U8(S, reservation_size, .max = 8),
    GW_U64(S, reservation_gpa),
    GW_U64(S, reservation_value),
    GW_U64(S, mstatus),
    GW_U64(S, medeleg, .mask = MEDELEG_WRITABLE),
    GW_U64(S, mideleg, .mask = MIP_S),
    GW_U64(S, mie, .mask = MIP_S | MIP_M),
    GW_U64(S, mip_soft, .mask = MIP_S),
    GW_U64(S, lines, .mask = MIP_LINES),
    GW_U64(S, mtvec),
    GW_U64(S, mscratch),
    GW_U64(S, mepc, .mask = ~UINT64_C(1)),
    GW_U64(S, mcause),
    GW_U64(S, mtval),
    GW_U64(S, mcounteren, .mask = UINT32_MAX),
    GW_U64(S, mcountinhibit, .mask = COUNTER_CY | COUNTER_IR),
    GW_U64(S, menvcfg, .mask = MENVCFG_WRITABLE),
    GW_U64(S, mcycle),
    GW_U64(S, minstret),
    GW_U64(S, stvec),
    GW_U64(S, sscratch),
    GW_U64(S, sepc, .mask = ~UINT64_C(1)),
    GW_U64(S, scause),
    GW_U64(S, stval),
    GW_U64(S, scounteren, .mask = UINT32_MAX),
    GW_U64(S, senvcfg, .mask = ENVCFG_FIOM),
    GW_U64(S, satp),
    GW_U64(S, stimecmp),
    GW_U64(S, mtimecmp),
    GW_U8_ARRAY(S, pmpcfg, .mask = PMP_CFG_WRITABLE),
    GW_U64_ARRAY(S, pmpaddr, .mask = PMP_ADDR_WRITABLE),
    GW_FIELDS_END,
};

const struct gw_state_desc riscv_hart_state_desc = {
    .name = "riscv-hart",
    .version = 1,
    .object_size = sizeof(struct riscv_hart_state),
    .priority = GW_PRIORITY_CPU,
    .fields = hart_fields,
    .validate = hart_validate,
};
