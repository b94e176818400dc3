# SPDX-License-Identifier: MIT
"""godwit plan: what it says about small guests, and that it leaves both processes as they were."""
import json
import os

import pytest

import wire_reader
from gwlab.vm import wait_until
from test_migrate import Mover, memtick, wait_ticks

LINK = 16_000_000


@pytest.fixture
def mover(start_vm, tmp_path):
    return Mover(start_vm, str(tmp_path))


def plan(vm, uri, *options, status=0):
    done = vm.godwit("plan", uri, "--json", "--sample", "1s", *options, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_plan_tells_all_and_changes_nothing(start_vm, mover):
    vm = start_vm("a", *memtick("mib=16 rate=4"))
    before = wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--cpus", 1)
    slow = f"rate:{LINK},{new.uri}"
    said = plan(vm, slow, "--max-blackout", "300s")
    assert said["accepted"] and said["findings"] == []
    # How exact forecasts are is shown where time is played (tests/unit/migrate). A loaded machine
    # makes any link slower, and none faster.
    assert 0 < said["link"]["bandwidth"]["expected"] < 1.3 * LINK
    assert 0 < said["link"]["probe-bytes"] <= 64 << 20
    assert said["guest"]["ram-bytes"] >= 64 << 20
    assert 0 < said["guest"]["used-bytes"] < 64 << 20
    assert said["guest"]["dirty-rate"] > 0
    assert said["chosen"] == "precopy" and said["meets-budgets"], said["reason"]
    # Neither side has noticed.
    assert new.status() == "inmigrate" and new.migration()["migrations"] == 0
    assert vm.status() == "running" and vm.migration()["status"] == "none"
    assert wait_ticks(vm, start=len(vm.console())) > before
    # And what it is about can be done.
    precopy = next(mode for mode in said["modes"] if mode["mode"] == "precopy")
    # What pages shrink to is not forecast, and the filter is for each channel.
    done = vm.migrate(slow, "--max-blackout", "300s", "--compress", "off", "--delta", "off",
                      "--channels", "1")
    assert done["state"] == "completed"
    print("total", precopy["total-ns"], "outcome", done["total_ms"], "ms; blackout",
          precopy["blackout-ns"], "outcome", done["blackout_ms"], "ms")
    assert precopy["total-ns"]["expected"] > 0.8 * (16 << 20) / LINK * 1e9
    kept = done["migration"]["forecast"]
    assert kept["round"] >= 2 and kept["total-ns"]["expected"] and kept["blackout-ns"]["expected"]


def test_what_would_be_refused_is_part_of_it(start_vm, mover):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "128M", "--cpus", 1)
    said = plan(vm, new.uri, status=3)
    assert said["accepted"] is False
    assert any("RAM block" in finding for finding in said["findings"])
    assert said["link"]["measured"] and "chosen" in said
    assert new.status() == "inmigrate"


def test_nobody_there(start_vm, tmp_path):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    said = plan(vm, f"unix:{tmp_path}/nobody.sock", status=1)
    assert said["status"] == "done" and not said["link"]["measured"]
    assert "not measured" in said["link"]["note"] and said["guest"]["dirty-rate"] > 0
    assert "modes" not in said
    # How fast it may be is enough for a forecast.
    said = plan(vm, f"unix:{tmp_path}/nobody.sock", "--max-bandwidth", "500MiB/s", "--max-blackout",
                "5s")
    assert said["chosen"] == "precopy"


def test_budgets_that_cannot_be_met(start_vm, mover):
    vm = start_vm("a", *memtick("mib=32 rate=200"))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--cpus", 1)
    said = plan(vm, f"rate:{LINK},{new.uri}", "--max-blackout", "50ms", "--no-postcopy", status=1)
    precopy = next(mode for mode in said["modes"] if mode["mode"] == "precopy")
    assert not said["meets-budgets"] and not precopy["meets-budgets"]
    assert precopy["needs"]["blackout-ns"] > 50e6
    assert "what would do" in said["reason"]
    assert not next(mode for mode in said["modes"] if mode["mode"] == "postcopy")["possible"]
    # Post-copy would do, where it may be.
    said = plan(vm, f"rate:{LINK},{new.uri}", "--max-blackout", "50ms")
    assert said["chosen"] == "postcopy" and said["meets-budgets"]
    assert "the loss of either host is the loss of the guest" in said["reason"]
    text = vm.godwit("plan", new.uri, "--sample", "500ms", check=False).stdout
    for word in ("Guest ", "Link ", "Destination ", "precopy", "blackout, ms"):
        assert word in text, text
    print(text)


def test_a_migration_ends_a_plan(start_vm, mover):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--cpus", 1)
    vm.qmp.command("plan", uri=new.uri, **{"sample-time": 60000})
    wait_until("the guest to be watched",
               lambda: vm.qmp.command("query-plan").get("elapsed-ns", 0) > 0)
    assert vm.qmp.command("query-plan")["status"] == "sampling"
    assert vm.migrate(new.uri)["state"] == "completed"
    assert vm.qmp.command("query-plan")["status"] == "cancelled"


def test_the_probe_is_read_independently(start_vm, mover):
    vm = start_vm("a", *memtick())
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", "64M", "--cpus", 1)
    folder, traced = mover.traced(new.uri)
    said = plan(vm, f"rate:{LINK},{traced}", "--max-blackout", "300s")
    streams = [wire_reader.read_stream(os.path.join(folder, name)) for name in os.listdir(folder)]
    assert sorted(stream.sender for stream in streams) == ["destination", "source"]
    assert all(stream.role == "probe" and stream.is_complete for stream in streams)
    source, destination = sorted(streams, key=lambda stream: stream.sender, reverse=True)
    assert source.probe_bytes == said["link"]["probe-bytes"]
    assert destination.messages["PROBE_ACK"][-1]["n_bytes"] == source.probe_bytes
    assert destination.messages["SCHEMA_VERDICT"][0]["is_accepted"]
