# SPDX-License-Identifier: MIT
"""What the page of results shows of each measurement: bars, and sentences below them.

One function for each measurement of bench/run, from its part of the JSON file to charts. A
measurement without one is shown as a table of all its figures.
"""
import statistics
from dataclasses import dataclass, field

import convergence

OURS, QEMU, REFERENCE = "ours", "qemu", "reference"


@dataclass
class Bar:
    label: str
    values: list  # one for each repetition; the bar is their median, the whisker their range
    kind: str = OURS
    note: str = ""

    @property
    def value(self):
        return statistics.median(self.values)


@dataclass
class Chart:
    title: str
    unit: str
    bars: list
    is_less_better: bool = True
    target: float = None
    sentences: list = field(default_factory=list)


def kind_of(name):
    if name.startswith("godwit"):
        return OURS
    return QEMU if name.startswith("QEMU") else REFERENCE


def mips(part):
    times = []
    for kernel, run in part.items():
        differs = "" if run["same_result"] else "RESULTS DIFFER"
        times += [Bar(f"{kernel}, godwit", [run["seconds"]], OURS, differs),
                  Bar(f"{kernel}, QEMU", [run["qemu_seconds"]], QEMU)]
    rates = [Bar(kernel, [run["mips"]], OURS, f"{run['of_qemu']:.2f} of QEMU's speed")
             for kernel, run in part.items()]
    return [Chart("Instructions of one hart", "million/s", rates, is_less_better=False),
            Chart("The same program", "s", times)]


def boot(part):
    charts = []
    for case, run in part.items():
        charts.append(Chart(f"To the guest's init, {case} command line", "s",
                            [Bar("godwit", run["seconds"], OURS, f"{run['of_qemu']:.2f} of QEMU's speed"),
                             Bar("QEMU", run["qemu_seconds"], QEMU)],
                            target=8 if case == "plain" else 3))
    return charts


def transfer(part):
    charts = []
    for state in ("present", "fresh"):
        bars = [Bar("iperf3, one stream", [part["iperf3_gbits"]], REFERENCE)]
        for name, run in part["runs"].items():
            who, _, its_state = name.rpartition(", ")
            if its_state == state:
                gbits = [part["mib"] * 2**20 * 8 / seconds / 1e9 for seconds in run["seconds"]]
                bars.append(Bar(who, gbits, kind_of(name), f"{run['of_iperf3']:.2f} of iperf3"))
        chart = Chart(f"{part['mib']} MiB of random data, destination's memory {state}", "Gb/s",
                      bars, is_less_better=False)
        if state in part.get("ratios", {}):
            ratio = part["ratios"][state]
            chart.sentences.append(f"{ratio['of_limit']:.2f} of the least program's best, "
                                   f"{ratio['of_qemu']:.2f} of QEMU's best.")
        charts.append(chart)
    if "holes" in part:
        charts.append(Chart("A 4 GiB guest that has touched "
                            f"{part['holes']['mib_touched']} MiB", "s",
                            [Bar("godwit", part["holes"]["seconds"])], target=0.3))
    if "limited" in part:
        limit = part["limited"]
        charts[-1].sentences.append(f"A bandwidth limit of {limit['limit_bytes_per_s'] / 2**20:.0f} "
                                    f"MiB/s let {limit['of_limit']:.3f} of it through.")
    return charts


# Largest gap that the guest's load allows, in ms.
GAP_TARGETS = {"idle": 5, "50 MiB/s of 64 MiB": 8, "200 MiB/s of 512 MiB": 25}


def blackout(part):
    loads = {}
    for name, run in part.items():
        who, _, load = name.partition(", ")
        loads.setdefault(load, {})[who] = run
    charts = []
    floods = loads.pop("flood", {})
    for load, sides in loads.items():
        bars = []
        for who, run in sides.items():
            lost = sum(run["lost"])
            bars += [Bar(f"{who}, seen from outside", run["gaps_ms"], kind_of(who),
                         f"{lost} lost" if lost else ""),
                     Bar(f"{who}, its own report", run["reported_ms"], kind_of(who))]
        charts.append(Chart(f"Blackout, guest {load}", "ms", bars, target=GAP_TARGETS.get(load)))
    for who, run in floods.items():
        charts[-1].sentences.append(
            f"A flood of pings through moves, {who}: {run['lost']} of {run['sent']} lost, "
            f"{run['twice']} answered twice, {run['out_of_order']} out of order.")
    return charts


