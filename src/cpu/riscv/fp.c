/* SPDX-License-Identifier: MIT */
/*
 * Floating point off the fast path: what is integer work on the images, static rounding modes,
 * and the host's FPU state around execution.
 *
 * SPEC: unprivileged ISA 20191213, 11.2-11.9 (NaN boxing in 12.2).
 */
#include "cpu/riscv/fp.h"

#include "cpu/riscv/decode.h"

static bool is_signaling_d(uint64_t a)
{
    return is_nan_f64(a) && !(a & (UINT64_C(1) << 51));
}

static bool is_signaling_s(uint32_t a)
{
    return is_nan_f32(a) && !(a & (UINT32_C(1) << 22));
}

/* Doubles hold every float exactly, NaNs keep being signaling or quiet. */
static uint64_t widen(uint32_t a)
{
    uint64_t sign = (uint64_t)(a & F32_SIGN) << 32;
    uint32_t exponent = (a >> 23) & 255;
    uint64_t fraction = a & 0x7fffff;
    if (exponent == 255) {
        return sign | UINT64_C(0x7ff) << 52 | fraction << 29;
    }
    if (exponent == 0) {
        if (fraction == 0) {
            return sign;
        }
        unsigned shift = (unsigned)__builtin_clzll(fraction) - 40; /* to bring bit 23 up */
        return sign | (uint64_t)(1023 - 126 - shift) << 52 | (fraction << shift & 0x7fffff) << 29;
    }
    return sign | (uint64_t)(exponent - 127 + 1023) << 52 | fraction << 29;
}

uint64_t fp_fma_nan_d(uint64_t a, uint64_t b, uint64_t c, uint8_t *fflags)
{
    uint64_t abs_a = a & ~F64_SIGN, abs_b = b & ~F64_SIGN, infinity = UINT64_C(0x7ff) << 52;
    if ((abs_a == infinity && abs_b == 0) || (abs_b == infinity && abs_a == 0) ||
        is_signaling_d(c)) {
        *fflags |= FFLAG_NV;
    }
    return F64_NAN;
}

uint64_t fp_fma_nan_s(uint32_t a, uint32_t b, uint32_t c, uint8_t *fflags)
{
    fp_fma_nan_d(widen(a), widen(b), widen(c), fflags);
    return F32_BOX | F32_NAN;
}

/* Images as integers in the order of the numbers they stand for, zeros apart. */
static int64_t order_of(uint64_t a)
{
    return (int64_t)(a & F64_SIGN ? ~a ^ F64_SIGN : a);
}

uint64_t fp_compare_d(uint64_t a, uint64_t b, enum fp_relation relation, uint8_t *fflags)
{
    if (is_nan_f64(a) || is_nan_f64(b)) {
        if (relation != FP_EQ || is_signaling_d(a) || is_signaling_d(b)) {
            *fflags |= FFLAG_NV;
        }
        return 0;
    }
    bool are_equal = a == b || ((a | b) & ~F64_SIGN) == 0;
    switch (relation) {
    case FP_EQ:
        return are_equal;
    case FP_LT:
        return !are_equal && order_of(a) < order_of(b);
    default:
        return are_equal || order_of(a) < order_of(b);
    }
}

uint64_t fp_compare_s(uint64_t a, uint64_t b, enum fp_relation relation, uint8_t *fflags)
{
    return fp_compare_d(widen(f32_unbox(a)), widen(f32_unbox(b)), relation, fflags);
}

uint64_t fp_minmax_d(uint64_t a, uint64_t b, bool wants_max, uint8_t *fflags)
{
    if (is_signaling_d(a) || is_signaling_d(b)) {
        *fflags |= FFLAG_NV;
    }
    if (is_nan_f64(a)) {
        return is_nan_f64(b) ? F64_NAN : b;
    }
    if (is_nan_f64(b)) {
        return a;
    }
    return (order_of(a) < order_of(b)) != wants_max ? a : b;
}

uint64_t fp_minmax_s(uint64_t ra, uint64_t rb, bool wants_max, uint8_t *fflags)
{
    uint32_t a = f32_unbox(ra), b = f32_unbox(rb);
    if (is_signaling_s(a) || is_signaling_s(b)) {
        *fflags |= FFLAG_NV;
    }
    if (is_nan_f32(a)) {
        return F32_BOX | (is_nan_f32(b) ? F32_NAN : b);
    }
    if (is_nan_f32(b)) {
        return F32_BOX | a;
    }
    return F32_BOX | ((order_of(widen(a)) < order_of(widen(b))) != wants_max ? a : b);
}

