/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the "boot" RAM block, which after a move is a peer's bytes, unpacked at a reset.
 *
 * Input: the block's content behind the magic. Checked: unpacking changes RAM only, never the
 * block.
 */
#include "fuzz.h"
#include "machine/boot.h"

#define RAM_GPA   UINT64_C(0x80000000)
#define RAM_BYTES (UINT64_C(64) << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct gw_memory *memory;
    static struct gw_ram_block *ram, *store;
    uint64_t entry;

    if (!memory) {
        memory = gw_memory_new();
        ram = gw_memory_add_block(memory, "ram", RAM_GPA, RAM_BYTES, NULL);
        store = gw_memory_add_block(memory, BOOT_BLOCK_NAME, GW_GPA_NONE, RAM_BYTES, NULL);
        fuzz_check(ram && store);
        memcpy(store->host, "GWBOOT\0\1", 8);
    }
    memset(store->host + 8, 0, RAM_BYTES - 8);
    size = MIN(size, RAM_BYTES - 8);
    memcpy(store->host + 8, data, size);
    fuzz_check(boot_is_stored(store));
    boot_restore(store, memory, &entry, NULL);
    fuzz_check(memcmp(store->host + 8, data, size) == 0);
    return 0;
}
