/* SPDX-License-Identifier: MIT */
/* The speed of a hart: a handful of kernels, each printed with its instruction count and its time.
 *
 * The count is the hart's own minstret. An emulator whose minstret is not a count (QEMU TCG's is
 * a clock) is compared by time alone: the binary is the same and so is the work. Each kernel's
 * checksum must be the same everywhere.
 *
 * Parameters (bootargs): scale=1 (multiplies the work), only=NAME */
#include "bare.h"

static struct board board;
static char *heap;

static uint64_t lcg(uint64_t *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 33;
}

/* ---- hashing: SHA-256's compression function ---- */

static const uint32_t sha_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t x, uint32_t n)
{
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint32_t block[16])
{
    uint32_t w[64], s[8];

    for (int i = 0; i < 64; i++) {
        w[i] = i < 16 ? block[i]
                      : w[i - 16] + w[i - 7] +
                            (rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3) +
                            (rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10);
    }
    for (int i = 0; i < 8; i++) {
        s[i] = h[i];
    }
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (rotr(s[4], 6) ^ rotr(s[4], 11) ^ rotr(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + sha_k[i] + w[i];
        uint32_t t2 = (rotr(s[0], 2) ^ rotr(s[0], 13) ^ rotr(s[0], 22)) +
                      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        for (int j = 7; j > 0; j--) {
            s[j] = s[j - 1];
        }
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) {
        h[i] += s[i];
    }
}

static uint64_t run_sha256(uint64_t scale)
{
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint32_t block[16];

    for (uint64_t n = 0; n < 60000 * scale; n++) {
        for (uint32_t i = 0; i < 16; i++) {
            block[i] = (uint32_t)n * 16 + i;
        }
        sha_block(h, block);
    }
    return (uint64_t)h[0] << 32 | h[7];
}

/* ---- sieve of Eratosthenes, 2 MiB ---- */

static uint64_t run_sieve(uint64_t scale)
{
    const uint64_t limit = 2 << 20;
    uint64_t count = 0;

    for (uint64_t n = 0; n < 10 * scale; n++) {
        for (uint64_t i = 2; i < limit; i++) {
            heap[i] = 1;
        }
        for (uint64_t i = 2; i * i < limit; i++) {
            for (uint64_t j = i * i; heap[i] && j < limit; j += i) {
                heap[j] = 0;
            }
        }
        for (uint64_t i = 2; i < limit; i++) {
            count += (uint64_t)heap[i];
        }
    }
    return count;
}

/* ---- heap sort of 64-bit keys ---- */

static void sift(uint64_t *a, uint64_t root, uint64_t n)
{
    uint64_t child, value = a[root];

    for (; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && a[child] < a[child + 1]) {
            child++;
        }
        if (a[child] <= value) {
            break;
        }
        a[root] = a[child];
    }
    a[root] = value;
}

static uint64_t run_sort(uint64_t scale)
{
    uint64_t *a = (uint64_t *)heap, sum = 0;
    const uint64_t n = 65536;

    for (uint64_t round = 0; round < 10 * scale; round++) {
        uint64_t state = round;
        for (uint64_t i = 0; i < n; i++) {
            a[i] = lcg(&state);
        }
        for (uint64_t i = n / 2; i-- > 0;) {
            sift(a, i, n);
        }
        for (uint64_t i = n - 1; i > 0; i--) {
            uint64_t top = a[0];
            a[0] = a[i];
            a[i] = top;
            sift(a, 0, i);
        }
        sum = sum * 31 + a[n / 2];
    }
    return sum;
}

/* ---- pointer chasing through a binary search tree ---- */

struct tree {
    uint64_t key;
    struct tree *side[2];
};

static uint64_t run_tree(uint64_t scale)
{
    struct tree *nodes = (struct tree *)heap;
    const uint64_t n = 32768;
    uint64_t state = 7, found = 0;

    for (uint64_t i = 0; i < n; i++) {
        nodes[i] = (struct tree){.key = lcg(&state) & 0xfffff};
        for (struct tree *at = nodes; i > 0;) {
            struct tree **next = &at->side[nodes[i].key > at->key];
            if (!*next) {
                *next = &nodes[i];
                break;
            }
            at = *next;
        }
    }
    for (uint64_t round = 0; round < 800000 * scale; round++) {
        uint64_t key = lcg(&state) & 0xfffff;
        struct tree *at = nodes;
        while (at && at->key != key) {
            at = at->side[key > at->key];
        }
        found += at != NULL;
    }
    return found;
}

/* ---- matrix product, double ---- */

