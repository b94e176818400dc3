# SPDX-License-Identifier: MIT
"""Guests that move before their memory, and links that are replaced: real processes, self-checking
guests, and both monitors asked meanwhile."""
import json
import os
import re
import subprocess

import pytest

from gwlab.guest import Agent, Stream
from gwlab.vm import godwit_path, wait_until
from test_linux import BOOT_S, boot, net_and_disk, try_ask
from test_migrate import memtick, mover, read_streams, wait_ticks  # noqa: F401

# Pages are under way for seconds when the guest has moved.
SLOW = {"ram": "copy", "multifd-compression": "none", "delta": "off", "max-bandwidth": 12 << 20}


def like(cpus=1, memory="64M"):
    return ("--bios", "none", "--memory", memory, "--cpus", cpus)


def wait_state(vm, *states, timeout=240):
    return wait_until(f"{vm.name} to be {' or '.join(states)}",
                      lambda: (now := vm.migration()).get("state") in states and now,
                      timeout=timeout)


def start_move(vm, mover, cpus=1, memory="64M", *options, through="", **params):  # noqa: F811
    """A migration that hands the guest over at once; its pages follow slowly."""
    new = mover.destination(*like(cpus, memory), *options)
    vm.qmp.command("migrate-set-parameters", **{**SLOW, "mode": "postcopy", **params})
    vm.qmp.command("migrate", uri=through + new.uri)
    return new


def wait_whole(vm, new):
    wait_state(vm, "completed")
    wait_state(new, "running")
    info = new.migration()
    assert info["pages-missing"] == 0 and info["postcopy"] is True
    assert vm.status() == "postmigrate" and new.status() == "running"
    return info


@pytest.mark.parametrize("cpus", [1, 4, 8])
def test_a_guest_moves_before_its_memory(start_vm, mover, cpus):  # noqa: F811
    """With 8 harts that run through all of their memory: a storm of faults."""
    vm = start_vm("a", *memtick("mib=32 rate=0", "64M", cpus))
    wait_ticks(vm)
    new = mover.destination(*like(cpus))
    folder, traced = mover.traced(new.uri)
    vm.qmp.command("migrate-set-parameters", **{**SLOW, "mode": "postcopy"})
    vm.qmp.command("migrate", uri=traced)
    wait_state(new, "postcopy")
    assert new.status() == "running" and vm.status() in ("postmigrate", "finish-migrate")
    info = wait_whole(vm, new)
    assert info["faults"]["count"] > 0
    assert {t["name"] for t in info["faults"]["threads"]} & {f"hart-{i}" for i in range(cpus)}
    told = vm.migration()
    assert told["faults"] == info["faults"], "the source knows what its guest waited for"
    assert told["ram"]["postcopy-requests"] >= told["served"]["count"] > 0
    wait_ticks(new, 2)
    streams = read_streams(folder)
    assert told["served"]["count"] == sum(s.counts.get("PAGE_REQUEST", 0) for s in streams)
    waits, = (m for s in streams for m in s.messages.get("FAULT_WAITS", []))
    assert waits["faults"] == info["faults"]["count"]
    # What came that way moves on as any other guest does.
    vm.close()
    new.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0, "mode": "precopy"})
    third, _ = mover.move(new, like=like(cpus))
    wait_ticks(third)


def test_auto_ends_what_precopy_never_would(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick("mib=32 rate=0"))
    wait_ticks(vm)
    new = mover.destination(*like())
    done = vm.godwit("migrate", new.uri, "--ram", "copy", "--max-bandwidth", "16MiB/s", "--compress",
                     "off", "--delta", "off", "--max-blackout", "100ms", timeout=300)
    assert "post-copy" in done.stdout
    table = done.stdout.split("vCPU waits for pages", 1)[1]
    assert re.search(r"\n  hart-0 +[1-9][0-9]* +[0-9.]+ ", table)
    assert " answered here: " in done.stdout
    assert vm.migration()["postcopy"] is True
    # One round that left what it found is enough where the forecast sees no end: then the stopped
    # one, and that of the push.
    assert vm.migration()["round"] <= 4
    wait_ticks(new, 2)


