/* SPDX-License-Identifier: MIT */
/*
 * The architectural state of one RISC-V hart: what a move carries, and nothing else.
 *
 * Invariants (kept by every writer, checked by riscv_hart_state_desc's validate): x[0] is 0; priv
 * is 0, 1 or 3; every CSR holds a legal value in the sense of its WARL definition.
 *
 * Threads: owned by the hart's thread while it runs and by the machine's owner while it is
 * stopped, except `lines` and `mtimecmp`, which any thread may set atomically at any time.
 */
#ifndef GODWIT_CPU_RISCV_HART_STATE_H
#define GODWIT_CPU_RISCV_HART_STATE_H

#include "godwit/state.h"

#define RISCV_N_PMP 16

enum riscv_priv { PRIV_U = 0, PRIV_S = 1, PRIV_M = 3 };

struct riscv_hart_state {
    uint64_t x[32];
    uint64_t x_sink; /* follows x: where decoded instructions with rd = x0 write; not saved */
    uint64_t f[32];
    uint64_t pc;
    uint8_t priv;         /* enum riscv_priv */
    uint8_t frm;          /* as written: 0..7 */
    uint8_t fflags;       /* NV DZ OF UF NX from bit 4 down; the host's pending ones are in h->fp */
    bool is_waiting;      /* inside wfi: pc is behind it, nothing runs until an interrupt pends */
    bool has_reservation; /* lr done; its values below */
    uint8_t reservation_size;
    uint64_t reservation_gpa;
    uint64_t reservation_value;

    uint64_t mstatus; /* without SD, which is derived from FS */
    uint64_t medeleg;
    uint64_t mideleg;
    uint64_t mie;
    uint64_t mip_soft; /* SSIP, STIP (without Sstc), SEIP as written by software */
    uint64_t lines;    /* atomic: MSIP, SEIP, MEIP as driven by devices */
    uint64_t mtvec;
    uint64_t mscratch;
    uint64_t mepc;
    uint64_t mcause;
    uint64_t mtval;
    uint64_t mcounteren;
    uint64_t mcountinhibit;
    uint64_t menvcfg;
    uint64_t mcycle;
    uint64_t minstret;
    uint64_t stvec;
    uint64_t sscratch;
    uint64_t sepc;
    uint64_t scause;
    uint64_t stval;
    uint64_t scounteren;
    uint64_t senvcfg;
    uint64_t satp;
    uint64_t stimecmp;
    uint64_t mtimecmp; /* atomic: the ACLINT's register for this hart, in guest clock ticks */
    uint8_t pmpcfg[RISCV_N_PMP];
    uint64_t pmpaddr[RISCV_N_PMP];
};

/* Reset values; everything else is zero. */
void riscv_hart_state_reset(struct riscv_hart_state *state);
extern const struct gw_state_desc riscv_hart_state_desc;

/* mstatus and sstatus bits. */
#define MSTATUS_SIE  (UINT64_C(1) << 1)
#define MSTATUS_MIE  (UINT64_C(1) << 3)
#define MSTATUS_SPIE (UINT64_C(1) << 5)
#define MSTATUS_MPIE (UINT64_C(1) << 7)
#define MSTATUS_SPP  (UINT64_C(1) << 8)
#define MSTATUS_MPP  (UINT64_C(3) << 11)
#define MSTATUS_FS   (UINT64_C(3) << 13)
#define MSTATUS_MPRV (UINT64_C(1) << 17)
#define MSTATUS_SUM  (UINT64_C(1) << 18)
#define MSTATUS_MXR  (UINT64_C(1) << 19)
#define MSTATUS_TVM  (UINT64_C(1) << 20)
#define MSTATUS_TW   (UINT64_C(1) << 21)
#define MSTATUS_TSR  (UINT64_C(1) << 22)
#define MSTATUS_UXL  (UINT64_C(3) << 32)
#define MSTATUS_SXL  (UINT64_C(3) << 34)
#define MSTATUS_SD   (UINT64_C(1) << 63)

