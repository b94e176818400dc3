# SPDX-License-Identifier: MIT
"""The page of `godwit migrate --report`: what stands in it, whatever became of the move."""
import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

from gwlab.parts import part
from gwlab.vm import wait_until

LIKE = ("--bios", "none", "--memory", "64M", "--cpus", 1)


@pytest.fixture
def moving(start_vm, tmp_path):
    """A guest that dirties memory, and where it may go."""
    source = start_vm("a", "--bios", "none", "--kernel", part("GODWIT_BARE") + "/memtick.elf",
                      "--append", "mib=16 rate=50", "--memory", "64M", "--cpus", 1)
    destination = start_vm("b", "--incoming", f"unix:{tmp_path}/move.sock", *LIKE)
    wait_until("the destination to listen", lambda: destination.migration()["status"] == "setup")
    source.wait_console(r"tick \d+ pass")
    return source, destination.migration()["uri"], destination


def read_page(path):
    """The page as XML; nothing of it may point outside."""
    text = path.read_text()
    assert not re.search(r"(href|src)=|url\(|@import|<script", text)
    root = ElementTree.fromstring(text)
    return root, " ".join(" ".join(root.itertext()).split())


def boxes(root, folder="ledger"):
    section = root.find(f".//section[@id='{folder}']")
    return [(int(box.get("data-ns")), float(box.get("x")), float(box.get("width")))
            for box in section.iter("rect") if box.get("data-ns")]


def test_a_move_is_drawn(moving, tmp_path):
    source, uri, _ = moving
    page = tmp_path / "move.html"
    summary = source.migrate(uri, "--report", page)
    root, text = read_page(page)
    assert f"a to {uri}" in text and "The guest runs at the destination." in text

    attempt = summary["ledger"]["attempts"][-1]
    found = boxes(root)
    assert len(found) == sum(phase["depth"] == 0 for phase in attempt["phases"])
    assert sum(ns for ns, _, _ in found) == attempt["blackout-ns"]
    for (_, x, width), (_, after, _) in zip(found, found[1:]):
        assert x + width == pytest.approx(after, abs=0.05), "a gap in the bar"
    names = {phase["name"] for phase in attempt["phases"]}
    assert names <= {cell.text for cell in root.iter("td")}

    rounds = root.findall(".//section[@id='rounds']//tr[@data-round]")
    assert rounds and rounds[0].get("data-round") == "1"
    assert len(rounds) <= summary["rounds"]
    samples = root.find(".//section[@id='samples']")
    assert 2 <= int(samples.get("data-samples")) <= 2000
    assert len(samples.findall(".//tr")) > 2
    assert len(root.findall(".//svg")) >= 4
    assert "300 ms" in text, "the budget"
    assert [name for name in os.listdir(tmp_path) if "html" in name] == ["move.html"]


def test_a_refused_move_is_drawn_too(moving, tmp_path):
    source, uri, _ = moving
    page = tmp_path / "move.html"
    done = source.godwit("migrate", f"{uri}.nowhere", "--report", page, check=False)
    assert done.returncode == 1
    _, text = read_page(page)
    assert "failed The guest goes on where it was." in text
    assert source.migration()["error-desc"] in text
    assert source.status() == "running"


def test_a_cancelled_move_is_drawn_too(moving, tmp_path):
    source, uri, destination = moving
    page = tmp_path / "move.html"
    source.qmp.command("migrate-set-parameters", **{"max-time": 1})
    done = source.godwit("migrate", uri, "--report", page, "--max-bandwidth", "1MiB/s", check=False)
    assert done.returncode == 4, done.stderr
    _, text = read_page(page)
    assert "cancelled The guest goes on where it was." in text
    assert source.status() == "running"


@pytest.mark.parametrize("name, sentence", [("no/where.html", "No such file or directory"),
                                            (".", "is there and is no ordinary file")])
def test_a_page_that_cannot_be_written_is_told_before_the_move(moving, godwit, tmp_path, name,
                                                               sentence):
    source, uri, _ = moving
    done = godwit("migrate", source.monitor_path, uri, "--report", tmp_path / name)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert source.migration() == {"status": "none"}


def test_a_move_that_never_began_leaves_no_page(moving, godwit, tmp_path):
    page = tmp_path / "move.html"
    assert godwit("migrate", "nobody", "tcp:127.0.0.1:1", "--report", page).returncode == 6
    assert not page.exists()
