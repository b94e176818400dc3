# SPDX-License-Identifier: MIT
"""bench/report.py: the page of results, from a JSON file as bench/run writes it."""
import html.parser
import json
import os
import subprocess
import sys

import pytest

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench")
sys.path.insert(0, BENCH)

from charts import CHARTS  # noqa: E402
from convergence import findings  # noqa: E402
from report import figure, render  # noqa: E402

RUN = {"gaps_ms": [1.5, 2.0, 9.25], "lost": [0, 1, 0], "reported_ms": [1.0, 1.1, 1.2],
       "quiet_gap_ms": 1.1}
SAMPLE = {
    "machine": {"cpu": "A <fast> & good one", "cores": 2, "kernel": "6.1"},
    "about": {"mips": "instructions per second"},
    "mips": {"sieve": {"instructions": 4000000, "seconds": 0.01, "qemu_seconds": 0.02, "mips": 400.0,
                       "of_qemu": 2.0, "same_result": True}},
    "boot": {"plain": {"seconds": [5.0, 6.0], "qemu_seconds": [7.0, 8.0], "of_qemu": 1.36}},
    "transfer": {
        "iperf3_gbits": 18.0, "mib": 2048,
        "runs": {f"{who}, {state}": {"seconds": [1.0, 1.25], "gbits": 15.0, "of_iperf3": 0.8,
                                     "cpu_s_per_gib": ["", ""]}
                 for who in ("limit program, 1 connection", "godwit, automatic", "QEMU")
                 for state in ("present", "fresh")},
        "ratios": {"present": {"of_limit": 0.93, "of_qemu": 4.5}},
        "holes": {"seconds": [0.2], "mib_touched": 400},
        "limited": {"limit_bytes_per_s": 209715200, "of_limit": 0.991}},
    "blackout": {"godwit, idle": RUN, "QEMU, idle": RUN,
                 "godwit, flood": {"sent": 40000, "lost": 3, "twice": 0, "out_of_order": 0}},
    "samehost": {"godwit, share, 1 GiB": {"blackout_ms": [0.9], "total_ms": [30.0],
                                          "growth_mib": [1]},
                 "QEMU, copy, 8 GiB": {"error": "no memory"}},
    "slowlink": {"mib": 256, "link": "100mbit",
                 "runs": {"text": {"godwit, by itself": {"seconds": [3.0], "bytes": [1 << 20]}}}},
    "converge": {"mib": 256, "link": "1gbit", "max_blackout_ms": 300, "runs": [
        {"pattern": "hot", "share": 25, "who": "godwit, by itself", "seconds": 4.0, "of_floor": 1.6,
         "blackout_ms": 12.0, "gap_ms": 14.5, "lost_s": 0.22, "postcopy": False,
         "forecast": {"mode": "precopy", "seconds": 4.5, "blackout_ms": 18.0}},
        {"pattern": "hot", "share": 400, "who": "godwit, by itself", "seconds": 4.0, "of_floor": 1.6,
         "blackout_ms": 100.0, "gap_ms": 301.0, "lost_s": 0.22, "postcopy": True,
         "forecast": {"mode": "postcopy", "seconds": 4.7, "blackout_ms": 129.0}},
        {"pattern": "hot", "share": 400, "who": "QEMU, auto-converge", "error": "waited 90 s"}]},
    "postcopy": {"floor": {"faults": 20000, "p50_us": 110.0, "p99_us": 190.0, "max_us": 900.0},
                 "push held back": [{"count": 5000, "p50_us": 150.0, "p99_us": 400.0,
                                     "max_us": 2000.0}]},
    "bitmap": {"best": "avx2", "runs": [], "rows": [
        {"name": "memcpy of as many bytes", "gbytes": 9.0, "of_reference": 1.0},
        {"name": "merge and count, avx2 / memcpy", "gbytes": 8.0, "of_reference": 0.89}]},
    "snapshot": {"mib": 2048, "seconds": {"godwit save": 2.0, "dd to the disk, direct": 1.8},
                 "live": {"idle_blackout_ms": [0.5], "dirty_200_blackout_ms": [0.7],
                          "dirty_200_caught_mib": [3]}},
    "footprint": {"guest_mib": 4096, "peak_mib": {"source": 20.5, "destination": 31.0}},
    "something new": {"deep": {"figures": [1, 2.5]}, "name": "x<y"},
}


