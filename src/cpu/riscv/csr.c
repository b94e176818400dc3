/* SPDX-License-Identifier: MIT */
/*
 * Control and status registers: who may touch which, and what reading and writing them does.
 *
 * Model: csr.def lists the registers; each has a read and a write function here. Writes keep every
 * field legal (WARL), so that the state is always one that riscv_hart_state_desc would accept.
 *
 * SPEC: privileged ISA 1.12, chapters 2-4; Sstc 0.5.4; unprivileged ISA, 9 and 10.
 */
#include "cpu/riscv/fp.h"
#include "cpu/riscv/hart.h"

#define MISA                                                                                       \
    (UINT64_C(2) << 62 | 1 << ('I' - 'A') | 1 << ('M' - 'A') | 1 << ('A' - 'A') |                  \
     1 << ('F' - 'A') | 1 << ('D' - 'A') | 1 << ('C' - 'A') | 1 << ('S' - 'A') | 1 << ('U' - 'A'))

void riscv_account(struct hart *h, uint64_t n)
{
    if (!(h->s.mcountinhibit & COUNTER_CY)) {
        h->s.mcycle += n;
    }
    if (!(h->s.mcountinhibit & COUNTER_IR)) {
        h->s.minstret += n;
    }
    __atomic_store_n(&h->retired, h->retired + n, __ATOMIC_RELAXED);
}

uint64_t riscv_mip(struct hart *h)
{
    riscv_timer_update(h);
    return riscv_mip_now(h);
}

/* ---- floating point ---- */

static uint64_t read_fflags(struct hart *h, unsigned number)
{
    riscv_fp_collect(h);
    return h->s.fflags;
}

static void write_fflags(struct hart *h, unsigned number, uint64_t value)
{
    riscv_fp_touch(h, true);
    riscv_fp_collect(h);
    h->s.fflags = value & 31;
}

static uint64_t read_frm(struct hart *h, unsigned number)
{
    return h->s.frm;
}

static void write_frm(struct hart *h, unsigned number, uint64_t value)
{
    riscv_fp_touch(h, true);
    h->s.frm = value & 7;
    riscv_fp_update(h);
}

static uint64_t read_fcsr(struct hart *h, unsigned number)
{
    return read_fflags(h, number) | (uint64_t)h->s.frm << 5;
}

static void write_fcsr(struct hart *h, unsigned number, uint64_t value)
{
    write_fflags(h, number, value);
    write_frm(h, number, value >> 5);
}

/* ---- counters ---- */

static uint64_t read_zero(struct hart *h, unsigned number)
{
    return 0;
}

static void write_zero(struct hart *h, unsigned number, uint64_t value)
{
}

#define read_zero_counter  read_zero
#define write_zero_counter write_zero

static uint64_t read_mcycle(struct hart *h, unsigned number)
{
    return h->s.mcycle;
}

static void write_mcycle(struct hart *h, unsigned number, uint64_t value)
{
    h->s.mcycle = value;
    h->wrote_counters |= COUNTER_CY;
}

static uint64_t read_minstret(struct hart *h, unsigned number)
{
    return h->s.minstret;
}

static void write_minstret(struct hart *h, unsigned number, uint64_t value)
{
    h->s.minstret = value;
    h->wrote_counters |= COUNTER_IR;
}

#define read_cycle    read_mcycle
#define write_cycle   write_zero
#define read_instret  read_minstret
#define write_instret write_zero

static uint64_t read_time(struct hart *h, unsigned number)
{
    return guest_clock_ticks(h->cpu->config.clock);
}

#define write_time write_zero

static uint64_t read_mhartid(struct hart *h, unsigned number)
{
    return h->id;
}

#define write_mhartid write_zero

/* ---- plain registers ---- */

#define PLAIN(name, mask)                                                                          \
    static uint64_t read_##name(struct hart *h, unsigned number)                                   \
    {                                                                                              \
        return h->s.name;                                                                          \
    }                                                                                              \
    static void write_##name(struct hart *h, unsigned number, uint64_t value)                      \
    {                                                                                              \
        h->s.name = value & (mask);                                                                \
    }

PLAIN(mscratch, UINT64_MAX)
PLAIN(mepc, ~UINT64_C(1))
PLAIN(mcause, UINT64_MAX)
PLAIN(mtval, UINT64_MAX)
PLAIN(sscratch, UINT64_MAX)
PLAIN(sepc, ~UINT64_C(1))
PLAIN(scause, UINT64_MAX)
PLAIN(stval, UINT64_MAX)
PLAIN(medeleg, MEDELEG_WRITABLE)
PLAIN(mideleg, MIP_S)
PLAIN(mie, MIP_S | MIP_M)
PLAIN(mcounteren, UINT32_MAX)
PLAIN(scounteren, UINT32_MAX)
PLAIN(mcountinhibit, COUNTER_CY | COUNTER_IR)
PLAIN(senvcfg, ENVCFG_FIOM)

