# SPDX-License-Identifier: MIT
"""A stock Debian amd64 on machine pc: boots, serves, moves ten times, reboots, switches off."""
import pytest

from gwlab import kvm
from gwlab.guest import Agent, Stream
from gwlab.net import free_port
from gwlab.parts import part
from gwlab.vm import wait_until

pytestmark = pytest.mark.skipif(kvm.why_no_linux() is not None, reason=str(kvm.why_no_linux()))

FAST = "console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init panic=-1"
MEMORY = "256M"
BOOT_S = 600
ROUNDS = 10
# What the guest's kernel must not say once it is up. Of its clocks it may complain where the host
# itself is starved: an emulated one, for example.
BAD = "BUG|Oops|WARNING: CPU|rcu.*stall|[Ll]ost|nobody cared|blocked for more"


@pytest.mark.parametrize("cpus", [1, 2])
def test_debian_moves_ten_times_reboots_and_switches_off(start_vm, tmp_path, cpus):
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    control, echo = free_port(), free_port()
    like = ("--machine", "pc", "--memory", MEMORY, "--cpus", cpus, "--rng", "--balloon",
            "--disk", disk, "--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777,"
            f"hostfwd=tcp:127.0.0.1:{echo}-:7007")
    vm = start_vm("v0", "--kernel", part("GODWIT_PC_KERNEL"), "--initrd", part("GODWIT_PC_INITRD"),
                  "--append", f"{FAST} gw.ip=dhcp", *like)
    vm.wait_console("GODWIT-READY", BOOT_S)
    agent = Agent("127.0.0.1", control)
    agent.ask(f"sh test $(nproc) = {cpus}")
    agent.ask("sh dmesg | wc -l >/tmp/lines")
    agent.ask("dirty 16@10")
    agent.close()
    for i in range(1, ROUNDS + 1):
        uri = f"unix:{tmp_path}/move{i}"
        new = start_vm(f"v{i}", *like, "--incoming", uri)
        new.qmp.command("query-status")
        vm.migrate(uri, "--max-blackout", "2s", timeout=BOOT_S)
        wait_until("the destination to run", lambda new=new: new.status() == "running", BOOT_S)
        vm.qmp.command("quit")
        vm.wait_exit(BOOT_S)
        vm = new
        agent = Agent("127.0.0.1", control)
        status = agent.status()
        assert status["errors"] == 0 and status["running"] == 1
        agent.ask(f"disk-write /dev/vda {4 * i} 4 {i}")
        agent.close()
    stream = Stream("127.0.0.1", echo)
    wait_until("lines", lambda: stream.lines > 20 or stream.error, BOOT_S)
    assert stream.close() > 20
    agent = Agent("127.0.0.1", control)
    for i in range(1, ROUNDS + 1):
        agent.ask(f"disk-check /dev/vda {4 * i} 4 {i}")
    agent.ask("verify")
    agent.ask(f"sh ! dmesg | tail -n +$(($(cat /tmp/lines) + 1)) | grep -E '{BAD}' "
              "| tee /dev/console | grep -q .")
    start = len(vm.console())
    agent.ask("reboot")
    agent.close()
    vm.wait_console("GODWIT-READY", BOOT_S, start=start)
    vm.qmp.command("system_powerdown")
    assert vm.wait_exit(BOOT_S) == 0
    assert "GODWIT-POWER-BUTTON" in vm.console()
