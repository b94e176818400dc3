/* SPDX-License-Identifier: MIT */
/*
 * Floating point: the guest's F and D arithmetic on the host's FPU.
 *
 * Model: while a hart executes, the host's rounding mode is the guest's frm and the host's sticky
 * exception flags accumulate the guest's; fp_collect() folds them into fflags when somebody looks.
 * An op whose rounding mode is static, or is RMM (which hosts lack), goes to riscv_fp_slow.
 * Operands and results are register images: doubles, or NaN-boxed floats; NaNs that arithmetic
 * produces are canonical.
 *
 * ORDER: the compiler knows nothing of rounding modes and flags. fp_pin() ties each operand and
 * each result to a volatile asm, and volatile asms (among them the reads and writes of the control
 * register) are never reordered, so the arithmetic between two pins stays between them.
 *
 * SPEC: unprivileged ISA 20191213, chapters 11 and 12.
 */
#ifndef GODWIT_CPU_RISCV_FP_H
#define GODWIT_CPU_RISCV_FP_H

#include <math.h>
#include <string.h>

#include "cpu/riscv/hart.h"

enum { FFLAG_NX = 1, FFLAG_UF = 2, FFLAG_OF = 4, FFLAG_DZ = 8, FFLAG_NV = 16 };
enum { RM_RNE, RM_RTZ, RM_RDN, RM_RUP, RM_RMM, RM_DYN = 7 };

#define F64_SIGN (UINT64_C(1) << 63)
#define F32_SIGN (UINT32_C(1) << 31)
#define F64_NAN  UINT64_C(0x7ff8000000000000)
#define F32_NAN  UINT32_C(0x7fc00000)
#define F32_BOX  UINT64_C(0xffffffff00000000)

#if defined(__x86_64__)
#include <xmmintrin.h>
#define FP_DEFAULT 0x1f80u /* all masked, to nearest */
#define fp_pin(x)  __asm__ volatile("" : "+x"(x))

/* Saves the control word and gives the host its default, for calls out of the hart. */
static inline uint32_t fp_host_leave(void)
{
    uint32_t saved = _mm_getcsr();
    _mm_setcsr(FP_DEFAULT);
    return saved;
}

static inline void fp_host_enter(uint32_t saved)
{
    _mm_setcsr(saved);
}

static inline void fp_host_set_rounding(unsigned rm)
{
    static const uint8_t control[] = {0, 3, 1, 2};
    _mm_setcsr((_mm_getcsr() & ~0x6000u) | (uint32_t)control[rm] << 13);
}

static inline uint8_t fp_host_take_flags(void)
{
    uint32_t csr = _mm_getcsr();
    _mm_setcsr(csr & ~0x3fu);
    return (uint8_t)((csr & 1) << 4 | (csr & 4) << 1 | (csr & 8) >> 1 | (csr & 16) >> 3 |
                     (csr & 32) >> 5);
}
#else
#include <fenv.h>
#define fp_pin(x) __asm__ volatile("" : "+m"(x))

static inline uint8_t fp_host_take_flags(void)
{
    int raised = fetestexcept(FE_ALL_EXCEPT);
    feclearexcept(FE_ALL_EXCEPT);
    return (uint8_t)((raised & FE_INVALID ? FFLAG_NV : 0) | (raised & FE_DIVBYZERO ? FFLAG_DZ : 0) |
                     (raised & FE_OVERFLOW ? FFLAG_OF : 0) |
                     (raised & FE_UNDERFLOW ? FFLAG_UF : 0) | (raised & FE_INEXACT ? FFLAG_NX : 0));
}

