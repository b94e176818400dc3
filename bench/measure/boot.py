# SPDX-License-Identifier: MIT
"""Time from starting the process to the first line of the guest's init, stock Debian kernel."""
import statistics
import time

from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm

CASES = {"plain": "console=ttyS0",
         "no self-tests": "console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init"}
ROW = "{:<16} {:>9} {:>9} {:>9}"


def seconds_to_init(start):
    begin = time.monotonic()
    with start() as vm:
        vm.wait_console("GODWIT-INIT-UP", 120)
        return time.monotonic() - begin


def measure(folder, repeat):
    results = {}
    kernel, initrd = part("GODWIT_KERNEL"), part("GODWIT_INITRD")
    print(ROW.format("command line", "godwit", "QEMU", "of QEMU"))
    for name, append in CASES.items():
        ours, theirs = [], []
        for number in range(repeat or 3):
            ours.append(seconds_to_init(lambda: Vm(
                f"g{number}", "--memory", "512M", "--kernel", kernel, "--initrd", initrd,
                "--append", append, folder=folder)))
            theirs.append(seconds_to_init(lambda: Qemu(
                f"q{number}", "-kernel", kernel, "-initrd", initrd, "-append", append,
                folder=folder)))
            for label in ("g", "q"):
                with open(f"{folder}/{label}{number}.console", "w"):
                    pass
        a, b = statistics.median(ours), statistics.median(theirs)
        results[name] = {"seconds": ours, "qemu_seconds": theirs, "of_qemu": b / a}
        print(ROW.format(name, f"{a:.2f} s", f"{b:.2f} s", f"{b / a:.2f}"), flush=True)
    return results
