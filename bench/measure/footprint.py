# SPDX-License-Identifier: MIT
"""Memory of the VMM beyond guest RAM, at both ends, during and after a move of a 4 GiB guest."""
import os
import threading

from gwlab import net
from gwlab.parts import part
from gwlab.vm import Vm

OPTIONS = ["--bios", "none", "--memory", "4G"]
ROW = "{:<24} {:>14}"


def private_mib(vm):
    """Anonymous memory and private file pages, summed over the mappings that are not the memfd."""
    total = 0
    is_guest = False
    with open(f"/proc/{vm.pid}/smaps") as file:
        for line in file:
            if line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
                is_guest = "memfd:" in line
            elif line.startswith("Rss:") and not is_guest:
                total += int(line.split()[1])
    return total / 1024


def measure(folder, repeat):
    net.ip("link", "set", "lo", "up")
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    payload = os.path.join(part("GODWIT_BARE"), "memtick.elf")
    peak = {"source": 0.0, "destination": 0.0}
    stop = threading.Event()
    with Vm("src", *OPTIONS, "--kernel", payload, "--append", "mib=3800 rate=50 fill=random",
            folder=folder) as source, \
            Vm("dst", *OPTIONS, "--incoming", uri, folder=folder) as destination:
        source.wait_console(r"tick \d+ pass", 240)

        def watch():
            while not stop.wait(0.02):
                for name, vm in (("source", source), ("destination", destination)):
                    peak[name] = max(peak[name], private_mib(vm))
        watcher = threading.Thread(target=watch)
        watcher.start()
        source.migrate(uri)
        stop.set()
        watcher.join()
    print(ROW.format("peak beyond guest RAM", "MiB"))
    for name, mib in peak.items():
        print(ROW.format(name, f"{mib:.1f}"))
    return {"guest_mib": 4096, "peak_mib": peak}
