# SPDX-License-Identifier: MIT
"""What a client on the network sees when a Debian guest moves: the largest gap between two answers
to a ping every millisecond, and the pings that were never answered."""
import statistics

from gwlab import net
from gwlab.guest import Agent, Probe
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm, wait_until

GUEST = "10.0.0.2"
MAC = "52:54:00:67:77:01"
APPEND = ("console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init "
          f"gw.ip={GUEST}/24")
ROW = "{:<28} {:>10} {:>10} {:>12} {:>10} {:>8}"


class Godwit:
    name = "godwit"

    def __init__(self, bridge, folder):
        self.bridge, self.folder, self.count = bridge, folder, 0

    def start(self, *options):
        self.count += 1
        tap = self.bridge.tap(f"gtap{self.count}")
        vm = Vm(f"g{self.count}", "--memory", "512M", "--net", f"tap,ifname={tap},mac={MAC}",
                *options, folder=self.folder)
        vm.tap = tap
        return vm

    def boot(self):
        return self.start("--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"),
                          "--append", APPEND)

    def move(self, old):
        uri = f"unix:{self.folder}/g{self.count}.sock"
        new = self.start("--incoming", uri)
        new.qmp.command("query-status")
        summary = old.migrate(uri)
        wait_until("the destination to run", lambda: new.status() == "running")
        return new, summary["blackout_ms"]


class Reference:
    name = "QEMU"

    def __init__(self, bridge, folder, downtime_limit_ms):
        self.bridge, self.folder, self.count = bridge, folder, 0
        self.limit = downtime_limit_ms
        self.name = f"QEMU, downtime-limit {downtime_limit_ms} ms"

    def start(self, incoming):
        self.count += 1
        tap = self.bridge.tap(f"q{self.limit}tap{self.count}")
        vm = Qemu(f"q{self.limit}-{self.count}", "-kernel", part("GODWIT_KERNEL"), "-initrd",
                  part("GODWIT_INITRD"), "-append", APPEND, "-netdev",
                  f"tap,id=n0,ifname={tap},script=no,downscript=no", "-device",
                  f"virtio-net-pci,netdev=n0,mac={MAC}", folder=self.folder, incoming=incoming)
        vm.tap = tap
        vm.qmp.command("query-status")
        return vm

    def boot(self):
        return self.start(False)

    def move(self, old):
        uri = f"unix:{self.folder}/q{self.limit}-{self.count}.sock"
        new = self.start(True)
        old.parameters(max_bandwidth=10**11, downtime_limit=self.limit)
        new.listen(uri)
        return new, old.move(uri, new)["downtime"]


def moves(side, repeat):
    current = side.boot()
    try:
        current.wait_console("GODWIT-NET-UP", 120)
        Agent(GUEST).close()
        probe = Probe(GUEST)
        probe.settle()
        probe.mark("before")
        probe.settle()
        quiet = probe.mark("quiet")["largest_gap_ms"]
        gaps, lost, own = [], [], []
        for _ in range(repeat):
            old = current
            current, blackout_ms = side.move(old)
            probe.settle()
            seen = probe.mark("move")
            old.close()
            net.ip("link", "delete", old.tap)
            gaps.append(seen["largest_gap_ms"])
            lost.append(seen["lost"])
            own.append(blackout_ms)
        probe.close()
        return {"gaps_ms": gaps, "lost": lost, "reported_ms": own, "quiet_gap_ms": quiet}
    finally:
        current.close()


def measure(folder, repeat):
    bridge = net.Bridge()
    results = {}
    print(ROW.format("idle guest", "gap p50", "gap max", "reported p50", "quiet gap", "lost"))
    for side in (Godwit(bridge, folder), Reference(bridge, folder, 300),
                 Reference(bridge, folder, 10)):
        found = moves(side, repeat or 10)
        results[side.name] = found
        print(ROW.format(side.name, f"{statistics.median(found['gaps_ms']):.1f} ms",
                         f"{max(found['gaps_ms']):.1f} ms",
                         f"{statistics.median(found['reported_ms']):.1f} ms",
                         f"{found['quiet_gap_ms']:.1f} ms", sum(found["lost"])), flush=True)
    return results
