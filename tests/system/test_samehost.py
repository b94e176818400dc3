# SPDX-License-Identifier: MIT
"""Moves between two processes of one host, by handing over the guest's memory itself."""
import os

import pytest

import test_handover_matrix as matrix
import wire_reader
from gwlab.guest import Agent
from gwlab.net import free_port
from gwlab.vm import wait_until
from test_linux import BOOT_S, boot
from test_migrate import check_ledger, memtick, mover, wait_ticks  # noqa: F401

LIKE = ("--bios", "none", "--memory", "64M")
STEP = 47  # of the records of a whole move, each of the matrix's actions hits every so many


def memory_files(vm):
    """{inode: allocated bytes} of the memory descriptors of a process, by the blocks' names."""
    found = {}
    for fd in os.listdir(f"/proc/{vm.pid}/fd"):
        path = f"/proc/{vm.pid}/fd/{fd}"
        try:
            target = os.readlink(path)
            if target.startswith("/memfd:godwit-"):
                name = target.removeprefix("/memfd:godwit-").split(" ")[0]
                stat = os.stat(path)
                found.setdefault(name, {})[stat.st_ino] = stat.st_blocks * 512
        except FileNotFoundError:  # closed meanwhile
            pass
    return found


def inode_of(vm, block="ram"):
    inodes = memory_files(vm)[block]
    assert len(inodes) == 1, "a block has one memory, and nothing else is kept"
    return next(iter(inodes))


def share(source, mover, folder, *options, like=LIKE):  # noqa: F811
    """One move; checks both ends' memory. Returns the new process."""
    before = inode_of(source)
    held = memory_files(source)["ram"][before]
    new = mover.destination(*like, *options)
    trace = os.path.join(folder, f"share{mover.count}")
    os.makedirs(trace)
    summary = source.migrate(f"trace:{trace},{new.uri}", ram="share")
    wait_until("the destination to own the guest", lambda: new.status() == "running")
    ram = summary["migration"]["ram"]
    assert ram["shared"] is True and new.migration()["ram"]["shared"] is True
    assert (ram["normal"], ram["duplicate"]) == (0, 0), "a page was sent"
    assert inode_of(new) == before
    # The source, which still lives, has empty memory, and the guest's has not become more.
    assert memory_files(source)["ram"] == {inode_of(source): 0}
    assert inode_of(source) != before
    assert memory_files(new)["ram"][before] < held + (16 << 20)
    check_ledger(summary)
    streams = wire_reader.read_migration(trace, allow_cut=True)
    control = [s for s in streams.values() if s.role == "control" and s.sender == "destination"]
    assert control[0].messages["RAM_SHARED"][0]["is_shared"] == 1
    return new


def test_twenty_moves_of_one_memory(start_vm, mover, tmp_path):  # noqa: F811
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    last, first = wait_ticks(vm), inode_of(vm)
    for _ in range(20):
        new = share(vm, mover, str(tmp_path))
        last = wait_ticks(new)
        vm.close()
        vm = new
    assert inode_of(vm) == first
    copied, _ = mover.move(vm)  # and the dirty log starts right
    assert inode_of(copied) != first
    assert wait_ticks(copied, 2) > last


