# SPDX-License-Identifier: MIT
"""What may hang in the blackout, and a link that is too slow for the guest: the guest goes on."""
import os
import re
import shutil
import subprocess
import threading

import pytest

from gwlab import PATIENCE_S
from gwlab.guest import Agent
from gwlab.net import free_port
from gwlab.vm import wait_until
from test_linux import BOOT_S, boot
from test_migrate import check_ledger, memtick, mover, wait_ticks  # noqa: F401 (a fixture)

STALL_MS = 4000
FIRST_BACKOFF_NS = 100_000_000  # src/migrate/predict.h; doubles with each attempt
NS_PER_S = 1_000_000_000


def make_disk(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def test_a_flush_that_hangs_puts_the_switchover_off(start_vm, mover, tmp_path):  # noqa: F811
    disk = make_disk(tmp_path)
    vm = start_vm("a", *memtick("mib=16 rate=50"), "--disk",
                  f"{disk},fault=stall@flush=0@ms={STALL_MS}")
    wait_ticks(vm)
    new, summary = mover.move(vm, "--max-blackout", "300ms", like=(
        "--bios", "none", "--memory", "64M", "--disk", disk))
    attempts = summary["ledger"]["attempts"]
    failed, last = attempts[:-1], attempts[-1]
    assert summary["failed_attempts"] == len(failed)
    assert last["handed-over"] and not any(a["handed-over"] for a in failed)
    # A host that is busy with something else may make others overrun.
    hung = [a for a in failed if "flush" in a["reason"] and "virtio-blk/0" in a["reason"]]
    assert len(hung) >= 2, "the flush hung for longer than two attempts with their back-off"
    assert not any("flush" in a["reason"] for a in failed if a not in hung)
    for attempt in failed:
        assert attempt["blackout-ns"] < STALL_MS * 1_000_000, "the guest waited for the disk"
        top = [p for p in attempt["phases"] if p["depth"] == 0]
        assert sum(p["length-ns"] for p in top) == attempt["blackout-ns"]
    for i, (one, two) in enumerate(zip(attempts, attempts[1:])):
        pause = two["start-real-ns"] - one["start-real-ns"] - one["blackout-ns"]
        # Start and length are read from two clocks, one after the other.
        assert pause >= 0.9 * (FIRST_BACKOFF_NS << i), "the back-off does not grow"
    wait_ticks(new)


def test_a_flush_that_fails_puts_the_switchover_off(start_vm, mover, tmp_path):  # noqa: F811
    disk = make_disk(tmp_path)
    vm = start_vm("a", *memtick("mib=16 rate=50"), "--disk", f"{disk},fault=fail@flush=0@times=3")
    wait_ticks(vm)
    new, summary = mover.move(vm, like=("--bios", "none", "--memory", "64M", "--disk", disk))
    reasons = [a["reason"] for a in summary["ledger"]["attempts"]]
    assert len([reason for reason in reasons if "Input/output error" in reason]) == 3
    assert reasons[-1] == ""
    wait_ticks(new)


def test_a_guest_whose_disk_hangs_goes_on_and_can_be_cancelled(start_vm, mover,  # noqa: F811
                                                               tmp_path):
    disk = make_disk(tmp_path)
    vm = start_vm("a", *memtick("mib=16 rate=50"), "--disk",
                  f"{disk},fault=stall@flush=0@ms=3600000")
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--disk", disk)
    vm.qmp.command("migrate", uri=new.uri)
    wait_until("three attempts", lambda: vm.migration()["failed-attempts"] >= 3)
    position = len(vm.console())
    wait_ticks(vm, start=position)
    assert vm.migration()["state"] in ("rounds", "blackout")
    vm.qmp.command("migrate_cancel")
    wait_until("the end", lambda: vm.migration()["status"] == "cancelled")
    position = len(vm.console())
    wait_ticks(vm, start=position)
    assert len(vm.ledger()["attempts"]) >= 3


def test_a_write_of_the_guest_that_hangs_puts_the_switchover_off(start_vm, mover,  # noqa: F811
                                                                  tmp_path):
    """A request that is neither done nor failed can be neither saved nor forgotten."""
    disk, control = make_disk(tmp_path), free_port()
    network = ("--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777")
    vm = boot(start_vm, *network, "--disk", f"{disk},fault=stall@write=0@ms=20000",
              append="gw.ip=dhcp")
    vm.wait_console("GODWIT-READY", BOOT_S)
    new = mover.destination("--memory", "128M", *network, "--disk", disk)
    agent = Agent("127.0.0.1", control)
    agent.ask("sh echo 0123456789abcdef > /tmp/line; "
              "(dd if=/tmp/line of=/dev/vda conv=sync bs=512 oflag=direct; echo $? > /tmp/rc)"
              " > /dev/null 2>&1 & "
              "until grep -q '[1-9]$' /sys/block/vda/inflight; do usleep 1000; done")
    vm.qmp.command("migrate", uri=new.uri)
    wait_until("three attempts", lambda: vm.migration()["failed-attempts"] >= 3)
    attempts = vm.ledger()["attempts"][:3]
    assert disk.read_bytes()[:16] == bytes(16), "the write was done: there was nothing to hang"
    assert agent.status()["uptime_ms"] > 0, "the guest stands still"
    for attempt in attempts:
        assert "virtio-blk/0: 1 requests still in flight" in attempt["reason"]
        assert not attempt["handed-over"]
    agent.close()
    wait_until("the move after the write", lambda: new.status() == "running")
    assert disk.read_bytes()[:16] == b"0123456789abcdef"
    vm.close()
    agent = Agent("127.0.0.1", control)
    agent.ask("sh until [ -s /tmp/rc ]; do usleep 1000; done; [ $(cat /tmp/rc) = 0 ]")
    agent.close()


@pytest.mark.parametrize("fault", ["fault=stall", "fault=hang@flush=0", "fault=stall@erase=0",
                                   "fault=stall@flush=x", "fault=fail@read=0@for=3"])
def test_a_disk_fault_that_is_none_is_refused(godwit, tmp_path, fault):
    done = godwit("run", "--machine", "virt", "--bios", "none", "--disk", f"{make_disk(tmp_path)},{fault}")
    assert done.returncode != 0 and "disk fault" in done.stderr


# ---- 100 Mbit/s ----------------------------------------------------------------------------------

LINK_BYTES_PER_S = 100_000_000 / 8


def sh(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}"


@pytest.fixture
def slow_link():
    """Two network namespaces with a veth pair of 100 Mbit/s between them; their names."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces and tc need root")
    if not shutil.which("tc") or not shutil.which("ip"):
        pytest.skip("tc and ip are needed (iproute2)")
    names = [f"gw{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            sh("ip", "netns", "add", name)
        a, b = names
        sh("ip", "-n", a, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0",
           "netns", b)
        for i, name in enumerate(names, 1):
            sh("ip", "-n", name, "address", "add", f"10.99.0.{i}/24", "dev", "veth0")
            sh("ip", "-n", name, "link", "set", "veth0", "up")
            sh("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "veth0", "root", "tbf",
               "rate", "100mbit", "burst", "256kb", "latency", "100ms")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


class Asker(threading.Thread):
    """Asks the monitor all the time; counts answers, and what was not 'running'."""

    def __init__(self, vm):
        super().__init__(daemon=True)
        from gwlab.qmp import Qmp
        self.qmp = Qmp(vm.monitor_path)
        self.answers, self.others, self.error, self.is_over = 0, [], None, threading.Event()
        self.start()

    def run(self):
        try:
            while not self.is_over.wait(0.01):
                status = self.qmp.command("query-status")["status"]
                self.answers += 1
                if status != "running":
                    self.others.append(status)
        except Exception as error:  # noqa: BLE001 (told by end())
            self.error = error

    def end(self):
        self.is_over.set()
        self.join(PATIENCE_S)
        self.qmp.close()
        assert self.error is None, self.error


def test_a_guest_too_fast_for_100_mbit(start_vm, tmp_path, slow_link):
    here, there = slow_link
    vm = start_vm("a", *memtick("mib=48 rate=40", "128M"), wrapper=("ip", "netns", "exec", here))
    new = start_vm("b", "--bios", "none", "--memory", "128M", "--incoming", "tcp:10.99.0.2:0",
                   wrapper=("ip", "netns", "exec", there))
    uri = wait_until("the destination to listen", lambda: new.migration().get("uri"))
    wait_ticks(vm)
    asker = Asker(vm)
    from gwlab.vm import godwit_path
    watch = subprocess.Popen([godwit_path(), "migrate", vm.monitor_path, uri, "--mode", "precopy"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    info = wait_until("a verdict", lambda: (lambda m: m.get("bandwidth-lack") and m["round"] > 2
                                            and m)(vm.migration()), timeout=2 * PATIENCE_S)
    # By how much it does not converge: the link is as slow as it is, the guest as fast.
    assert info["converging"] is False and "expected-left-ns" not in info
    assert info["bandwidth"] < 1.3 * LINK_BYTES_PER_S
    assert info["bandwidth-lack"] == info["dirty-rate"] - info["bandwidth"] > 0
    assert info["failed-attempts"] == 0, "it was stopped in vain"
    position = len(vm.console())
    wait_ticks(vm, 3, start=position)
    answers = asker.answers
    vm.qmp.command("migrate_cancel")
    wait_until("the end", lambda: vm.migration()["status"] == "cancelled")
    asker.end()
    out, _ = watch.communicate(timeout=PATIENCE_S)
    assert re.search(r"not converging: the link lacks \d+\.\d MiB/s", out), out
    assert answers > 0 and not asker.others, "the guest or the monitor stood still"
    assert vm.ledger()["attempts"] == [], "there was a blackout"
    position = len(vm.console())
    wait_ticks(vm, start=position)
    print(f"bandwidth {info['bandwidth'] / 1e6:.1f} MB/s, dirty {info['dirty-rate'] / 1e6:.1f} MB/s, "
          f"lack {info['bandwidth-lack'] / 1e6:.1f} MB/s, {answers} answers of the monitor")
