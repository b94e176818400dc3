# SPDX-License-Identifier: MIT
"""Machine pc beside QEMU's q35, both on the same KVM with the same kernel, initramfs and load: boot to
init, largest gap of an outside probe when the guest moves, total time of the move. Where this host's
KVM runs no stock kernel it wants the laboratory (scripts/lab bench), in which only the ratios count."""
import os
import statistics
import time

from gwlab import kvm, labhost, net
from gwlab.guest import Agent, Probe
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm, wait_until

GUEST, MAC = "10.0.0.2", "52:54:00:67:77:01"
APPEND = f"console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init gw.ip={GUEST}/24"
MEMORY = "192M"
BLACKOUT_MS = 300  # the limit of both
# In the laboratory a ping every millisecond would be all the host does.
IN_LAB = bool(os.environ.get("GODWIT_LAB_HOST"))
LOAD, PROBE_US, WAIT_S = ("4@1", 20000, 900) if IN_LAB else ("64@50", 1000, 120)
ROW = "{:<34} {:>12} {:>12} {:>9}"


class Side:
    """What the two machines have in common: a TAP for each process, and the moves' names."""

    def __init__(self, bridge, folder):
        self.bridge, self.folder, self.count = bridge, folder, 0

    def tap(self):
        self.count += 1
        return self.bridge.tap(f"{self.letter}tap{self.count}")

    def uri(self):
        return f"unix:{self.folder}/{self.letter}{self.count}.sock"

    def boot(self):
        return self.start("-kernel", part("GODWIT_PC_KERNEL"), "-initrd", part("GODWIT_PC_INITRD"),
                          "-append", APPEND)


class Godwit(Side):
    letter = "g"

    def start(self, *options):
        tap = self.tap()
        return Vm(f"g{self.count}", "--machine", "pc", "--memory", MEMORY,
                  "--net", f"tap,ifname={tap},mac={MAC}",
                  *(f"-{word}" if word[0] == "-" else word for word in options), folder=self.folder)

    def move(self, old):
        """Returns the destination and the move's total time in ms."""
        uri = self.uri()
        new = self.start("-incoming", uri)
        wait_until("the destination to listen", new.status, WAIT_S)
        summary = old.migrate(uri, "--max-blackout", f"{BLACKOUT_MS}ms", timeout=WAIT_S)
        wait_until("the destination to run", lambda: new.status() == "running", WAIT_S)
        return new, summary["total_ms"]


class Reference(Side):
    letter = "q"

    def start(self, *options, incoming=False):
        tap = self.tap()
        return Qemu(f"q{self.count}", "-cpu", "host", *options, "-netdev",
                    f"tap,id=n0,ifname={tap},script=no,downscript=no", "-device",
                    f"virtio-net-pci,netdev=n0,mac={MAC},romfile=", folder=self.folder, memory=MEMORY,
                    incoming=incoming, machine="q35,accel=kvm",
                    program=labhost.emulator(part("GODWIT_LAB_QEMU")))

    def move(self, old):
        uri = self.uri()
        new = self.start(incoming=True)
        old.parameters(max_bandwidth=10**11, downtime_limit=BLACKOUT_MS)
        new.listen(uri)
        return new, old.move(uri, new, timeout=WAIT_S)["total-time"]


def boots(side, repeat):
    seconds = []
    for _ in range(repeat):
        begin = time.monotonic()
        with side.boot() as vm:
            vm.wait_console("GODWIT-INIT-UP", WAIT_S)
            seconds.append(time.monotonic() - begin)
    return seconds


def moves(side, repeat):
    current = side.boot()
    try:
        current.wait_console("GODWIT-READY", WAIT_S)
        agent = Agent(GUEST, timeout=WAIT_S)
        agent.ask(f"dirty {LOAD}")
        agent.close()
        probe = Probe(GUEST, PROBE_US)
        probe.settle()
        probe.mark("before")
        gaps, totals = [], []
        for _ in range(repeat):
            old = current
            current, total_ms = side.move(old)
            probe.settle()
            gaps.append(probe.mark("move")["largest_gap_ms"])
            totals.append(total_ms)
            old.close()
        probe.close()
        return gaps, totals
    finally:
        current.close()


def measure(folder, repeat):
    if why := kvm.why_no_linux():
        print(f"left out: {why}; scripts/lab bench measures it in the laboratory")
        return {"left_out": why}
    bridge = net.Bridge()
    sides = (Godwit(bridge, folder), Reference(bridge, folder))
    found = {}
    for side in sides:
        seconds = boots(side, min(repeat or 3, 5))
        gaps, totals = moves(side, repeat or 5)
        found[side.letter] = {"boot_s": seconds, "gap_ms": gaps, "total_ms": totals}
    print(ROW.format("medians", "godwit", "QEMU q35", "of QEMU's"))
    for key, text in (("boot_s", "start to init, s"), ("gap_ms", "largest gap of a probe, ms"),
                      ("total_ms", "total time of a move, ms")):
        ours, theirs = (statistics.median(found[letter][key]) for letter in "gq")
        found[f"{key}_of_qemu"] = ours / theirs
        print(ROW.format(text, f"{ours:.2f}", f"{theirs:.2f}", f"{ours / theirs:.2f}"), flush=True)
    return found