uint64_t fp_class_d(uint64_t a)
{
    uint64_t exponent = (a >> 52) & 0x7ff, fraction = a & ((UINT64_C(1) << 52) - 1);
    bool is_negative = a >> 63;
    if (exponent == 0x7ff) {
        if (fraction != 0) {
            return is_signaling_d(a) ? 1 << 8 : 1 << 9;
        }
        return is_negative ? 1 << 0 : 1 << 7;
    }
    if (exponent == 0) {
        if (fraction == 0) {
            return is_negative ? 1 << 3 : 1 << 4;
        }
        return is_negative ? 1 << 2 : 1 << 5;
    }
    return is_negative ? 1 << 1 : 1 << 6;
}

uint64_t fp_class_s(uint64_t reg)
{
    uint32_t a = f32_unbox(reg);
    bool is_subnormal = (a & ~F32_SIGN) != 0 && (a >> 23 & 255) == 0;
    if (is_subnormal) {
        return a & F32_SIGN ? 1 << 2 : 1 << 5;
    }
    return fp_class_d(widen(a));
}

static bool rounds_up(unsigned rm, bool is_negative, bool is_odd, int against_half, bool is_inexact)
{
    switch (rm) {
    case RM_RNE:
        return against_half > 0 || (against_half == 0 && is_odd);
    case RM_RDN:
        return is_negative && is_inexact;
    case RM_RUP:
        return !is_negative && is_inexact;
    case RM_RMM:
        return against_half >= 0;
    default:
        return false;
    }
}

/* The largest magnitudes that fit. */
static uint64_t limit_of(enum fp_int to, bool is_negative)
{
    switch (to) {
    case FP_W:
        return UINT64_C(0x7fffffff) + is_negative;
    case FP_WU:
        return is_negative ? 0 : UINT32_MAX;
    case FP_L:
        return (uint64_t)INT64_MAX + is_negative;
    default:
        return is_negative ? 0 : UINT64_MAX;
    }
}

static uint64_t int_image(enum fp_int to, bool is_negative, uint64_t magnitude)
{
    uint64_t value = is_negative ? 0 - magnitude : magnitude;
    return to == FP_W || to == FP_WU ? (uint64_t)(int64_t)(int32_t)(uint32_t)value : value;
}

uint64_t fp_int_from_d(uint64_t a, enum fp_int to, unsigned rm, uint8_t *fflags)
{
    if (is_nan_f64(a)) {
        *fflags |= FFLAG_NV;
        return int_image(to, false, limit_of(to, false));
    }
    bool is_negative = a >> 63;
    int exponent = (int)(a >> 52 & 0x7ff);
    uint64_t significand = a & ((UINT64_C(1) << 52) - 1);
    if (exponent != 0) {
        significand |= UINT64_C(1) << 52;
    }
    int shift = (exponent == 0 ? 1 : exponent) - 1075; /* value = significand * 2^shift */
    uint64_t magnitude, rest = 0;
    int against_half = -1;
    bool is_too_big = false;
    if (shift >= 0) {
        is_too_big = shift > 11;
        magnitude = is_too_big ? 0 : significand << shift;
    } else if (shift > -64) {
        uint64_t half = UINT64_C(1) << (-shift - 1);
        magnitude = significand >> -shift;
        rest = significand & (half * 2 - 1);
        against_half = rest > half ? 1 : rest == half ? 0 : -1;
    } else {
        magnitude = 0;
        rest = significand;
    }
    if (rest != 0 && rounds_up(rm, is_negative, magnitude & 1, against_half, true)) {
        magnitude++;
    }
    uint64_t limit = limit_of(to, is_negative);
    if (is_too_big || magnitude > limit) {
        *fflags |= FFLAG_NV;
        return int_image(to, is_negative, limit);
    }
    if (rest != 0) {
        *fflags |= FFLAG_NX;
    }
    return int_image(to, is_negative, magnitude);
}

uint64_t fp_int_from_s(uint64_t a, enum fp_int to, unsigned rm, uint8_t *fflags)
{
    return fp_int_from_d(widen(f32_unbox(a)), to, rm, fflags);
}

/* ---- the host's state ---- */

void riscv_fp_update(struct hart *h)
{
    bool is_dirty = (h->s.mstatus & MSTATUS_FS) == MSTATUS_FS;
    h->fp_is_fast = is_dirty && h->s.frm <= RM_RUP;
    if (h->s.frm <= RM_RUP) {
        fp_host_set_rounding(h->s.frm);
    }
}

