/* SPDX-License-Identifier: MIT */
/*
 * Load-reserved and store-conditional.
 *
 * Model: lr remembers the address and the value it read; sc succeeds when the address is the same
 * and a compare-and-swap on host memory finds that value still there. A datum that was changed and
 * changed back in between lets sc succeed, which no lock-free algorithm that is correct on
 * word-granular reservations with compare-and-swap semantics can tell; it is what other software
 * harts do, too. A trap and every sc end the reservation.
 *
 * SPEC: unprivileged ISA 20191213, 8.2. sc may fail spuriously; a constrained loop ends because
 * each failed compare-and-swap means that another hart's store succeeded.
 */
#include "cpu/riscv/hart.h"

static bool gpa_of(const struct hart *h, const uint8_t *host, uint64_t *gpa)
{
    for (unsigned i = 0; i < h->cpu->n_ram; i++) {
        const struct gw_ram_block *ram = h->cpu->ram[i];
        uint64_t offset = (uint64_t)(host - ram->host);
        if (host >= ram->host && offset < ram->size_bytes) {
            *gpa = ram->gpa + offset;
            return true;
        }
    }
    return false;
}

static void *find(struct hart *h, uint64_t va, unsigned size, bool is_store)
{
    struct tlb_entry *entry = &h->tlb->entry[(va >> GW_PAGE_SHIFT) % TLB_SIZE];
    uint64_t tag = is_store ? entry->store : entry->load;
    if ((va & ~(GW_PAGE_SIZE - size)) == tag) {
        return (void *)(uintptr_t)(va + entry->addend);
    }
    return riscv_atomic_slow(h, va, size, is_store);
}

bool riscv_lr(struct hart *h, uint64_t va, unsigned size, uint64_t *value)
{
    void *datum = find(h, va, size, false);
    if (datum == NULL) {
        return false;
    }
    *value = size == 4 ? __atomic_load_n((uint32_t *)datum, __ATOMIC_SEQ_CST)
                       : __atomic_load_n((uint64_t *)datum, __ATOMIC_SEQ_CST);
    h->s.reservation_value = *value;
    h->s.has_reservation = gpa_of(h, datum, &h->s.reservation_gpa);
    h->s.reservation_size = (uint8_t)size;
    return true;
}

bool riscv_sc(struct hart *h, uint64_t va, unsigned size, uint64_t value, bool *is_done)
{
    uint64_t gpa;
    bool had_reservation = h->s.has_reservation;
    uint64_t expected = h->s.reservation_value;
    *is_done = false;
    void *datum = find(h, va, size, true);
    if (datum == NULL) {
        return false;
    }
    h->s.has_reservation = false;
    if (!had_reservation || size != h->s.reservation_size || !gpa_of(h, datum, &gpa) ||
        gpa != h->s.reservation_gpa) {
        return true;
    }
    if (size == 4) {
        uint32_t expected_w = (uint32_t)expected;
        *is_done = __atomic_compare_exchange_n((uint32_t *)datum, &expected_w, (uint32_t)value,
                                               false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        *is_done = __atomic_compare_exchange_n((uint64_t *)datum, &expected, value, false,
                                               __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    return true;
}
