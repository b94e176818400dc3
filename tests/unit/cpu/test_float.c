/* SPDX-License-Identifier: MIT */
/*
 * The two implementations of floating point against each other: the host's FPU and fp_soft, in the
 * four rounding modes that both have. (isa/float compares both with exact rationals.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "cpu/riscv/decode.h"
#include "cpu/riscv/fp.h"

static uint64_t random_f64(GRand *rand)
{
    static const uint64_t edges[] = {0,
                                     UINT64_C(0x3ff0000000000000),
                                     UINT64_C(0x7ff0000000000000),
                                     UINT64_C(0x7ff8000000000000),
                                     UINT64_C(0x7ff0000000000001),
                                     1,
                                     UINT64_C(0x000fffffffffffff),
                                     UINT64_C(0x0010000000000000),
                                     UINT64_C(0x7fefffffffffffff),
                                     UINT64_C(0x3fe0000000000000),
                                     UINT64_C(0x3ff8000000000000),
                                     UINT64_C(0x43e0000000000000)};
    uint64_t bits = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
    uint64_t sign = bits & F64_SIGN, fraction = bits & ((UINT64_C(1) << 52) - 1);
    switch (g_rand_int(rand) % 6) {
    case 0:
        return sign | edges[bits % G_N_ELEMENTS(edges)];
    case 1:
        return sign | (uint64_t)(1023 - 30 + bits % 60) << 52 | fraction;
    case 2:
        return sign | (bits % 60) << 52 | fraction;
    case 3:
        return sign | (uint64_t)(1023 - 4 + bits % 8) << 52 | (fraction & ~UINT64_C(0xffffffffff));
    default:
        return bits;
    }
}

static uint64_t random_f32(GRand *rand)
{
    static const uint32_t edges[] = {0,          0x3f800000, 0x7f800000, 0x7fc00000,
                                     0x7f800001, 1,          0x007fffff, 0x00800000,
                                     0x7f7fffff, 0x3f000000, 0x3fc00000, 0x5f000000};
    uint32_t bits = g_rand_int(rand), sign = bits & F32_SIGN, fraction = bits & 0x7fffff;
    uint32_t choice = g_rand_int(rand);
    switch (choice % 6) {
    case 0:
        bits = sign | edges[choice / 6 % G_N_ELEMENTS(edges)];
        break;
    case 1:
        bits = sign | (127 - 15 + choice / 6 % 30) << 23 | fraction;
        break;
    case 2:
        bits = sign | choice / 6 % 30 << 23 | fraction;
        break;
    case 3:
        bits = sign | (127 - 4 + choice / 6 % 8) << 23 | (fraction & ~0xffffu);
        break;
    default:
        break;
    }
    return F32_BOX | bits;
}

typedef uint64_t (*operation)(uint64_t a, uint64_t b, uint64_t c, uint8_t *fflags);

#define OPERATION(name, expression)                                                                \
    static uint64_t name(uint64_t a, uint64_t b, uint64_t c, uint8_t *fflags)                      \
    {                                                                                              \
        return expression;                                                                         \
    }
OPERATION(add_d, fp_add_d(a, b))
OPERATION(sub_d, fp_sub_d(a, b))
OPERATION(mul_d, fp_mul_d(a, b))
OPERATION(div_d, fp_div_d(a, b))
OPERATION(sqrt_d, fp_sqrt_d(a))
OPERATION(fma_d, fp_fma_d(a, b, c, fflags))
OPERATION(s_from_d, fp_s_from_d(a))
OPERATION(d_from_l, fp_d_from_l(a))
OPERATION(d_from_lu, fp_d_from_lu(a))
OPERATION(add_s, fp_add_s(a, b))
OPERATION(sub_s, fp_sub_s(a, b))
OPERATION(mul_s, fp_mul_s(a, b))
OPERATION(div_s, fp_div_s(a, b))
OPERATION(sqrt_s, fp_sqrt_s(a))
OPERATION(fma_s, fp_fma_s(f32_unbox(a), f32_unbox(b), f32_unbox(c), fflags))
OPERATION(d_from_s, fp_d_from_s(a))
OPERATION(s_from_l, fp_s_from_l(a))
OPERATION(s_from_lu, fp_s_from_lu(a))

static const struct {
    const char *name;
    unsigned handler;
    operation host;
    bool is_single;
} operations[] = {
    {"fadd.d", H_fadd_d, add_d, false},
    {"fsub.d", H_fsub_d, sub_d, false},
    {"fmul.d", H_fmul_d, mul_d, false},
    {"fdiv.d", H_fdiv_d, div_d, false},
    {"fsqrt.d", H_fsqrt_d, sqrt_d, false},
    {"fmadd.d", H_fmadd_d, fma_d, false},
    {"fcvt.s.d", H_fcvt_s_d, s_from_d, false},
    {"fcvt.d.l", H_fcvt_d_l, d_from_l, false},
    {"fcvt.d.lu", H_fcvt_d_lu, d_from_lu, false},
    {"fadd.s", H_fadd_s, add_s, true},
    {"fsub.s", H_fsub_s, sub_s, true},
    {"fmul.s", H_fmul_s, mul_s, true},
    {"fdiv.s", H_fdiv_s, div_s, true},
    {"fsqrt.s", H_fsqrt_s, sqrt_s, true},
    {"fmadd.s", H_fmadd_s, fma_s, true},
    {"fcvt.d.s", H_fcvt_d_s, d_from_s, true},
    {"fcvt.s.l", H_fcvt_s_l, s_from_l, true},
    {"fcvt.s.lu", H_fcvt_s_lu, s_from_lu, true},
};

static void test_host_and_software_agree(void **state)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(3);
    for (size_t i = 0; i < G_N_ELEMENTS(operations); i++) {
        for (unsigned n = 0; n < 4000; n++) {
            uint64_t v[3];
            for (unsigned k = 0; k < 3; k++) {
                v[k] = operations[i].is_single ? random_f32(rand) : random_f64(rand);
            }
            unsigned rm = n % 4;
            uint8_t soft_flags = 0, host_flags = 0;
            uint64_t soft = fp_soft(operations[i].handler, rm, v[0], v[1], v[2], &soft_flags);
            uint32_t saved = fp_host_leave();
            fp_host_take_flags();
            fp_host_set_rounding(rm);
            uint64_t host = operations[i].host(v[0], v[1], v[2], &host_flags);
            host_flags |= fp_host_take_flags();
            fp_host_enter(saved);
            if (soft != host || soft_flags != host_flags) {
                fail_msg("%s rm %u of %#lx %#lx %#lx: host %#lx flags %u, software %#lx flags %u",
                         operations[i].name, rm, v[0], v[1], v[2], host, host_flags, soft,
                         soft_flags);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_host_and_software_agree)};
    return cmocka_run_group_tests_name("float", tests, NULL, NULL);
}
