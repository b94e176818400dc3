# SPDX-License-Identifier: MIT
"""What a running `godwit run` can no longer do."""
import ctypes
import os

import pytest

import bare
from gwlab.vm import wait_until


def guest(tmp_path):
    return bare.options(bare.write(tmp_path / "spin.bin", bare.SPIN_FOREVER))


def threads(vm):
    """The status of each thread: field -> value."""
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{task}/status") as file:
            yield dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)


def has_landlock():
    create_ruleset, version_flag = 444, 1
    return ctypes.CDLL(None).syscall(create_ruleset, None, 0, version_flag) > 0


def test_every_thread_is_filtered(start_vm, tmp_path):
    vm = start_vm("a", *guest(tmp_path))
    wait_until("the guest to run", lambda: vm.status() == "running")
    found = list(threads(vm))
    assert len(found) > 3
    for status in found:
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), status["Name"]


def test_the_sandbox_can_be_switched_off(start_vm, tmp_path):
    vm = start_vm("a", "--sandbox", "off", *guest(tmp_path))
    wait_until("the guest to run", lambda: vm.status() == "running")
    assert {status["Seccomp"] for status in threads(vm)} == {"0"}


def test_no_program_is_started(start_vm, tmp_path):
    vm = start_vm("a", *guest(tmp_path))
    wait_until("the guest to run", lambda: vm.status() == "running")
    mark = tmp_path / "mark"
    done = vm.godwit("save", f"exec:touch {mark}; cat > /dev/null", check=False)
    assert done.returncode == 1 and "not permitted" in done.stderr
    assert not mark.exists()
    assert vm.status() == "running"


@pytest.mark.parametrize("options", [("--sandbox", "maybe"),
                                     ("--sandbox", "off", "--confine", "/tmp")])
def test_nonsense_is_refused(godwit, options):
    assert godwit("run", "--kernel", "x", *options).returncode == 2


def test_a_folder_that_is_not_there_is_refused(godwit, tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        done = godwit("run", "--kernel", "x", "--confine", tmp_path / name)
        assert done.returncode == 1
        assert done.stderr == f'godwit: --confine "{tmp_path / name}": no such folder\n'


def test_confined_files(start_vm, tmp_path, tmp_path_factory):
    if not has_landlock():
        pytest.skip("this kernel has no Landlock")
    # The folder of the test itself is one in which the VM makes its sockets.
    inside, outside = tmp_path_factory.mktemp("inside"), tmp_path_factory.mktemp("outside")
    vm = start_vm("a", "--confine", inside, *guest(tmp_path))
    wait_until("the guest to run", lambda: vm.status() == "running")
    vm.godwit("save", inside / "guest.gw")
    done = vm.godwit("save", outside / "guest.gw", check=False)
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert not list(outside.iterdir())
    assert vm.status() == "running"


def test_confined_processes_hand_their_memory_over(start_vm, tmp_path, tmp_path_factory):
    """What it needs is allowed: its own descriptors, nothing of the file system."""
    confine = ("--confine", tmp_path_factory.mktemp("nothing")) if has_landlock() else ()
    vm = start_vm("a", *confine, *guest(tmp_path))
    wait_until("the guest to run", lambda: vm.status() == "running")
    for i in range(2):
        uri = f"unix:{tmp_path}/in{i}"
        new = start_vm(f"b{i}", "--bios", "none", "--memory", "64M", "--incoming", uri, *confine)
        wait_until("the destination to listen", lambda new=new: new.migration().get("uri"))
        vm.migrate(uri, ram="share")
        wait_until("the guest to run", lambda new=new: new.status() == "running")
        assert {status["Seccomp"] for status in threads(new)} == {"2"}
        vm = new
