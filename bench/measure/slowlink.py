# SPDX-License-Identifier: MIT
"""A 100 Mb/s link (tbf), a guest whose pages compress and are dirtied again: time and bytes, beside
raw pages and beside QEMU raw, with xbzrle and with multifd and zstd."""
import statistics

from measure.pairs import godwit_pair, qemu_pair
from measure.shaping import shape, unshape

MIB = 96
MEMORY = "256M"
RATE = "100mbit"
CASES = {  # name: what the guest does
    "text": f"mib={MIB} rate=4 fill=text pattern=hot",
    "sparse": f"mib={MIB} rate=4 fill=sparse pattern=hot",
}
ROW = "{:<34} {:>9} {:>9} {:>9} {:>9}"


def godwit(folder, append, *options):
    with godwit_pair(folder, append, MEMORY) as (source, _, uri):
        summary = source.migrate(uri, *options, timeout=600)
        return summary["total_ms"] / 1e3, summary["bytes"]


def qemu(folder, append, capabilities, **parameters):
    with qemu_pair(folder, append, MEMORY, capabilities, **parameters) as (source, destination, uri):
        info = source.move(uri, destination, timeout=600)
        return info["total-time"] / 1e3, info["ram"]["transferred"]


RUNS = {
    "godwit, by itself": lambda f, a: godwit(f, a),
    "godwit, zstd": lambda f, a: godwit(f, a, "--compress", "zstd"),
    "godwit, raw": lambda f, a: godwit(f, a, "--compress", "off", "--delta", "off"),
    "QEMU, raw": lambda f, a: qemu(f, a, {}),
    "QEMU, xbzrle": lambda f, a: qemu(f, a, {"xbzrle": True}, **{"xbzrle-cache-size": 64 << 20}),
    "QEMU, multifd zstd": lambda f, a: qemu(f, a, {"multifd": True}, **{
        "multifd-channels": 1, "multifd-compression": "zstd"}),
}


def measure(folder, repeat):
    results = {"mib": MIB, "link": RATE, "runs": {}}
    shape(RATE)
    try:
        for case, append in CASES.items():
            print(ROW.format(f"{case}: {append}", "seconds", "MiB sent", "of raw", "of QEMU raw"))
            rows = {}
            for name, run in RUNS.items():
                seen = [run(folder, append) for _ in range(repeat or 1)]
                rows[name] = {"seconds": [s for s, _ in seen], "bytes": [b for _, b in seen]}
            middle = {name: statistics.median(row["seconds"]) for name, row in rows.items()}
            for name, row in rows.items():
                print(ROW.format(name, f"{middle[name]:.1f}",
                                 f"{statistics.median(row['bytes']) / 2**20:.1f}",
                                 f"{middle[name] / middle['godwit, raw']:.2f}",
                                 f"{middle[name] / middle['QEMU, raw']:.2f}"), flush=True)
            results["runs"][case] = rows
    finally:
        unshape()
    return results
