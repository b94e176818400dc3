/* SPDX-License-Identifier: MIT */
/*
 * Arithmetic in software, exact in every rounding mode. The hart uses it for RMM (to nearest, ties
 * away from zero), which hosts lack; tests use it as a second opinion on the host's other modes.
 *
 * Model: a finite number is (-1)^sign * significand * 2^exponent with a 128-bit significand. Every
 * operation yields an exact result, or one whose lowest bit is sticky (set when anything was cut
 * off below it) with enough bits above to round by; one function rounds and packs.
 *
 * SPEC: IEEE 754-2008, 4.3, 5.4, 7; unprivileged ISA 20191213, 11.2-11.3 (tininess is detected
 * after rounding).
 */
#include "cpu/riscv/decode.h"
#include "cpu/riscv/fp.h"

typedef unsigned __int128 u128;

struct format {
    unsigned precision; /* bits of the significand, the hidden one included */
    int exponent_min;   /* exponent of the lowest bit of a subnormal's significand */
    int exponent_max;   /* exponent field of infinity */
};

static const struct format single = {24, -149, 255};
static const struct format full = {53, -1074, 2047};

enum class { ZERO, FINITE, INFINITE, QUIET, SIGNALING };

struct number {
    enum class class;
    bool is_negative;
    int exponent;
    u128 significand; /* FINITE: not 0 */
};

static struct number unpack(const struct format *fmt, uint64_t bits)
{
    unsigned fraction_bits = fmt->precision - 1;
    uint64_t fraction = bits & ((UINT64_C(1) << fraction_bits) - 1);
    int exponent = (int)(bits >> fraction_bits) & fmt->exponent_max;
    struct number n = {.is_negative = fmt == &single ? bits >> 31 & 1 : bits >> 63};
    if (exponent == fmt->exponent_max) {
        bool is_quiet = fraction >> (fraction_bits - 1) & 1;
        n.class = fraction == 0 ? INFINITE : is_quiet ? QUIET : SIGNALING;
    } else if (exponent == 0 && fraction == 0) {
        n.class = ZERO;
    } else {
        n.class = FINITE;
        n.significand = exponent == 0 ? fraction : fraction | UINT64_C(1) << fraction_bits;
        n.exponent = fmt->exponent_min + (exponent == 0 ? 0 : exponent - 1);
    }
    return n;
}

static unsigned bit_length(u128 value)
{
    uint64_t high = (uint64_t)(value >> 64), low = (uint64_t)value;
    if (high != 0) {
        return 128 - (unsigned)__builtin_clzll(high);
    }
    return low == 0 ? 0 : 64 - (unsigned)__builtin_clzll(low);
}

/* Shifts right; what falls out makes the lowest bit sticky. */
static u128 shift_right_sticky(u128 value, unsigned count)
{
    if (count == 0) {
        return value;
    }
    if (count >= 128) {
        return value != 0;
    }
    return value >> count | ((value << (128 - count)) != 0);
}

static uint64_t image(const struct format *fmt, bool is_negative, uint64_t magnitude)
{
    if (fmt == &single) {
        return F32_BOX | (is_negative ? F32_SIGN : 0) | magnitude;
    }
    return (is_negative ? F64_SIGN : 0) | magnitude;
}

static uint64_t infinity_of(const struct format *fmt, bool is_negative)
{
    return image(fmt, is_negative, (uint64_t)fmt->exponent_max << (fmt->precision - 1));
}

static uint64_t nan_of(const struct format *fmt)
{
    return fmt == &single ? F32_BOX | F32_NAN : F64_NAN;
}

/* Cuts `drop` low bits off and rounds. */
static u128 round_bits(u128 value, unsigned drop, unsigned rm, bool is_negative, bool *is_inexact)
{
    if (drop == 0) {
        *is_inexact = false;
        return value;
    }
    value = drop > 126 ? shift_right_sticky(value, drop - 126) : value;
    drop = MIN(drop, 126u);
    u128 half = (u128)1 << (drop - 1);
    u128 kept = value >> drop, rest = value & (half * 2 - 1);
    bool up = false;
    *is_inexact = rest != 0;
    switch (rm) {
    case RM_RNE:
        up = rest > half || (rest == half && (kept & 1));
        break;
    case RM_RDN:
        up = is_negative && rest != 0;
        break;
    case RM_RUP:
        up = !is_negative && rest != 0;
        break;
    case RM_RMM:
        up = rest >= half;
        break;
    default:
        break;
    }
    return kept + up;
}

