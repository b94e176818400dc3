# SPDX-License-Identifier: MIT
"""Moves of small guests between processes: what must arrive, and what must be refused.

Every stream that is made here is recorded and read by the independent reader, wire_reader.py.
"""
import os
import re

import pytest

import bare
import wire_reader
from gwlab.parts import part
from gwlab.vm import wait_until


def memtick(append="mib=16 rate=50", memory="64M", cpus=1, *more):
    return ("--bios", "none", "--kernel", part("GODWIT_BARE") + "/memtick.elf", "--append", append,
            "--memory", memory, "--cpus", cpus, *more)


class Mover:
    """Moves guests, checks what the two processes say about it, and reads the streams."""

    def __init__(self, start_vm, folder):
        self.start_vm, self.folder, self.count = start_vm, folder, 0

    def destination(self, *options, uri=None):
        self.count += 1
        uri = uri or f"unix:{self.folder}/move{self.count}.sock"
        vm = self.start_vm(f"d{self.count}", "--incoming", uri, *options)
        wait_until("the destination to listen",
                   lambda: vm.migration()["status"] == "setup" or not vm.is_alive())
        vm.uri = vm.migration()["uri"]
        return vm

    def traced(self, uri):
        folder = os.path.join(self.folder, f"trace{self.count}")
        os.makedirs(folder, exist_ok=True)
        return folder, f"trace:{folder},{uri}"

    def move(self, source, *options, like=(), uri=None, check=True):
        """Moves the guest into a new process; returns it and the summary."""
        new = self.destination(*(like or ("--bios", "none", "--memory", "64M", "--cpus", 1)),
                               uri=uri)
        folder, traced = self.traced(new.uri)
        was = source.status()
        summary = source.migrate(traced, *options)
        assert summary["state"] == "completed"
        assert source.status() == "postmigrate"
        wait_until("the destination to own the guest", lambda: new.status() == was)
        if check:
            read_streams(folder)
            check_ledger(summary)
        return new, summary


def read_streams(folder):
    streams = wire_reader.read_migration(folder, allow_cut=True)
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    return streams.values()


def check_ledger(summary):
    attempt = summary["ledger"]["attempts"][-1]
    assert attempt["handed-over"] is True
    top = [phase for phase in attempt["phases"] if phase["depth"] == 0]
    assert sum(phase["length-ns"] for phase in top) == attempt["blackout-ns"]
    for one, two in zip(top, top[1:]):
        assert one["start-ns"] + one["length-ns"] == two["start-ns"], "a gap in the ledger"


def wait_ticks(vm, n=1, start=0):
    """Waits for n lines of memtick's account; the last one's numbers."""
    found = vm.wait_console(r"(?s)(?:tick \d+ pass \d+ .*?gap_us \d+.*?){%d}" % n, start=start)
    last = re.findall(r"tick (\d+) pass (\d+) pages (\d+) errors (\d+)", found.group(0))[-1]
    assert "BAD" not in vm.console()
    assert last[3] == "0"
    return int(last[0])


@pytest.fixture
def mover(start_vm, tmp_path):
    return Mover(start_vm, str(tmp_path))


# ---- what must arrive ----------------------------------------------------------------------------

@pytest.mark.parametrize("uri", [None, "tcp:127.0.0.1:0", "tcp:[::1]:0"], ids=["unix", "v4", "v6"])
@pytest.mark.parametrize("cpus", [1, 4])
def test_a_running_guest_moves(start_vm, mover, uri, cpus):
    options = memtick(cpus=cpus)
    vm = start_vm("a", *options)
    before = wait_ticks(vm)
    new, summary = mover.move(vm, like=("--bios", "none", "--memory", "64M", "--cpus", cpus),
                              uri=uri)
    assert wait_ticks(new) > before
    assert summary["rounds"] >= 1 and summary["bytes"] > 0
    for event in ("STOP",):
        vm.qmp.wait_event(event)
    states = []
    while not states or states[-1] != "completed":
        states.append(vm.qmp.wait_event("MIGRATION")["data"]["state"])
    assert states[:2] == ["handshake", "rounds"] or states[:3] == ["connecting", "handshake",
                                                                   "rounds"]