class Page(html.parser.HTMLParser):
    """Checks nesting; collects tags and text."""
    VOID = {"meta", "br", "link", "img"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(text):
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_every_measurement_is_charted():
    with open(os.path.join(BENCH, "run"), encoding="utf-8") as file:
        names = [line.split('"')[1] for line in file if line.startswith('    "')]
    assert "transfer" in names
    assert set(CHARTS) <= set(names)
    assert set(SAMPLE) - {"machine", "about", "something new"} == set(CHARTS)


def test_page_has_all_figures_as_text_beside_bars():
    text = render(SAMPLE)
    page = parse(text)
    seen = "".join(page.texts)
    assert page.tags.count("svg") >= 12
    for figures in ("2 ms  (1 lost)", "0.93 of the least program's best, 4.5", "target 5 ms",
                    "3 of 40000 lost", "20.5 MiB", "0.89 of its reference", "QEMU, copy, 8 GiB: no "
                    "memory", "let 0.991 of it through", "A <fast> & good one",
                    "0.2 s of its work lost, forecast 4.5 s", "waited 90 s", "target 300 ms",
                    "godwit, by itself: completed: 100 % of 2 moves (target: at least 100 %); blackout "
                    "at the probe within 300 ms: 50 % of 2 moves (target: at least 95 %, MISSED)",
                    "QEMU, auto-converge: completed: 0 % of 1."):
        assert figures in seen, figures
    # What has no chart of its own is a table.
    assert "deep / figures" in seen and "1, 2.5" in seen


def converge_findings(**changes):
    """{what: figure} of the first move of the sample, changed."""
    part = SAMPLE["converge"]
    run = {**part["runs"][0], **changes}
    return {found.what: found for found in findings({**part, "runs": [run]}, "godwit, by itself")}


@pytest.mark.parametrize("what, changes, value, is_met", [
    ("forecast of the total within 15 %", {"seconds": 5.0}, 1, True),
    ("forecast of the total within 15 %", {"seconds": 5.5}, 0, False),
    ("forecast of the total within 15 %", {"seconds": 3.9}, 0, False),
    ("forecast of the blackout within 30 % or 5 ms", {"blackout_ms": 13.0}, 1, True),
    ("forecast of the blackout within 30 % or 5 ms", {"blackout_ms": 12.5}, 0, False),
    ("forecast of the blackout within 30 % or 5 ms", {"blackout_ms": 25.0}, 1, True),
    ("forecast of the blackout within 30 % or 5 ms", {"blackout_ms": 26.0}, 0, False),
    ("blackout at the probe within 300 ms", {"gap_ms": 300.5}, 0, False),
    ("longest total over the floor, up to 100 %", {"of_floor": 1.4, "share": 100}, 1.4, True),
    ("longest total over the floor, up to 100 %", {}, 1.6, False),
    ("longest total over the floor, above 100 %", {"share": 200}, 1.6, True),
    ("longest total over the floor, above 100 %", {"share": 200, "of_floor": 2.1}, 2.1, False)])
def test_convergence_is_judged_by_its_targets(what, changes, value, is_met):
    found = converge_findings(**changes)[what]
    assert (found.value, found.is_met) == (value, is_met)


def test_a_forecast_of_no_end_is_wrong_when_it_ends():
    never = {"mode": "precopy", "seconds": None, "blackout_ms": None}
    found = converge_findings(forecast=never)
    assert [found[what].value for what in found if "forecast" in what] == [0, 0]


def test_page_needs_nothing_but_itself():
    page = parse(render(SAMPLE))
    for name, value in page.attributes:
        assert name not in ("src", "srcset")
        if name == "href":
            assert value.startswith("#")
    assert "script" not in page.tags and "link" not in page.tags
    assert "url(" not in render(SAMPLE) and "@import" not in render(SAMPLE)


def test_text_of_others_is_escaped():
    text = render(SAMPLE)
    assert "<fast>" not in text and "x<y" not in text


def test_bars_are_drawn_to_scale():
    page = Page()
    page.feed(render({"footprint": {"guest_mib": 1, "peak_mib": {"source": 32, "destination": 16}}}))
    widths = [float(value) for name, value in page.attributes if name == "width"]
    bars = [width for width in widths if width not in (10, 14)][1:]  # the chart's own comes first
    assert bars == [190.0, 95.0]  # of 380 for the target, 64 MiB


def test_a_failed_measurement_is_told():
    text = render({"boot": {"error": "iperf3 did not <run>"}})
    assert "Not measured: iperf3 did not &lt;run&gt;" in text


@pytest.mark.parametrize("value, shown", [(0.12345, "0.123"), (1234.5, "1234"), (12.34, "12.3"),
                                          (0, "0"), ("x", "x"), (True, "True")])
def test_figures_have_digits_that_mean_something(value, shown):
    assert figure(value) == shown


def test_command(tmp_path):
    source = tmp_path / "bench.json"
    source.write_text(json.dumps(SAMPLE))
    command = [sys.executable, os.path.join(BENCH, "report.py")]
    assert subprocess.run([*command, source]).returncode == 0
    assert (tmp_path / "bench.html").read_text().startswith("<!DOCTYPE html>")
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 2
