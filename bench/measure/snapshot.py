# SPDX-License-Identifier: MIT
"""Saving and restoring a bare-metal guest with 2 GiB of random data, beside QEMU's mapped-ram files
and dd; the blackout of a live save; how long until a restored guest runs."""
import json
import os
import statistics
import subprocess
import time

from gwlab import LabError
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm, wait_until

MIB = 2048
MEMORY = "2304M"
OPTIONS = ("--bios", "none", "--memory", MEMORY)
ROW = "{:<44} {:>9} {:>9} {:>9}"


def payload():
    return os.path.join(part("GODWIT_BARE"), "memtick.elf")


def forget(path):
    """The file is on the disk, and nowhere else."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(command):
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


def dd_write(source, to, direct):
    timed(["cat", source])  # from the page cache: only the writing counts
    return timed(["dd", f"if={source}", f"of={to}", "bs=1M", "conv=fsync",
                  *(["oflag=direct"] if direct else [])])


def dd_read(path, direct):
    forget(path)
    return timed(["dd", f"if={path}", "of=/dev/null", "bs=1M", *(["iflag=direct"] if direct else [])])


def save(vm, path, *options):
    done = vm.godwit("save", path, "--json", *options)
    return json.loads(done.stdout.strip().splitlines()[-1])


def restore(folder, path, *options):
    """Seconds to the first guest instruction, and to the last page; CPU seconds."""
    forget(path)
    start = time.monotonic()
    with Vm("again", *OPTIONS, "--restore", path, *options, folder=folder) as vm:
        wait_until("the guest to run", lambda: vm.status() == "running", 120, 0.001)
        runs = time.monotonic() - start
        wait_until("all pages", lambda: vm.migration()["missing-bytes"] == 0, 120, 0.002)
        whole = time.monotonic() - start
        position = len(vm.console())
        vm.wait_console(r"tick \d+ pass", 120, start=position)
        return runs, whole, vm.cpu_seconds()


def qemu(folder, path, direct):
    """mapped-ram with two channels: seconds to save and to restore; None where QEMU cannot."""
    def set_up(vm):
        vm.capabilities(mapped_ram=True, multifd=True)
        vm.parameters(max_bandwidth=10**11, multifd_channels=2)
        if direct:
            vm.parameters(direct_io=True)
    with Qemu("qsrc", "-bios", "none", "-kernel", payload(), "-append",
              f"mib={MIB} rate=1 fill=random", memory=MEMORY, folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 240)
        set_up(source)
        source.qmp.command("stop")
        start = time.monotonic()
        source.qmp.command("migrate", uri=f"file:{path}")
        wait_until("QEMU's file", lambda: status(source) == "completed", 240, 0.005)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        saved = time.monotonic() - start
    forget(path)
    start = time.monotonic()
    with Qemu("qdst", "-bios", "none", memory=MEMORY, folder=folder, incoming=True) as destination:
        set_up(destination)
        destination.listen(f"file:{path}")
        wait_until("QEMU's guest", lambda: status(destination) == "completed", 240, 0.001)
        restored = time.monotonic() - start
    return saved, restored


def status(vm):
    found = vm.qmp.command("query-migrate").get("status")
    if found == "failed":
        raise LabError(f"QEMU: {vm.qmp.command('query-migrate').get('error-desc')}")
    return found


def put(results, name, seconds, reference=None):
    results[name] = seconds
    rate = f"{MIB / 1024 / seconds:.2f}"
    ratio = f"{seconds / reference:.2f}" if reference else ""
    print(ROW.format(name, f"{seconds:.3f}", rate, ratio), flush=True)


def measure(folder, repeat):
    repeat = repeat or 1
    path, other = os.path.join(folder, "guest.gw"), os.path.join(folder, "copy")
    results, live = {}, {}
    print(ROW.format("", "seconds", "GiB/s", "of dd"))
    with Vm("src", *OPTIONS, "--kernel", payload(), "--append", f"mib={MIB} rate=1 fill=random",
            folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 240)
        saves = [save(source, path) for _ in range(repeat)]
        writes = {d: min(dd_write(path, other, d) for _ in range(repeat)) for d in (True, False)}
        put(results, "dd to the disk, direct", writes[True], writes[True])
        put(results, "dd to the disk, page cache and fsync", writes[False], writes[True])
        put(results, "godwit save", min(s["total_ms"] for s in saves) / 1e3, writes[True])
        lives = [save(source, path, "--live") for _ in range(max(repeat, 3))]
        put(results, "godwit save --live, 1 MiB/s dirty", min(s["total_ms"] for s in lives) / 1e3,
            writes[True])
        live["idle_blackout_ms"] = [s["blackout_ms"] for s in lives]
    os.unlink(other)
    reads = {d: min(dd_read(path, d) for _ in range(repeat)) for d in (True, False)}
    put(results, "dd from the disk, direct", reads[True], reads[True])
    put(results, "dd from the disk, page cache", reads[False], reads[True])
    eager = [restore(folder, path) for _ in range(repeat)]
    put(results, "godwit run --restore: first instruction", min(e[0] for e in eager), reads[True])
    lazy = [restore(folder, path, "--lazy") for _ in range(repeat)]
    put(results, "godwit run --restore --lazy: first instruction", min(e[0] for e in lazy),
        reads[True])
    put(results, "godwit run --restore --lazy: last page", min(e[1] for e in lazy), reads[True])
    os.unlink(path)
    with Vm("src", *OPTIONS, "--kernel", payload(), "--append", "mib=1024 rate=200 fill=random",
            folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 240)
        lives = [save(source, path, "--live") for _ in range(max(repeat, 3))]
        live["dirty_200_blackout_ms"] = [s["blackout_ms"] for s in lives]
        live["dirty_200_caught_mib"] = [s["migration"].get("chunks-caught") for s in lives]
        os.unlink(path)
    for direct in (True, False):
        name = f"QEMU mapped-ram, multifd 2{', direct' if direct else ''}"
        try:
            saved, restored = qemu(folder, path, direct)
        except (LabError, OSError) as error:
            print(f"  {name}: {error}")
            continue
        put(results, f"{name}: save", saved, writes[True])
        put(results, f"{name}: restore", restored, reads[True])
        os.unlink(path)
    print(f"  blackout of a live save: {statistics.median(live['idle_blackout_ms']):.2f} ms idle, "
          f"{statistics.median(live['dirty_200_blackout_ms']):.2f} ms at 200 MiB/s")
    return {"mib": MIB, "seconds": results, "live": live}