def test_a_guest_that_writes_in_bursts_moves(start_vm, mover):
    """Each burst is what the rate allows in a period: 1 MiB of 256 pages."""
    vm = start_vm("a", *memtick("mib=4 rate=4 pattern=periodic period=250 check=part idle=poll "
                                "beats=10 pulse=1"))
    wait_ticks(vm, 5)
    new, _ = mover.move(vm)
    wait_ticks(new, 10)
    assert re.search(r"(^|\n)\.*\.(tick|$)", new.console())
    ticks, pages, missed = map(int, re.findall(r"tick (\d+) pass \d+ pages (\d+) .*? missed (\d+) ",
                                               new.console())[-1])
    bursts = pages / 256
    assert 1 <= bursts <= (ticks + missed) / 25 + 2


def test_a_hundred_moves(start_vm, mover):
    vm = start_vm("a", *memtick("mib=8 rate=40 quiet=0"))
    last = wait_ticks(vm)
    for i in range(100):
        new, _ = mover.move(vm)
        assert "BAD" not in vm.console()
        vm.close()
        vm = new
    assert wait_ticks(vm, 2) > last
    assert vm.status() == "running"


@pytest.mark.parametrize("program", ["WFI_FOREVER", "SPIN_FOREVER"])
def test_a_halted_and_a_spinning_guest_move(start_vm, mover, tmp_path, program):
    image = bare.write(tmp_path / "k", getattr(bare, program))
    vm = start_vm("a", *bare.options(image))
    for _ in range(3):
        vm, _ = mover.move(vm)


def test_a_paused_guest_stays_paused(start_vm, mover):
    vm = start_vm("a", *memtick())
    before = wait_ticks(vm)
    vm.qmp.command("stop")
    new, _ = mover.move(vm)
    assert new.status() == "paused"
    text = new.console()
    again, _ = mover.move(new)
    assert again.status() == "paused" and again.console() == "" and new.console() == text
    again.qmp.command("cont")
    assert wait_ticks(again) > before


def test_a_destination_may_hold_the_guest(start_vm, mover):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--paused")
    vm.migrate(new.uri)
    wait_until("the guest to arrive", lambda: new.status() == "paused")
    new.qmp.command("cont")
    wait_ticks(new)


def test_a_moved_guest_can_be_reset_and_rebooted(start_vm, mover, tmp_path):
    image = bare.write(tmp_path / "k", bare.say("boot ") + bare.WFI_FOREVER)
    vm = start_vm("a", *bare.options(image))
    vm.wait_console("boot ")
    vm, _ = mover.move(vm)
    image.unlink()
    for n in range(1, 4):
        vm.qmp.command("system_reset")
        vm.wait_console("boot " * n)
    vm, _ = mover.move(vm)
    vm.qmp.command("system_reset")
    vm.wait_console("boot ")


def test_pause_resume_and_power_off_after_moves(start_vm, mover):
    vm = start_vm("a", *memtick("mib=8 rate=40 passes=100"))
    wait_ticks(vm)
    for _ in range(3):
        vm, _ = mover.move(vm)
        vm.qmp.command("stop")
        vm.qmp.command("cont")
    assert vm.wait_exit() == 0


def test_the_guests_failure_code_survives_a_move(start_vm, mover, tmp_path):
    image = bare.write(tmp_path / "k", bare.finish(0x0007_3333))
    vm = start_vm("a", "--paused", *bare.options(image))
    wait_until("the machine", lambda: vm.status() == "paused")
    new, _ = mover.move(vm)
    new.qmp.command("cont")
    assert new.wait_exit() == 7


def test_moves_while_the_guest_reboots_over_and_over(start_vm, mover, tmp_path):
    image = bare.write(tmp_path / "k", bare.say("x") + bare.finish(0x7777))
    vm = start_vm("a", *bare.options(image))
    vm.wait_console("xxx")
    for _ in range(10):
        vm, _ = mover.move(vm)
        vm.wait_console("xxx")