void riscv_fp_begin(struct hart *h)
{
    fp_host_take_flags();
    riscv_fp_update(h);
}

void riscv_fp_collect(struct hart *h)
{
    h->s.fflags |= fp_host_take_flags();
}

void riscv_fp_end(struct hart *h)
{
    riscv_fp_collect(h);
    fp_host_set_rounding(RM_RNE);
}

bool riscv_fp_touch(struct hart *h, bool makes_dirty)
{
    if ((h->s.mstatus & MSTATUS_FS) == 0) {
        return false;
    }
    if (makes_dirty && (h->s.mstatus & MSTATUS_FS) != MSTATUS_FS) {
        h->s.mstatus |= MSTATUS_FS;
        riscv_fp_update(h);
    }
    return true;
}

unsigned riscv_fp_rm(const struct hart *h, uint32_t word)
{
    unsigned rm = word >> 12 & 7;
    if (rm == RM_DYN) {
        rm = h->s.frm;
    }
    return rm > RM_RMM ? 8 : rm;
}

/* Arithmetic on the host, whose rounding mode is set. */
static uint64_t compute(unsigned handler, uint64_t a, uint64_t b, uint64_t c, uint8_t *fflags)
{
    uint32_t sa = f32_unbox(a), sb = f32_unbox(b), sc = f32_unbox(c);
    switch (handler) {
    case H_fadd_s:
        return fp_add_s(a, b);
    case H_fsub_s:
        return fp_sub_s(a, b);
    case H_fmul_s:
        return fp_mul_s(a, b);
    case H_fdiv_s:
        return fp_div_s(a, b);
    case H_fsqrt_s:
        return fp_sqrt_s(a);
    case H_fadd_d:
        return fp_add_d(a, b);
    case H_fsub_d:
        return fp_sub_d(a, b);
    case H_fmul_d:
        return fp_mul_d(a, b);
    case H_fdiv_d:
        return fp_div_d(a, b);
    case H_fsqrt_d:
        return fp_sqrt_d(a);
    case H_fmadd_s:
        return fp_fma_s(sa, sb, sc, fflags);
    case H_fmsub_s:
        return fp_fma_s(sa, sb, sc ^ F32_SIGN, fflags);
    case H_fnmsub_s:
        return fp_fma_s(sa ^ F32_SIGN, sb, sc, fflags);
    case H_fnmadd_s:
        return fp_fma_s(sa ^ F32_SIGN, sb, sc ^ F32_SIGN, fflags);
    case H_fmadd_d:
        return fp_fma_d(a, b, c, fflags);
    case H_fmsub_d:
        return fp_fma_d(a, b, c ^ F64_SIGN, fflags);
    case H_fnmsub_d:
        return fp_fma_d(a ^ F64_SIGN, b, c, fflags);
    case H_fnmadd_d:
        return fp_fma_d(a ^ F64_SIGN, b, c ^ F64_SIGN, fflags);
    case H_fcvt_s_d:
        return fp_s_from_d(a);
    case H_fcvt_d_s:
        return fp_d_from_s(a);
    case H_fcvt_s_w:
        return fp_s_from_w(a);
    case H_fcvt_s_wu:
        return fp_s_from_wu(a);
    case H_fcvt_s_l:
        return fp_s_from_l(a);
    case H_fcvt_s_lu:
        return fp_s_from_lu(a);
    case H_fcvt_d_w:
        return fp_d_from_w(a);
    case H_fcvt_d_wu:
        return fp_d_from_wu(a);
    case H_fcvt_d_l:
        return fp_d_from_l(a);
    default: /* H_fcvt_d_lu */
        return fp_d_from_lu(a);
    }
}

bool riscv_fp_slow(struct hart *h, uint32_t word)
{
    struct decoded d;
    riscv_decode(h->cpu->decoder, word, &d);
    unsigned rm = riscv_fp_rm(h, word);
    if (rm == 8 || !riscv_fp_touch(h, true)) {
        return false;
    }
    uint64_t a = d.format == FMT_X_TO_F_RM ? h->s.x[d.rs1] : h->s.f[d.rs1];
    uint64_t b = h->s.f[d.rs2], c = h->s.f[d.rs3];
    if (rm == RM_RMM) {
        h->s.f[d.rd] = fp_soft(d.handler, rm, a, b, c, &h->s.fflags);
        return true;
    }
    fp_host_set_rounding(rm);
    h->s.f[d.rd] = compute(d.handler, a, b, c, &h->s.fflags);
    fp_host_set_rounding(h->s.frm <= RM_RUP ? h->s.frm : RM_RNE);
    return true;
}