static inline void fp_host_set_rounding(unsigned rm)
{
    static const int mode[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
    fesetround(mode[rm]);
}

static inline uint32_t fp_host_leave(void)
{
    uint32_t saved = (uint32_t)fetestexcept(FE_ALL_EXCEPT) | (uint32_t)fegetround() << 16;
    feclearexcept(FE_ALL_EXCEPT);
    fesetround(FE_TONEAREST);
    return saved;
}

static inline void fp_host_enter(uint32_t saved)
{
    feclearexcept(FE_ALL_EXCEPT);
    feraiseexcept((int)(saved & 0xffff));
    fesetround((int)(saved >> 16));
}
#endif

static inline double f64_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t bits_of_f64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline uint32_t f32_unbox(uint64_t reg)
{
    return reg >= F32_BOX ? (uint32_t)reg : F32_NAN;
}

static inline float f32_of(uint64_t reg)
{
    uint32_t bits = f32_unbox(reg);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t box_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return F32_BOX | bits;
}

static inline bool is_nan_f64(uint64_t bits)
{
    return (bits & ~F64_SIGN) > UINT64_C(0x7ff0000000000000);
}

static inline bool is_nan_f32(uint32_t bits)
{
    return (bits & ~F32_SIGN) > UINT32_C(0x7f800000);
}

static inline uint64_t canonical_f64(double value)
{
    uint64_t bits = bits_of_f64(value);
    return __builtin_expect(is_nan_f64(bits), 0) ? F64_NAN : bits;
}

static inline uint64_t canonical_f32(float value)
{
    uint64_t reg = box_f32(value);
    return __builtin_expect(is_nan_f32((uint32_t)reg), 0) ? F32_BOX | F32_NAN : reg;
}

/* Two-operand arithmetic in the host's current rounding mode. */
#define FP_BINARY(name, operator)                                                                  \
    static inline uint64_t fp_##name##_d(uint64_t ra, uint64_t rb)                                 \
    {                                                                                              \
        double a = f64_of(ra), b = f64_of(rb);                                                     \
        fp_pin(a);                                                                                 \
        fp_pin(b);                                                                                 \
        double r = a operator b;                                                                   \
        fp_pin(r);                                                                                 \
        return canonical_f64(r);                                                                   \
    }                                                                                              \
    static inline uint64_t fp_##name##_s(uint64_t ra, uint64_t rb)                                 \
    {                                                                                              \
        float a = f32_of(ra), b = f32_of(rb);                                                      \
        fp_pin(a);                                                                                 \
        fp_pin(b);                                                                                 \
        float r = a operator b;                                                                    \
        fp_pin(r);                                                                                 \
        return canonical_f32(r);                                                                   \
    }
FP_BINARY(add, +)
FP_BINARY(sub, -)
FP_BINARY(mul, *)
FP_BINARY(div, /)

static inline uint64_t fp_sqrt_d(uint64_t ra)
{
    double a = f64_of(ra);
    fp_pin(a);
    double r = __builtin_sqrt(a);
    fp_pin(r);
    return canonical_f64(r);
}

static inline uint64_t fp_sqrt_s(uint64_t ra)
{
    float a = f32_of(ra);
    fp_pin(a);
    float r = __builtin_sqrtf(a);
    fp_pin(r);
    return canonical_f32(r);
}

static inline uint64_t fp_s_from_d(uint64_t ra)
{
    double a = f64_of(ra);
    fp_pin(a);
    float r = (float)a;
    fp_pin(r);
    return canonical_f32(r);
}

static inline uint64_t fp_d_from_s(uint64_t ra)
{
    float a = f32_of(ra);
    fp_pin(a);
    double r = (double)a;
    fp_pin(r);
    return canonical_f64(r);
}

#define FP_FROM_INT(name, type)                                                                    \
    static inline uint64_t fp_d_from_##name(uint64_t x)                                            \
    {                                                                                              \
        type a = (type)x;                                                                          \
        __asm__ volatile("" : "+r"(a));                                                            \
        double r = (double)a;                                                                      \
        fp_pin(r);                                                                                 \
        return bits_of_f64(r);                                                                     \
    }                                                                                              \
    static inline uint64_t fp_s_from_##name(uint64_t x)                                            \
    {                                                                                              \
        type a = (type)x;                                                                          \
        __asm__ volatile("" : "+r"(a));                                                            \
        float r = (float)a;                                                                        \
        fp_pin(r);                                                                                 \
        return box_f32(r);                                                                         \
    }
FP_FROM_INT(w, int32_t)
FP_FROM_INT(wu, uint32_t)
FP_FROM_INT(l, int64_t)
FP_FROM_INT(lu, uint64_t)

/* SPEC: infinity times zero is invalid even when the addend is a quiet NaN; hosts differ there. */
uint64_t fp_fma_nan_d(uint64_t a, uint64_t b, uint64_t c, uint8_t *fflags);
uint64_t fp_fma_nan_s(uint32_t a, uint32_t b, uint32_t c, uint8_t *fflags);

static inline uint64_t fp_fma_d(uint64_t ra, uint64_t rb, uint64_t rc, uint8_t *fflags)
{
    double a = f64_of(ra), b = f64_of(rb), c = f64_of(rc);
    fp_pin(a);
    fp_pin(b);
    fp_pin(c);
    double r = fma(a, b, c);
    fp_pin(r);
    uint64_t bits = bits_of_f64(r);
    return __builtin_expect(is_nan_f64(bits), 0) ? fp_fma_nan_d(ra, rb, rc, fflags) : bits;
}

static inline uint64_t fp_fma_s(uint32_t ra, uint32_t rb, uint32_t rc, uint8_t *fflags)
{
    float a = f32_of(F32_BOX | ra), b = f32_of(F32_BOX | rb), c = f32_of(F32_BOX | rc);
    fp_pin(a);
    fp_pin(b);
    fp_pin(c);
    float r = fmaf(a, b, c);
    fp_pin(r);
    uint64_t reg = box_f32(r);
    return __builtin_expect(is_nan_f32((uint32_t)reg), 0) ? fp_fma_nan_s(ra, rb, rc, fflags) : reg;
}

/* Integer work on the images: comparisons, minimum and maximum, classes, conversions to integers
 * in any rounding mode. They set *fflags themselves and do not touch the host's. */
enum fp_relation { FP_EQ, FP_LT, FP_LE };
uint64_t fp_compare_d(uint64_t a, uint64_t b, enum fp_relation relation, uint8_t *fflags);
uint64_t fp_compare_s(uint64_t a, uint64_t b, enum fp_relation relation, uint8_t *fflags);
uint64_t fp_minmax_d(uint64_t a, uint64_t b, bool wants_max, uint8_t *fflags);
uint64_t fp_minmax_s(uint64_t a, uint64_t b, bool wants_max, uint8_t *fflags);
uint64_t fp_class_d(uint64_t a);
uint64_t fp_class_s(uint64_t a);
enum fp_int { FP_W, FP_WU, FP_L, FP_LU };
uint64_t fp_int_from_d(uint64_t a, enum fp_int to, unsigned rm, uint8_t *fflags);
uint64_t fp_int_from_s(uint64_t a, enum fp_int to, unsigned rm, uint8_t *fflags);

/* Arithmetic in software, exact in every rounding mode; used for RMM. handler is the H_ number of
 * the instruction; operands and result are register images (integers for conversions from them). */
uint64_t fp_soft(unsigned handler, unsigned rm, uint64_t a, uint64_t b, uint64_t c,
                 uint8_t *fflags);

/* Host state on the way in and out of execution. */
void riscv_fp_begin(struct hart *h);
void riscv_fp_end(struct hart *h);
void riscv_fp_collect(struct hart *h);
/* After a change of FS or frm. */
void riscv_fp_update(struct hart *h);
/* Is FP on? Then marks its state dirty when wanted. */
bool riscv_fp_touch(struct hart *h, bool makes_dirty);
/* The dynamic or static rounding mode; 8 when it is reserved. */
unsigned riscv_fp_rm(const struct hart *h, uint32_t word);
/* Executes one arithmetic instruction in any rounding mode; false: illegal. */
bool riscv_fp_slow(struct hart *h, uint32_t word);

#endif