static uint64_t overflow(const struct format *fmt, bool is_negative, unsigned rm, uint8_t *fflags)
{
    bool to_infinity = rm == RM_RNE || rm == RM_RMM || (rm == RM_RUP && !is_negative) ||
                       (rm == RM_RDN && is_negative);
    *fflags |= FFLAG_OF | FFLAG_NX;
    return infinity_of(fmt, is_negative) - !to_infinity; /* or the largest finite number */
}

/* Rounds significand * 2^exponent (significand not 0, lowest bit may be sticky) and packs it. */
static uint64_t pack(const struct format *fmt, const struct number *n, unsigned rm, uint8_t *fflags)
{
    int length = (int)bit_length(n->significand);
    int normal_drop = length - (int)fmt->precision;   /* to keep full precision */
    int least_drop = fmt->exponent_min - n->exponent; /* to stay on the grid */
    int drop = MAX(normal_drop, least_drop);
    bool is_inexact = false;
    if (drop <= 0) { /* exact, or too short: shift up instead */
        int up = MIN(-drop, (int)fmt->precision - length);
        struct number exact = *n;
        up = MAX(up, 0);
        exact.significand <<= up;
        exact.exponent -= up;
        uint64_t value = (uint64_t)exact.significand;
        bool is_subnormal = value >> (fmt->precision - 1) == 0;
        int field = is_subnormal ? 0 : exact.exponent - fmt->exponent_min + 1;
        if (field >= fmt->exponent_max) {
            return overflow(fmt, n->is_negative, rm, fflags);
        }
        uint64_t hidden = UINT64_C(1) << (fmt->precision - 1);
        return image(fmt, n->is_negative,
                     (uint64_t)field << (fmt->precision - 1) | (value & ~hidden));
    }
    u128 kept = round_bits(n->significand, (unsigned)drop, rm, n->is_negative, &is_inexact);
    int exponent = n->exponent + drop;
    if (is_inexact) {
        *fflags |= FFLAG_NX;
        if (least_drop > normal_drop) {
            /* Tiny unless it would round up to the least normal number with full precision. */
            bool unused;
            u128 precise = normal_drop > 0 ? round_bits(n->significand, (unsigned)normal_drop, rm,
                                                        n->is_negative, &unused)
                                           : n->significand;
            int top = (int)bit_length(precise) + n->exponent + MAX(normal_drop, 0);
            if (top < fmt->exponent_min + (int)fmt->precision) {
                *fflags |= FFLAG_UF;
            }
        }
    }
    if (kept >> fmt->precision) { /* rounded up to the next power of two */
        kept >>= 1;
        exponent++;
    }
    uint64_t value = (uint64_t)kept;
    uint64_t hidden = UINT64_C(1) << (fmt->precision - 1);
    int field = value & hidden ? exponent - fmt->exponent_min + 1 : 0;
    if (field >= fmt->exponent_max) {
        return overflow(fmt, n->is_negative, rm, fflags);
    }
    return image(fmt, n->is_negative, (uint64_t)field << (fmt->precision - 1) | (value & ~hidden));
}

static bool is_nan(const struct number *n)
{
    return n->class >= QUIET;
}

static uint64_t invalid(const struct format *fmt, uint8_t *fflags)
{
    *fflags |= FFLAG_NV;
    return nan_of(fmt);
}

/* The exact sum of two finite numbers, but for a sticky lowest bit. Both significands have at most
 * 106 bits, so that the larger can be moved up to bit 126 and keeps at least 20 bits of guard
 * below what a result can keep. */
static struct number sum(struct number a, struct number b)
{
    int top_a = (int)bit_length(a.significand) + a.exponent;
    int top_b = (int)bit_length(b.significand) + b.exponent;
    if (top_b > top_a) {
        struct number t = a;
        a = b;
        b = t;
    }
    unsigned up = 126 - bit_length(a.significand);
    a.significand <<= up;
    a.exponent -= (int)up;
    int distance = a.exponent - b.exponent;
    if (distance >= 0) {
        b.significand = shift_right_sticky(b.significand, (unsigned)distance);
    } else {
        b.significand <<= -distance;
    }
    if (a.is_negative == b.is_negative) {
        a.significand += b.significand;
    } else if (a.significand >= b.significand) {
        a.significand -= b.significand;
    } else {
        a.significand = b.significand - a.significand;
        a.is_negative = b.is_negative;
    }
    return a;
}