def test_budgets_are_obeyed_and_reported(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=20"))
    wait_ticks(vm)
    _, summary = mover.move(vm, "--max-blackout", "150ms", "--max-bandwidth", "100MiB/s")
    parameters = vm.qmp.command("query-migrate-parameters")
    assert parameters["downtime-limit"] == 150
    assert parameters["max-bandwidth"] == 100 << 20
    assert summary["predicted_blackout_ms"] > 0


# ---- encodings -----------------------------------------------------------------------------------

TCP = "tcp:127.0.0.1:0"  # over a UNIX socket memory would be shared


def test_encoded_pages_arrive(start_vm, mover):
    """The streams are decoded by the independent reader too."""
    vm = start_vm("a", *memtick("mib=16 rate=50 fill=text"))
    before = wait_ticks(vm)
    n_moves = n_misses = 0
    # A guest that had no processor meanwhile has written nothing that a second round could carry.
    while n_moves < 3 or (n_misses == 0 and n_moves < 30):
        new, summary = mover.move(vm, "--compress", "zstd", "--delta", "8MiB", uri=TCP)
        info = summary["migration"]
        assert 0 < info["compression"]["compressed-size"] < info["compression"]["bytes"]
        assert info["xbzrle-cache"]["cache-size"] == 8 << 20
        n_misses += info["xbzrle-cache"]["cache-miss"]  # the second round finds an empty cache
        n_moves += 1
        assert info["ram"]["pages-resent"] == 0
        vm.close()
        vm = new
    assert n_misses > 0
    assert wait_ticks(vm) > before and "BAD" not in vm.console()


def test_pages_go_raw_when_asked_to(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=20 fill=text"))
    wait_ticks(vm)
    _, summary = mover.move(vm, "--compress", "off", "--delta", "off", "--max-bandwidth", "16MiB/s",
                            "--max-blackout", "1s", uri=TCP)
    assert "compression" not in summary["migration"]
    assert "xbzrle-cache" not in summary["migration"]


def test_a_slow_link_is_compressed_by_itself(start_vm, mover):
    vm = start_vm("a", *memtick("mib=24 rate=1 fill=text"))
    wait_ticks(vm)
    _, summary = mover.move(vm, "--max-bandwidth", "4MiB/s", "--max-blackout", "2s", uri=TCP)
    assert summary["migration"]["compression"]["pages"] > 1000
    assert summary["bytes"] < 20 << 20


def test_encodings_are_asked_for_correctly(start_vm):
    vm = start_vm("a", *memtick("mib=8 rate=1"))
    for option in ("--compress=lzma", "--delta=much", "--delta="):
        done = vm.godwit("migrate", option, "tcp:127.0.0.1:1", check=False)
        assert done.returncode == 2 and option.split("=")[0] in done.stderr


# ---- snapshots -----------------------------------------------------------------------------------

def test_a_snapshot_starts_any_number_of_guests(start_vm, godwit, tmp_path):
    vm = start_vm("a", *memtick())
    before = wait_ticks(vm)
    path = tmp_path / "guest.gw"
    vm.godwit("save", path)
    assert vm.status() == "running"
    position = len(vm.console())
    wait_ticks(vm, start=position)
    wire_reader.read_stream(str(path))
    report = godwit("inspect", path)
    assert report.returncode == 0 and "whole, all digests right" in report.stdout
    assert ", machine virt," in report.stdout
    for name in ("r", "s"):
        again = start_vm(name, "--bios", "none", "--memory", "64M", "--restore", path)
        assert wait_ticks(again) >= before


def test_save_through_a_command(start_vm, tmp_path):
    vm = start_vm("a", "--sandbox", "off", *memtick())
    wait_ticks(vm)
    path = tmp_path / "guest.gw"
    vm.godwit("save", f"exec:cat > {path}")
    wire_reader.read_stream(str(path))
    done = vm.godwit("save", "exec:exit 3", check=False)
    assert done.returncode == 1 and "3" in done.stderr
    assert vm.status() == "running"


def test_a_damaged_snapshot_is_refused_and_named(start_vm, godwit, tmp_path):
    vm = start_vm("a", "--paused", *memtick())
    wait_until("the machine", lambda: vm.status() == "paused")
    path = tmp_path / "guest.gw"
    vm.godwit("save", path)
    whole = path.read_bytes()
    for position in (3, 100, len(whole) // 2, len(whole) - 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (tmp_path / "bad.gw").write_bytes(damaged)
        assert_refused(start_vm, godwit, tmp_path / "bad.gw")
    for length in (0, 63, 64, 1000, len(whole) - 1):
        (tmp_path / "cut.gw").write_bytes(whole[:length])
        assert_refused(start_vm, godwit, tmp_path / "cut.gw")


def assert_refused(start_vm, godwit, path):
    assert godwit("inspect", path).returncode == 1
    vm = start_vm(f"bad{os.urandom(4).hex()}", "--bios", "none", "--memory", "64M", "--restore",
                  path)
    assert vm.wait_exit() == 1
    assert "godwit: the snapshot is not restored: " in vm.log()


# ---- what must be refused before the first page --------------------------------------------------

@pytest.mark.parametrize("options, sentence", [
    (("--memory", "128M"), "RAM"),
    (("--memory", "64M", "--cpus", 2), "cpus"),
    (("--memory", "64M", "--rng"), "virtio-rng/0"),
], ids=["ram", "cpus", "devices"])
def test_a_machine_that_does_not_fit_is_refused(start_vm, mover, options, sentence):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--bios", "none", *options)
    done = vm.godwit("migrate", new.uri, "--ram", "copy", check=False)
    assert done.returncode == 3, done.stderr
    assert sentence in done.stderr
    assert vm.status() == "running"
    assert vm.migration()["ram"]["normal"] == 0, "a page was sent"
    assert new.wait_exit() == 1
    assert sentence in new.log()
    good, _ = mover.move(vm)
    wait_ticks(good)


# ---- what may break ------------------------------------------------------------------------------

def test_cancel_at_any_time(start_vm, mover):
    vm = start_vm("a", *memtick("mib=32 rate=50"))
    wait_ticks(vm)
    for _ in range(3):
        new = mover.destination("--bios", "none", "--memory", "64M")
        vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 20 << 20, "ram": "copy"})
        vm.qmp.command("migrate", uri=new.uri)
        wait_until("pages to be sent", lambda: vm.migration()["ram"]["normal"] > 100)
        vm.qmp.command("migrate_cancel")
        wait_until("the end", lambda: vm.migration()["status"] == "cancelled")
        assert vm.status() == "running"
        assert new.wait_exit() == 1
        new.close()
    vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0})
    new, _ = mover.move(vm)
    wait_ticks(new)