def test_it_is_the_default_on_one_host(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    before = inode_of(vm)
    new = mover.destination(*LIKE)
    vm.godwit("migrate", new.uri)
    wait_until("the guest to arrive", lambda: new.status() == "running")
    assert inode_of(new) == before
    wait_ticks(new)


def test_all_devices_and_a_snapshot_afterwards(start_vm, mover, tmp_path):  # noqa: F811
    """Loading touches no memory: whatever device wrote there before COMMIT would end the process."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    devices = ("--rng", "--balloon", "--net", "user", "--disk", disk)
    vm = start_vm("a", *memtick(), *devices)
    wait_ticks(vm)
    new = share(vm, mover, str(tmp_path), *devices)
    wait_ticks(new)
    new.godwit("save", tmp_path / "guest.gw")
    again = start_vm("r", "--restore", tmp_path / "guest.gw", *LIKE, *devices)
    wait_ticks(again)


def test_forced_over_tcp_is_refused(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination(*LIKE, uri="tcp:127.0.0.1:0")
    done = vm.godwit("migrate", new.uri, "--ram", "share", check=False)
    assert done.returncode == 3
    assert "RAM cannot be shared: descriptors travel through UNIX sockets only" in done.stderr
    assert vm.status() == "running"
    assert vm.ledger()["attempts"] == [], "it was stopped"
    assert new.migration()["status"] == "setup", "the destination waits on"
    vm.godwit("migrate", new.uri, "--ram", "auto")
    wait_until("the guest to arrive", lambda: new.status() == "running")
    assert new.migration()["ram"]["shared"] is False
    wait_ticks(new)


@pytest.mark.parametrize("spec, outcome", [
    ("kill@type=RAM_SHARED@out", "goes on at the source"),
    ("kill@type=LOADED@out", "goes on at the source"),
    ("kill@type=COMMIT@in", "goes on at the source"),
    ("kill@type=RUNNING@out", "died with the destination"),
])
def test_a_killed_destination_leaves_one_owner(start_vm, mover, spec, outcome):  # noqa: F811
    """Killed before COMMIT was read: the guest goes on, its memory as it was. Killed with the guest:
    the source knows at once, and asks no operator."""
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    before = inode_of(vm)
    mover.count += 1
    uri = f"unix:{mover.folder}/killed{mover.count}.sock"
    new = mover.destination(*LIKE, uri=f"fault:{spec},{uri}")
    vm.qmp.command("migrate-set-parameters", **{"ram": "share", "reconnect-time": 0})
    vm.qmp.command("migrate", uri=uri)
    assert matrix.after_live_source(vm, new) == outcome
    new.wait_exit()
    if outcome == "goes on at the source":
        assert inode_of(vm) == before
        wait_ticks(vm, start=len(vm.console()))
        wait_ticks(share(vm, mover, mover.folder))
    else:
        assert inode_of(vm) != before
        assert vm.godwit("cont", check=False).returncode == 1


@pytest.mark.parametrize("ends", ["COMMIT", "RUNNING@in"])
def test_a_lost_link_leaves_one_owner(start_vm, mover, ends):  # noqa: F811
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    before = inode_of(vm)
    new = mover.destination(*LIKE)
    vm.godwit("migrate", f"fault:cut@type={ends},{new.uri}", "--ram", "share", check=False)
    outcome = matrix.after_live_source(vm, new)
    owner = vm if outcome == "goes on at the source" else new
    assert owner is (vm if ends == "COMMIT" else new)
    assert inode_of(owner) == before
    wait_ticks(owner, start=len(owner.console()))


def test_every_kth_record(start_vm, mover, tmp_path):  # noqa: F811
    """The handover matrix, with memory that both sides map."""
    places = matrix.record_places(start_vm, mover, tmp_path, ram="share")
    number = 0
    for offset, action in enumerate(matrix.ACTIONS):
        for place in places[offset * 3 % STEP::STEP] + matrix.DECISIVE:
            number += 1
            try:
                outcome = matrix.play(start_vm, mover, action, place, number, ram="share")
            except AssertionError as error:
                pytest.fail(f"{action} at record {place}: {error}")
            assert "operator" not in outcome, f"{action} at record {place}: {outcome}"
    assert number >= 15


def test_debian_moves_under_load(start_vm, mover, tmp_path):  # noqa: F811
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    control = free_port()
    devices = ("--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777", "--disk", disk, "--rng",
               "--balloon")
    vm = boot(start_vm, *devices, append="gw.ip=dhcp")
    vm.wait_console("GODWIT-READY", BOOT_S)
    agent = Agent("127.0.0.1", control)
    agent.ask("dirty 16@20")
    agent.close()
    for i in range(6):
        agent = Agent("127.0.0.1", control)
        agent.ask(f"disk-write /dev/vda {8 * i} 8 {i + 1}")
        agent.close()
        new = share(vm, mover, str(tmp_path), *devices, like=("--memory", "128M"))
        assert "Kernel panic" not in vm.console()
        vm.close()
        vm = new
        agent = Agent("127.0.0.1", control)
        status = agent.status()
        assert status["errors"] == 0 and status["running"] == 1
        for before in range(i + 1):
            agent.ask(f"disk-check /dev/vda {8 * before} 8 {before + 1}")
        agent.close()
    assert "Oops" not in vm.console()
