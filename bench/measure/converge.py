# SPDX-License-Identifier: MIT
"""Guests that dirty memory at a quarter to four times what a 1 Gb/s link (tbf) carries: in a hot set,
all over, and in a burst each second. Total time, blackout, the guest's own work lost meanwhile, and
the forecast (`godwit plan`) beside what came; Godwit by itself beside QEMU with auto-converge and with
post-copy and preempt.

The blackout is reported by who moves the guest, and seen from outside by a probe: the guest prints a
full stop every millisecond, and the longest time without one is the gap. Work lost is what the guest
would have done by its own counter, had it been left alone."""
import fnmatch
import json
import math
import random
import re
import time

import convergence
from gwlab import LabError
from gwlab.vm import wait_until

from measure.beats import Beats
from measure.pairs import godwit_pair, qemu_pair
from measure.shaping import shape, unshape

RATE = "1gbit"
LINK_MIB_PER_S = 1e9 / 8 / 2**20
MIB = 256
MEMORY = "288M"
FLOOR_S = MIB / LINK_MIB_PER_S
SHARES = (25, 50, 100, 200, 400)  # percent of the link
PATTERNS = ("hot", "random", "periodic")
PERIOD_S = 1
MAX_BLACKOUT_MS = 300
GIVE_UP_S = 60
WATCH_S = 3  # how long the guest's pace is taken before the move: whole periods
ROW = "{:<8} {:>5} {:<24} {:>7} {:>8} {:>8} {:>7} {:>7} {:>6}  {}"
HEAD = ROW.format("pattern", "dirty", "", "seconds", "of floor", "blackout", "probe", "lost", "how",
                  "forecast")


def guest(pattern, share):
    """The same for all who move it. QEMU 10 loses the board's timer, so the guest does not wait for
    it (docs/guests.md)."""
    rate = round(LINK_MIB_PER_S * share / 100)
    return (f"mib={MIB} rate={rate} pattern={pattern} period={PERIOD_S * 1000} check=part hz=1000 "
            "pulse=1 beats=20 idle=poll")


# ---- the guest's work ----------------------------------------------------------------------------


def pages_done(vm):
    """The guest's own counter, as of each of its heart-beats."""
    console = vm.console()
    if "BAD" in console:
        raise LabError(f"the guest found damage: {console[console.index('BAD'):][:200]}")
    return [int(found) for found in re.findall(r"tick \d+ pass \d+ pages (\d+)", console)]


def next_beat(vm):
    """(moment, pages done) of the next heart-beat."""
    before = len(pages_done(vm))
    wait_until("a heart-beat", lambda: len(pages_done(vm)) > before, 30)
    return time.monotonic(), pages_done(vm)[-1]


def account(source, destination, move):
    """Moves the guest; total time, its reported blackout, the longest gap at the probe, and the work
    that it did not do, in seconds of it."""
    with Beats() as beats:
        for vm in (source, destination):
            beats.watch(vm)
        time.sleep(random.random() * PERIOD_S)  # moves begin anywhere in a period
        quiet, before = next_beat(source)
        wait_until("the guest's pace", lambda: time.monotonic() >= quiet + WATCH_S)
        begun, first = next_beat(source)
        pace = (first - before) / (begun - quiet)
        found = move()
        # Whole periods: the work of a part of one is not that part of its work.
        periods = math.ceil((time.monotonic() - begun) / PERIOD_S)
        wait_until("a period's end", lambda: time.monotonic() >= begun + periods * PERIOD_S)
        ended, last = next_beat(destination)
        found["gap_ms"] = beats.largest_gap_ms(begun, ended)
        found["quiet_gap_ms"] = beats.largest_gap_ms(quiet, begun)
    found["dirty_mib_per_s"] = pace / 256
    found["lost_s"] = (ended - begun) - (last - first) / pace
    found["lost"] = found["lost_s"] / found["seconds"]
    return found


# ---- who moves it --------------------------------------------------------------------------------


def forecast(source, uri):
    """What godwit plan says of the way that it would choose."""
    said = json.loads(source.godwit("plan", uri, "--json", "--max-blackout", f"{MAX_BLACKOUT_MS}ms",
                                    check=False, timeout=120).stdout)
    mode = next((mode for mode in said.get("modes", ()) if mode["mode"] == said["chosen"]), None)
    if not mode:
        raise LabError(f"there is no forecast: {said}")

    def expected(name, unit):
        value = mode[name]["expected"]
        return value / unit if value is not None else None
    return {"mode": said["chosen"], "seconds": expected("total-ns", 1e9),
            "blackout_ms": expected("blackout-ns", 1e6), "plan": said}