def test_max_time_ends_what_does_not_converge(start_vm, mover):
    vm = start_vm("a", *memtick("mib=32 rate=0"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M")
    done = vm.godwit("migrate", new.uri, "--max-bandwidth", "10MiB/s", "--max-time", "1s",
                     "--max-blackout", "10ms", "--ram", "copy", "--mode", "precopy", check=False)
    assert done.returncode in (1, 4)
    assert vm.status() == "running"
    position = len(vm.console())
    wait_ticks(vm, start=position)


def start_slow(vm, mover):
    """A migration that is in its rounds, and that one link has to do for."""
    new = mover.destination("--bios", "none", "--memory", "64M")
    vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 20 << 20, "ram": "copy",
                                                "reconnect-time": 0})
    vm.qmp.command("migrate", uri=new.uri)
    wait_until("pages to be sent", lambda: vm.migration()["ram"]["normal"] > 100)
    return new


def test_the_destination_is_killed_during_rounds(start_vm, mover):
    vm = start_vm("a", *memtick("mib=32 rate=50"))
    wait_ticks(vm)
    new = start_slow(vm, mover)
    new.kill()
    wait_until("the source to notice", lambda: vm.migration()["status"] == "failed")
    assert vm.migration()["error-desc"]
    assert vm.status() == "running"
    vm.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0})
    good, _ = mover.move(vm)
    wait_ticks(good)


def test_the_source_is_killed_during_rounds(start_vm, mover):
    vm = start_vm("a", *memtick("mib=32 rate=50"))
    wait_ticks(vm)
    new = start_slow(vm, mover)
    vm.kill()
    assert new.wait_exit() == 1
    assert "the incoming guest was lost" in new.log()
    assert new.console() == ""


@pytest.mark.parametrize("fault", [
    "cut@record=3", "cut@type=HELLO", "cut@type=RAM_MAP", "cut@type=ROUND_BEGIN",
    "cut@type=ROUND_END", "cut@bytes=100000", "cut@bytes=3000000", "cut@type=SWITCHOVER_BEGIN",
    "cut@type=STATE_END", "cut@type=LOADED@in", "cut@type=SCHEMA_VERDICT@in",
    "corrupt@type=STATE_END@at=8", "corrupt@record=6@at=1", "truncate@type=RAM_MAP",
    "duplicate@type=RAM_MAP", "drop@type=STATE_END"])
def test_a_fault_before_commit_leaves_the_guest_here(start_vm, mover, fault):
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    wait_ticks(vm)
    # Also the limit of the handshake, which a busy machine must not miss.
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": 5000, "ram": "copy",
                                                "reconnect-time": 0})
    new = mover.destination("--bios", "none", "--memory", "64M")
    done = vm.godwit("migrate", f"fault:{fault},{new.uri}", check=False)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert vm.status() == "running"
    assert new.console() == ""
    if fault not in NOBODY_CAME + SAID_LOADED:
        assert new.wait_exit() == 1
    else:
        assert new.status() == "inmigrate"
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": 10000})
    good, _ = mover.move(vm)
    wait_ticks(good)