static uint64_t run_matmul(uint64_t scale)
{
    enum { N = 128 };
    double(*a)[N] = (void *)heap, (*b)[N] = a + N, (*c)[N] = b + N, sum = 0;

    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 3 + j) % 17 / 16.0;
            b[i][j] = (i + j * 5) % 13 / 8.0;
        }
    }
    for (uint64_t round = 0; round < 12 * scale; round++) {
        for (int i = 0; i < N; i++) {
            for (int j = 0; j < N; j++) {
                double x = 0;
                for (int k = 0; k < N; k++) {
                    x += a[i][k] * b[k][j];
                }
                c[i][j] = x;
            }
        }
        for (int i = 0; i < N; i++) {
            sum += c[i][(i * 7 + (int)round) % N] / 3.0;
        }
    }
    return (uint64_t)(sum * 1000);
}

/* ---- a byte-code interpreter ---- */

enum { OP_PUSH, OP_ADD, OP_XOR, OP_DUP, OP_SHIFT, OP_JUMP_NOT_ZERO, OP_DEC, OP_SWAP, OP_END };

static uint64_t run_vm(uint64_t scale)
{
    /* The stack holds the accumulator below the loop counter; the loop starts at 3. */
    static const uint8_t code[] = {OP_PUSH,  1,      OP_SWAP,          OP_SWAP, OP_DUP,
                                   OP_SHIFT, OP_XOR, OP_PUSH,          3,       OP_ADD,
                                   OP_SWAP,  OP_DEC, OP_JUMP_NOT_ZERO, 3,       OP_END};
    uint64_t stack[16], *top = stack;
    uint32_t pc = 0;

    *top = 2500000 * scale;
    for (;;) {
        switch (code[pc++]) {
        case OP_PUSH:
            *++top = code[pc++];
            break;
        case OP_ADD:
            top--;
            top[0] += top[1];
            break;
        case OP_XOR:
            top--;
            top[0] ^= top[1];
            break;
        case OP_DUP:
            top++;
            top[0] = top[-1];
            break;
        case OP_SHIFT:
            top[0] = (top[0] << 7) + (top[0] >> 9);
            break;
        case OP_DEC:
            top[0]--;
            break;
        case OP_SWAP: {
            uint64_t x = top[0];
            top[0] = top[-1];
            top[-1] = x;
            break;
        }
        case OP_JUMP_NOT_ZERO:
            pc = top[0] ? code[pc] : pc + 1;
            break;
        default:
            return top[-1];
        }
    }
}

/* ---- strings: search and copy ---- */

static uint64_t run_string(uint64_t scale)
{
    const uint64_t length = 65536;
    const char needle[] = "godwit";
    uint64_t state = 3, hits = 0;

    for (uint64_t i = 0; i < length; i++) {
        heap[i] = "godwitabc "[lcg(&state) % 10];
    }
    for (uint64_t round = 0; round < 120 * scale; round++) {
        for (uint64_t i = 0; i + sizeof needle < length; i++) {
            uint64_t j = 0;
            while (needle[j] && heap[i + j] == needle[j]) {
                j++;
            }
            hits += j >= 3;
        }
        for (uint64_t i = 0; i < length; i++) {
            heap[length + i] = heap[i] ^ (heap[length - 1 - i] & 1);
        }
        heap[round % length] = 'g';
    }
    return hits;
}

static const struct kernel {
    const char *name;
    uint64_t (*run)(uint64_t scale);
} kernels[] = {
    {"sha256", run_sha256}, {"sieve", run_sieve}, {"sort", run_sort},     {"tree", run_tree},
    {"matmul", run_matmul}, {"vm", run_vm},       {"string", run_string},
};

#define KERNELS ((int)(sizeof kernels / sizeof *kernels))

void bare_trap(uint64_t cause, uint64_t epc, uint64_t tval)
{
    print("mips: BAD trap cause %x epc %x tval %x\n", cause, epc, tval);
    finish_fail(3);
}

void bare_hart(uint64_t hartid)
{
}

void bare_main(uint64_t hartid, const void *fdt)
{
    const char *names[KERNELS];
    uint64_t all_instret = 0, all_us = 0;

    board_read(&board, fdt);
    heap = _end;
    csr_set(mstatus, 0x2000);
    for (int i = 0; i < KERNELS; i++) {
        names[i] = kernels[i].name;
    }
    int only = board_choice(&board, "only", names, KERNELS, -1);
    uint64_t scale = board_param(&board, "scale", 1);
    for (int i = 0; i < KERNELS; i++) {
        if (only >= 0 && i != only) {
            continue;
        }
        uint64_t start = mtime(), start_instret = csr_read(minstret);
        uint64_t sum = kernels[i].run(scale);
        uint64_t instret = csr_read(minstret) - start_instret;
        uint64_t us = (mtime() - start) * 1000000 / board.timebase_hz + 1;
        print("mips: %s instret %d us %d mips %d sum %x\n", kernels[i].name, instret, us,
              instret / us, sum);
        all_instret += instret;
        all_us += us;
    }
    print("mips: all instret %d us %d mips %d\n", all_instret, all_us, all_instret / all_us);
    finish_pass();
}
