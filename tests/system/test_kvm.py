# SPDX-License-Identifier: MIT
"""Machine pc on this host's KVM with a guest that checks itself, and the tests of moves that are
not tied to a machine once more on it."""
import os

import pytest

import test_migrate
import x86
from gwlab import kvm
from gwlab.parts import part
from gwlab.vm import wait_until
from test_migrate import (  # noqa: F401 (tests that run here too)
    Mover, test_a_doubt_is_ended_by_an_operator, test_a_fault_before_commit_leaves_the_guest_here,
    test_a_guest_that_is_gone_never_runs_here_again, test_a_paused_guest_stays_paused,
    test_an_operator_may_release_the_guest, test_cancel_at_any_time,
    test_commit_lost_on_the_way_the_source_goes_on,
    test_running_lost_on_the_way_the_destination_goes_on,
    test_the_destination_is_killed_during_rounds, test_the_source_is_killed_during_rounds,
    wait_ticks)

pytestmark = pytest.mark.skipif(kvm.why_no_programs() is not None,
                                reason=str(kvm.why_no_programs()))

# Without processor extensions the kernel's emulator executes the guest, some 10^5 instructions a
# second: little memory, slowly.
GUEST = "kib=64 rate=64 hz=20"


def memtick(append=GUEST, cpus=1, *more):
    return (*x86.OPTIONS, "--kernel", part("GODWIT_BARE") + "/memtick-x86.elf", "--append",
            f"{append} cpus={cpus}", "--cpus", cpus, *more)


class PcMover(Mover):
    """Destinations of machine pc, whatever else is asked for."""

    def destination(self, *options, uri=None):
        words = [str(option) for option in options]
        kept = [word for before, word in zip([""] + words, words)
                if word not in ("--bios", "--memory", "--machine") and
                before not in ("--bios", "--memory", "--machine")]
        return super().destination(*x86.OPTIONS, *kept, uri=uri)


@pytest.fixture
def mover(start_vm, tmp_path):
    return PcMover(start_vm, str(tmp_path))


@pytest.fixture(autouse=True)
def on_machine_pc(monkeypatch, tmp_path):
    """The guest of the tests that are not tied to a machine; as an initial RAM disk it has some
    memory to be sent, which it does not look at."""
    ballast = tmp_path / "ballast"
    ballast.write_bytes(os.urandom(16 << 20))
    monkeypatch.setattr(test_migrate, "memtick", lambda *_: memtick(GUEST, 1, "--initrd", ballast))


# ---- moves ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["bitmap", "ring"])
def test_fifty_moves(start_vm, mover, kind):
    vm = start_vm("a", *memtick(GUEST, 2, "--dirty-log", kind))
    last = wait_ticks(vm)
    for _ in range(50):
        new, _ = mover.move(vm, like=("--cpus", 2, "--dirty-log", kind))
        assert "BAD" not in vm.console()
        vm.close()
        vm = new
    # All memory of both vCPUs was read after the last move.
    vm.wait_console(r"(?s)tick.*verify ok.*tick.*verify ok")
    assert wait_ticks(vm) > last
    assert vm.status() == "running"


def test_a_guest_moves_between_kinds_of_dirty_log(start_vm, mover):
    vm = start_vm("a", *memtick(GUEST, 1, "--dirty-log", "ring"))
    wait_ticks(vm)
    for kind in ("bitmap", "ring", "auto"):
        vm, _ = mover.move(vm, like=("--dirty-log", kind))
    vm.wait_console("verify ok")
    assert "BAD" not in vm.console()


@pytest.mark.parametrize("kind", ["bitmap", "ring"])
def test_a_guest_moves_before_its_memory(start_vm, mover, tmp_path, kind):
    vm = start_vm("a", *memtick("kib=256 rate=0 hz=20", 2, "--dirty-log", kind, "--initrd",
                                tmp_path / "ballast"))
    vm.wait_console("verify ok")
    for _ in range(2):
        new, _ = mover.move(vm, "--mode", "postcopy", "--max-bandwidth", "8MiB/s",
                            like=("--cpus", 2, "--dirty-log", kind))
        info = new.migration()
        assert info["postcopy"] is True and info["pages-missing"] == 0
        assert {t["name"] for t in info["faults"]["threads"]} & {"vcpu-0", "vcpu-1"}
        wait_ticks(new)
        new.wait_console("verify ok")
        assert "BAD" not in new.console()
        vm.close()
        vm = new