def test_who_forbids_it_is_heard(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick("mib=16 rate=0"))
    wait_ticks(vm)
    new = mover.destination(*like(), "--no-postcopy")
    done = vm.godwit("migrate", new.uri, "--ram", "copy", "--mode", "postcopy", check=False)
    assert done.returncode in (1, 3) and "post-copy" in done.stderr
    assert vm.status() == "running"
    assert vm.migration()["ram"]["normal"] == 0, "before the first page"
    # In auto the rounds go on instead.
    other = mover.destination(*like(), "--no-postcopy")
    done = vm.godwit("migrate", other.uri, "--mode", "auto", "--max-bandwidth", "8MiB/s",
                     "--max-blackout", "10ms", "--compress", "off", "--delta", "off", "--max-time",
                     "8s", check=False)
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert vm.migration()["postcopy"] is False and vm.status() == "running"
    wait_ticks(vm, start=len(vm.console()))


def test_it_pauses_recovers_and_answers_meanwhile(start_vm, mover, tmp_path):  # noqa: F811
    vm = start_vm("a", *memtick("mib=32 rate=0", "64M", 4))
    wait_ticks(vm)
    new = start_move(vm, mover, 4)
    wait_state(new, "postcopy")
    # What the destination gives up, the source brings again by itself.
    new.qmp.command("migrate-pause")
    wait_until("another link", lambda: vm.migration()["reconnects"] == 1)
    for turn in range(3):
        wait_state(new, "postcopy")
        vm.qmp.command("migrate-pause")
        wait_state(vm, "postcopy-paused")
        wait_state(new, "postcopy-paused")
        # Both are asked while vCPUs wait for pages, and nobody hangs.
        for asked in (vm, new):
            for command in ("query-status", "query-migrate", "query-cpus-fast", "query-blackout"):
                asked.qmp.command(command)
        assert new.migration()["pages-missing"] > 0
        assert vm.migration()["status"] == "postcopy-paused"
        where = f"unix:{tmp_path}/again{turn}.sock"
        assert new.godwit("recover", check=False).returncode != 0, "it was not told where"
        new.qmp.command("migrate-recover", uri=where)
        # To nowhere first: it stays paused, and says why.
        vm.qmp.command("migrate-recover", uri=f"unix:{tmp_path}/nowhere.sock")
        wait_until("the reason", lambda: "nowhere" in vm.migration().get("error-desc", ""))
        assert vm.migration()["state"] == "postcopy-paused"
        vm.qmp.command("migrate-recover", uri=where)
        wait_state(vm, "postcopy", "completed")
    wait_whole(vm, new)
    assert vm.migration()["reconnects"] == 4
    wait_ticks(new, 2)


# A fault comes again with each connection that replaces one: the recovery breaks, too. The stall
# counts bytes, of which a void round has next to none: one that always stalls within it, before the
# guest has moved, is rightly given up.
@pytest.mark.parametrize("fault", [
    "cut@record=12@channel=page-0", "cut@type=RUNNING@in", "cut@record=20@channel=urgent-0",
    "stall@bytes=2000000@channel=page-1", "cut@bytes=2000000@channel=page-0"])
def test_a_lost_link_is_replaced_by_itself(start_vm, mover, fault):  # noqa: F811
    vm = start_vm("a", *memtick("mib=32 rate=0", "64M", 2))
    wait_ticks(vm)
    vm.qmp.command("migrate-set-parameters", **{"silence-limit": 4000})
    new = start_move(vm, mover, 2, "64M", through=f"fault:{fault},")
    wait_whole(vm, new)
    wait_ticks(new, 2)


def test_the_source_dies_and_the_guest_is_lost(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick("mib=48 rate=0", "64M", 2))
    wait_ticks(vm)
    new = start_move(vm, mover, 2)
    wait_state(new, "postcopy")
    done = vm.godwit("quit", check=False)
    assert done.returncode == 1 and vm.is_alive(), "it holds memory of a guest that runs"
    vm.kill()
    vm.wait_exit()
    wait_state(new, "postcopy-paused")
    # Its vCPUs wait for pages that nobody has any more; the process is at its user's word.
    assert new.migration()["pages-missing"] > 0
    assert new.qmp.command("query-cpus-fast")
    new.qmp.command("quit")
    assert new.wait_exit() == 7 and "it is lost" in new.log()
    left = [name for _, _, names in os.walk(os.path.dirname(new.monitor_path)) for name in names]
    assert not [name for name in left if name.endswith(".sock") or name == "d1.qmp"]


