# SPDX-License-Identifier: MIT
"""Snapshots of running guests, and guests that run before their memory is read."""
import json
import os
import shutil
import signal
import subprocess
import tempfile

import pytest

import wire_reader
from gwlab import PATIENCE_S
from gwlab.guest import Agent
from gwlab.net import free_port
from gwlab.vm import Vm, godwit_path, wait_until
from test_linux import BOOT_S, boot, try_ask
from test_migrate import Mover, memtick, wait_ticks

LIKE = ("--bios", "none", "--memory", "64M")


@pytest.fixture
def mover(start_vm, tmp_path):
    return Mover(start_vm, str(tmp_path))


def summary_of(done):
    return json.loads(done.stdout.strip().splitlines()[-1])


def save(vm, path, *options):
    return summary_of(vm.godwit("save", path, "--json", *options))


def await_whole(vm):
    wait_until("all pages to be read", lambda: vm.migration()["missing-bytes"] == 0)


def check_whole(vm):
    """Has the guest look at all of its memory."""
    start = len(vm.console())
    wait_ticks(vm, n=2, start=start)


@pytest.fixture
def snapshot(start_vm, tmp_path):
    """The file of a memtick guest that writes 400 MiB/s, saved while it ran."""
    vm = start_vm("a", *memtick("mib=48 rate=400"))
    wait_ticks(vm)
    path = tmp_path / "guest.gw"
    save(vm, path, "--live")
    vm.close()
    return path


# ---- live ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("pattern", ["seq", "random"])
def test_live_snapshots_are_of_one_instant(start_vm, godwit, tmp_path, pattern):
    """memtick knows what each of its pages has to hold: one that is newer or older is BAD."""
    vm = start_vm("a", *memtick(f"mib=48 rate=0 pattern={pattern}", "64M", 2))
    wait_ticks(vm)
    caught = i = 0
    # A guest that had no processor while it was saved has written nothing that had to be caught.
    while i < 4 or (caught == 0 and i < 30):
        i += 1
        path = tmp_path / f"{i}.gw"
        summary = save(vm, path, "--live")
        assert "note" not in summary["migration"], summary["migration"]["note"]
        assert summary["migration"]["live"] is True
        caught += summary["migration"]["chunks-caught"]
        phases = [p["name"] for p in summary["ledger"]["attempts"][-1]["phases"] if not p["depth"]]
        assert phases == ["stop", "last dirty fetch", "protect", "save"]
        assert vm.status() == "running"
        wire_reader.read_stream(str(path))
        assert "whole, all digests right" in godwit("inspect", path).stdout
        again = start_vm(f"r{i}", *LIKE, "--cpus", 2, "--restore", path)
        wait_ticks(again, n=2)
        again.close()
    assert caught > 0
    wait_ticks(vm, start=len(vm.console()))


def test_a_paused_guest_is_saved_live_and_stays_paused(start_vm, tmp_path):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    vm.qmp.command("stop")
    save(vm, tmp_path / "guest.gw", "--live")
    assert vm.status() == "paused"
    again = start_vm("r", *LIKE, "--restore", tmp_path / "guest.gw", "--lazy")
    wait_until("the guest", lambda: again.status() == "paused")
    again.qmp.command("cont")
    wait_ticks(again)


def test_linux_with_a_busy_disk_is_saved_live_and_restored_lazily(start_vm, tmp_path):
    """DMA of the disk and of the network into memory that is protected, and that is missing."""
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as file:
        file.truncate(64 << 20)
    control = free_port()
    devices = ("--net", f"user,hostfwd=tcp:127.0.0.1:{control}-:7777", "--disk", disk, "--rng",
               "--balloon")
    vm = boot(start_vm, *devices, append="gw.ip=dhcp")
    vm.wait_console("GODWIT-READY", BOOT_S)
    agent = Agent("127.0.0.1", control)
    agent.ask("dirty 16@20")
    for i in range(3):
        agent._file.write(f"disk-write /dev/vda {8 * i} 8 {i + 1}\n")
        agent._file.flush()
        summary = save(vm, tmp_path / "guest.gw", "--live")
        assert summary["migration"]["live"] is True
        agent.close()
        agent = Agent("127.0.0.1", control)
        wait_until("the disk to hold what was written",
                   lambda i=i: try_ask(agent, f"disk-check /dev/vda {8 * i} 8 {i + 1}"))
    agent.ask("sh sync")
    status = agent.status()
    assert status["errors"] == 0 and status["running"] == 1
    # What is restored below finds the disk as it was at the instant: nothing writes to it any more.
    save(vm, tmp_path / "guest.gw", "--live")
    agent.close()
    vm.close()
    again = start_vm("r", *devices, "--memory", "128M", "--restore", tmp_path / "guest.gw", "--lazy")
    wait_until("the guest to run", lambda: again.status() == "running")
    agent = Agent("127.0.0.1", control)
    for i in range(3):
        agent.ask(f"disk-check /dev/vda {8 * i} 8 {i + 1}")
    assert agent.status()["errors"] == 0
    await_whole(again)
    assert agent.status()["errors"] == 0
    agent.close()
    assert "Oops" not in again.console() and "panic" not in again.console()


