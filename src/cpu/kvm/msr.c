/* SPDX-License-Identifier: MIT */
/* Names of MSRs, and those that stay behind. SPEC: Intel SDM 4; AMD APM 2, appendix A; Linux
 * Documentation/virt/kvm/x86/msr.rst for 0x4b564d.. */
#include "cpu/kvm/msr.h"

#include <stddef.h>

static const struct {
    uint32_t index;
    const char *name;
    const char *reason; /* not NULL: not copied */
} msrs[] = {
    {0x10, "IA32_TSC", "is carried as a reading with its time"},
    {0x11, "KVM_WALL_CLOCK", NULL},
    {0x12, "KVM_SYSTEM_TIME", NULL},
    {0x34, "SMI_COUNT", "counts what the host did"},
    {0x3a, "IA32_FEATURE_CONTROL", NULL},
    {0x3b, "IA32_TSC_ADJUST", NULL},
    {0x48, "IA32_SPEC_CTRL", NULL},
    {0x8b, "IA32_BIOS_SIGN_ID", "names the microcode of the host's processor"},
    {0xce, "PLATFORM_INFO", NULL},
    {0xe1, "IA32_UMWAIT_CONTROL", NULL},
    {0x10a, "IA32_ARCH_CAPABILITIES", NULL},
    {0x122, "IA32_TSX_CTRL", NULL},
    {0x140, "MISC_FEATURES_ENABLES", NULL},
    {0x174, "IA32_SYSENTER_CS", NULL},
    {0x175, "IA32_SYSENTER_ESP", NULL},
    {0x176, "IA32_SYSENTER_EIP", NULL},
    {0x17a, "IA32_MCG_STATUS", NULL},
    {0x17b, "IA32_MCG_CTL", NULL},
    {0x1a0, "IA32_MISC_ENABLE", NULL},
    {0x1c4, "IA32_XFD", NULL},
    {0x1c5, "IA32_XFD_ERR", NULL},
    {0x1d9, "IA32_DEBUGCTL", NULL},
    {0x277, "IA32_PAT", NULL},
    {0x2ff, "IA32_MTRR_DEF_TYPE", NULL},
    {0x345, "IA32_PERF_CAPABILITIES", NULL},
    {0x6e0, "IA32_TSC_DEADLINE", NULL},
    {0xd90, "IA32_BNDCFGS", NULL},
    {0xda0, "IA32_XSS", NULL},
    {0x4b564d00, "KVM_WALL_CLOCK_NEW", NULL},
    {0x4b564d01, "KVM_SYSTEM_TIME_NEW", NULL},
    {0x4b564d02, "KVM_ASYNC_PF_EN", NULL},
    {0x4b564d03, "KVM_STEAL_TIME", NULL},
    {0x4b564d04, "KVM_PV_EOI_EN", NULL},
    {0x4b564d05, "KVM_POLL_CONTROL", NULL},
    {0x4b564d06, "KVM_ASYNC_PF_INT", NULL},
    {0x4b564d07, "KVM_ASYNC_PF_ACK", "is an action, not a value"},
    {0x4b564d08, "KVM_MIGRATION_CONTROL", NULL},
    {0xc0000081, "STAR", NULL},
    {0xc0000082, "LSTAR", NULL},
    {0xc0000083, "CSTAR", NULL},
    {0xc0000084, "SFMASK", NULL},
    {0xc0000102, "KERNEL_GS_BASE", NULL},
    {0xc0000103, "TSC_AUX", NULL},
    {0xc0000104, "AMD64_TSC_RATIO", NULL},
    {0xc0010015, "HWCR", NULL},
    {0xc0010117, "VM_HSAVE_PA", NULL},
    {0xc001011f, "VIRT_SPEC_CTRL", NULL},
};

static size_t find(uint32_t index)
{
    size_t i = 0;

    while (i < sizeof msrs / sizeof msrs[0] && msrs[i].index != index)
        i++;
    return i;
}

const char *msr_name(uint32_t index)
{
    size_t i = find(index);
    return i < sizeof msrs / sizeof msrs[0] ? msrs[i].name : NULL;
}

const char *msr_reason_not_copied(uint32_t index)
{
    size_t i = find(index);
    return i < sizeof msrs / sizeof msrs[0] ? msrs[i].reason : NULL;
}

bool msr_matters(uint32_t index, uint64_t value)
{
    return value != 0 && !msr_reason_not_copied(index);
}

/* Memory type ranges, and which errors each bank of machine checks reports. The banks' records of
 * errors are not kept: nobody puts errors into our guests. */
static const struct {
    uint32_t first, n, step;
} unlisted[] = {{0x200, 16, 1}, {0x250, 1, 1}, {0x258, 2, 1},
                {0x268, 8, 1},  {0x2ff, 1, 1}, {0x400, 32, 4}};

void msr_each_unlisted(void (*fn)(void *opaque, uint32_t index), void *opaque)
{
    for (size_t i = 0; i < sizeof unlisted / sizeof unlisted[0]; i++)
        for (uint32_t j = 0; j < unlisted[i].n; j++)
            fn(opaque, unlisted[i].first + j * unlisted[i].step);
}
