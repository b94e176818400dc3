/* SPDX-License-Identifier: MIT */
/*
 * Part of execute() in exec.c: floating point.
 */

#define FRS1 f[op->rs1]
#define FRS2 f[op->rs2]
#define FRS3 f[(uint32_t)op->imm >> 27] /* imm is the instruction word where there is an rm */

/* A fragment of a function, labels and all. */
/* clang-format off */

/* Rounded arithmetic with rm = DYN: on the host while it is in frm's mode, else by the word. */
#define FP_ROUNDED(name, result)                                                                   \
    h_##name : if (unlikely(!h->fp_is_fast))                                                       \
    {                                                                                              \
        goto h_fp_rm;                                                                              \
    }                                                                                              \
    f[op->rd] = result;                                                                            \
    NEXT();

/* What does not round needs FP on, and makes its state dirty when it writes. */
#define NEEDS_FP(makes_dirty)                                                                      \
    do {                                                                                           \
        if (unlikely(!h->fp_is_fast) && !riscv_fp_touch(h, makes_dirty)) {                         \
            goto h_illegal;                                                                        \
        }                                                                                          \
    } while (0)

#define FP_EXACT(name, statement)                                                                  \
    h_##name : NEEDS_FP(true);                                                                     \
    statement;                                                                                     \
    NEXT();

h_fp_rm:
    if (unlikely(!riscv_fp_slow(h, (uint32_t)op->imm))) {
        goto h_illegal;
    }
    NEXT();

h_flw:
    NEEDS_FP(true);
    goto h_flw_on;
h_fld:
    NEEDS_FP(true);
    goto h_fld_on;
h_fsw:
    NEEDS_FP(false);
    goto h_fsw_on;
h_fsd:
    NEEDS_FP(false);
    goto h_fsd_on;

FP_ROUNDED(fadd_s, fp_add_s(FRS1, FRS2))
FP_ROUNDED(fsub_s, fp_sub_s(FRS1, FRS2))
FP_ROUNDED(fmul_s, fp_mul_s(FRS1, FRS2))
FP_ROUNDED(fdiv_s, fp_div_s(FRS1, FRS2))
FP_ROUNDED(fsqrt_s, fp_sqrt_s(FRS1))
FP_ROUNDED(fadd_d, fp_add_d(FRS1, FRS2))
FP_ROUNDED(fsub_d, fp_sub_d(FRS1, FRS2))
FP_ROUNDED(fmul_d, fp_mul_d(FRS1, FRS2))
FP_ROUNDED(fdiv_d, fp_div_d(FRS1, FRS2))
FP_ROUNDED(fsqrt_d, fp_sqrt_d(FRS1))

#define FMA_S(sign_a, sign_c)                                                                      \
    fp_fma_s(f32_unbox(FRS1) ^ (sign_a), f32_unbox(FRS2), f32_unbox(FRS3) ^ (sign_c), &h->s.fflags)
#define FMA_D(sign_a, sign_c) fp_fma_d(FRS1 ^ (sign_a), FRS2, FRS3 ^ (sign_c), &h->s.fflags)

FP_ROUNDED(fmadd_s, FMA_S(0, 0))
FP_ROUNDED(fmsub_s, FMA_S(0, F32_SIGN))
FP_ROUNDED(fnmsub_s, FMA_S(F32_SIGN, 0))
FP_ROUNDED(fnmadd_s, FMA_S(F32_SIGN, F32_SIGN))
FP_ROUNDED(fmadd_d, FMA_D(0, 0))
FP_ROUNDED(fmsub_d, FMA_D(0, F64_SIGN))
FP_ROUNDED(fnmsub_d, FMA_D(F64_SIGN, 0))
FP_ROUNDED(fnmadd_d, FMA_D(F64_SIGN, F64_SIGN))

FP_ROUNDED(fcvt_s_d, fp_s_from_d(FRS1))
FP_ROUNDED(fcvt_s_w, fp_s_from_w(RS1))
FP_ROUNDED(fcvt_s_wu, fp_s_from_wu(RS1))
FP_ROUNDED(fcvt_s_l, fp_s_from_l(RS1))
FP_ROUNDED(fcvt_s_lu, fp_s_from_lu(RS1))
FP_ROUNDED(fcvt_d_l, fp_d_from_l(RS1))
FP_ROUNDED(fcvt_d_lu, fp_d_from_lu(RS1))
FP_ROUNDED(fcvt_d_s, fp_d_from_s(FRS1))
FP_ROUNDED(fcvt_d_w, fp_d_from_w(RS1))
FP_ROUNDED(fcvt_d_wu, fp_d_from_wu(RS1))