#define MSTATUS_XL64 (UINT64_C(2) << 32 | UINT64_C(2) << 34)
#define MSTATUS_WRITABLE                                                                           \
    (MSTATUS_SIE | MSTATUS_MIE | MSTATUS_SPIE | MSTATUS_MPIE | MSTATUS_SPP | MSTATUS_MPP |         \
     MSTATUS_FS | MSTATUS_MPRV | MSTATUS_SUM | MSTATUS_MXR | MSTATUS_TVM | MSTATUS_TW |            \
     MSTATUS_TSR)
#define SSTATUS_WRITABLE                                                                           \
    (MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP | MSTATUS_FS | MSTATUS_SUM | MSTATUS_MXR)
#define SSTATUS_VISIBLE (SSTATUS_WRITABLE | MSTATUS_UXL | MSTATUS_SD)

/* Interrupt numbers and their bits in mip/mie. */
enum riscv_irq {
    IRQ_SSI = 1,
    IRQ_MSI = 3,
    IRQ_STI = 5,
    IRQ_MTI = 7,
    IRQ_SEI = 9,
    IRQ_MEI = 11,
};
#define IRQ_BIT(n) (UINT64_C(1) << (n))
#define MIP_S      (IRQ_BIT(IRQ_SSI) | IRQ_BIT(IRQ_STI) | IRQ_BIT(IRQ_SEI))
#define MIP_M      (IRQ_BIT(IRQ_MSI) | IRQ_BIT(IRQ_MTI) | IRQ_BIT(IRQ_MEI))
#define MIP_LINES  (IRQ_BIT(IRQ_MSI) | IRQ_BIT(IRQ_SEI) | IRQ_BIT(IRQ_MEI))

/* Exception causes. */
enum riscv_cause {
    CAUSE_FETCH_MISALIGNED = 0,
    CAUSE_FETCH_ACCESS = 1,
    CAUSE_ILLEGAL = 2,
    CAUSE_BREAKPOINT = 3,
    CAUSE_LOAD_MISALIGNED = 4,
    CAUSE_LOAD_ACCESS = 5,
    CAUSE_STORE_MISALIGNED = 6,
    CAUSE_STORE_ACCESS = 7,
    CAUSE_ECALL_U = 8,
    CAUSE_ECALL_S = 9,
    CAUSE_ECALL_M = 11,
    CAUSE_FETCH_PAGE = 12,
    CAUSE_LOAD_PAGE = 13,
    CAUSE_STORE_PAGE = 15,
};
#define CAUSE_INTERRUPT  (UINT64_C(1) << 63)
#define MEDELEG_WRITABLE UINT64_C(0xb3ff)

#define ENVCFG_FIOM      (UINT64_C(1) << 0)
#define MENVCFG_ADUE     (UINT64_C(1) << 61)
#define MENVCFG_STCE     (UINT64_C(1) << 63)
#define MENVCFG_WRITABLE (ENVCFG_FIOM | MENVCFG_ADUE | MENVCFG_STCE)

#define SATP_MODE(satp) ((satp) >> 60)
#define SATP_ASID(satp) (((satp) >> 44) & 0xffff)
#define SATP_PPN(satp)  ((satp) & ((UINT64_C(1) << 44) - 1))
#define SATP_BARE       0
#define SATP_SV39       8
#define SATP_SV48       9

#define PMP_R             0x01
#define PMP_W             0x02
#define PMP_X             0x04
#define PMP_A_SHIFT       3
#define PMP_L             0x80
#define PMP_CFG_WRITABLE  0x9f
#define PMP_ADDR_WRITABLE ((UINT64_C(1) << 54) - 1)

#define COUNTER_CY 1u
#define COUNTER_TM 2u
#define COUNTER_IR 4u

#endif
