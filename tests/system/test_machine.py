# SPDX-License-Identifier: MIT
"""The machine without moves: boot files, exit status, pause, reset, sizes."""
import os
import re

import pytest

import bare
from gwlab.parts import part
from gwlab.vm import wait_until


@pytest.mark.parametrize("value, status", [
    (0x5555, 0), (0x0001_3333, 1), (0x002a_3333, 42), (0x00ff_3333, 255)])
def test_the_guests_verdict_is_the_exit_status(start_vm, tmp_path, value, status):
    image = bare.write(tmp_path / "k.bin", bare.finish(value))
    assert start_vm("v", *bare.options(image)).wait_exit() == status


def test_firmware_may_be_any_raw_image(start_vm, tmp_path):
    image = bare.write(tmp_path / "f.bin", bare.say("hello") + bare.finish(0x5555))
    vm = start_vm("v", "--bios", image, "--memory", "64M")
    assert vm.wait_exit() == 0
    assert vm.console() == "hello"


@pytest.mark.parametrize("memory", ["64M", "3G", "16G", "64G"])
def test_memory_sizes(start_vm, memory):
    vm = start_vm("v", "--bios", "none", "--kernel", part("GODWIT_BARE") + "/memtick.elf",
                  "--append", "mib=4 rate=0 passes=1", "--memory", memory)
    assert vm.wait_exit() == 0
    assert "errors 0" in vm.console()


@pytest.mark.parametrize("cpus", [1, 4, 8])
def test_bare_metal_guest_on_many_harts(start_vm, cpus):
    vm = start_vm("v", "--bios", "none", "--kernel", part("GODWIT_BARE") + "/memtick.elf",
                  "--append", "mib=16 rate=100 passes=2", "--cpus", cpus)
    assert vm.wait_exit() == 0, vm.console()
    assert "BAD" not in vm.console()


def test_pause_and_resume(start_vm, tmp_path):
    vm = start_vm("v", *bare.options(bare.write(tmp_path / "k", bare.SPIN_FOREVER)))
    wait_until("instructions", lambda: instructions(vm) > 0)
    vm.qmp.command("stop")
    assert vm.status() == "paused"
    vm.qmp.wait_event("STOP")
    before = instructions(vm)
    assert instructions(vm) == before
    vm.qmp.command("stop")
    vm.qmp.command("cont")
    vm.qmp.wait_event("RESUME")
    assert vm.status() == "running"
    wait_until("more instructions", lambda: instructions(vm) > before)


def instructions(vm):
    return sum(cpu["stats"]["instructions"] for cpu in vm.qmp.command("query-cpus-fast"))


def test_started_paused(start_vm, tmp_path):
    vm = start_vm("v", "--paused", *bare.options(bare.write(tmp_path / "k", bare.finish(0x5555))))
    wait_until("the machine", lambda: vm.status() == "paused")
    assert instructions(vm) == 0
    vm.qmp.command("cont")
    assert vm.wait_exit() == 0


def test_a_monitor_answers_when_the_machine_has_been_started(start_vm, tmp_path):
    """An initial RAM disk that takes a while to load: whoever connects meanwhile waits."""
    initrd = tmp_path / "initrd"
    initrd.write_bytes(os.urandom(1 << 20) * 192)
    vm = start_vm("v", *bare.options(bare.write(tmp_path / "k", bare.SPIN_FOREVER), memory="512M"),
                  "--initrd", initrd)
    assert vm.status() == "running"


def test_reset_by_user_and_guest(start_vm, tmp_path):
    image = bare.write(tmp_path / "k", bare.say("boot ") + bare.WFI_FOREVER)
    vm = start_vm("v", *bare.options(image))
    vm.wait_console("boot ")
    vm.qmp.command("system_reset")
    assert vm.qmp.wait_event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    vm.wait_console("boot boot ")
    assert vm.status() == "running"

    image = bare.write(tmp_path / "r", bare.say("again ") + bare.finish(0x7777))
    vm = start_vm("r", *bare.options(image))
    vm.wait_console("again again again")
    assert vm.qmp.wait_event("RESET")["data"]["guest"] is True
    vm = start_vm("n", "--no-reboot", *bare.options(image))
    assert vm.wait_exit() == 0
    assert vm.console() == "again "


def test_no_shutdown_keeps_the_machine(start_vm, tmp_path):
    image = bare.write(tmp_path / "k", bare.say("x") + bare.finish(0x5555))
    vm = start_vm("v", "--no-shutdown", *bare.options(image))
    wait_until("the guest to switch off", lambda: vm.status() == "shutdown")
    vm.qmp.command("system_reset")
    assert vm.status() == "paused"
    vm.qmp.command("cont")
    vm.wait_console("xx")


def test_powerdown_is_only_an_event(start_vm, tmp_path):
    vm = start_vm("v", *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    wait_until("the guest to run", lambda: vm.status() == "running")
    vm.qmp.command("system_powerdown")
    vm.qmp.wait_event("POWERDOWN")
    assert vm.status() == "running"


def test_stock_linux_boots_reboots_and_switches_off(start_vm):
    vm = start_vm("v", "--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"),
                  "--append", "console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init "
                  "gw.shell", "--memory", "256M", "--cpus", 2, "--rng", "--balloon")
    vm.wait_console("GODWIT-INIT-UP")
    assert re.search(r"SBI implementation ID=0x1", vm.console())


@pytest.mark.parametrize("options, sentence", [
    (["--kernel", "/nonexistent"], 'kernel "/nonexistent": No such file or directory'),
    (["--initrd", "/nonexistent"], 'initrd "/nonexistent": No such file or directory'),
    (["--initrd", "/dev/zero"], 'initrd "/dev/zero": not a regular file'),
    (["--kernel", "/dev/null"], 'kernel "/dev/null": not a regular file'),
    (["--memory", "63M"], "machine virt takes whole MiB from 64"),
    (["--cpus", "9"], "9 CPUs: machine virt takes 1 to 8"),
    (["--machine", "q35"], 'machine "q35" is not known'),
    (["--net", "tap,color=red"], 'net: unknown option "color"'),
    (["--net", "none,mac=01:00:00:00:00:00"], "is no unicast Ethernet address"),
    (["--disk", "/nonexistent"], "/nonexistent"),
])
def test_wrong_options_are_named(godwit, tmp_path, options, sentence):
    image = bare.write(tmp_path / "k", bare.WFI_FOREVER)
    base = [] if "--kernel" in options else ["--kernel", image]
    machine = [] if "--machine" in options else ["--machine", "virt"]
    done = godwit("run", "--bios", "none", *machine, *base, *options)
    assert done.returncode != 0
    assert sentence in done.stderr