/* Modes 0 (direct) and 1 (vectored); others leave the register as it was. */
#define TRAP_VECTOR(name)                                                                          \
    static uint64_t read_##name(struct hart *h, unsigned number)                                   \
    {                                                                                              \
        return h->s.name;                                                                          \
    }                                                                                              \
    static void write_##name(struct hart *h, unsigned number, uint64_t value)                      \
    {                                                                                              \
        if ((value & 3) <= 1) {                                                                    \
            h->s.name = value;                                                                     \
        }                                                                                          \
    }

TRAP_VECTOR(mtvec)
TRAP_VECTOR(stvec)

static uint64_t read_misa(struct hart *h, unsigned number)
{
    return MISA;
}

#define write_misa write_zero

/* ---- status ---- */

static uint64_t read_mstatus(struct hart *h, unsigned number)
{
    bool is_dirty = (h->s.mstatus & MSTATUS_FS) == MSTATUS_FS;
    return h->s.mstatus | (is_dirty ? MSTATUS_SD : 0);
}

static void set_mstatus(struct hart *h, uint64_t value, uint64_t mask)
{
    if ((value & MSTATUS_MPP) == UINT64_C(2) << 11) {
        mask &= ~MSTATUS_MPP;
    }
    h->s.mstatus = (h->s.mstatus & ~mask) | (value & mask);
    riscv_update_view(h);
    riscv_fp_update(h);
}

static void write_mstatus(struct hart *h, unsigned number, uint64_t value)
{
    set_mstatus(h, value, MSTATUS_WRITABLE);
}

static uint64_t read_sstatus(struct hart *h, unsigned number)
{
    return read_mstatus(h, number) & SSTATUS_VISIBLE;
}

static void write_sstatus(struct hart *h, unsigned number, uint64_t value)
{
    set_mstatus(h, value & SSTATUS_WRITABLE, SSTATUS_WRITABLE);
}

/* ---- interrupts ---- */

static uint64_t read_mip(struct hart *h, unsigned number)
{
    return riscv_mip(h);
}

static void set_mip(struct hart *h, uint64_t value, uint64_t mask)
{
    if (h->s.menvcfg & MENVCFG_STCE) {
        mask &= ~IRQ_BIT(IRQ_STI); /* follows stimecmp */
    }
    h->s.mip_soft = (h->s.mip_soft & ~mask) | (value & mask);
}

static void write_mip(struct hart *h, unsigned number, uint64_t value)
{
    set_mip(h, value, MIP_S);
}

static uint64_t read_sip(struct hart *h, unsigned number)
{
    return riscv_mip(h) & h->s.mideleg;
}

static void write_sip(struct hart *h, unsigned number, uint64_t value)
{
    set_mip(h, value, IRQ_BIT(IRQ_SSI) & h->s.mideleg);
}

static uint64_t read_sie(struct hart *h, unsigned number)
{
    return h->s.mie & h->s.mideleg;
}

static void write_sie(struct hart *h, unsigned number, uint64_t value)
{
    h->s.mie = (h->s.mie & ~h->s.mideleg) | (value & h->s.mideleg);
}

static uint64_t read_stimecmp(struct hart *h, unsigned number)
{
    return h->s.stimecmp;
}

static void write_stimecmp(struct hart *h, unsigned number, uint64_t value)
{
    h->s.stimecmp = value;
    riscv_timer_update(h);
}

static uint64_t read_menvcfg(struct hart *h, unsigned number)
{
    return h->s.menvcfg;
}

static void write_menvcfg(struct hart *h, unsigned number, uint64_t value)
{
    uint64_t changed = h->s.menvcfg ^ value;
    h->s.menvcfg = value & MENVCFG_WRITABLE;
    if (changed & MENVCFG_ADUE) {
        riscv_flush_all(h);
    }
    riscv_timer_update(h);
}

/* ---- memory ---- */

static uint64_t read_satp(struct hart *h, unsigned number)
{
    return h->s.satp;
}

static void write_satp(struct hart *h, unsigned number, uint64_t value)
{
    uint64_t mode = SATP_MODE(value);
    if (mode == SATP_BARE) {
        value = 0;
    } else if (mode != SATP_SV39 && mode != SATP_SV48) {
        return;
    }
    h->s.satp = value;
    riscv_update_view(h);
}

static uint64_t read_pmpcfg(struct hart *h, unsigned number)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++) {
        value |= (uint64_t)h->s.pmpcfg[(number - 0x3a0) * 4 + i] << (8 * i);
    }
    return value;
}

