/* SPDX-License-Identifier: MIT */
/* The serial port (polled) and a small print. */
#include "x86.h"

#include <stdarg.h>
#include <stdatomic.h>

enum { UART_DATA = 0x3f8, UART_LSR = 0x3fd, LSR_DATA_READY = 0x01, LSR_TX_EMPTY = 0x20 };

static atomic_flag print_lock = ATOMIC_FLAG_INIT;

static void put(char c)
{
    while (!(in8(UART_LSR) & LSR_TX_EMPTY)) {
    }
    out8(UART_DATA, (uint8_t)c);
}

int console_get(void)
{
    return in8(UART_LSR) & LSR_DATA_READY ? in8(UART_DATA) : -1;
}

static void put_number(uint64_t value, uint32_t base)
{
    char digits[20];
    int n = 0;

    do {
        digits[n++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (n) {
        put(digits[--n]);
    }
}

void print(const char *format, ...)
{
    va_list args;

    while (atomic_flag_test_and_set_explicit(&print_lock, memory_order_acquire)) {
    }
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        switch (*++format) {
        case 's':
            for (const char *s = va_arg(args, const char *); *s; s++) {
                put(*s);
            }
            break;
        case 'd':
            put_number(va_arg(args, uint64_t), 10);
            break;
        case 'x':
            put_number(va_arg(args, uint64_t), 16);
            break;
        }
    }
    va_end(args);
    atomic_flag_clear_explicit(&print_lock, memory_order_release);
}