def godwit(folder, append):
    with godwit_pair(folder, append, MEMORY) as (source, destination, uri):
        told = forecast(source, uri)

        def move():
            summary = source.migrate(uri, "--max-blackout", f"{MAX_BLACKOUT_MS}ms", timeout=600)
            migration = source.migration()
            return {"seconds": summary["total_ms"] / 1e3, "blackout_ms": summary["blackout_ms"],
                    "postcopy": migration["postcopy"], "migration": migration, "forecast": told}
        return account(source, destination, move)


def qemu(folder, append, capabilities, is_postcopy, **parameters):
    limits = {"max-postcopy-bandwidth": 0, "downtime-limit": MAX_BLACKOUT_MS, **parameters}
    with qemu_pair(folder, append, MEMORY, capabilities, **limits) as (source, destination, uri):
        def ended(asked):
            info = source.qmp.command("query-migrate")
            if info["status"] == "failed":
                raise LabError(f"QEMU's migration failed: {info.get('error-desc')}")
            if is_postcopy and not asked and info.get("ram", {}).get("dirty-sync-count", 0) > 1:
                source.qmp.command("migrate-start-postcopy")
                asked.append(True)
            return info if info["status"] == "completed" else None

        def move():
            asked = []
            source.qmp.command("migrate", uri=uri)
            info = wait_until("QEMU's migration", lambda: ended(asked), GIVE_UP_S, step=0.02)
            return {"seconds": info["total-time"] / 1e3, "blackout_ms": info["downtime"],
                    "postcopy": bool(asked)}
        return account(source, destination, move)


# Its defaults slow the guest by 20 % and then by 10 % more with each round that does not help.
EAGER = {"cpu-throttle-initial": 50, "cpu-throttle-increment": 25, "max-cpu-throttle": 99}
RUNS = {
    "godwit, by itself": lambda f, a: godwit(f, a),
    "QEMU, auto-converge": lambda f, a: qemu(f, a, {"auto-converge": True}, False, **EAGER),
    "QEMU, post-copy, preempt": lambda f, a: qemu(
        f, a, {"postcopy-ram": True, "postcopy-preempt": True}, True),
}


# ---- the table -----------------------------------------------------------------------------------


def one_run(folder, pattern, share, name):
    row = {"pattern": pattern, "share": share, "who": name}
    try:
        row.update(RUNS[name](folder, guest(pattern, share)))
        row["of_floor"] = row["seconds"] / FLOOR_S
    except (LabError, OSError) as error:  # OSError: it died
        row["error"] = str(error)
    return row


def show(row):
    begin = (row["pattern"], f"{row['share']}%", row["who"])
    if "error" in row:
        print(ROW.format(*begin, *"-" * 6, row["error"].splitlines()[0][:70]), flush=True)
        return
    told = row.get("forecast")
    if told:
        seconds = "never" if told["seconds"] is None else f"{told['seconds']:.2f} s"
        blackout = "" if told["blackout_ms"] is None else f", {told['blackout_ms']:.0f} ms"
        told = f"{told['mode']}, {seconds}{blackout}"
    print(ROW.format(*begin, f"{row['seconds']:.2f}", f"{row['of_floor']:.2f}",
                     f"{row['blackout_ms']:.0f} ms", f"{row['gap_ms']:.0f} ms",
                     f"{row['lost_s']:.2f} s", "post" if row["postcopy"] else "pre", told or ""),
          flush=True)


def conclude(results):
    for who in convergence.movers(results):
        print(f"\n{who}:")
        for finding in convergence.findings(results, who):
            print(f"  {finding.text()}")


def measure(folder, repeat, cases=(), movers=()):
    """cases: patterns of what to run, as in `hot-50` or `periodic-*`; movers: of who moves it, as in
    `godwit*`; none: all."""
    results = {"link": RATE, "mib": MIB, "max_blackout_ms": MAX_BLACKOUT_MS, "runs": []}
    chosen = [(pattern, share) for pattern in PATTERNS for share in SHARES
              if not cases or any(fnmatch.fnmatch(f"{pattern}-{share}", case) for case in cases)]
    if not chosen:
        raise LabError(f"no such case: {', '.join(cases)}")
    names = [name for name in RUNS
             if not movers or any(fnmatch.fnmatch(name, mover) for mover in movers)]
    if not names:
        raise LabError(f"nobody of that name moves guests: {', '.join(movers)}")
    shape(RATE)
    try:
        print(f"{MIB} MiB over {RATE}: {FLOOR_S:.2f} s at least\n{HEAD}")
        for pattern, share in chosen:
            for name in names:
                for _ in range(repeat or 1):
                    results["runs"].append(one_run(folder, pattern, share, name))
                    show(results["runs"][-1])
    finally:
        unshape()
    conclude(results)
    return results