# A destination goes on listening when nobody has said HELLO, and when a source that was told LOADED
# may come and ask who owns the guest.
NOBODY_CAME = ["cut@type=HELLO"]
SAID_LOADED = ["cut@type=LOADED@in"]


def test_commit_lost_on_the_way_the_source_goes_on(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M")
    vm.godwit("migrate", f"fault:cut@type=COMMIT,{new.uri}", "--ram", "copy", check=False)
    wait_until("the doubt to end", lambda: vm.status() in ("running", "postmigrate"))
    owners = [v for v in (vm, new) if v.is_alive() and v.status() == "running"]
    assert len(owners) == 1
    position = len(owners[0].console())
    wait_ticks(owners[0], start=position)


def test_running_lost_on_the_way_the_destination_goes_on(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M")
    vm.godwit("migrate", f"fault:cut@type=RUNNING@in,{new.uri}", "--ram", "copy", check=False)
    wait_until("the doubt to end", lambda: vm.status() == "postmigrate")
    assert new.status() == "running"
    wait_ticks(new)


def in_doubt(start_vm, mover):
    """A source in doubt whose destination cannot be reached any more; it was killed."""
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M")
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": 4000, "ram": "copy"})
    vm.qmp.command("migrate", uri=f"fault:stall@type=RUNNING@in,{new.uri}")
    wait_until("the destination to run", lambda: new.status() == "running")
    new.kill()
    new.wait_exit()
    os.unlink(new.uri.removeprefix("unix:"))
    wait_until("the doubt", lambda: vm.migration()["state"] == "in-doubt")
    return vm


def test_quit_waits_for_the_hand_over(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=50"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M")
    vm.qmp.command("migrate-set-parameters", **{"ram": "copy"})
    vm.qmp.command("migrate", uri=f"fault:stall@type=RUNNING@in,{new.uri}")
    wait_until("the COMMIT", lambda: vm.migration()["state"] == "committed")
    done = vm.godwit("quit", check=False)
    assert done.returncode == 1 and "handed over" in done.stderr
    wait_until("the doubt to end", lambda: vm.status() == "postmigrate", 60)
    wait_ticks(new)
    vm.godwit("quit")


def test_a_doubt_is_ended_by_an_operator(start_vm, mover, godwit):
    vm = in_doubt(start_vm, mover)
    assert vm.status() == "finish-migrate"
    for command in ("cont", "reset", "cancel", "quit"):
        assert vm.godwit(command, check=False).returncode == 1
    assert vm.status() == "finish-migrate"
    position = len(vm.console())
    vm.godwit("resolve", "run-here")
    wait_until("the guest to go on", lambda: vm.status() == "running")
    wait_ticks(vm, start=position)
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": 10000})
    good, _ = mover.move(vm)
    wait_ticks(good)


def test_an_operator_may_release_the_guest(start_vm, mover):
    vm = in_doubt(start_vm, mover)
    vm.godwit("resolve", "release")
    assert vm.status() == "postmigrate"
    assert vm.godwit("cont", check=False).returncode == 1
    assert vm.qmp.command("quit") == {}


def test_a_guest_that_is_gone_never_runs_here_again(start_vm, mover):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    mover.move(vm)
    for command in ("cont", "reset", "stop"):
        done = vm.godwit(command, check=False)
        assert done.returncode == 1
        assert "was handed over to another process" in done.stderr
    assert vm.godwit("migrate", "unix:/nonexistent", check=False).returncode == 1


def test_migrate_incoming_by_monitor(start_vm, mover, tmp_path):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = start_vm("d", "--bios", "none", "--memory", "64M", "--incoming", "defer")
    wait_until("inmigrate", lambda: new.status() == "inmigrate")
    uri = f"unix:{tmp_path}/in"
    new.qmp.command("migrate-incoming", uri=uri, exit_on_error=False)
    vm.godwit("migrate", f"fault:cut@bytes=2000000,{uri}", "--ram", "copy",
              "--reconnect-time", "0s", check=False)
    wait_until("the first attempt's end", lambda: new.migration()["status"] == "failed")
    assert new.status() == "inmigrate"
    vm.migrate(uri)
    wait_until("the second attempt", lambda: new.status() == "running")
    wait_ticks(new)