static uint64_t soft_add(const struct format *fmt, unsigned rm, const struct number *a,
                         const struct number *b, uint8_t *fflags)
{
    if (a->class == INFINITE || b->class == INFINITE) {
        if (a->class == b->class && a->is_negative != b->is_negative) {
            return invalid(fmt, fflags);
        }
        return infinity_of(fmt, a->class == INFINITE ? a->is_negative : b->is_negative);
    }
    bool zero_is_negative = a->is_negative == b->is_negative ? a->is_negative : rm == RM_RDN;
    if (a->class == ZERO && b->class == ZERO) {
        return image(fmt, zero_is_negative, 0);
    }
    struct number n = a->class == ZERO ? *b : b->class == ZERO ? *a : sum(*a, *b);
    return n.significand == 0 ? image(fmt, rm == RM_RDN, 0) : pack(fmt, &n, rm, fflags);
}

/* The exact product as a number (class included); false: invalid. */
static bool product(const struct number *a, const struct number *b, struct number *out)
{
    *out = (struct number){.is_negative = a->is_negative != b->is_negative};
    if (a->class == INFINITE || b->class == INFINITE) {
        out->class = INFINITE;
        return a->class != ZERO && b->class != ZERO;
    }
    if (a->class == ZERO || b->class == ZERO) {
        out->class = ZERO;
        return true;
    }
    out->class = FINITE;
    out->significand = a->significand * b->significand;
    out->exponent = a->exponent + b->exponent;
    return true;
}

static uint64_t pack_any(const struct format *fmt, const struct number *n, unsigned rm,
                         uint8_t *fflags)
{
    switch (n->class) {
    case ZERO:
        return image(fmt, n->is_negative, 0);
    case INFINITE:
        return infinity_of(fmt, n->is_negative);
    default:
        return pack(fmt, n, rm, fflags);
    }
}

static uint64_t soft_divide(const struct format *fmt, unsigned rm, const struct number *a,
                            const struct number *b, uint8_t *fflags)
{
    struct number n = {.is_negative = a->is_negative != b->is_negative};
    if (a->class == b->class && a->class != FINITE) {
        return invalid(fmt, fflags); /* 0/0, infinity/infinity */
    }
    if (a->class == INFINITE || b->class == ZERO) {
        *fflags |= a->class == INFINITE ? 0 : FFLAG_DZ;
        n.class = INFINITE;
    } else if (a->class == ZERO || b->class == INFINITE) {
        n.class = ZERO;
    } else {
        unsigned up = 126 - bit_length(a->significand);
        u128 dividend = a->significand << up;
        n.class = FINITE;
        n.significand = dividend / b->significand << 1 | (dividend % b->significand != 0);
        n.exponent = a->exponent - (int)up - b->exponent - 1;
    }
    return pack_any(fmt, &n, rm, fflags);
}

static u128 square_root(u128 value, bool *is_exact)
{
    u128 root = 0, rest = 0;
    for (int shift = 126; shift >= 0; shift -= 2) {
        rest = rest << 2 | (value >> shift & 3);
        u128 trial = root << 2 | 1;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root |= 1;
        }
    }
    *is_exact = rest == 0;
    return root;
}

static uint64_t soft_sqrt(const struct format *fmt, unsigned rm, const struct number *a,
                          uint8_t *fflags)
{
    if (a->class == ZERO || (a->class == INFINITE && !a->is_negative)) {
        return pack_any(fmt, a, rm, fflags);
    }
    if (a->is_negative) {
        return invalid(fmt, fflags);
    }
    struct number n = *a;
    unsigned up = 126 - bit_length(n.significand);
    up += ((unsigned)n.exponent - up) & 1; /* an even exponent has an exact half */
    n.significand <<= up;
    n.exponent -= (int)up;
    bool is_exact;
    n.significand = square_root(n.significand, &is_exact) << 1 | 1;
    n.significand -= is_exact;
    n.exponent = n.exponent / 2 - 1;
    return pack(fmt, &n, rm, fflags);
}

static uint64_t soft_from_int(const struct format *fmt, unsigned rm, bool is_negative,
                              uint64_t magnitude, uint8_t *fflags)
{
    struct number n = {FINITE, is_negative, 0, magnitude};
    return magnitude == 0 ? image(fmt, false, 0) : pack(fmt, &n, rm, fflags);
}

