/* SPDX-License-Identifier: MIT */
/*
 * Physical memory protection: 16 entries, granularity 4 bytes.
 *
 * Model: the CSRs are digested into a list of address ranges in entry order whenever they change;
 * the first range that holds any byte of an access decides. Permissions that differ within one
 * page keep that page out of the TLBs, so that every access to it is checked by itself.
 *
 * SPEC: privileged ISA 1.12, 3.7.1.
 */
#include "cpu/riscv/hart.h"

enum { PMP_OFF, PMP_TOR, PMP_NA4, PMP_NAPOT };

void riscv_pmp_update(struct hart *h)
{
    h->n_pmp = 0;
    for (unsigned i = 0; i < RISCV_N_PMP; i++) {
        uint8_t cfg = h->s.pmpcfg[i];
        uint64_t addr = h->s.pmpaddr[i];
        struct pmp_range range = {.perms = cfg & 7, .is_locked = (cfg & PMP_L) != 0};
        switch ((cfg >> PMP_A_SHIFT) & 3) {
        case PMP_OFF:
            continue;
        case PMP_TOR:
            range.first = i == 0 ? 0 : h->s.pmpaddr[i - 1] << 2;
            if (range.first >= addr << 2) {
                continue; /* matches nothing */
            }
            range.last = (addr << 2) - 1;
            break;
        case PMP_NA4:
            range.first = addr << 2;
            range.last = range.first + 3;
            break;
        default: {
            uint64_t low_ones = addr ^ (addr + 1); /* the trailing ones and the zero above them */
            range.first = (addr & ~low_ones) << 2;
            range.last = range.first | (low_ones << 2 | 3);
            break;
        }
        }
        h->pmp[h->n_pmp++] = range;
    }
}

static bool range_allows(const struct pmp_range *range, uint8_t perm, unsigned priv)
{
    if (priv == PRIV_M && !range->is_locked) {
        return true;
    }
    return (range->perms & perm) != 0;
}

bool riscv_pmp_allows(const struct hart *h, uint64_t gpa, uint64_t len, uint8_t perm, unsigned priv)
{
    uint64_t last = gpa + len - 1;
    for (unsigned i = 0; i < h->n_pmp; i++) {
        const struct pmp_range *range = &h->pmp[i];
        if (last < range->first || gpa > range->last) {
            continue;
        }
        bool is_inside = gpa >= range->first && last <= range->last;
        return is_inside && range_allows(range, perm, priv);
    }
    return priv == PRIV_M;
}

unsigned riscv_pmp_page(const struct hart *h, uint64_t page_gpa, unsigned priv)
{
    uint64_t last = page_gpa + GW_PAGE_SIZE - 1;
    for (unsigned i = 0; i < h->n_pmp; i++) {
        const struct pmp_range *range = &h->pmp[i];
        if (last < range->first || page_gpa > range->last) {
            continue;
        }
        if (page_gpa < range->first || last > range->last) {
            return PMP_MIXED;
        }
        return priv == PRIV_M && !range->is_locked ? PMP_R | PMP_W | PMP_X : range->perms;
    }
    return priv == PRIV_M ? PMP_R | PMP_W | PMP_X : 0;
}
