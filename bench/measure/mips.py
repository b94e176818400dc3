# SPDX-License-Identifier: MIT
"""Instructions per second of one software hart, and time beside QEMU TCG with the same program.

The instruction count is ours; QEMU's is not a count, so the ratio is one of times."""
import os
import re

from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm

LINE = re.compile(r"mips: (\w+) instret (\d+) us (\d+) mips \d+(?: sum (\w+))?")
ROW = "{:<10} {:>10} {:>9} {:>9} {:>10}"


def sections(vm):
    """{kernel: (instructions, seconds, checksum)} from a run to its end."""
    with vm:
        vm.wait_exit(300)
        return {m.group(1): (int(m.group(2)), int(m.group(3)) / 1e6, m.group(4))
                for m in LINE.finditer(vm.console())}


def measure(folder, repeat):
    program = os.path.join(part("GODWIT_BARE"), "mips.elf")
    runs = {"godwit": [], "qemu": []}
    for number in range(repeat or 3):
        runs["godwit"].append(sections(
            Vm(f"g{number}", "--bios", "none", "--kernel", program, "--memory", "64M",
               folder=folder)))
        runs["qemu"].append(sections(
            Qemu(f"q{number}", "-bios", "none", "-kernel", program, memory="64M", folder=folder)))
    results = {}
    print(ROW.format("kernel", "M instr", "MIPS", "QEMU time", "of QEMU"))
    for name in runs["godwit"][0]:
        count, _, checksum = runs["godwit"][0][name]
        ours = min(run[name][1] for run in runs["godwit"])
        theirs = min(run[name][1] for run in runs["qemu"])
        results[name] = {"instructions": count, "seconds": ours, "qemu_seconds": theirs,
                         "mips": count / ours / 1e6, "of_qemu": theirs / ours,
                         "same_result": checksum == runs["qemu"][0][name][2]}
        print(ROW.format(name, f"{count / 1e6:.0f}", f"{results[name]['mips']:.0f}",
                         f"{theirs:.2f} s", f"{theirs / ours:.2f}"), flush=True)
    return results