def test_the_destination_dies_and_the_source_says_so(start_vm, mover):  # noqa: F811
    vm = start_vm("a", *memtick("mib=48 rate=0", "64M", 2))
    wait_ticks(vm)
    new = mover.destination(*like(2))
    watch = subprocess.Popen([godwit_path(), "migrate", vm.monitor_path, new.uri, "--json", "--mode",
                              "postcopy", "--ram", "copy", "--max-bandwidth", "8MiB/s"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_state(new, "postcopy")
    new.kill()
    new.wait_exit()
    wait_state(vm, "postcopy-paused")
    assert vm.status() != "running", "it may not run here again: it has run there"
    assert vm.godwit("cont", check=False).returncode == 1
    assert vm.godwit("resolve", "run-here", check=False).returncode == 1
    vm.godwit("resolve", "release")
    wait_state(vm, "lost")
    out, err = watch.communicate(timeout=120)
    assert watch.returncode in (5, 7), err
    assert json.loads(out.strip().splitlines()[-1])["state"] in ("lost", "postcopy-paused")


@pytest.mark.parametrize("fault", ["cut@record=20@channel=page-0", "cut@bytes=9000000@channel=page-1",
                                   "corrupt@record=20@channel=page-0@at=9"])
def test_precopy_goes_on_over_another_link(start_vm, mover, fault):  # noqa: F811
    vm = start_vm("a", *memtick("mib=32 rate=20"))
    wait_ticks(vm)
    new = mover.destination(*like())
    done = vm.godwit("migrate", f"fault:{fault},{new.uri}", "--ram", "copy", "--mode", "precopy",
                     "--reconnect-time", "60s", "--json", "--max-bandwidth", "32MiB/s", timeout=300)
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["state"] == "completed"
    assert vm.migration()["reconnects"] >= 1
    # It did not begin anew.
    ram = vm.migration()["ram"]
    n_zero = (ram["total"] - (32 << 20)) // 4096
    assert ram["duplicate"] < 1.5 * n_zero
    wait_ticks(new, 2)


def test_a_guest_with_traffic_moves_before_its_memory(start_vm, mover, tmp_path):  # noqa: F811
    """Stock Linux: net, disk, rng; devices reach into memory that is not there yet."""
    devices, control, echo = net_and_disk(tmp_path)
    vm = boot(start_vm, *devices, "--cpus", 2, append="gw.ip=dhcp")
    vm.wait_console("GODWIT-READY", BOOT_S)
    agent = Agent("127.0.0.1", control)
    agent.ask("dirty 16@20")
    agent.ask("disk-write /dev/vda 0 8 1")
    agent.close()
    for i in range(2):
        new = mover.destination("--memory", "128M", "--cpus", 2, *devices)
        vm.qmp.command("migrate-set-parameters", **{**SLOW, "mode": "postcopy",
                                                    "max-bandwidth": 24 << 20})
        vm.qmp.command("migrate", uri=new.uri)
        wait_state(new, "postcopy", "running")
        wait_whole(vm, new)
        assert new.migration()["faults"]["count"] > 0
        vm.close()
        vm = new
        agent = Agent("127.0.0.1", control)
        status = agent.status()
        assert status["errors"] == 0 and status["running"] == 1
        wait_until("the disk to hold what was written",
                   lambda: try_ask(agent, "disk-check /dev/vda 0 8 1"))
        agent.ask(f"disk-write /dev/vda {8 * (i + 1)} 8 {i + 2}")
        agent.close()
    stream = Stream("127.0.0.1", echo)
    wait_until("lines", lambda: stream.lines > 20 or stream.error)
    assert stream.close() > 20
    assert "Oops" not in vm.console() and "panic" not in vm.console()
