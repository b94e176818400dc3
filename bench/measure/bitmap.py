# SPDX-License-Identifier: MIT
"""The loops over an 8 TiB guest's bitmap (256 MiB) beside memcpy, and the zero test beside ISA-L's."""
import json
import os
import statistics
import subprocess

from gwlab import BUILD, LabError

ROW = "{:<44} {:>9} {:>10}"


def run_once():
    done = subprocess.run([os.path.join(BUILD, "bench", "bitmap")], stdout=subprocess.PIPE)
    if done.returncode:
        raise LabError("the bitmap program failed")
    return json.loads(done.stdout)


def measure(folder, repeat):
    runs = [run_once() for _ in range(repeat or 3)]
    table = []

    def row(name, rate, reference):
        ratio = statistics.median(rate(run) / reference(run) for run in runs)
        table.append({"name": name, "gbytes": statistics.median(rate(r) for r in runs) / 1e9,
                      "of_reference": ratio})
        print(ROW.format(name, f"{table[-1]['gbytes']:.1f}", f"{ratio:.2f}"))

    def copy(run):
        return run["memcpy"]

    print(ROW.format("256 MiB bitmap of 2^31 pages", "GB/s", "reference"))
    row("memcpy of as many bytes", copy, copy)
    for variant in runs[0]["merge"]:
        row(f"merge and count, {variant} / memcpy", lambda r, v=variant: r["merge"][v], copy)
    for name in ("clustered", "scattered"):
        row(f"scan, 0.1 % set, {name} / memcpy", lambda r, n=name: r[n]["scan"], copy)
        row("  by its summary / full scan", lambda r, n=name: r[n]["sparse"],
            lambda r, n=name: r[n]["scan"])
    for name, where in (("zero_cached", "in the cache"), ("zero", "in memory")):
        row(f"zero test, {where} / memcpy", lambda r, n=name: r[n]["ours"], copy)
        if "isal" in runs[0][name]:
            row(f"zero test, {where} / ISA-L", lambda r, n=name: r[n]["ours"],
                lambda r, n=name: r[n]["isal"])
    return {"best": runs[0]["best"], "rows": table, "runs": runs}
