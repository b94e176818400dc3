# SPDX-License-Identifier: MIT
"""Moves of a stock Linux guest: while it boots and reboots, with traffic on net and disk."""
import os

import pytest

from gwlab import BUILD
from gwlab.guest import Agent, Stream
from gwlab.net import free_port
from gwlab.parts import part
from gwlab.vm import wait_until
from test_migrate import Mover

FAST = "console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init"
BOOT_S = 600


@pytest.fixture
def mover(start_vm, tmp_path):
    return Mover(start_vm, str(tmp_path))


def boot(start_vm, *options, append="", memory="128M"):
    return start_vm("a", "--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"),
                    "--append", f"{FAST} {append}", "--memory", memory, *options)


@pytest.mark.parametrize("cpus", [1, 4])
def test_moves_during_firmware_kernel_boot_and_reboot(start_vm, mover, cpus):
    vm = boot(start_vm, "--cpus", cpus)
    like = ("--memory", "128M", "--cpus", cpus)
    vm.wait_console("OpenSBI v", BOOT_S)
    text, moves, since = "", 0, 0
    for _ in range(2):
        said = ""
        while "GODWIT-READY" not in said + vm.console()[since:]:
            old = vm
            vm, _ = mover.move(vm, like=like, check=False)
            moves += 1
            said += old.console()[since:]
            since = 0
            old.close()
            lines_further(vm, said)
        text += said + vm.console()
        assert "Kernel panic" not in text and "Oops" not in text
        vm.qmp.command("stop")
        since = len(vm.console())
        vm.qmp.command("system_reset")
        vm.qmp.command("cont")
        vm.wait_console("OpenSBI v", BOOT_S, start=since)
    assert moves >= 4
    vm.wait_console("GODWIT-READY", BOOT_S, start=since)


def lines_further(vm, said):
    """Lets the guest get a few lines further, or to the end of its boot."""
    wait_until("the guest's console to go on",
               lambda: "GODWIT-READY" in said + vm.console() or vm.console().count("\n") >= 3,
               BOOT_S)


def net_and_disk(folder):
    """Devices of all kinds: their options, and the ports of the agent and of its echo."""
    disk = folder / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    control, echo = free_port(), free_port()
    devices = ("--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777,"
               f"hostfwd=tcp:127.0.0.1:{echo}-:7007", "--disk", disk, "--rng", "--balloon")
    return devices, control, echo


def test_traffic_on_net_and_disk_survives_moves(start_vm, mover, tmp_path):
    devices, control, echo = net_and_disk(tmp_path)
    vm = boot(start_vm, *devices, append="gw.ip=dhcp")
    like = ("--memory", "128M", *devices)
    vm.wait_console("GODWIT-READY", BOOT_S)
    agent = Agent("127.0.0.1", control)
    agent.ask("dirty 16@20")
    agent.ask("disk-write /dev/vda 0 8 1")
    agent.close()
    for i in range(4):
        agent = Agent("127.0.0.1", control)
        agent._file.write(f"disk-write /dev/vda {8 * (i + 1)} 8 {i + 2}\n")
        agent._file.flush()
        old = vm
        vm, _ = mover.move(vm, like=like, check=False)
        agent.close()
        old.close()
        agent = Agent("127.0.0.1", control)
        status = agent.status()
        assert status["errors"] == 0 and status["running"] == 1
        for j in range(i + 1):
            wait_until("the disk to hold what was written",
                       lambda j=j: try_ask(agent, f"disk-check /dev/vda {8 * j} 8 {j + 1}"))
        agent.close()
    stream = Stream("127.0.0.1", echo)
    wait_until("lines", lambda: stream.lines > 20 or stream.error)
    assert stream.close() > 20


def try_ask(agent, line):
    from gwlab import LabError
    try:
        agent.ask(line)
        return True
    except LabError:
        return False


def since(one, two):
    """Milliseconds of this host between the moments at which two statuses were made: the least and
    the most that they can have been."""
    return two["asked_from_ms"] - one["asked_to_ms"], two["asked_to_ms"] - one["asked_from_ms"]


@pytest.mark.parametrize("rest_s", [0, 3600, 183 * 86400], ids=["now", "hour", "half-a-year"])
def test_the_guests_clock_and_timers_are_right_after_a_rest(start_vm, tmp_path, rest_s):
    control = free_port()
    devices = ("--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777")
    vm = boot(start_vm, *devices, append="gw.ip=dhcp")
    vm.wait_console("GODWIT-READY", BOOT_S)
    path = tmp_path / "guest.gw"
    vm.godwit("save", path)
    agent = Agent("127.0.0.1", control)
    before = agent.status()
    agent.close()
    vm.close()
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"  # our library is first
    again = start_vm("r", *devices, "--memory", "128M", "--restore", path, env={
        **os.environ, "ASAN_OPTIONS": asan, "LD_PRELOAD": os.path.join(BUILD, "tests", "lab", "libclock-shift.so"),
        "CLOCK_SHIFT_S": str(rest_s)})
    wait_until("the guest to run", lambda: again.status() == "running")
    agent = Agent("127.0.0.1", control)
    agent.status()
    first = agent.status()
    shortest, longest = since(before, first)
    assert shortest - 300 < first["wall_ms"] - before["wall_ms"] - rest_s * 1000 < longest + 300, \
        "the guest's wall clock against its own before"
    agent.ask("sh sleep 1")
    second = agent.status()
    assert 1000 <= second["uptime_ms"] - first["uptime_ms"] < since(first, second)[1] + 300, "timers"
    # Linux may remark on the time that passed ("rcu: INFO: ... stall"); it must not break.
    assert "Oops" not in again.console() and "panic" not in again.console()
    agent.close()