static uint64_t soft_from_int_insn(unsigned handler, unsigned rm, uint64_t a, uint8_t *fflags)
{
    int64_t w = (int32_t)(uint32_t)a, l = (int64_t)a;
    switch (handler) {
    case H_fcvt_s_w:
    case H_fcvt_d_w:
        return soft_from_int(handler == H_fcvt_s_w ? &single : &full, rm, w < 0,
                             (uint64_t)(w < 0 ? -w : w), fflags);
    case H_fcvt_s_wu:
    case H_fcvt_d_wu:
        return soft_from_int(handler == H_fcvt_s_wu ? &single : &full, rm, false, (uint32_t)a,
                             fflags);
    case H_fcvt_s_l:
    case H_fcvt_d_l:
        return soft_from_int(handler == H_fcvt_s_l ? &single : &full, rm, l < 0, l < 0 ? 0 - a : a,
                             fflags);
    default:
        return soft_from_int(handler == H_fcvt_s_lu ? &single : &full, rm, false, a, fflags);
    }
}

static uint64_t soft_fma(const struct format *fmt, unsigned rm, const struct number *a,
                         const struct number *b, const struct number *c, uint8_t *fflags)
{
    struct number p;
    bool has_nan = is_nan(a) || is_nan(b);
    if (!has_nan && !product(a, b, &p)) {
        return invalid(fmt, fflags);
    }
    return has_nan || is_nan(c) ? nan_of(fmt) : soft_add(fmt, rm, &p, c, fflags);
}

uint64_t fp_soft(unsigned handler, unsigned rm, uint64_t ra, uint64_t rb, uint64_t rc,
                 uint8_t *fflags)
{
    static const struct {
        uint16_t s, d;
        uint8_t n_operands;
    } families[] = {
        {H_fadd_s, H_fadd_d, 2},     {H_fsub_s, H_fsub_d, 2},   {H_fmul_s, H_fmul_d, 2},
        {H_fdiv_s, H_fdiv_d, 2},     {H_fsqrt_s, H_fsqrt_d, 1}, {H_fcvt_d_s, H_fcvt_s_d, 1},
        {H_fmadd_s, H_fmadd_d, 3},   {H_fmsub_s, H_fmsub_d, 3}, {H_fnmsub_s, H_fnmsub_d, 3},
        {H_fnmadd_s, H_fnmadd_d, 3},
    };
    unsigned family = 0;
    while (family < G_N_ELEMENTS(families) && families[family].s != handler &&
           families[family].d != handler) {
        family++;
    }
    if (family == G_N_ELEMENTS(families)) {
        return soft_from_int_insn(handler, rm, ra, fflags);
    }
    const struct format *fmt = families[family].s == handler ? &single : &full;
    uint64_t regs[3] = {ra, rb, rc};
    struct number n[3];
    bool has_nan = false;
    for (unsigned i = 0; i < families[family].n_operands; i++) {
        n[i] = unpack(fmt, fmt == &single ? f32_unbox(regs[i]) : regs[i]);
        has_nan = has_nan || is_nan(&n[i]);
        *fflags |= n[i].class == SIGNALING ? FFLAG_NV : 0;
    }
    unsigned base = families[family].s;
    if (base == H_fnmsub_s || base == H_fnmadd_s) {
        n[0].is_negative = !n[0].is_negative;
    }
    if (base == H_fmsub_s || base == H_fnmadd_s) {
        n[2].is_negative = !n[2].is_negative;
    }
    if (families[family].n_operands == 3) {
        return soft_fma(fmt, rm, &n[0], &n[1], &n[2], fflags);
    }
    if (base == H_fcvt_d_s) { /* the one family whose result has the other format */
        const struct format *to = fmt == &single ? &full : &single;
        return has_nan ? nan_of(to) : pack_any(to, &n[0], rm, fflags);
    }
    if (has_nan) {
        return nan_of(fmt);
    }
    struct number p;
    switch (base) {
    case H_fsub_s:
        n[1].is_negative = !n[1].is_negative;
        return soft_add(fmt, rm, &n[0], &n[1], fflags);
    case H_fmul_s:
        return product(&n[0], &n[1], &p) ? pack_any(fmt, &p, rm, fflags) : invalid(fmt, fflags);
    case H_fdiv_s:
        return soft_divide(fmt, rm, &n[0], &n[1], fflags);
    case H_fsqrt_s:
        return soft_sqrt(fmt, rm, &n[0], fflags);
    default:
        return soft_add(fmt, rm, &n[0], &n[1], fflags);
    }
}