def test_rings_tell_what_each_vcpu_writes(start_vm, mover, tmp_path):
    vm = start_vm("a", *memtick(GUEST, 1, "--dirty-log", "ring", "--initrd", tmp_path / "ballast"))
    wait_ticks(vm)
    assert vm.qmp.command("query-cpus-fast")[0]["stats"]["dirtied-pages"] == 0
    mover.move(vm, "--max-bandwidth", "10MiB/s")
    assert vm.qmp.command("query-cpus-fast")[0]["stats"]["dirtied-pages"] > 0


def test_a_snapshot_starts_any_number_of_guests(start_vm, tmp_path):
    vm = start_vm("a", *memtick(GUEST, 2))
    before = wait_ticks(vm)
    path = tmp_path / "guest.gw"
    vm.godwit("save", path)
    wait_ticks(vm, start=len(vm.console()))
    for name in ("r", "s"):
        again = start_vm(name, *x86.OPTIONS, "--cpus", 2, "--restore", path)
        assert wait_ticks(again) >= before
        again.wait_console("verify ok")


# ---- ends ----------------------------------------------------------------------------------------

def test_a_triple_fault_resets_the_machine(start_vm):
    vm = start_vm("a", *memtick("kib=16 rate=16 hz=20 fault=1"))
    vm.wait_console(r"(?s)faulting.*ready.*faulting")
    assert vm.qmp.wait_event("RESET")["data"]["reason"] == "guest-reset"


def test_a_triple_fault_ends_a_machine_that_may_not_reboot(start_vm):
    vm = start_vm("a", *memtick("kib=16 rate=16 hz=20 fault=1", 1, "--no-reboot"))
    assert vm.wait_exit() == 0
    assert "faulting" in vm.console()


# ---- what must fit -------------------------------------------------------------------------------

def given_features(godwit):
    """What this host gives a guest that asks for all."""
    import json
    schema = json.loads(godwit("schema", "--machine", "pc").stdout)
    return next(p["values"] for p in schema["properties"] if p["name"] == "cpu-features")


def test_a_missing_feature_is_named_before_the_first_page(start_vm, mover, godwit):
    feature = next(name for name in ("avx512f", "avx", "clwb", "clflushopt", "mmxext")
                   if name in given_features(godwit))
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--cpu", f"host,-{feature}")
    done = vm.godwit("migrate", new.uri, "--ram", "copy", check=False)
    assert done.returncode == 3
    assert f"destination lacks {feature}, which the guest was given" in done.stderr
    assert vm.status() == "running"
    assert vm.migration()["ram"]["normal"] == 0


def test_a_guest_keeps_what_it_was_given(start_vm, mover, godwit):
    feature = next(name for name in ("avx512f", "avx", "clwb", "clflushopt", "mmxext")
                   if name in given_features(godwit))
    less = ("--cpu", f"host,-{feature}")
    vm = start_vm("a", *memtick(GUEST, 1, *less))
    wait_ticks(vm)
    vm, _ = mover.move(vm)
    # The better host lends nothing: the guest can go back.
    vm, _ = mover.move(vm, like=less)
    vm.wait_console("verify ok")


@pytest.mark.parametrize("model, sentence", [
    ("pentium", 'CPU model "pentium" is not known'),
    ("host,+warp", 'CPU feature "+warp" is not known'),
    ("host,+svm", "CPU feature svm cannot be given to a guest: it does not travel"),
])
def test_wrong_models_are_named(start_vm, model, sentence):
    vm = start_vm("a", *memtick(GUEST, 1, "--cpu", model))
    assert vm.wait_exit() == 1
    assert sentence in vm.log()


def test_wrong_dirty_logs_are_named(start_vm):
    vm = start_vm("a", *memtick(GUEST, 1, "--dirty-log", "paper"))
    assert vm.wait_exit() != 0
    assert 'expected auto, bitmap or ring' in vm.log()
    wait_until("the end", lambda: not vm.is_alive())


# ---- the sandbox ---------------------------------------------------------------------------------

def test_vcpu_threads_have_two_filters(start_vm):
    """Calls by what is forbidden, requests to KVM by what is allowed. That all that a machine needs
    is allowed is what the other tests here show."""
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    for task in os.listdir(f"/proc/{vm.pid}/task"):
        with open(f"/proc/{vm.pid}/task/{task}/status") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        assert status["Seccomp_filters"] == "2", status["Name"]
