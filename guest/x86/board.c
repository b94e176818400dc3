/* SPDX-License-Identifier: MIT */
/* The pc board as the bare-metal programs see it: zero page, local APIC (x2APIC), ports. */
#include "x86.h"

/* SPEC: Linux Documentation/arch/x86/zero-page.rst. */
enum { ZP_E820_ENTRIES = 0x1e8, ZP_CMDLINE = 0x228, ZP_E820_TABLE = 0x2d0, E820_RAM = 1 };
/* SPEC: Intel SDM 3, 11.12: x2APIC. */
enum {
    MSR_APIC_BASE = 0x1b,
    X2APIC_ID = 0x802,
    X2APIC_EOI = 0x80b,
    X2APIC_SPURIOUS = 0x80f,
    X2APIC_ICR = 0x830,
    X2APIC_TIMER = 0x832,
    X2APIC_COUNT = 0x838,
    X2APIC_DIVIDE = 0x83e,
};
#define APIC_BASE_X2   (3u << 10)
#define ICR_INIT       0x4500u
#define ICR_SIPI       0x4600u
#define ICR_OTHERS     (3u << 18)
#define TIMER_PERIODIC (1u << 17)
#define DIVIDE_BY_1    0xbu
#define APIC_TIMER_HZ  1000000000u /* what KVM's APICs count at */
#define PORT_RESET     0x64
#define PORT_PM1_CNT   0x604
#define PM1_SLEEP_S5   (1u << 13 | 5u << 10)

struct gate {
    uint16_t offset_low, selector, flags, offset_middle;
    uint32_t offset_high, reserved;
};

static struct gate idt[N_VECTORS];
static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
extern char trampoline[], trampoline_cr3[];
extern const uint64_t trampoline_bytes;

static void load_tables(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } gdtr = {sizeof gdt - 1, (uint64_t)gdt}, idtr = {sizeof idt - 1, (uint64_t)idt};

    __asm__ volatile("lgdt %0; lidt %1" ::"m"(gdtr), "m"(idtr));
}

void interrupts_init(void)
{
    for (unsigned i = 0; i < N_VECTORS; i++) {
        uint64_t at = stubs_table[i];
        idt[i] = (struct gate){.offset_low = (uint16_t)at,
                               .selector = 0x10,
                               .flags = 0x8e00,
                               .offset_middle = (uint16_t)(at >> 16),
                               .offset_high = (uint32_t)(at >> 32)};
    }
    load_tables();
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | APIC_BASE_X2);
    wrmsr(X2APIC_SPURIOUS, 0x100 | (N_VECTORS - 1));
}

void others_start(void)
{
    char *to = (char *)TRAMPOLINE_GPA;
    uint64_t cr3;

    __asm__ volatile("mov %%cr3, %0" : "=r"(cr3));
    *(uint32_t *)trampoline_cr3 = (uint32_t)cr3;
    for (uint64_t i = 0; i < trampoline_bytes; i++) {
        to[i] = trampoline[i];
    }
    wrmsr(X2APIC_ICR, ICR_OTHERS | ICR_INIT);
    wrmsr(X2APIC_ICR, ICR_OTHERS | ICR_SIPI | TRAMPOLINE_GPA >> 12);
}

void timer_start(uint8_t vector, uint32_t hz)
{
    wrmsr(X2APIC_DIVIDE, DIVIDE_BY_1);
    wrmsr(X2APIC_TIMER, TIMER_PERIODIC | vector);
    wrmsr(X2APIC_COUNT, APIC_TIMER_HZ / hz);
}

void interrupt_end(void)
{
    wrmsr(X2APIC_EOI, 0);
}

void ipi_others(uint8_t vector)
{
    wrmsr(X2APIC_ICR, ICR_OTHERS | vector);
}

uint32_t apic_id(void)
{
    return (uint32_t)rdmsr(X2APIC_ID);
}

uint64_t param(const void *zero_page, const char *name, uint64_t fallback)
{
    const char *at =
        (const char *)(uint64_t) * (const uint32_t *)((const char *)zero_page + ZP_CMDLINE);

    while (at && *at) {
        const char *n = name, *word = at;
        while (*n && *word == *n) {
            n++;
            word++;
        }
        if (!*n && *word == '=') {
            uint64_t value = 0;
            for (word++; *word >= '0' && *word <= '9'; word++) {
                value = value * 10 + (uint64_t)(*word - '0');
            }
            return value;
        }
        while (*at && *at != ' ') {
            at++;
        }
        while (*at == ' ') {
            at++;
        }
    }
    return fallback;
}

uint64_t ram_end(const void *zero_page)
{
    struct __attribute__((packed)) e820 {
        uint64_t at, bytes;
        uint32_t type;
    };
    const struct e820 *table = (const void *)((const char *)zero_page + ZP_E820_TABLE);
    uint8_t n = *((const uint8_t *)zero_page + ZP_E820_ENTRIES);

    for (unsigned i = 0; i < n; i++) {
        if (table[i].type == E820_RAM && table[i].at <= (uint64_t)_end &&
            table[i].at + table[i].bytes > (uint64_t)_end) {
            return table[i].at + table[i].bytes;
        }
    }
    return (uint64_t)_end;
}

/* The board has no port that carries an exit code: who wants to tell one prints it. */
_Noreturn void finish(void)
{
    out16(PORT_PM1_CNT, PM1_SLEEP_S5);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

_Noreturn void reboot(void)
{
    out8(PORT_RESET, 0xfe);
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}
