# SPDX-License-Identifier: MIT
"""The fault matrix with the whole machine: every k-th record, every kind of fault, real processes.

The walk over every record with small embedder processes is tests/system/matrix. Here `godwit run`
is at both ends with a guest that checks its memory, and the faults come from the channels' own
filter: cut, stall, corrupt, and kill of the process on either side.
"""
import collections
import os

import pytest

import wire_reader
from gwlab import LabError
from gwlab.vm import wait_until
from test_migrate import memtick, mover, wait_ticks  # noqa: F401 (a fixture)

STEP = int(os.environ.get("MATRIX_STEP", "47"))
SILENCE_MS = 2000
GUEST = ("mib=8 rate=40",)
LIKE = ("--bios", "none", "--memory", "64M")
ACTIONS = ("cut", "corrupt", "kill source", "kill destination", "stall")
# The records that decide who owns the guest are always hit.
DECISIVE = [("control-0", "in", "LOADED"), ("control-0", "out", "COMMIT"),
            ("control-0", "in", "RUNNING")]
# The clock decides how many of these there are, so the record may be another one or never come.
REACHED_OR_NOT = ("completed", "failed")


def record_places(start_vm, mover, folder, ram="copy"):  # noqa: F811
    """(channel, direction, index) of every record of a whole migration."""
    vm = start_vm("recorded", *memtick(*GUEST))
    wait_ticks(vm)
    new = mover.destination(*LIKE)
    trace = folder / "trace"
    trace.mkdir()
    vm.migrate(f"trace:{trace},{new.uri}", ram=ram)
    places = []
    for name in sorted(os.listdir(trace)):
        words = name.split("-")  # id, role, index, side, nonce.suffix
        direction = "out" if name.endswith(".sent") else "in"
        count = [0]

        def note(record, *_, words=words, direction=direction, count=count):
            places.append((f"{words[1]}-{words[2]}", direction, count[0]))
            count[0] += 1
        note(None)  # the preamble
        wire_reader.read_stream(str(trace / name), allow_cut=True, on_record=note)
    for each in (vm, new):
        each.close()
    return places


def ask(vm, question):
    """The answer of a monitor, or None when its process has ended meanwhile."""
    try:
        return question(vm) if vm.is_alive() else None
    except (OSError, LabError):
        vm.wait_exit()
        return None


def status_of(vm):
    return ask(vm, lambda v: v.status())


def assert_owner(vm, new):
    """Exactly one of the two runs the guest, or the one that owned it is dead. Returns it."""
    def settled():
        states = {v.name: status_of(v) for v in (vm, new)}
        return states if "finish-migrate" not in states.values() else None
    states = wait_until("both sides to settle", settled)
    owners = [v for v in (vm, new) if states.get(v.name) == "running"]
    assert len(owners) <= 1, states
    return owners[0] if owners else None


def play(start_vm, mover, action, place, number, ram="copy"):  # noqa: F811
    """One case; returns the name of its outcome."""
    channel, direction, index = place
    kind, _, victim = action.partition(" ")
    unit = "type" if isinstance(index, str) else "record"
    spec = f"{kind}@{unit}={index}@channel={channel}"
    vm = start_vm(f"s{number}", *memtick(*GUEST))
    wait_ticks(vm)
    uri = f"unix:{mover.folder}/case{number}.sock"
    if victim == "destination":  # its filter sees the directions the other way round
        flipped = "in" if direction == "out" else "out"
        uri = f"fault:{spec}@{flipped},{uri}"
        spec = None
    new = mover.destination(*LIKE, uri=uri)
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": SILENCE_MS, "ram": ram,
                                                "reconnect-time": 0})
    target = f"unix:{mover.folder}/case{number}.sock"
    vm.qmp.command("migrate", uri=f"fault:{spec}@{direction},{target}" if spec else target)
    if victim == "source":
        outcome = after_dead_source(vm, new)
    else:
        outcome = after_live_source(vm, new)
    for each in (vm, new):
        assert "BAD" not in each.console()
    owner = next((v for v in (vm, new) if status_of(v) == "running"), None)
    if owner:
        wait_ticks(owner, start=len(owner.console()))
        if owner is vm:  # what failed once works the next time
            again, _ = mover.move(owner, like=LIKE)
            wait_ticks(again)
            again.close()
    for each in (vm, new):
        each.close()
    return outcome


def after_dead_source(vm, new):
    def over():
        found = ask(vm, lambda v: v.migration()["status"])
        return "killed" if not found else found in REACHED_OR_NOT and "unreached"
    if wait_until("the source to die", over) == "unreached":
        assert assert_owner(vm, new)
        return "record did not come"
    # It stays there as "disowned" when the source was told LOADED and might come to ask.
    wait_until("the destination to settle", lambda: ask(
        new, lambda v: v.migration()["state"]) in (None, "listening", "disowned", "running"))
    if status_of(new) == "running":
        return "runs at the destination, the source is dead"
    assert new.console() == ""
    return "died with the source"


def after_live_source(vm, new):
    def over():
        info = vm.migration()
        state = info["state"]
        # Nobody can end this doubt but an operator, unless both ends mapped the key of the memory.
        is_stuck = state == "in-doubt" and not new.is_alive() and not info["ram"]["shared"]
        return state if state in REACHED_OR_NOT or is_stuck else None
    state = wait_until("the source to settle", over)
    if state == "in-doubt":
        assert vm.status() == "finish-migrate"
        vm.godwit("resolve", "run-here")
        assert vm.status() == "running"
        return "in doubt, the operator lets the source go on"
    owner = assert_owner(vm, new)
    if state == "failed":
        assert owner is vm and new.console() == ""
        assert vm.migration()["error-desc"]
        return "goes on at the source"
    if not new.is_alive():
        assert owner is None and vm.status() == "postmigrate"
        return "died with the destination"
    wait_until("the destination to run", lambda: status_of(new) == "running")
    return "runs at the destination"


def test_every_kth_record_with_the_whole_machine(start_vm, mover, tmp_path):  # noqa: F811
    places = record_places(start_vm, mover, tmp_path)
    outcomes = collections.defaultdict(collections.Counter)
    number = 0
    for offset, action in enumerate(ACTIONS):
        for place in places[offset * 4 % STEP::STEP] + DECISIVE:
            number += 1
            try:
                outcomes[action][play(start_vm, mover, action, place, number)] += 1
            except AssertionError as error:
                pytest.fail(f"{action} at record {place}: {error}")
    assert number >= 15
    print(f"\n{len(places)} records, {number} cases")
    for action, found in outcomes.items():
        for outcome, count in found.items():
            print(f"{action:<18} {count:4} {outcome}")
