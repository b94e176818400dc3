# SPDX-License-Identifier: MIT
"""Guests that dirty memory at a quarter to four times what a slow link (tbf) carries, with a hot set
and with a uniform one: total time, blackout, and the guest's own work lost meanwhile; Godwit by
itself beside QEMU with auto-converge and with post-copy and preempt. And Godwit's forecast against
what came.

The link is 100 Mb/s, not 1 Gb/s: the software hart does not dirty four times a gigabit."""
import re
import time

from gwlab import LabError
from gwlab.vm import wait_until

from measure.pairs import godwit_pair, qemu_pair
from measure.slowlink import RATE, shape, unshape

MIB = 64
MEMORY = "96M"
LINK_MIB_PER_S = 100e6 / 8 / 2**20
SHARES = (25, 50, 100, 200, 400)  # percent of the link
PATTERNS = ("hot", "random")
MAX_BLACKOUT_MS = 300
GIVE_UP_S = 90
WATCH_S = 3  # how long the guest's pace is taken before the move
ROW = "{:<8} {:>5} {:<24} {:>8} {:>8} {:>10} {:>10} {:>9}"


def pages_done(vm):
    """The guest's own counter, as of its last heart-beat."""
    found = re.findall(r"tick \d+ pass \d+ pages (\d+)", vm.console())
    return int(found[-1]) if found else 0


def pace(vm):
    """Pages per second of a guest that is left alone."""
    begun, first = time.monotonic(), pages_done(vm)
    wait_until("heart-beats", lambda: time.monotonic() - begun >= WATCH_S)
    return (pages_done(vm) - first) / (time.monotonic() - begun)


def lost_share(before, begun, ended, first, last):
    """Of the work it would have done while it moved."""
    wanted = before * (ended - begun)
    return 1 - (last - first) / wanted if wanted else 0


def account(source, destination, move):
    """Moves the guest; total time, its reported blackout and the share of its work that was lost."""
    before, first = pace(source), pages_done(source)
    begun = time.monotonic()
    found = move()
    wait_until("a heart-beat there", lambda: pages_done(destination) > 0, 30)
    ended = time.monotonic()
    found["lost"] = lost_share(before, begun, ended, first, pages_done(destination))
    return found


def godwit(folder, append):
    with godwit_pair(folder, append, MEMORY) as (source, destination, uri):
        plan = source.godwit("plan", uri, "--json", "--max-blackout", f"{MAX_BLACKOUT_MS}ms",
                             check=False, timeout=120).stdout

        def move():
            summary = source.migrate(uri, "--max-blackout", f"{MAX_BLACKOUT_MS}ms", timeout=600)
            return {"seconds": summary["total_ms"] / 1e3, "blackout_ms": summary["blackout_ms"],
                    "postcopy": source.migration()["postcopy"], "plan": plan}
        return account(source, destination, move)


def qemu(folder, append, capabilities, is_postcopy):
    limits = {"max-postcopy-bandwidth": 0, "downtime-limit": MAX_BLACKOUT_MS}
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
            return {"seconds": info["total-time"] / 1e3, "blackout_ms": info["downtime"]}
        return account(source, destination, move)


RUNS = {
    "godwit, by itself": lambda f, a: godwit(f, a),
    "QEMU, auto-converge": lambda f, a: qemu(f, a, {"auto-converge": True}, False),
    "QEMU, post-copy, preempt": lambda f, a: qemu(
        f, a, {"postcopy-ram": True, "postcopy-preempt": True}, True),
}


def measure(folder, repeat):
    results = {"link": RATE, "mib": MIB, "max_blackout_ms": MAX_BLACKOUT_MS, "runs": []}
    floor_s = MIB / LINK_MIB_PER_S
    shape()
    try:
        print(ROW.format("pattern", "dirty", "", "seconds", "of floor", "blackout", "work lost", "how"))
        for pattern in PATTERNS:
            for share in SHARES:
                rate = max(1, round(LINK_MIB_PER_S * share / 100))
                append = f"mib={MIB} rate={rate} pattern={pattern}"
                for name, run in RUNS.items():
                    for _ in range(repeat or 1):
                        row = {"pattern": pattern, "share": share, "who": name}
                        try:
                            row.update(run(folder, append))
                            print(ROW.format(
                                pattern, f"{share}%", name, f"{row['seconds']:.1f}",
                                f"{row['seconds'] / floor_s:.2f}", f"{row['blackout_ms']:.0f} ms",
                                f"{100 * row['lost']:.0f}%",
                                {True: "post-copy", False: "pre-copy"}.get(row.get("postcopy"), "")),
                                flush=True)
                        except (LabError, OSError) as error:  # OSError: it died
                            row["error"] = str(error)
                            print(ROW.format(pattern, f"{share}%", name, "-", "-", "-", "-",
                                             row["error"].splitlines()[0][:60]), flush=True)
                        results["runs"].append(row)
    finally:
        unshape()
    return results
