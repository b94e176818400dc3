# SPDX-License-Identifier: MIT
"""How long a vCPU waits for a missing page in post-copy: with the background push held back, and with
it as fast as it goes, beside the least program that fetches touched pages (bench/faultfloor.c) in the
same run."""
import json
import os
import subprocess

from gwlab import BUILD, LabError, net
from gwlab.vm import wait_until

from measure.pairs import godwit_pair

MIB = 512
MEMORY = "768M"
APPEND = f"mib={MIB} rate=0 pattern=random"
# Bytes per second that the source may send: nearly idle beside what the guest asks for; no limit.
CASES = {"push held back": 24 << 20, "push at full speed": 0}
ROW = "{:<22} {:>9} {:>10} {:>10} {:>10} {:>8} {:>8}"


def floor():
    done = subprocess.run([os.path.join(BUILD, "bench", "faultfloor")], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=120)
    if done.returncode:
        raise LabError(f"faultfloor: {done.stderr.strip() or done.returncode}")
    return json.loads(done.stdout)


def faults(folder, limit):
    # Not before the guest has touched all of its memory.
    with godwit_pair(folder, APPEND, MEMORY, r"tick \d+ pass [1-9]") as (source, destination, uri):
        source.qmp.command("migrate-set-parameters", **{"mode": "postcopy", "ram": "copy"})
        source.qmp.command("migrate", uri=uri)
        wait_until("post-copy", lambda: destination.migration().get("postcopy"), 120)
        source.qmp.command("migrate-set-parameters", **{"max-bandwidth": limit})
        wait_until("faults or the end", lambda: (now := destination.migration())["pages-missing"]
                   == 0 or now["faults"]["count"] > 5000, 300)
        found = destination.migration()["faults"]
        source.qmp.command("migrate-set-parameters", **{"max-bandwidth": 0})
        wait_until("the rest", lambda: source.migration()["state"] == "completed", 300)
        if not found["count"]:
            raise LabError("no vCPU waited for a page")
        return {"count": found["count"], "p50_us": found["p50-ns"] / 1e3,
                "p99_us": found["p99-ns"] / 1e3, "max_us": found["max-ns"] / 1e3}


def measure(folder, repeat):
    net.ip("link", "set", "lo", "up")
    results = {"floor": floor()}
    reference = results["floor"]
    print(ROW.format("", "faults", "p50", "p99", "max", "of p50", "of p99"))
    print(ROW.format("least program", reference["faults"], f"{reference['p50_us']:.0f} us",
                     f"{reference['p99_us']:.0f} us", f"{reference['max_us']:.0f} us", "1.0", "1.0"))
    for name, limit in CASES.items():
        for _ in range(repeat or 1):
            row = faults(folder, limit)
            results.setdefault(name, []).append(row)
            print(ROW.format(name, row["count"], f"{row['p50_us']:.0f} us", f"{row['p99_us']:.0f} us",
                             f"{row['max_us']:.0f} us", f"{row['p50_us'] / reference['p50_us']:.2f}",
                             f"{row['p99_us'] / reference['p99_us']:.2f}"), flush=True)
    return results