def samehost(part):
    blackouts = Chart("Blackout of a move on one host", "ms", [], target=10)
    totals = Chart("Whole move on one host", "ms", [])
    for name, run in part.items():
        if "error" in run:
            blackouts.sentences.append(f"{name}: {run['error']}.")
            continue
        grown = f"memory grows by {max(run['growth_mib'])} MiB"
        blackouts.bars.append(Bar(name, run["blackout_ms"], kind_of(name)))
        totals.bars.append(Bar(name, run["total_ms"], kind_of(name), grown))
    return [blackouts, totals]


def slowlink(part):
    charts = []
    for case, runs in part["runs"].items():
        charts.append(Chart(f"{part['mib']} MiB over {part['link']}, {case}", "s",
                            [Bar(name, run["seconds"], kind_of(name),
                                 f"{statistics.median(run['bytes']) / 2**20:.1f} MiB sent")
                             for name, run in runs.items()]))
    return charts


def bitmap(part):
    bars = [Bar(row["name"].strip(), [row["gbytes"]], OURS if "/" in row["name"] else REFERENCE,
                f"{row['of_reference']:.2f} of its reference") for row in part["rows"]]
    return [Chart("Loops over a bitmap of 2^31 pages (256 MiB)", "GB/s", bars, is_less_better=False,
                  sentences=[f"Chosen on this processor: {part['best']}."])]


def snapshot(part):
    chart = Chart(f"{part['mib']} MiB of random data and a file", "s",
                  [Bar(name, [seconds], kind_of(name)) for name, seconds in part["seconds"].items()])
    live = [Bar("idle guest", part["live"]["idle_blackout_ms"]),
            Bar("dirtying 200 MiB/s", part["live"]["dirty_200_blackout_ms"])]
    return [chart, Chart("Blackout of a live save", "ms", live)]


def footprint(part):
    return [Chart(f"The VMM's own memory, guest of {part['guest_mib']} MiB", "MiB",
                  [Bar(side, [mib]) for side, mib in part["peak_mib"].items()], target=64)]


def converge_note(run):
    note = f"{run['lost_s']:.1f} s of its work lost"
    if run.get("forecast") and run["forecast"]["seconds"] is not None:
        note += f", forecast {run['forecast']['seconds']:.1f} s"
    return note


def converge(part):
    """Two charts for each pattern; below the last what it all comes to."""
    totals, gaps = {}, {}
    for run in part["runs"]:
        pattern = run["pattern"]
        total = totals.setdefault(pattern, Chart(
            f"{part['mib']} MiB over {part['link']}, {pattern} writes", "s", []))
        gap = gaps.setdefault(pattern, Chart(f"Blackout at the probe, {pattern} writes", "ms", [],
                                             target=part["max_blackout_ms"]))
        label = f"{run['share']}% of the link, {run['who']}"
        if "error" in run:
            total.sentences.append(f"{label}: {run['error']}.")
            continue
        total.bars.append(Bar(label, [run["seconds"]], kind_of(run["who"]), converge_note(run)))
        gap.bars.append(Bar(label, [run["gap_ms"]], kind_of(run["who"]),
                            f"{run['blackout_ms']:.0f} ms by its own report"))
    charts = [chart for pattern in totals for chart in (totals[pattern], gaps[pattern])]
    for who in convergence.movers(part):
        found = "; ".join(finding.text() for finding in convergence.findings(part, who))
        charts[-1].sentences.append(f"{who}: {found}.")
    return charts


def postcopy(part):
    floor, bars = part["floor"], {"p50_us": [], "p99_us": []}
    for quantile, rows in bars.items():
        rows.append(Bar("least program", [floor[quantile]], REFERENCE))
        rows += [Bar(name, [run[quantile] for run in runs], OURS,
                     f"{statistics.median(run[quantile] for run in runs) / floor[quantile]:.2f} of it")
                 for name, runs in part.items() if name != "floor"]
    return [Chart("A vCPU waits for a missing page, median", "us", bars["p50_us"],
                  target=2 * floor["p50_us"]),
            Chart("99 of 100 wait less", "us", bars["p99_us"], target=4 * floor["p99_us"])]


CHARTS = {function.__name__: function for function in (
    mips, boot, transfer, blackout, samehost, slowlink, converge, postcopy, bitmap,
    snapshot, footprint)}
