# SPDX-License-Identifier: MIT
"""A guest that dirties faster than the link carries: only who writes is slowed, and no longer than it
takes. Counted in rounds."""
from gwlab.vm import wait_until
from test_migrate import memtick, mover, wait_ticks  # noqa: F401

LINK = {"max-bandwidth": 8 << 20, "downtime-limit": 400, "ram": "copy", "multifd-compression": "none",
        "delta": "off", "mode": "precopy"}
# Hart 0 writes to its 8 MiB as fast as it can, the other three read theirs; the link takes a second
# for what hart 0 has. It has to take twice what the hart writes in a hundredth of its time and more,
# which is all that the most slowdown leaves it, on a fast machine too.
WRITER = "mib=32 rate=0 writers=1", "64M"
MOST_ROUNDS = 20  # to the target, and from there to the switchover by halves


def start_writer(start_vm, mover, **budgets):  # noqa: F811
    vm = start_vm("a", *memtick(*WRITER, 4))
    wait_ticks(vm)
    new = mover.destination("--bios", "none", "--memory", WRITER[1], "--cpus", 4)
    vm.qmp.command("migrate-set-parameters", **LINK, **budgets)
    vm.qmp.command("migrate", uri=new.uri)
    return vm, new


def wait_round(vm, n):
    def look():
        info = vm.migration()
        assert info["status"] in ("setup", "active"), info
        return info["round"] >= n and info
    return wait_until(f"round {n}", look, timeout=240, step=0.05)


def throttles(vm):
    return [cpu["stats"]["throttle"] for cpu in vm.qmp.command("query-cpus-fast")]


def test_it_converges_by_slowing_the_writer_only(start_vm, mover):  # noqa: F811
    vm, new = start_writer(start_vm, mover)
    # Without a budget it does not come to an end, and nobody is touched.
    info = wait_round(vm, 6)
    assert info["max-slowdown"] == 0 and info["throttled-vcpus"] == 0
    assert info["throttled-rounds"] == info["throttled-ns"] == 0
    assert info["vcpus"][0]["dirty-rate"] > 10 * max(v["dirty-rate"] for v in info["vcpus"][1:])
    assert throttles(vm) == [0, 0, 0, 0]

    vm.qmp.command("migrate-set-parameters", **{"max-slowdown": 99})
    first = vm.migration()["round"]
    wait_until("the move to complete", lambda: vm.migration()["status"] == "completed", timeout=240,
               step=0.05)
    info = vm.migration()
    assert info["round"] <= first + MOST_ROUNDS
    writer, *readers = info["vcpus"]
    assert writer["most-throttle"] > 0 and writer["throttled-ns"] > 0
    for reader in readers:
        assert reader["most-throttle"] == reader["throttled-ns"] == 0
    assert info["throttled-rounds"] >= 1
    assert info["throttled-ns"] == writer["throttled-ns"]

    # And then nobody is throttled any more, on either side.
    assert info["throttled-vcpus"] == 0 and "cpu-throttle-percentage" not in info
    assert throttles(vm) == throttles(new) == [0, 0, 0, 0]
    wait_ticks(new, 2)


def test_a_cancelled_move_leaves_no_throttle(start_vm, mover):  # noqa: F811
    # So little that it cannot converge, and stays throttled.
    vm, _ = start_writer(start_vm, mover, **{"max-slowdown": 10})
    info = wait_until("a throttle", lambda: (now := vm.migration()).get("throttled-vcpus") and now,
                      timeout=240, step=0.05)
    assert info["cpu-throttle-percentage"] <= 10 and info["throttled-vcpus"] == 1
    assert throttles(vm)[0] > 0
    vm.qmp.command("migrate_cancel")
    wait_until("the end", lambda: vm.migration()["status"] == "cancelled")
    assert throttles(vm) == [0, 0, 0, 0]
    assert vm.migration()["throttled-vcpus"] == 0
    wait_ticks(vm, start=len(vm.console()))


def test_the_command_shows_whom_it_slows(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick(*WRITER, 4))
    wait_ticks(vm)
    for wrong in ("100%", "half", "-1", ""):
        done = vm.godwit("migrate", f"--max-slowdown={wrong}", "tcp:127.0.0.1:1", check=False)
        assert done.returncode == 2 and "--max-slowdown" in done.stderr
    new = mover.destination("--bios", "none", "--memory", WRITER[1], "--cpus", 4)
    done = vm.godwit("migrate", new.uri, "--ram", "copy", "--compress", "off", "--delta", "off",
                     "--max-bandwidth", "8MiB/s", "--max-blackout", "400ms", "--max-slowdown", "99%",
                     "--mode", "precopy", timeout=300)
    assert vm.qmp.command("query-migrate-parameters")["max-slowdown"] == 99
    assert " vcpu 0 by up to " in done.stdout and " vcpu 1 by" not in done.stdout
    wait_ticks(new)