def test_ctrl_c_leaves_no_file(start_vm, tmp_path):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
    for options in ((), ("--live",)):
        command = subprocess.Popen([godwit_path(), "save", *options, vm.monitor_path,
                                    str(tmp_path / "guest.gw")], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
        wait_until("pages to be written", lambda: vm.migration().get("state") == "saving"
                   and vm.migration()["ram"]["transferred"] > 1 << 18)
        command.send_signal(signal.SIGINT)
        assert "cancelled" in command.communicate(timeout=PATIENCE_S)[1]
        assert command.returncode not in (0, None)
        assert not list(tmp_path.glob("guest.gw*"))
        assert vm.status() == "running"
        wait_ticks(vm, start=len(vm.console()))


def test_who_is_killed_while_it_saves_leaves_the_old_file(start_vm, tmp_path):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    path = tmp_path / "guest.gw"
    save(vm, path)
    before = path.read_bytes()
    vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 1 << 20})
    vm.qmp.command("snapshot-to", uri=f"file:{path}", live=True)
    wait_until("pages to be written", lambda: vm.migration()["ram"]["transferred"] > 1 << 18)
    vm.kill()
    vm.wait_exit()
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [(), ("--live",)], ids=["stopped", "live"])
def test_a_full_disk_is_reported_and_the_guest_goes_on(start_vm, tmp_path, options):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", folder],
                      stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        vm = start_vm("a", *memtick())
        wait_ticks(vm)
        done = vm.godwit("save", folder / "guest.gw", *options, check=False)
        assert done.returncode == 1 and "No space left on device" in done.stderr
        assert not list(folder.iterdir())
        assert vm.status() == "running"
        wait_ticks(vm, start=len(vm.console()))
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


# ---- lazy ----------------------------------------------------------------------------------------

def test_a_lazy_guest_runs_and_gets_all_of_its_memory(start_vm, snapshot):
    vm = start_vm("r", *LIKE, "--restore", snapshot, "--lazy")
    wait_ticks(vm, n=2)
    await_whole(vm)
    wait_ticks(vm, start=len(vm.console()))
    assert "note" not in vm.migration()


def test_a_lazy_guest_can_be_moved_and_saved_at_once(start_vm, mover, snapshot, tmp_path):
    vm = start_vm("r", *LIKE, "--restore", snapshot, "--lazy")
    wait_until("the guest to run", lambda: vm.status() == "running")
    new, _ = mover.move(vm)
    wait_ticks(new, n=2)
    vm = start_vm("s", *LIKE, "--restore", snapshot, "--lazy")
    wait_until("the guest to run", lambda: vm.status() == "running")
    save(vm, tmp_path / "again.gw", "--live")
    wire_reader.read_stream(str(tmp_path / "again.gw"))
    again = start_vm("t", *LIKE, "--restore", tmp_path / "again.gw")
    wait_ticks(again, n=2)


def test_a_lazy_guest_can_be_ended_at_any_time(start_vm, snapshot):
    for i in range(6):
        vm = start_vm(f"r{i}", *LIKE, "--restore", snapshot, "--lazy")
        if i % 2:
            wait_until("the guest to run", lambda: vm.status() == "running")
            vm.qmp.command("quit")
        else:
            vm.kill(signal.SIGTERM)
        vm.wait_exit()


def test_a_file_that_is_replaced_while_its_guest_runs_matters_not(start_vm, snapshot):
    vm = start_vm("r", *LIKE, "--restore", snapshot, "--lazy")
    wait_until("the guest to run", lambda: vm.status() == "running")
    other = snapshot.with_name("other")
    other.write_bytes(b"nothing of use")
    os.replace(other, snapshot)
    wait_ticks(vm, n=2)
    await_whole(vm)


