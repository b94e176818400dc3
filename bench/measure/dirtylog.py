# SPDX-License-Identifier: MIT
"""What each kind of KVM's dirty log costs a guest that writes: laps of a writing loop per second, of
those without a log in the same run, and the time of one collection."""
import json
import os
import subprocess

from gwlab import BUILD, LabError, kvm

ROW = "{:<8} {:>12} {:>10} {:>14}"


def measure(folder, repeat):
    if why := kvm.why_no_programs():
        print(f"left out: {why}")
        return {"left_out": why}
    done = subprocess.run([os.path.join(BUILD, "bench", "dirty-log"), "--rounds", str(repeat or 3)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError(f"the dirty-log program failed: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    print(ROW.format("log", "laps/s", "of none", "collection"))
    for name, row in found.items():
        print(ROW.format(name, f"{row['laps-per-s']:.0f}", f"{row['ratio']:.2f}",
                         f"{row['collect-us']:.0f} us" if name != "none" else "-"), flush=True)
    return found
