# SPDX-License-Identifier: MIT
"""Moves between two processes of one host, for guests of 1, 4 and 8 GiB full of random data: the
blackout when the memory changes hands, beside copying it, beside QEMU's copy and cpr-transfer."""
import os
import statistics

from gwlab import LabError
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm, wait_until

SIZES_MIB = (1024, 4096, 8192)
SPARE_MIB = 64  # of the guest's memory, not filled
HOST_SPARE_MIB = 3072
ROW = "{:<28} {:>8} {:>12} {:>12} {:>10} {:>12}"


def payload():
    return os.path.join(part("GODWIT_BARE"), "memtick.elf")


def append(mib):
    return f"mib={mib - SPARE_MIB} rate=1 fill=random"


def available_mib():
    with open("/proc/meminfo") as file:
        facts = dict(line.split(":") for line in file)
    return int(facts["MemAvailable"].split()[0]) // 1024


def memory_mib(*processes):
    """What the memory files of these processes hold together, each file once."""
    held = {}
    for process in processes:
        folder = f"/proc/{process.pid}/fd"
        for fd in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{fd}").startswith("/memfd:"):
                    stat = os.stat(f"{folder}/{fd}")
                    held[stat.st_ino] = stat.st_blocks * 512
            except FileNotFoundError:
                pass
    return sum(held.values()) >> 20


class Godwit:
    def __init__(self, folder, mib, ram):
        self.folder, self.mib, self.ram, self.count = folder, mib, ram, 0
        self.name = f"godwit, {ram}"

    def start(self, *options):
        self.count += 1
        return Vm(f"g{self.count}", "--bios", "none", "--memory", f"{self.mib}M", *options,
                  folder=self.folder)

    def boot(self):
        return self.start("--kernel", payload(), "--append", append(self.mib))

    def move(self, old):
        uri = f"unix:{self.folder}/move{self.count}.sock"
        new = self.start("--incoming", uri)
        new.qmp.command("query-status")
        summary = old.migrate(uri, ram=self.ram)
        wait_until("the destination to run", lambda: new.status() == "running")
        assert summary["migration"]["ram"]["shared"] is (self.ram == "share")
        return new, summary["blackout_ms"], summary["total_ms"]


class Reference:
    """QEMU; cpr: its mode cpr-transfer, in which the destination takes the memory over."""

    def __init__(self, folder, mib, is_cpr):
        self.folder, self.mib, self.is_cpr, self.count = folder, mib, is_cpr, 0
        self.name = "QEMU, cpr-transfer" if is_cpr else "QEMU, copy"

    def path(self, kind):
        return f"{self.folder}/q{self.mib}-{self.count}.{kind}"

    def start(self, *options, incoming=False):
        more = ("-machine", "aux-ram-share=on") if self.is_cpr else ()
        return Qemu(f"q{self.mib}-{self.is_cpr}-{self.count}", "-bios", "none", *more, *options,
                    memory=f"{self.mib}M", folder=self.folder, incoming=incoming)

    def boot(self):
        return self.start("-kernel", payload(), "-append", append(self.mib))

    @staticmethod
    def channel(kind, path):
        return {"channel-type": kind,
                "addr": {"transport": "socket", "type": "unix", "path": path}}

    def move(self, old):
        self.count += 1
        old.parameters(max_bandwidth=10**11, downtime_limit=300)
        if not self.is_cpr:
            new = self.start(incoming=True)
            new.listen(f"unix:{self.path('sock')}")
            info = old.move(f"unix:{self.path('sock')}", new)
            return new, info["downtime"], info["total-time"]
        # The destination listens for its memory before it has a monitor.
        new = self.start("-incoming", f"unix:{self.path('sock')}", "-incoming",
                         '{"channel-type":"cpr","addr":{"transport":"socket","type":"unix",'
                         f'"path":"{self.path("cpr")}"}}}}')
        wait_until("QEMU's destination to listen",
                   lambda: os.path.exists(self.path("cpr")) or not new.is_alive())
        old.parameters(mode="cpr-transfer")
        old.qmp.command("migrate", channels=[self.channel("main", self.path("sock")),
                                             self.channel("cpr", self.path("cpr"))])

        def look():
            info = old.qmp.command("query-migrate")
            if info.get("status") == "failed":
                raise LabError(f"QEMU's cpr-transfer failed: {info.get('error-desc')}")
            return info if info.get("status") == "completed" else None
        info = wait_until("QEMU's cpr-transfer", look, 120)
        wait_until("QEMU's destination to run",
                   lambda: new.qmp.command("query-status")["status"] == "running")
        return new, info["downtime"], info["total-time"]


def moves(side, repeat):
    current = side.boot()
    try:
        current.wait_console(r"tick \d+ pass", 600)
        blackouts, totals, growth = [], [], []
        for _ in range(repeat):
            before = memory_mib(current)
            old, (current, blackout_ms, total_ms) = current, side.move(current)
            growth.append(memory_mib(old, current) - before)
            old.close()
            blackouts.append(blackout_ms)
            totals.append(total_ms)
        return {"blackout_ms": blackouts, "total_ms": totals, "growth_mib": growth}
    finally:
        current.close()


def measure(folder, repeat):
    results = {}
    print(ROW.format("", "GiB", "blackout p50", "blackout max", "total p50", "growth MiB"))
    for mib in SIZES_MIB:
        sides = [(Godwit(folder, mib, "share"), 1), (Reference(folder, mib, True), 1),
                 (Godwit(folder, mib, "copy"), 2), (Reference(folder, mib, False), 2)]
        for side, copies in sides:
            name = f"{side.name}, {mib // 1024} GiB"
            if available_mib() < copies * mib + HOST_SPARE_MIB:
                print(ROW.format(side.name, mib // 1024, "no memory for it", "", "", ""))
                continue
            own = os.path.join(folder, name.replace(" ", "-").replace(",", ""))
            os.mkdir(own)
            side.folder = own
            try:
                found = moves(side, (repeat or 5) if copies == 1 else min(repeat or 3, 3))
            except (LabError, OSError) as error:
                results[name] = {"error": str(error)}
                print(ROW.format(side.name, mib // 1024, "failed", "", "", ""), error, flush=True)
                continue
            results[name] = found
            print(ROW.format(side.name, mib // 1024,
                             f"{statistics.median(found['blackout_ms']):.2f} ms",
                             f"{max(found['blackout_ms']):.2f} ms",
                             f"{statistics.median(found['total_ms']):.0f} ms",
                             f"{max(found['growth_mib'])}"), flush=True)
    return results