/* Conversions to integers are done in software, in any mode. */
#define FP_TO_INT(name, function, to)                                                              \
    h_##name:                                                                                      \
    {                                                                                              \
        unsigned rm = riscv_fp_rm(h, (uint32_t)op->imm);                                           \
        if (unlikely(rm == 8)) {                                                                   \
            goto h_illegal;                                                                        \
        }                                                                                          \
        NEEDS_FP(true);                                                                            \
        RD = function(FRS1, to, rm, &h->s.fflags);                                                 \
        NEXT();                                                                                    \
    }

FP_TO_INT(fcvt_w_s, fp_int_from_s, FP_W)
FP_TO_INT(fcvt_wu_s, fp_int_from_s, FP_WU)
FP_TO_INT(fcvt_l_s, fp_int_from_s, FP_L)
FP_TO_INT(fcvt_lu_s, fp_int_from_s, FP_LU)
FP_TO_INT(fcvt_w_d, fp_int_from_d, FP_W)
FP_TO_INT(fcvt_wu_d, fp_int_from_d, FP_WU)
FP_TO_INT(fcvt_l_d, fp_int_from_d, FP_L)
FP_TO_INT(fcvt_lu_d, fp_int_from_d, FP_LU)

#define SIGN_S(a, b, sign) (F32_BOX | (f32_unbox(a) & ~F32_SIGN) | ((sign)&F32_SIGN))
#define SIGN_D(a, b, sign) (((a) & ~F64_SIGN) | ((sign)&F64_SIGN))

FP_EXACT(fsgnj_s, f[op->rd] = SIGN_S(FRS1, FRS2, f32_unbox(FRS2)))
FP_EXACT(fsgnjn_s, f[op->rd] = SIGN_S(FRS1, FRS2, ~f32_unbox(FRS2)))
FP_EXACT(fsgnjx_s, f[op->rd] = SIGN_S(FRS1, FRS2, f32_unbox(FRS1) ^ f32_unbox(FRS2)))
FP_EXACT(fsgnj_d, f[op->rd] = SIGN_D(FRS1, FRS2, FRS2))
FP_EXACT(fsgnjn_d, f[op->rd] = SIGN_D(FRS1, FRS2, ~FRS2))
FP_EXACT(fsgnjx_d, f[op->rd] = SIGN_D(FRS1, FRS2, FRS1 ^ FRS2))
FP_EXACT(fmin_s, f[op->rd] = fp_minmax_s(FRS1, FRS2, false, &h->s.fflags))
FP_EXACT(fmax_s, f[op->rd] = fp_minmax_s(FRS1, FRS2, true, &h->s.fflags))
FP_EXACT(fmin_d, f[op->rd] = fp_minmax_d(FRS1, FRS2, false, &h->s.fflags))
FP_EXACT(fmax_d, f[op->rd] = fp_minmax_d(FRS1, FRS2, true, &h->s.fflags))
FP_EXACT(feq_s, RD = fp_compare_s(FRS1, FRS2, FP_EQ, &h->s.fflags))
FP_EXACT(flt_s, RD = fp_compare_s(FRS1, FRS2, FP_LT, &h->s.fflags))
FP_EXACT(fle_s, RD = fp_compare_s(FRS1, FRS2, FP_LE, &h->s.fflags))
FP_EXACT(feq_d, RD = fp_compare_d(FRS1, FRS2, FP_EQ, &h->s.fflags))
FP_EXACT(flt_d, RD = fp_compare_d(FRS1, FRS2, FP_LT, &h->s.fflags))
FP_EXACT(fle_d, RD = fp_compare_d(FRS1, FRS2, FP_LE, &h->s.fflags))
FP_EXACT(fclass_s, RD = fp_class_s(FRS1))
FP_EXACT(fclass_d, RD = fp_class_d(FRS1))
FP_EXACT(fmv_x_w, RD = (uint64_t)(int64_t)(int32_t)(uint32_t)FRS1)
FP_EXACT(fmv_x_d, RD = FRS1)
FP_EXACT(fmv_w_x, f[op->rd] = F32_BOX | (uint32_t)RS1)
FP_EXACT(fmv_d_x, f[op->rd] = RS1)

/* clang-format on */