def place_of_a_page(snapshot):
    """Where in the file the bytes of a page stand, and which it is."""
    places = wire_reader.read_stream(str(snapshot)).places
    place = next(p for p in places[len(places) // 2:] if p["bulk_bytes"])
    return place["offset"] + place["head_bytes"], place


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("where", ["page", "table"])
def test_a_damaged_page_ends_a_lazy_guest_loudly(start_vm, snapshot, where):
    at, place = place_of_a_page(snapshot)
    flip(snapshot, at + 5 if where == "page" else place["offset"] + 40)
    vm = start_vm("r", *LIKE, "--restore", snapshot, "--lazy", "--no-shutdown")
    assert vm.wait_exit() == 1
    assert "godwit: the guest cannot go on: snapshot: " in vm.log()
    assert "digest" in vm.log() or "check" in vm.log()
    assert "BAD" not in vm.console()
    eager = start_vm("e", *LIKE, "--restore", snapshot)
    assert eager.wait_exit() == 1
    assert "godwit: the snapshot is not restored: snapshot: " in eager.log()


def test_a_damaged_lazy_guest_can_be_ended_at_any_time(start_vm, snapshot):
    """Whoever waits for the page, or for who waits for it, does not keep the process from ending."""
    flip(snapshot, place_of_a_page(snapshot)[0])
    for i in range(6):
        vm = start_vm(f"r{i}", *LIKE, "--restore", snapshot, "--lazy")
        if i % 2:
            vm.kill(signal.SIGTERM)
        vm.wait_exit()


@pytest.mark.parametrize("options", [(), ("--lazy",)], ids=["eager", "lazy"])
def test_what_is_cut_or_has_a_wrong_index_never_runs(start_vm, snapshot, options):
    whole = snapshot.read_bytes()
    places = wire_reader.read_stream(str(snapshot)).places
    index_entry = whole.index(places[1]["offset"].to_bytes(8, "little"), len(whole) - 20000)
    for i, bad in enumerate((whole[:-1], whole[:len(whole) // 2], whole[:-172], whole[:-72],
                             whole + b"x",
                             whole[:index_entry] + bytes([whole[index_entry] ^ 16])
                             + whole[index_entry + 1:])):
        snapshot.write_bytes(bad)
        vm = start_vm(f"r{i}", *LIKE, "--restore", snapshot, *options)
        assert vm.wait_exit() == 1
        assert "godwit: the snapshot is not restored: " in vm.log()


def test_what_comes_through_a_pipe_is_not_lazy(start_vm, tmp_path):
    """Through a pipe nothing is in place, and nothing can be lazy: the guest runs all the same."""
    vm = start_vm("a", "--sandbox", "off", *memtick())
    wait_ticks(vm)
    path = tmp_path / "guest.gw"
    vm.godwit("save", path)
    again = start_vm("r", *LIKE, "--sandbox", "off", "--incoming", "defer")
    wait_until("the machine", lambda: again.status() == "inmigrate")
    again.qmp.command("migrate-incoming", uri=f"exec:cat {path}", lazy=True)
    wait_ticks(again)
    assert "not lazy, all was read before the guest ran" in again.migration()["note"]


def test_lazy_needs_a_snapshot(godwit):
    for options in (("--lazy", "--kernel", "x"), ("--restore", "x", "--lazy", "--prefault")):
        done = godwit("run", *options)
        assert done.returncode == 2 and "--lazy" in done.stderr


def test_a_lazy_guest_in_its_sandbox(start_vm, snapshot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("confined")
    vm = start_vm("r", *LIKE, "--confine", folder, "--restore", snapshot, "--lazy")
    wait_ticks(vm)
    assert "note" not in vm.migration()
    assert save(vm, folder / "again.gw", "--live")["migration"]["live"] is True


def test_without_the_right_to_handle_faults_the_guest_stands_still(snapshot):
    """As nobody: the sentence says what is needed, and all else works."""
    with open("/proc/sys/vm/unprivileged_userfaultfd") as file:
        if os.geteuid() != 0 or file.read().strip() != "0" or not shutil.which("setpriv"):
            pytest.skip("needs root, setpriv and vm.unprivileged_userfaultfd=0")
    with tempfile.TemporaryDirectory(prefix="godwit-nobody-") as folder:
        os.chown(folder, 65534, 65534)
        shutil.copy(snapshot, folder + "/guest.gw")
        os.chown(folder + "/guest.gw", 65534, 65534)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        try:
            vm = Vm("n", *LIKE, "--restore", folder + "/guest.gw", "--lazy", folder=folder,
                    wrapper=nobody, env={**os.environ, "XDG_RUNTIME_DIR": folder})
            old, os.environ["XDG_RUNTIME_DIR"] = os.environ["XDG_RUNTIME_DIR"], folder
            wait_ticks(vm)
            sentence = "vm.unprivileged_userfaultfd=1 or access to /dev/userfaultfd"
            assert sentence in vm.log()
            assert "not lazy" in vm.migration()["note"]
            summary = save(vm, folder + "/again.gw", "--live")
            assert sentence in summary["migration"]["note"]
            assert summary["migration"]["live"] is False
            wire_reader.read_stream(folder + "/again.gw")
            wait_ticks(vm, start=len(vm.console()))
        finally:
            vm.close()
            os.environ["XDG_RUNTIME_DIR"] = old


# ---- files that lie ------------------------------------------------------------------------------

class Forger:
    """Rewrites records of a snapshot, with all checks and digests made right again."""

    def __init__(self, data):
        self.data = bytearray(data)
        self.seed = int.from_bytes(data[56:64], "little")
        self.records = []  # (offset, type, bytes of header and payload)
        at = 64
        while at < len(data):
            length, bulk = (int.from_bytes(data[at + i:at + i + 4], "little") for i in (4, 16))
            self.records.append((at, int.from_bytes(data[at:at + 2], "little"), 32 + length))
            at += 32 + length + bulk

    def find(self, name):
        return next(r for r in self.records if r[1] == wire_reader.NUMBERS[name])

    def put(self, offset, value, n_bytes=8):
        self.data[offset:offset + n_bytes] = (value % (1 << 8 * n_bytes)).to_bytes(n_bytes, "little")

    def get(self, offset, n_bytes=8):
        return int.from_bytes(self.data[offset:offset + n_bytes], "little")

    def file(self):
        chain = wire_reader.xxhash.xxh3_64()
        for at, number, n_bytes in self.records:
            if number == wire_reader.NUMBERS["END"]:
                self.put(at + 32 + 32, chain.intdigest())
            self.put(at + 20, wire_reader.xxh3(bytes(self.data[at:at + 20]), self.seed), 4)
            self.put(at + 24, 0)
            self.put(at + 24, wire_reader.xxh3(bytes(self.data[at:at + n_bytes]), self.seed))
            chain.update(bytes(self.data[at + 24:at + 32]))
        return bytes(self.data)


ENTRY = 40
OFFSET, SEQUENCE, BLOCK, FIRST, PAGES, HEAD, BULK = 0, 8, 16, 20, 28, 32, 36  # in an entry


def entry(forger, i, field):
    return forger.find("INDEX")[0] + 32 + 4 + i * ENTRY + field


LIES = {
    "place": lambda f: f.put(entry(f, 1, OFFSET), f.get(entry(f, 1, OFFSET)) + 4096),
    "sequence": lambda f: f.put(entry(f, 1, SEQUENCE), f.get(entry(f, 1, SEQUENCE)) + 1),
    "block": lambda f: f.put(entry(f, 1, BLOCK), 63, 4),
    "page": lambda f: f.put(entry(f, 1, FIRST), 1 << 40),
    "other-page": lambda f: f.put(entry(f, 1, FIRST), f.get(entry(f, 1, FIRST)) + 1),
    "twice": lambda f: f.put(entry(f, 1, FIRST), f.get(entry(f, 2, FIRST))),
    "many": lambda f: f.put(entry(f, 1, PAGES), (1 << 32) - 1, 4),
    "head": lambda f: f.put(entry(f, 1, HEAD), f.get(entry(f, 1, HEAD), 4) - 12, 4),
    "bulk": lambda f: f.put(entry(f, 1, BULK), f.get(entry(f, 1, BULK), 4) + 4096, 4),
    "pages-offset": lambda f: f.put(f.find("LOCATOR")[0] + 32, 4096),
    "tail-offset": lambda f: f.put(f.find("LOCATOR")[0] + 48, 1 << 60),
    "index-offset": lambda f: f.put(f.find("LOCATOR")[0] + 64, 64),
    "entries": lambda f: f.put(f.find("LOCATOR")[0] + 80, 1 << 62),
    "n-pages": lambda f: f.put(f.find("LOCATOR")[0] + 88, 1),
    "n-index": lambda f: f.put(f.find("LOCATOR")[0] + 96, 1 << 31, 4),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_gives_no_guest(start_vm, godwit, snapshot, lie):
    """All digests are right: whoever made the file wanted it so."""
    forger = Forger(snapshot.read_bytes())
    assert forger.file() == snapshot.read_bytes()
    LIES[lie](forger)
    snapshot.write_bytes(forger.file())
    with pytest.raises(wire_reader.WireError):
        wire_reader.read_stream(str(snapshot))
    assert godwit("inspect", snapshot).returncode == 1
    for options in ((), ("--lazy",)):
        vm = start_vm(f"r{len(options)}", *LIKE, "--restore", snapshot, *options)
        assert vm.wait_exit() == 1
        assert "godwit: the snapshot is not restored: " in vm.log() or \
            "godwit: the guest cannot go on: " in vm.log()
        assert "Sanitizer" not in vm.log()
