# SPDX-License-Identifier: MIT
"""What a client on the network sees when a Debian guest moves: the largest gap between two answers
to a ping every millisecond, the pings that were never answered, beside what the VMM itself says; for
an idle guest and for guests that dirty their memory. Then a flood of pings through moves."""
import statistics
import time

from gwlab import LabError, net
from gwlab.flood import Flood
from gwlab.guest import Agent, Probe
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm, wait_until

GUEST = "10.0.0.2"
MAC = "52:54:00:67:77:01"
APPEND = ("console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init "
          f"gw.ip={GUEST}/24")
MEMORY = "1G"
# name, what the guest's dirtier is told (MiB, MiB/s), target of the largest gap in ms
LOADS = (("idle", None, 5), ("50 MiB/s of 64 MiB", "64@50", 8),
         ("200 MiB/s of 512 MiB", "512@200", 25))
CONVERGE_S = 10  # then QEMU is given twice the downtime limit
FLOOD_PER_S, FLOOD_MOVES = 2000, 20
ROW = "{:<22} {:<8} {:>9} {:>9} {:>9} {:>11} {:>9} {:>6}"


class Godwit:
    name = "godwit"

    def __init__(self, bridge, folder):
        self.bridge, self.folder, self.count = bridge, folder, 0

    def start(self, *options):
        self.count += 1
        tap = self.bridge.tap(f"gtap{self.count}")
        vm = Vm(f"g{self.count}", "--memory", MEMORY, "--net", f"tap,ifname={tap},mac={MAC}",
                *options, folder=self.folder)
        vm.tap = tap
        return vm

    def boot(self):
        return self.start("--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"),
                          "--append", APPEND)

    def move(self, old):
        uri = f"tcp:127.0.0.1:{net.free_port()}"
        new = self.start("--incoming", uri)
        new.qmp.command("query-status")
        summary = old.migrate(uri)
        wait_until("the destination to run", lambda: new.status() == "running")
        return new, summary["blackout_ms"]


class Reference:
    name = "QEMU"

    def __init__(self, bridge, folder):
        self.bridge, self.folder, self.count = bridge, folder, 0
        self.limits = []

    def start(self, incoming):
        self.count += 1
        tap = self.bridge.tap(f"qtap{self.count}")
        vm = Qemu(f"q{self.count}", "-kernel", part("GODWIT_KERNEL"), "-initrd",
                  part("GODWIT_INITRD"), "-append", APPEND, "-netdev",
                  f"tap,id=n0,ifname={tap},script=no,downscript=no", "-device",
                  f"virtio-net-pci,netdev=n0,mac={MAC}", folder=self.folder, incoming=incoming,
                  memory=MEMORY)
        vm.tap = tap
        vm.qmp.command("query-status")
        return vm

    def boot(self):
        return self.start(False)

    def move(self, old):
        """With the lowest downtime limit with which it ends, found by doubling it."""
        uri = f"tcp:127.0.0.1:{net.free_port()}"
        new = self.start(True)
        limit, since = 10, time.monotonic()
        old.parameters(max_bandwidth=10**11, downtime_limit=limit)
        new.listen(uri)
        old.qmp.command("migrate", uri=uri)
        while (info := old.qmp.command("query-migrate"))["status"] != "completed":
            if info["status"] == "failed" or limit > 10000:
                raise LabError(f"QEMU's migration: {info}")
            if time.monotonic() - since > CONVERGE_S:
                limit, since = 2 * limit, time.monotonic()
                old.parameters(downtime_limit=limit)
            time.sleep(0.02)
        wait_until("QEMU's destination to run",
                   lambda: new.qmp.command("query-status")["status"] == "running")
        self.limits.append(limit)
        return new, info["downtime"]


def moves(side, load, repeat):
    current = side.boot()
    try:
        current.wait_console("GODWIT-NET-UP", 120)
        agent = Agent(GUEST)
        if load:
            agent.ask(f"dirty {load}")
        agent.close()
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


def flood(side, n_moves):
    current = side.boot()
    try:
        current.wait_console("GODWIT-NET-UP", 120)
        pings = Flood(GUEST, FLOOD_PER_S)
        pings.start()
        for _ in range(n_moves):
            old = current
            current, _ = side.move(old)
            old.close()
            net.ip("link", "delete", old.tap)
        pings.end()
        found = pings.verdict()
        return {"sent": found["sent"], "lost": len(found["lost"]), "twice": found["twice"],
                "out_of_order": found["out_of_order"]}
    finally:
        current.close()


def measure(folder, repeat):
    bridge = net.Bridge()
    sides = (Godwit(bridge, folder), Reference(bridge, folder))
    results = {}
    print(ROW.format("guest", "", "gap p50", "gap max", "reported", "difference", "quiet", "lost"))
    for name, load, target_ms in LOADS:
        medians = {}
        for side in sides:
            found = moves(side, load, repeat or 10)
            results[f"{side.name}, {name}"] = found
            medians[side.name] = gap = statistics.median(found["gaps_ms"])
            difference = statistics.median(
                g - r for g, r in zip(found["gaps_ms"], found["reported_ms"]))
            print(ROW.format(name, side.name, f"{gap:.1f} ms", f"{max(found['gaps_ms']):.1f} ms",
                             f"{statistics.median(found['reported_ms']):.1f} ms",
                             f"{difference:.1f} ms", f"{found['quiet_gap_ms']:.1f} ms",
                             sum(found["lost"])), flush=True)
        ours, theirs = medians[Godwit.name], medians[Reference.name]
        print(f"  target {target_ms} ms and a quarter of QEMU's: "
              f"{'met' if ours <= target_ms else 'missed'}, {ours / theirs:.2f} of QEMU's "
              f"(downtime limits {sorted(set(sides[1].limits))} ms)", flush=True)
        sides[1].limits.clear()
    for side in sides:
        found = results[f"{side.name}, flood"] = flood(side, repeat or FLOOD_MOVES)
        print(f"up to {FLOOD_PER_S} pings/s through {repeat or FLOOD_MOVES} moves, {side.name}: "
              f"{found['lost']} of {found['sent']} lost, {found['twice']} answered twice, "
              f"{found['out_of_order']} out of order", flush=True)
    return results
