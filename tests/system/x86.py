# SPDX-License-Identifier: MIT
"""Bare-metal programs for machine pc, assembled with the host's own assembler."""
import subprocess

OPTIONS = ("--machine", "pc", "--memory", "64M")
ROM_BYTES = 0x10000

# What every program may use: ports by name, text on the serial port, the way out.
PRELUDE = """
.set UART, 0x3f8
.set RESET, 0x64
.set CMOS, 0x70
.set PM1_STATUS, 0x600
.set PM1_ENABLE, 0x602
.set PM1_CONTROL, 0x604
.macro say character
    mov $UART, %dx
    mov $\\character, %al
    out %al, %dx
.endm
.macro power_off
    mov $PM1_CONTROL, %dx
    mov $(5 << 10 | 1 << 13), %ax
    out %ax, %dx
1:  hlt
    jmp 1b
.endm
"""


def assemble(folder, name, text):
    source, code, program = (folder / f"{name}.{end}" for end in ("s", "o", "bin"))
    source.write_text(PRELUDE + text)
    subprocess.run(["as", "--64", "-o", code, source], check=True)
    subprocess.run(["ld", "-m", "elf_x86_64", "-Ttext", "0x100000", "--oformat", "binary",
                    "-e", "0x100000", "-o", program, code], check=True)
    return program


def firmware(folder, name, text):
    """A ROM image that begins with text's code in real mode."""
    code = assemble(folder, name, ".code16\n" + text).read_bytes()
    image = bytearray(ROM_BYTES)
    image[:len(code)] = code
    # The first instruction after power-on: a jump to the start of the segment.
    image[-16:-13] = b"\xe9" + ((0x10000 - (ROM_BYTES - 16 + 3)) & 0xffff).to_bytes(2, "little")
    path = folder / f"{name}.rom"
    path.write_bytes(image)
    return path
