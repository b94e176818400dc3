# SPDX-License-Identifier: MIT
"""Tiny M-mode programs, assembled here: the smallest guests there are."""
import struct

TEST_FINISHER = 0x100000
UART = 0x10000000


def lui(rd, value):
    """rd = value, sign-extended: one or two instructions."""
    low = ((value & 0xfff) ^ 0x800) - 0x800
    high = (value - low) & 0xfffff000
    return [high | rd << 7 | 0x37, (low & 0xfff) << 20 | rd << 15 | rd << 7 | 0x1b]


def store(rs2, rs1, width=2):
    return [rs2 << 20 | rs1 << 15 | width << 12 | 0x23]


WFI_FOREVER = [0x10500073, 0xffdff06f]
SPIN_FOREVER = [0x0000006f]


def finish(value):
    """Writes a value to the test finisher, then waits."""
    return lui(5, TEST_FINISHER) + lui(6, value) + store(6, 5) + WFI_FOREVER


def say(text):
    code = lui(5, UART)
    for character in text:
        code += lui(6, ord(character)) + store(6, 5, width=0)
    return code


def write(path, instructions):
    path.write_bytes(b"".join(struct.pack("<I", word) for word in instructions))
    return path


def options(path, memory="64M", cpus=1):
    return ("--machine", "virt", "--bios", "none", "--kernel", path, "--memory", memory, "--cpus", cpus)
