/* SPDX-License-Identifier: MIT */
/* CPU models over tables of imaginary hosts; no KVM is needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/kvm/cpuid.h"
#include "cpu/kvm/msr.h"

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

/* ---- hosts ---- */

static void add(struct cpuid_table *table, uint32_t leaf, uint32_t subleaf, uint32_t flags,
                uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
    table->entries[table->n++] =
        (struct kvm_cpuid_entry2){leaf, subleaf, flags, eax, ebx, ecx, edx};
}

/* Everything there is, with leaves and bits that no guest must see. */
static void make_host(struct cpuid_table *host)
{
    memset(host, 0, sizeof *host);
    add(host, 0x0, 0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
    add(host, 0x1, 0, 0, 0x806f8, 0x00100800, UINT32_MAX, UINT32_MAX);
    add(host, 0x5, 0, 0, 0x40, 0x40, 3, 0x20);
    add(host, 0x6, 0, 0, 0xff, 2, 9, 0);
    add(host, 0x7, 0, INDEXED, 1, UINT32_MAX, UINT32_MAX, UINT32_MAX);
    add(host, 0x7, 1, INDEXED, UINT32_MAX, UINT32_MAX, 0, UINT32_MAX);
    add(host, 0xa, 0, 0, 0x07300805, 0, 0, 0x603);
    add(host, 0xb, 0, INDEXED, 1, 2, 0x100, 0);
    add(host, 0xd, 0, INDEXED, 0x602e7, 2696, 11008, 0);
    add(host, 0xd, 1, INDEXED, UINT32_MAX, 2696, 0x1900, 0);
    add(host, 0xd, 2, INDEXED, 256, 576, 0, 0);
    add(host, 0xd, 5, INDEXED, 64, 1088, 0, 0);
    add(host, 0xd, 6, INDEXED, 512, 1152, 0, 0);
    add(host, 0xd, 7, INDEXED, 1024, 1664, 0, 0);
    add(host, 0xd, 9, INDEXED, 8, 2688, 0, 0);
    add(host, 0xd, 18, INDEXED, 8192, 2816, 2, 0);
    add(host, 0x14, 0, INDEXED, 1, 0x4f, 7, 0);
    add(host, 0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
    add(host, 0x40000001, 0, 0, UINT32_MAX, 0, 0, 0);
    add(host, 0x80000000, 0, 0, 0x80000026, 0, 0, 0);
    add(host, 0x80000001, 0, 0, 0, 0, UINT32_MAX, UINT32_MAX);
    add(host, 0x80000007, 0, 0, 0, 0, 0, 0x100);
    add(host, 0x80000008, 0, 0, 0x3039, UINT32_MAX, 0x7001, 0);
    add(host, 0x8000001d, 1, INDEXED, 0x00004122, 0x01c0003f, 63, 0);
    add(host, 0x8000001d, 3, INDEXED, 0x0001c163, 0x03c0003f, 63, 0);
    add(host, 0x8000001e, 0, 0, 7, 0x107, 0x300, 0);
    add(host, 0x80000022, 0, 0, 1, 6, 0, 0);
}

static const struct kvm_cpuid_entry2 *find(const struct cpuid_table *table, uint32_t leaf,
                                           uint32_t subleaf)
{
    for (uint32_t i = 0; i < table->n; i++)
        if (table->entries[i].function == leaf && table->entries[i].index == subleaf)
            return &table->entries[i];
    return NULL;
}

static void build(const struct cpuid_table *host, const char *model, struct cpuid_table *guest)
{
    g_autoptr(GError) error = NULL;

    if (!cpuid_build(host, model, guest, &error))
        fail_msg("%s: %s", model, error->message);
}

static void refused(const struct cpuid_table *host, const char *model, const char *sentence)
{
    g_autoptr(GError) error = NULL;
    struct cpuid_table guest;

    assert_false(cpuid_build(host, model, &guest, &error));
    assert_string_equal(error->message, sentence);
}

/* ---- models ---- */

static void host_keeps_what_travels(void **state)
{
    struct cpuid_table host, guest;

    make_host(&host);
    build(&host, NULL, &guest);
    assert_true(cpuid_has(&guest, "avx512_vnni"));
    assert_true(cpuid_has(&guest, "kvmclock"));
    static const char *const never[] = {"vmx",   "svm",  "sgx",         "amx_tile", "intel_pt",
                                        "shstk", "pdcm", "nonstop_tsc", "arch_lbr", "perfctr_core"};
    for (size_t i = 0; i < G_N_ELEMENTS(never); i++) {
        assert_true(cpuid_has(&host, never[i]));
        assert_false(cpuid_has(&guest, never[i]));
    }
    /* Leaves and bits without a name of ours. */
    assert_null(find(&guest, 0xa, 0));
    assert_null(find(&guest, 0x14, 0));
    assert_null(find(&guest, 0x5, 0));
    assert_null(find(&guest, 0x80000022, 0));
    assert_int_equal(find(&guest, 0x1, 0)->edx >> 10 & 1, 0);
    assert_int_equal(find(&guest, 0x6, 0)->eax, 4);
    /* The last leaves that are there. */
    assert_int_equal(find(&guest, 0, 0)->eax, 0xd);
    assert_int_equal(find(&guest, 0x80000000, 0)->eax, 0x8000001e);
}

static void vector_state_follows_features(void **state)
{
    struct cpuid_table host, guest;

    make_host(&host);
    build(&host, "host", &guest);
    assert_int_equal(find(&guest, 0xd, 0)->eax, 0x2ff & ~0x0u); /* x87 sse avx mpx avx512 pku */
    assert_int_equal(cpuid_xsave_bytes(&guest), 2696);
    assert_null(find(&guest, 0xd, 18));
    build(&host, "x86-64-v3", &guest);
    assert_int_equal(find(&guest, 0xd, 0)->eax, 7);
    assert_int_equal(find(&guest, 0xd, 0)->ecx, 832);
    assert_null(find(&guest, 0xd, 5));
    build(&host, "x86-64-v2", &guest);
    assert_null(find(&guest, 0xd, 0));
    assert_int_equal(cpuid_xsave_bytes(&guest), 576);
    build(&host, "host,-avx", &guest);
    assert_false(cpuid_has(&guest, "avx512f"));
    assert_false(cpuid_has(&guest, "fma"));
    assert_int_equal(find(&guest, 0xd, 0)->eax, 0x21b);
}

static void levels_are_the_psabi_s(void **state)
{
    static const char *const levels[][9] = {
        {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", NULL},
        {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", NULL},
        {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", NULL},
    };
    struct cpuid_table host, guest;

    make_host(&host);
    for (unsigned model = 0; model < 3; model++) {
        g_autofree char *name = g_strdup_printf("x86-64-v%u", model + 2);
        build(&host, name, &guest);
        for (unsigned level = 0; level < 3; level++)
            for (unsigned i = 0; levels[level][i]; i++)
                assert_int_equal(cpuid_has(&guest, levels[level][i]), level <= model);
        assert_true(cpuid_has(&guest, "sse2") && cpuid_has(&guest, "x2apic"));
        assert_false(cpuid_has(&guest, "sha_ni") || cpuid_has(&guest, "gfni"));
    }
}

static void users_change_models(void **state)
{
    struct cpuid_table host, guest;

    make_host(&host);
    build(&host, "x86-64-v2,+aes,-popcnt", &guest);
    assert_true(cpuid_has(&guest, "aes"));
    assert_false(cpuid_has(&guest, "popcnt"));
    build(&host, "-aes,+nonstop_tsc", &guest);
    assert_false(cpuid_has(&guest, "aes"));
    assert_true(cpuid_has(&guest, "nonstop_tsc"));
    assert_true(cpuid_has(&guest, "avx512f"));
}

static void wrong_models_are_named(void **state)
{
    struct cpuid_table host, poor;

    make_host(&host);
    build(&host, "x86-64-v2,-sse4_2,-popcnt", &poor);
    refused(&host, "pentium",
            "CPU model \"pentium\" is not known: expected host, x86-64-v2, x86-64-v3, x86-64-v4");
    refused(&host, "host,+warp", "CPU feature \"+warp\" is not known");
    refused(&host, "host,avx", "CPU feature \"avx\" is not known");
    refused(&host, "host,", "CPU feature \"\" is not known");
    refused(&host, "host,+vmx", "CPU feature vmx cannot be given to a guest: it does not travel");
    refused(&poor, "host,+avx", "CPU feature avx: this host lacks it");
    refused(&poor, "x86-64-v2", "CPU model x86-64-v2: this host lacks sse4_2, popcnt");
}

/* ---- topology ---- */

static void each_vcpu_has_its_number(void **state)
{
    struct cpuid_table host, guest, own;

    make_host(&host);
    build(&host, "host", &guest);
    for (unsigned id = 0; id < 6; id++) {
        cpuid_personalise(&guest, id, 6, &own);
        assert_int_equal(find(&own, 1, 0)->ebx >> 24, id);
        assert_int_equal(find(&own, 1, 0)->ebx >> 16 & 0xff, 6);
        assert_int_equal(find(&own, 1, 0)->edx >> 28 & 1, 1);
        assert_int_equal(find(&own, 0xb, 0)->edx, id);
        assert_int_equal(find(&own, 0xb, 0)->ebx, 1);
        assert_int_equal(find(&own, 0xb, 1)->eax, 3);
        assert_int_equal(find(&own, 0xb, 1)->ebx, 6);
        assert_int_equal(find(&own, 0xb, 1)->ecx, 0x201);
        assert_int_equal(find(&own, 0x80000008, 0)->ecx, 0x3005);
        assert_int_equal(find(&own, 0x8000001e, 0)->eax, id);
        assert_int_equal(find(&own, 0x8000001d, 1)->eax >> 14 & 0xfff, 0);
        assert_int_equal(find(&own, 0x8000001d, 3)->eax >> 14 & 0xfff, 5);
    }
    cpuid_personalise(&guest, 0, 1, &own);
    assert_int_equal(find(&own, 1, 0)->edx >> 28 & 1, 0);
    assert_int_equal(find(&own, 0xb, 1)->eax, 0);
}

/* ---- comparison ---- */

static void differences_are_one_sentence(void **state)
{
    g_autoptr(GError) error = NULL;
    struct cpuid_table host, poor, guest;

    make_host(&host);
    build(&host, "host,-avx512f,-sha_ni", &poor);
    build(&host, "host", &guest);
    assert_true(cpuid_check(&host, &poor, NULL));
    assert_true(cpuid_check(&host, &guest, NULL));
    build(&host, "x86-64-v4", &guest);
    assert_false(cpuid_check(&poor, &guest, &error));
    assert_string_equal(error->message, "this host lacks avx512f, avx512dq, avx512cd, avx512bw, "
                                        "avx512vl, which the guest was given");
    /* PEER: a table with what no guest is ever given. */
    assert_false(cpuid_check(&host, &host, NULL));
}

static void features_are_listed_by_name(void **state)
{
    struct cpuid_table host, guest;

    make_host(&host);
    build(&host, "x86-64-v2", &guest);
    g_auto(GStrv) names = cpuid_features(&guest);
    assert_true(g_strv_contains((const gchar *const *)names, "sse4_2"));
    assert_false(g_strv_contains((const gchar *const *)names, "avx"));
    for (guint i = 0; names[i]; i++)
        for (guint j = 0; j < i; j++)
            assert_string_not_equal(names[i], names[j]);
}

/* A stock kernel looks for kvmclock only in a processor that says it is virtual, and KVM's list
 * does not say so. */
static void guests_find_kvm_clock(void **state)
{
    struct cpuid_table host = {0}, guest;

    add(&host, 0x0, 0, 0, 0x1, 0x756e6547, 0x6c65746e, 0x49656e69);
    add(&host, 0x1, 0, 0, 0x806f8, 0x00100800, 1u << 21, UINT32_MAX);
    add(&host, 0x40000000, 0, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
    add(&host, 0x40000001, 0, 0, 1u << 3 | 1u << 24, 0, 0, 0);
    build(&host, "host", &guest);
    assert_false(cpuid_has(&guest, "hypervisor"));

    cpuid_complete(&host, false);
    build(&host, "host", &guest);
    assert_true(cpuid_has(&guest, "hypervisor"));
    assert_true(cpuid_has(&guest, "kvmclock2") && cpuid_has(&guest, "kvmclock_stable"));
    assert_non_null(find(&guest, 0x40000000, 0));
    assert_false(cpuid_has(&guest, "tsc_deadline_timer"));
    cpuid_complete(&host, true);
    build(&host, "host", &guest);
    assert_true(cpuid_has(&guest, "tsc_deadline_timer"));
}

static void only_values_that_matter_are_missed(void **state)
{
    assert_string_equal(msr_name(0x277), "IA32_PAT");
    assert_null(msr_name(0x12345));
    assert_false(msr_matters(0x12345, 0));
    assert_true(msr_matters(0x12345, 1));
    assert_false(msr_matters(0x10, 77)); /* the time stamp counter is carried otherwise */
    assert_string_equal(msr_reason_not_copied(0x10), "is carried as a reading with its time");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_keeps_what_travels),
        cmocka_unit_test(vector_state_follows_features),
        cmocka_unit_test(levels_are_the_psabi_s),
        cmocka_unit_test(users_change_models),
        cmocka_unit_test(wrong_models_are_named),
        cmocka_unit_test(each_vcpu_has_its_number),
        cmocka_unit_test(differences_are_one_sentence),
        cmocka_unit_test(features_are_listed_by_name),
        cmocka_unit_test(guests_find_kvm_clock),
        cmocka_unit_test(only_values_that_matter_are_missed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