static void write_pmpcfg(struct hart *h, unsigned number, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *cfg = &h->s.pmpcfg[(number - 0x3a0) * 4 + i];
        uint8_t wanted = (uint8_t)(value >> (8 * i)) & PMP_CFG_WRITABLE;
        if ((wanted & (PMP_R | PMP_W)) == PMP_W) {
            wanted &= (uint8_t)~PMP_W; /* W without R is reserved */
        }
        if (!(*cfg & PMP_L)) {
            *cfg = wanted;
        }
    }
    riscv_pmp_update(h);
    riscv_flush_all(h);
}

static uint64_t read_pmpaddr(struct hart *h, unsigned number)
{
    return h->s.pmpaddr[number - 0x3b0];
}

static void write_pmpaddr(struct hart *h, unsigned number, uint64_t value)
{
    unsigned i = number - 0x3b0;
    bool is_tor_base = i + 1 < RISCV_N_PMP && (h->s.pmpcfg[i + 1] & PMP_L) &&
                       (h->s.pmpcfg[i + 1] >> PMP_A_SHIFT & 3) == 1;
    if ((h->s.pmpcfg[i] & PMP_L) || is_tor_base) {
        return;
    }
    h->s.pmpaddr[i] = value & PMP_ADDR_WRITABLE;
    riscv_pmp_update(h);
    riscv_flush_all(h);
}

/* ---- the table ---- */

struct csr {
    uint16_t first, last;
    const char *name;
    uint8_t base;
    bool is_range;
    uint64_t (*read)(struct hart *h, unsigned number);
    void (*write)(struct hart *h, unsigned number, uint64_t value);
};

enum csr_row {
    ROW_NONE,
#define CSR(number, id, access)                  ROW_##id,
#define CSR_RANGE(first, last, id, base, access) ROW_##id,
#include "cpu/riscv/csr.def"
#undef CSR
#undef CSR_RANGE
};

static const struct csr rows[] = {
    [ROW_NONE] = {0},
#define CSR(number, id, access)                                                                    \
    [ROW_##id] = {number, number, #id, 0, false, read_##access, write_##access},
#define CSR_RANGE(first, last, id, base, access)                                                   \
    [ROW_##id] = {first, last, #id, base, true, read_##access, write_##access},
#include "cpu/riscv/csr.def"
#undef CSR
#undef CSR_RANGE
};

static const uint8_t row_of[4096] = {
#define CSR(number, id, access)                  [number] = ROW_##id,
#define CSR_RANGE(first, last, id, base, access) [first... last] = ROW_##id,
#include "cpu/riscv/csr.def"
#undef CSR
#undef CSR_RANGE
};

bool riscv_csr_name(unsigned number, char *text, size_t size)
{
    const struct csr *csr = &rows[row_of[number & 0xfff]];
    if (csr->name == NULL) {
        return false;
    }
    if (csr->is_range) {
        g_snprintf(text, size, "%s%u", csr->name, (number & 0xfff) - csr->first + csr->base);
    } else {
        g_strlcpy(text, csr->name, size);
    }
    return true;
}

static bool counter_allowed(const struct hart *h, uint64_t bit)
{
    if (h->s.priv == PRIV_M) {
        return true;
    }
    if (!(h->s.mcounteren & bit)) {
        return false;
    }
    return h->s.priv == PRIV_S || (h->s.scounteren & bit);
}

/* Rules beyond those in the number. */
static bool is_allowed(const struct hart *h, unsigned number)
{
    if (number <= 0x003) {
        return (h->s.mstatus & MSTATUS_FS) != 0;
    }
    if (number >= 0xc00 && number <= 0xc1f) {
        return counter_allowed(h, UINT64_C(1) << (number - 0xc00));
    }
    switch (number) {
    case 0x180: /* satp */
        return h->s.priv == PRIV_M || !(h->s.mstatus & MSTATUS_TVM);
    case 0x14d: /* stimecmp */
        return h->s.priv == PRIV_M ||
               ((h->s.menvcfg & MENVCFG_STCE) && (h->s.mcounteren & COUNTER_TM));
    default:
        return true;
    }
}

bool riscv_csr(struct hart *h, unsigned number, enum csr_op op, uint64_t operand, bool wants_write,
               uint64_t *old)
{
    const struct csr *csr = &rows[row_of[number]];
    bool is_read_only = number >> 10 == 3;
    if (csr->name == NULL || (number >> 8 & 3) > h->s.priv || (wants_write && is_read_only) ||
        !is_allowed(h, number)) {
        return false;
    }
    uint64_t value = csr->read(h, number);
    *old = value;
    if (!wants_write) {
        return true;
    }
    if (number == 0x344) { /* mip: what software wrote, not the lines, takes part in the change */
        value = (value & ~MIP_S) | h->s.mip_soft;
    }
    switch (op) {
    case CSR_WRITE:
        value = operand;
        break;
    case CSR_SET:
        value |= operand;
        break;
    case CSR_CLEAR:
        value &= ~operand;
        break;
    }
    csr->write(h, number, value);
    return true;
}
