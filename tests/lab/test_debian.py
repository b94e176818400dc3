# SPDX-License-Identifier: MIT
"""A stock Debian amd64 on machine pc moves between two hosts with different processors."""
import itertools
import time
import urllib.request

import pytest

from far import WAIT_S, far
from gwlab import LabError, net
from gwlab.guest import Agent, Stream
from gwlab.parts import part
from gwlab.vm import wait_until

GUEST, MAC = "10.0.0.2", "52:54:00:67:77:01"
APPEND = f"console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init panic=-1 gw.ip={GUEST}/24"
# What the guest's kernel must not log once it is up; of the processor it remarks when it boots.
BAD = "BUG|Oops|WARNING|stall|unstable|clocksource: S|[Ll]ost|nobody cared|timed out|not connected"


class Guest:
    """The guest and where it is; every process has a TAP of its own on its host's bridge.

    No name of a TAP comes twice: the kernel lets go of one a while after its process was killed."""

    _taps = itertools.count(1)

    def __init__(self, here, there, cpus):
        self.here, self.there = here, there
        self.like = ("--machine", "pc", "--memory", "192M", "--cpus", cpus)
        self.count = 0
        self.vm = None

    def start(self, is_there, *options):
        self.count += 1
        tap = f"tap{next(self._taps)}"
        run = far if is_there else (lambda *argv: net.ip(*argv[1:]))
        run("ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr")
        run("ip", "link", "set", tap, "master", "gwbr0", "up")
        start = self.there if is_there else self.here
        return start(f"d{self.count}", *self.like, "--net", f"tap,ifname={tap},mac={MAC}", *options)

    def boot(self, is_there=False):
        self.vm = self.start(is_there, "--kernel", part("GODWIT_PC_KERNEL"), "--initrd",
                             part("GODWIT_PC_INITRD"), "--append", APPEND)
        self.vm.wait_console("GODWIT-READY", WAIT_S)

    def listener(self, to_there):
        """A process that waits for the guest, and the address for the source."""
        uri = f"tcp:10.0.0.{3 if to_there else 1}:{7100 + self.count}"
        new = self.start(to_there, "--incoming", uri)
        wait_until("the destination to listen", new.status, WAIT_S, step=0.2)
        return new, uri

    def move(self, to_there, *options):
        new, uri = self.listener(to_there)
        self.vm.migrate(uri, "--max-blackout", "10s", *options, timeout=WAIT_S)
        wait_until("the destination to run", lambda: new.status() == "running", WAIT_S, step=0.2)
        assert self.vm.status() == "postmigrate"
        self.vm = new


class Clock:
    """The guest's uptime and wall clock, beside this host's from the moment this object is made."""

    TRIES = 10  # the quickest answer says it most exactly

    def __init__(self, agent):
        self._agent = agent
        self._first = self._read()

    def _read(self):
        answers = []
        for _ in range(self.TRIES):
            before, wall = time.monotonic(), time.time()
            status = self._agent.status()
            took = time.monotonic() - before
            answers.append((took, status["uptime_ms"] / 1000 - (before + took / 2),
                            status["wall_ms"] / 1000 - (wall + took / 2)))
        return min(answers)

    def check(self):
        """Neither has got further or less far than this host's since, by more than the reading's error."""
        took, uptime, wall = self._read()
        slack = 0.1 + took + self._first[0]
        print(f"uptime {uptime - self._first[1]:+.3f} s, clock {wall - self._first[2]:+.3f} s, "
              f"read within {took:.3f} s", flush=True)
        assert abs(uptime - self._first[1]) < slack and abs(wall - self._first[2]) < slack


def check_log(guest, agent):
    """The guest's kernel has said nothing bad since its lines were counted into /tmp/lines."""
    try:
        agent.ask("sh ! dmesg | tail -n +$(($(cat /tmp/lines) + 1)) | tee /dev/console | "
                  f"grep -qE '{BAD}'")
    except LabError as error:
        raise LabError(f"the guest's kernel logged: {guest.vm.console()[-3000:]}") from error


def web_page():
    """It says which boot of the guest this is."""
    return urllib.request.urlopen(f"http://{GUEST}/", timeout=WAIT_S).read().decode()


@pytest.fixture
def guest(here, there, request):
    return Guest(here, there, getattr(request, "param", 1))


@pytest.mark.parametrize("guest", [pytest.param(1, marks=pytest.mark.long), 2], indirect=True,
                         ids=["1-cpu", "2-cpus"])
def test_debian_moves_there_and_back_and_reboots(guest):
    guest.boot()
    agent = Agent(GUEST, timeout=WAIT_S)
    agent.ask("sh grep -qx kvm-clock /sys/devices/system/clocksource/clocksource0/current_clocksource")
    agent.ask("sh dmesg | wc -l >/tmp/lines")
    page = web_page()
    assert "godwit guest" in page
    clock = Clock(agent)
    agent.ask("dirty 8@2")
    stream = Stream(GUEST, timeout=WAIT_S)
    for to_there in (True, False):
        guest.move(to_there)
        clock.check()
        lines = stream.lines
        wait_until("the TCP connection to go on",
                   lambda lines=lines: stream.error or stream.lines > lines + 5, WAIT_S)
        status = agent.status()
        assert status["errors"] == 0 and status["running"] == 1
        assert web_page() == page
    assert stream.close() > 10
    agent.ask("verify")
    check_log(guest, agent)
    start = len(guest.vm.console())
    agent.ask("reboot")
    agent.close()
    guest.vm.wait_console("GODWIT-READY", WAIT_S, start)
    guest.move(True)
    Agent(GUEST, timeout=WAIT_S).close()


@pytest.mark.parametrize("guest", [2], indirect=True, ids=["2-cpus"])
def test_debian_moves_before_its_memory(guest):
    """Post-copy: vCPUs, devices and the kernel's KVM itself reach for pages that are not there yet."""
    guest.boot()
    agent = Agent(GUEST, timeout=WAIT_S)
    agent.ask("sh dmesg | wc -l >/tmp/lines")
    agent.ask("dirty 8@2")
    stream = Stream(GUEST, timeout=WAIT_S)
    for to_there in (True, False):
        guest.move(to_there, "--mode", "postcopy", "--max-bandwidth", "16MiB/s")
        moved = guest.vm.migration()
        assert moved["postcopy"] is True and moved["pages-missing"] == 0
        assert moved["faults"]["count"] > 0
        lines = stream.lines
        wait_until("the TCP connection to go on",
                   lambda lines=lines: stream.error or stream.lines > lines + 5, WAIT_S)
    assert stream.close() > 10
    agent.ask("verify")
    status = agent.status()
    assert status["errors"] == 0 and status["running"] == 1
    check_log(guest, agent)
    agent.close()


def test_a_better_hosts_guest_is_refused_by_name_and_goes_on(guest):
    guest.boot(is_there=True)
    _, uri = guest.listener(False)
    said = guest.vm.migrate(uri, check=False)
    assert "destination lacks" in said and "which the guest was given" in said
    assert guest.vm.status() == "running"
    Agent(GUEST, timeout=WAIT_S).close()
