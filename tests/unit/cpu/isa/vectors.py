#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes assembly tests whose expected results come from a model of the instructions in exact
integer and rational arithmetic, written from the specification and sharing nothing with the hart.

usage: vectors.py integer|float OUTPUT.S
"""
import random
import sys
from fractions import Fraction
from math import isqrt

M64 = (1 << 64) - 1


def signed(value, bits=64):
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def w(value):
    """A 32-bit result, sign-extended."""
    return signed(value, 32) & M64


# ---- integer: results by definition --------------------------------------------------------------

def div(a, b, bits):
    a, b = signed(a, bits), signed(b, bits)
    if b == 0:
        return -1
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q  # the overflow case wraps to itself


def rem(a, b, bits):
    a, b = signed(a, bits), signed(b, bits)
    if b == 0:
        return a
    r = abs(a) % abs(b)
    return -r if a < 0 else r


M32 = (1 << 32) - 1
REGISTER = {
    'add': lambda a, b: a + b, 'sub': lambda a, b: a - b,
    'sll': lambda a, b: a << (b & 63), 'srl': lambda a, b: a >> (b & 63),
    'sra': lambda a, b: signed(a) >> (b & 63),
    'slt': lambda a, b: signed(a) < signed(b), 'sltu': lambda a, b: a < b,
    'xor': lambda a, b: a ^ b, 'or': lambda a, b: a | b, 'and': lambda a, b: a & b,
    'addw': lambda a, b: w(a + b), 'subw': lambda a, b: w(a - b),
    'sllw': lambda a, b: w(a << (b & 31)), 'srlw': lambda a, b: w((a & M32) >> (b & 31)),
    'sraw': lambda a, b: w(signed(a, 32) >> (b & 31)),
    'mul': lambda a, b: a * b, 'mulh': lambda a, b: signed(a) * signed(b) >> 64,
    'mulhsu': lambda a, b: signed(a) * b >> 64, 'mulhu': lambda a, b: a * b >> 64,
    'div': lambda a, b: div(a, b, 64), 'divu': lambda a, b: a // b if b else M64,
    'rem': lambda a, b: rem(a, b, 64), 'remu': lambda a, b: a % b if b else a,
    'mulw': lambda a, b: w(a * b), 'divw': lambda a, b: w(div(a, b, 32)),
    'divuw': lambda a, b: w((a & M32) // (b & M32) if b & M32 else M32),
    'remw': lambda a, b: w(rem(a, b, 32)),
    'remuw': lambda a, b: w((a & M32) % (b & M32) if b & M32 else a),
}


def rotate_right(value, count, bits):
    value, count = value & ((1 << bits) - 1), count % bits
    return value >> count | value << (bits - count)


def leading_zeros(value, bits):
    return bits - (value & ((1 << bits) - 1)).bit_length()


def trailing_zeros(value, bits):
    value &= (1 << bits) - 1
    return (value & -value).bit_length() - 1 if value else bits


def u32(value):
    return value & M32


REGISTER |= {
    'add.uw': lambda a, b: b + u32(a),
    'sh1add': lambda a, b: b + 2 * a, 'sh2add': lambda a, b: b + 4 * a,
    'sh3add': lambda a, b: b + 8 * a, 'sh1add.uw': lambda a, b: b + 2 * u32(a),
    'sh2add.uw': lambda a, b: b + 4 * u32(a), 'sh3add.uw': lambda a, b: b + 8 * u32(a),
    'andn': lambda a, b: a & ~b, 'orn': lambda a, b: a | ~b, 'xnor': lambda a, b: ~(a ^ b),
    'min': lambda a, b: min(signed(a), signed(b)), 'minu': min,
    'max': lambda a, b: max(signed(a), signed(b)), 'maxu': max,
    'rol': lambda a, b: rotate_right(a, -b, 64), 'ror': lambda a, b: rotate_right(a, b, 64),
    'rolw': lambda a, b: w(rotate_right(a, -b, 32)),
    'rorw': lambda a, b: w(rotate_right(a, b, 32)),
    'bclr': lambda a, b: a & ~(1 << b % 64), 'bext': lambda a, b: a >> b % 64 & 1,
    'binv': lambda a, b: a ^ 1 << b % 64, 'bset': lambda a, b: a | 1 << b % 64,
}
UNARY = {
    'clz': lambda a: leading_zeros(a, 64), 'ctz': lambda a: trailing_zeros(a, 64),
    'cpop': lambda a: bin(a).count('1'), 'clzw': lambda a: leading_zeros(a, 32),
    'ctzw': lambda a: trailing_zeros(a, 32), 'cpopw': lambda a: bin(u32(a)).count('1'),
    'sext.b': lambda a: signed(a, 8), 'sext.h': lambda a: signed(a, 16),
    'zext.h': lambda a: a & 0xffff, 'rev8': lambda a: int.from_bytes(a.to_bytes(8, 'little'), 'big'),
    'orc.b': lambda a: int.from_bytes(bytes(255 if x else 0 for x in a.to_bytes(8, 'little')),
                                      'little'),
}
COMPRESSED = {'c.add': 'add', 'c.sub': 'sub', 'c.xor': 'xor', 'c.or': 'or', 'c.and': 'and',
              'c.addw': 'addw', 'c.subw': 'subw'}
IMMEDIATE = {'addi': 'add', 'slti': 'slt', 'sltiu': 'sltu', 'xori': 'xor', 'ori': 'or',
             'andi': 'and', 'addiw': 'addw'}
SHIFT = {'slli': ('sll', 64), 'srli': ('srl', 64), 'srai': ('sra', 64), 'slliw': ('sllw', 32),
         'srliw': ('srlw', 32), 'sraiw': ('sraw', 32), 'c.slli': ('sll', 64),
         'c.srli': ('srl', 64), 'c.srai': ('sra', 64), 'rori': ('ror', 64),
         'roriw': ('rorw', 32), 'bclri': ('bclr', 64), 'bexti': ('bext', 64),
         'binvi': ('binv', 64), 'bseti': ('bset', 64)}

EDGES = [0, 1, 2, M64, M64 - 1, 1 << 63, (1 << 63) - 1, (1 << 63) + 1, 1 << 31, (1 << 31) - 1,
         (1 << 32) - 1, 1 << 32, w(1 << 31), 0x0123456789abcdef, 0xfedcba9876543210, 63, 64, 31]


class Program:
    """Stubs (instruction sequences on a0, a1, a2 or fa0..fa2) and vectors to run them on."""

    def __init__(self):
        self.stubs = {}
        self.vectors = []

    def add(self, text, operands, expected, rm=0, flags=0):
        label = self.stubs.setdefault(text, f'stub{len(self.stubs)}')
        a, b, c = (list(operands) + [0, 0])[:3]
        self.vectors.append((label, a & M64, b & M64, c & M64, rm, expected & M64, flags))

    def write(self, path, is_float):
        load = '''
    ld a0, 8(s0)
    ld a1, 16(s0)
    ld a2, 24(s0)
    ld t1, 32(s0)
''' + ('''
    fmv.d.x fa0, a0
    fmv.d.x fa1, a1
    fmv.d.x fa2, a2
    fsrm t1
    fsflags zero
''' if is_float else '')
        with open(path, 'w') as out:
            out.write(f'''/* Made by vectors.py. */
#include "isa.h"
BEGIN
    la s0, vectors
    li s1, {len(self.vectors)}
    li s2, 1
next:
    ld t0, 0(s0)
{load}
    jalr ra, t0
    frflags a3
    ld t1, 40(s0)
    bne a0, t1, wrong
    ld t1, 48(s0)
    bne a3, t1, wrong
    addi s0, s0, 56
    addi s2, s2, 1
    addi s1, s1, -1
    bnez s1, next
    PASS
wrong:
    mv t5, s2
    j isa_end
''')
            for text, label in self.stubs.items():
                out.write(f'{label}: {text}; ret\n')
            out.write('.data\n.balign 8\nvectors:\n')
            for number, v in enumerate(self.vectors, 1):
                out.write(f'.dword {v[0]}, ' + ', '.join(hex(x) for x in v[1:]) + f' /* {number} */\n')


def integer_program():
    rng = random.Random(2)
    p = Program()
    pairs = [(a, b) for a in EDGES for b in EDGES if rng.random() < 0.35]
    pairs += [(rng.getrandbits(64), rng.getrandbits(rng.choice((6, 16, 32, 64)))) for _ in range(20)]
    for name, model in REGISTER.items():
        for a, b in pairs:
            p.add(f'{name} a0, a0, a1', (a, b), int(model(a, b)))
    for name, model in COMPRESSED.items():
        for a, b in pairs[:40]:
            p.add(f'{name} a0, a1', (a, b), int(REGISTER[model](a, b)))
    for name, model in IMMEDIATE.items():
        for imm in (0, 1, -1, 2047, -2048, 0x555, -0x556):
            for a in EDGES:
                p.add(f'{name} a0, a0, {imm}', (a,), int(REGISTER[model](a, imm & M64)))
    for name, (model, width) in SHIFT.items():
        for amount in (1, 7, 31, width - 1, width // 2):
            for a in EDGES:
                text = f'{name} a0, {amount}' if name[0] == 'c' else f'{name} a0, a0, {amount}'
                p.add(text, (a,), int(REGISTER[model](a, amount)))
    for name, model in UNARY.items():
        for a in EDGES + [rng.getrandbits(rng.randint(1, 64)) for _ in range(20)]:
            p.add(f'{name} a0, a0', (a,), model(a))
    for amount in (0, 1, 31, 32, 63):
        for a in EDGES:
            p.add(f'slli.uw a0, a0, {amount}', (a,), u32(a) << amount)
    for imm in (0, 1, 0x7ffff, 0x80000, 0xfffff):
        p.add(f'lui a0, {imm}', (0,), w(imm << 12))
    # rd = x0 is not written, and reads as zero.
    p.add('add zero, a0, a1; mv a0, zero', (3, 4), 0)
    p.add('c.li a0, -32', (0,), -32)
    p.add('c.lui a0, 0xfffe0', (0,), -(32 << 12))
    p.add('c.addi a0, -32', (5,), -27)
    p.add('c.addiw a0, 31', ((1 << 31) - 1,), w((1 << 31) + 30))
    p.add('c.andi a0, -2', (0xff,), 0xfe)
    p.add('mv t0, sp; mv sp, a0; c.addi16sp sp, -512; mv a0, sp; mv sp, t0', (4096,), 3584)
    p.add('mv t0, sp; mv sp, a0; c.addi4spn a0, sp, 1020; mv sp, t0', (4096,), 5116)
    for name, model in REGISTER.items():
        # source and destination the same register in every combination
        p.add(f'{name} a1, a0, a1; mv a0, a1', (0x123456789, 7), int(model(0x123456789, 7)))
        p.add(f'{name} a0, a0, a0', (0x8000000012345679,), int(model(*(2 * [0x8000000012345679]))))
    return p


# ---- floating point: exact rationals, rounded once -----------------------------------------------

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
RNE, RTZ, RDN, RUP, RMM = range(5)


class Format:
    def __init__(self, letter, precision, exponent_bits):
        self.letter, self.p = letter, precision
        self.bias = (1 << (exponent_bits - 1)) - 1
        self.width = precision + exponent_bits
        self.inf = ((1 << exponent_bits) - 1) << (precision - 1)
        self.nan = self.inf | 1 << (precision - 2)
        self.sign = 1 << (self.width - 1)
        self.emin = 2 - self.bias - precision  # exponent of the lowest subnormal bit

    def box(self, bits):
        return bits | (M64 << self.width & M64)

    def unbox(self, reg):
        return reg & ((1 << self.width) - 1) if self.box(reg) == reg else self.nan

    def kind(self, bits):
        mag = bits & ~self.sign
        if mag > self.inf:
            return 'quiet' if mag & 1 << (self.p - 2) else 'signaling'
        return 'inf' if mag == self.inf else 'zero' if mag == 0 else 'finite'

    def value(self, bits):
        mag = bits & ~self.sign
        exponent, fraction = mag >> (self.p - 1), mag & ((1 << (self.p - 1)) - 1)
        if exponent:
            fraction |= 1 << (self.p - 1)
        v = Fraction(fraction) * Fraction(2) ** (max(exponent, 1) - 1 + self.emin)
        return -v if bits & self.sign else v

    def round(self, exact, rm):
        """exact: a non-zero rational. Returns (bits, flags)."""
        sign = self.sign if exact < 0 else 0
        v = abs(exact)

        def on_grid(step):
            n, rest = divmod(v, step)
            up = {RNE: rest * 2 > step or (rest * 2 == step and n & 1), RTZ: False,
                  RDN: bool(sign) and rest > 0, RUP: not sign and rest > 0,
                  RMM: rest * 2 >= step}[rm]
            return n + bool(up), rest != 0

        e = v.numerator.bit_length() - v.denominator.bit_length()
        while v >= Fraction(2) ** (e + 1):
            e += 1
        while v < Fraction(2) ** e:
            e -= 1
        step = Fraction(2) ** max(e - self.p + 1, self.emin)
        n, inexact = on_grid(step)
        flags = NX if inexact else 0
        if inexact and e - self.p + 1 < self.emin:
            unbounded, _ = on_grid(Fraction(2) ** (e - self.p + 1))
            if unbounded * Fraction(2) ** (e - self.p + 1) < Fraction(2) ** (1 - self.bias):
                flags |= UF  # tiny after rounding with an unbounded exponent
        rounded = n * step
        if rounded >= Fraction(2) ** (self.bias + 1):
            to_inf = rm in (RNE, RMM) or (rm == RUP and not sign) or (rm == RDN and sign)
            return sign | (self.inf if to_inf else self.inf - 1), OF | NX
        return sign | self.encode(rounded), flags

    def encode(self, v):
        if v == 0:
            return 0
        n = v / Fraction(2) ** self.emin
        assert n.denominator == 1
        n = n.numerator
        shift = max(n.bit_length() - self.p, 0)
        return (shift << (self.p - 1)) + (n >> shift)


S, D = Format('s', 24, 8), Format('d', 53, 11)


def zero_of(fmt, negative):
    return fmt.sign if negative else 0


def fma(fmt, a, b, c, rm, is_add=False, is_mul=False):
    kinds = [fmt.kind(x) for x in (a, b, c)]
    flags = NV if 'signaling' in kinds else 0
    if 'inf' in kinds[:2] and 'zero' in kinds[:2]:
        return fmt.nan, NV
    if 'signaling' in kinds or 'quiet' in kinds:
        return fmt.nan, flags
    product_sign = bool((a ^ b) & fmt.sign)
    if 'inf' in kinds[:2]:
        if kinds[2] == 'inf' and bool(c & fmt.sign) != product_sign:
            return fmt.nan, NV
        return zero_of(fmt, product_sign) | fmt.inf, 0
    if kinds[2] == 'inf':
        return c, 0
    product = fmt.value(a) * fmt.value(b)
    exact = product if is_mul else product + fmt.value(c)
    if exact == 0:
        if is_mul or product == 0 and kinds[2] == 'zero' and product_sign == bool(c & fmt.sign):
            return zero_of(fmt, product_sign), 0
        return zero_of(fmt, rm == RDN), 0
    return fmt.round(exact, rm)


def one(fmt):
    return fmt.bias << (fmt.p - 1)


def add(fmt, a, b, rm):
    return fma(fmt, a, one(fmt), b, rm)


def sub(fmt, a, b, rm):
    if fmt.kind(b) in ('quiet', 'signaling'):
        return add(fmt, a, b, rm)
    return add(fmt, a, b ^ fmt.sign, rm)


def mul(fmt, a, b, rm):
    return fma(fmt, a, b, 0, rm, is_mul=True)


def divide(fmt, a, b, rm):
    ka, kb = fmt.kind(a), fmt.kind(b)
    if 'signaling' in (ka, kb) or ka == kb and ka in ('zero', 'inf'):
        return fmt.nan, NV
    if 'quiet' in (ka, kb):
        return fmt.nan, 0
    sign = (a ^ b) & fmt.sign
    if kb == 'zero' and ka != 'inf':
        return sign | fmt.inf, DZ
    if ka == 'inf' or kb == 'zero':
        return sign | fmt.inf, 0
    if ka == 'zero' or kb == 'inf':
        return sign, 0
    return fmt.round(fmt.value(a) / fmt.value(b), rm)


def root(fmt, a, rm):
    kind = fmt.kind(a)
    if kind == 'signaling' or a & fmt.sign and kind in ('finite', 'inf'):
        return fmt.nan, NV
    if kind == 'quiet':
        return fmt.nan, 0
    if kind in ('zero', 'inf'):
        return a, 0
    v = fmt.value(a)
    k = 240  # fraction bits kept; one more says whether there is a rest
    scaled = v.numerator * (1 << 2 * k) * v.denominator
    r = isqrt(scaled)
    sticky = Fraction(int(r * r != scaled), 2)
    return fmt.round((r + sticky) / (v.denominator << k), rm)


def to_int(fmt, a, bits, is_signed, rm):
    low = -(1 << (bits - 1)) if is_signed else 0
    high = (1 << (bits - 1)) - 1 if is_signed else (1 << bits) - 1
    kind = fmt.kind(a)
    if kind in ('quiet', 'signaling'):
        return high, NV
    if kind == 'inf':
        return low if a & fmt.sign else high, NV
    v = fmt.value(a)
    n = v.numerator // v.denominator
    rest = v - n
    up = {RNE: rest * 2 > 1 or (rest * 2 == 1 and n & 1), RTZ: v < 0 and rest, RDN: False,
          RUP: rest > 0, RMM: rest * 2 > 1 or (rest * 2 == 1 and v > 0)}[rm]
    n += bool(up)
    if n < low or n > high:
        return low if n < low else high, NV
    return n, NX if rest else 0


def compare(fmt, a, b, relation):
    kinds = (fmt.kind(a), fmt.kind(b))
    if 'quiet' in kinds or 'signaling' in kinds:
        return 0, NV if relation != 'feq' or 'signaling' in kinds else 0

    def key(x):
        inf = Fraction(2) ** 2000
        return (-inf if x & fmt.sign else inf) if fmt.kind(x) == 'inf' else fmt.value(x)
    x, y = key(a), key(b)
    return int({'feq': x == y, 'flt': x < y, 'fle': x <= y}[relation]), 0


def minmax(fmt, a, b, is_max):
    kinds = (fmt.kind(a), fmt.kind(b))
    flags = NV if 'signaling' in kinds else 0
    nan = [k in ('quiet', 'signaling') for k in kinds]
    if all(nan):
        return fmt.nan, flags
    if any(nan):
        return (b if nan[0] else a), flags
    if kinds == ('zero', 'zero'):
        return (a & b if is_max else a | b), flags
    a_less = compare(fmt, a, b, 'flt')[0]
    return (b if a_less else a) if is_max else (a if a_less else b), flags


def classify(fmt, a):
    kind, negative = fmt.kind(a), bool(a & fmt.sign)
    if kind in ('quiet', 'signaling'):
        return 1 << (9 if kind == 'quiet' else 8)
    if kind == 'finite':
        kind = 'normal' if (a & ~fmt.sign) >> (fmt.p - 1) else 'subnormal'
    order = {'inf': 0, 'normal': 1, 'subnormal': 2, 'zero': 3}[kind]
    return 1 << (order if negative else 7 - order)


def samples(fmt, rng, count):
    p = fmt.p
    edges = [0, one(fmt), one(fmt) + 1, one(fmt) - 1, fmt.inf, fmt.inf - 1, fmt.nan, fmt.inf | 1, 1,
             (1 << (p - 1)) - 1, 1 << (p - 1), one(fmt) + (1 << (p - 2)), one(fmt) - (1 << (p - 1))]
    edges += [(fmt.bias + e) << (p - 1) for e in (31, 32, 63, 64, -p, p - 1)]
    for _ in range(count):
        choice = rng.random()
        if choice < 0.45:
            bits = rng.choice(edges)
        elif choice < 0.8:
            bits = (fmt.bias + rng.randint(-p - 4, p + 14)) << (p - 1) | rng.getrandbits(p - 1)
        elif choice < 0.9:
            bits = rng.randint(0, p + 5) << (p - 1) | rng.getrandbits(p - 1)
        else:
            bits = rng.getrandbits(fmt.width - 1)
        yield bits | (fmt.sign if rng.random() < 0.4 else 0)


INTS = (('w', 32, True), ('wu', 32, False), ('l', 64, True), ('lu', 64, False))
RM_NAMES = ('rne', 'rtz', 'rdn', 'rup', 'rmm')


def int_image(value, bits):
    return w(value) if bits == 32 else value & M64


def rounded(p, fmt, rng, text, model, n_operands, count=50, result=None):
    """One instruction in all modes, dynamic and static."""
    out = ', fa0, ' + ', '.join(f'fa{i}' for i in range(n_operands))
    result = result or fmt
    for _ in range(count):
        operands = list(samples(fmt, rng, n_operands))
        if n_operands > 1 and rng.random() < 0.2:
            operands[-1] = operands[0] ^ fmt.sign ^ (rng.random() < 0.5)  # cancellation
        for rm in range(5):
            bits, flags = model(*operands, rm)
            regs = [fmt.box(x) for x in operands]
            insn = text + out.replace(',', '', 1)
            p.add(f'{insn}; fmv.x.d a0, fa0', regs, result.box(bits), rm, flags)
            if rng.random() < 0.3:
                p.add(f'{insn}, {RM_NAMES[rm]}; fmv.x.d a0, fa0', regs, result.box(bits),
                      rng.choice([x for x in range(5) if x != rm]), flags)


def float_program():
    rng = random.Random(3)
    p = Program()
    for fmt in (S, D):
        x, sign = fmt.letter, fmt.sign
        rounded(p, fmt, rng, f'fadd.{x}', lambda a, b, rm: add(fmt, a, b, rm), 2)
        rounded(p, fmt, rng, f'fsub.{x}', lambda a, b, rm: sub(fmt, a, b, rm), 2)
        rounded(p, fmt, rng, f'fmul.{x}', lambda a, b, rm: mul(fmt, a, b, rm), 2)
        rounded(p, fmt, rng, f'fdiv.{x}', lambda a, b, rm: divide(fmt, a, b, rm), 2)
        rounded(p, fmt, rng, f'fsqrt.{x}', lambda a, rm: root(fmt, a, rm), 1)
        for name, flip_product, flip_addend in (('fmadd', 0, 0), ('fmsub', 0, 1),
                                                ('fnmsub', 1, 0), ('fnmadd', 1, 1)):
            rounded(p, fmt, rng, f'{name}.{x}',
                    lambda a, b, c, rm, fp=flip_product, fa=flip_addend: fma(
                        fmt, a ^ sign * fp if fmt.kind(a) not in ('quiet', 'signaling') else a, b,
                        c ^ sign * fa if fmt.kind(c) not in ('quiet', 'signaling') else c, rm), 3)
        for a, b in zip(samples(fmt, rng, 80), samples(fmt, rng, 80)):
            regs = (fmt.box(a), fmt.box(b))
            for relation in ('feq', 'flt', 'fle'):
                p.add(f'{relation}.{x} a0, fa0, fa1', regs, *swap_rm(compare(fmt, a, b, relation)))
            for is_max, name in ((False, 'fmin'), (True, 'fmax')):
                bits, flags = minmax(fmt, a, b, is_max)
                p.add(f'{name}.{x} fa0, fa0, fa1; fmv.x.d a0, fa0', regs, fmt.box(bits), 0, flags)
            for name, s in (('fsgnj', b & sign), ('fsgnjn', ~b & sign), ('fsgnjx', (a ^ b) & sign)):
                p.add(f'{name}.{x} fa0, fa0, fa1; fmv.x.d a0, fa0', regs, fmt.box(a & ~sign | s))
            p.add(f'fclass.{x} a0, fa0', regs, classify(fmt, a))
            for name, bits, is_signed in INTS:
                for rm in range(5):
                    n, flags = to_int(fmt, a, bits, is_signed, rm)
                    p.add(f'fcvt.{name}.{x} a0, fa0', regs, int_image(n, bits), rm, flags)
                    if rm == RTZ:
                        p.add(f'fcvt.{name}.{x} a0, fa0, rtz', regs, int_image(n, bits), RUP, flags)
        for name, bits, is_signed in INTS:
            for n in EDGES + [rng.getrandbits(rng.randint(1, 64)) for _ in range(20)]:
                v = signed(n, bits) if is_signed else n & ((1 << bits) - 1)
                for rm in range(5):
                    image, flags = fmt.round(Fraction(v), rm) if v else (0, 0)
                    p.add(f'fcvt.{x}.{name} fa0, a0; fmv.x.d a0, fa0', (n,), fmt.box(image), rm,
                          flags)
    def convert(source, target, a, rm):
        kind = source.kind(a)
        if kind in ('quiet', 'signaling'):
            return target.nan, NV if kind == 'signaling' else 0
        if kind in ('inf', 'zero'):
            return (target.sign if a & source.sign else 0) | (target.inf if kind == 'inf' else 0), 0
        return target.round(source.value(a), rm)
    rounded(p, D, rng, 'fcvt.s.d', lambda a, rm: convert(D, S, a, rm), 1, result=S)
    for a in samples(S, rng, 60):
        bits, flags = convert(S, D, a, RNE)
        p.add('fcvt.d.s fa0, fa0; fmv.x.d a0, fa0', (S.box(a),), bits, RUP, flags)
    # A register that is not NaN-boxed is a canonical NaN to every single-precision operation, and
    # is moved and stored as it is.
    for reg in (one(S), 0xfffffffe00000000 | one(S), one(D)):
        p.add('fadd.s fa0, fa0, fa1; fmv.x.d a0, fa0', (reg, S.box(one(S))), S.box(S.nan))
        p.add('fclass.s a0, fa0', (reg,), 1 << 9)
        p.add('fsgnj.s fa0, fa0, fa0; fmv.x.d a0, fa0', (reg,), S.box(S.nan))
        p.add('fmin.s fa0, fa0, fa1; fmv.x.d a0, fa0', (reg, S.box(one(S))), S.box(one(S)))
        p.add('fmv.x.w a0, fa0', (reg,), w(reg))
    p.add('fmv.w.x fa0, a0; fmv.x.d a0, fa0', (0x123456789abcdef0,), S.box(0x9abcdef0))
    return p


def swap_rm(result_and_flags):
    result, flags = result_and_flags
    return result, 0, flags


if __name__ == '__main__':
    group, path = sys.argv[1:]
    if group == 'integer':
        integer_program().write(path, False)
    else:
        float_program().write(path, True)
