# SPDX-License-Identifier: MIT
"""The independent reader accepts what src/wire writes, and nothing that was changed."""

import os
import random
import subprocess

import pytest

import wire_reader

BUILD = os.environ.get("GODWIT_BUILD", os.path.join(os.path.dirname(__file__), "..", "..", "build"))
WRITER = os.path.join(BUILD, "tests", "unit", "wire", "write-sample")


def write_sample(kind, path):
    subprocess.run([WRITER, kind, str(path)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("wire") / "sample"
    write_sample("snapshot", path)
    return path.read_bytes()


@pytest.fixture
def traces(tmp_path):
    write_sample("migration", tmp_path)
    return tmp_path


def frames(data):
    """Start and end of each record."""
    at = 64
    while at < len(data):
        length = 32 + int.from_bytes(data[at + 4:at + 8], "little") + int.from_bytes(data[at + 16:at + 20], "little")
        yield at, at + length
        at += length


def test_snapshot_is_read(sample):
    stream = wire_reader.read_stream(sample)
    report = stream.summary()
    assert report["complete"] and report["role"] == "snapshot"
    assert report["n_pages"] == 24 and report["n_zero_pages"] == 9
    assert [s["name"] for s in report["sections"]] == ["schema", "uart", "empty"]
    assert stream.sections[0]["data"] == b'{"machine": "sample"}'
    assert report["ram"] == [{"name": "ram", "gpa": 0x80000000, "size_bytes": 24 * 4096}]
    assert stream.pages[0, 3] == 0 and stream.pages[0, 0] != 0


def test_golden_snapshot_is_read():
    golden = os.path.join(os.path.dirname(__file__), "..", "golden", "snapshot-1.0.stream")
    report = wire_reader.read_stream(golden).summary()
    assert report["complete"] and report["n_pages"] == 24
    assert [(s["name"], s["n_bytes"]) for s in report["sections"]] == [
        ("schema", 21), ("uart", 600), ("empty", 0)]


def test_every_kind_of_damage_is_found(sample):
    cuts = list(frames(sample))
    rng = random.Random(1)
    places = set(range(0, 700)) | set(range(len(sample) - 500, len(sample)))
    places |= {rng.randrange(len(sample)) for _ in range(300)}
    for at in sorted(places):
        changed = bytearray(sample)
        changed[at] ^= 1 << rng.randrange(8)
        with pytest.raises(wire_reader.WireError):
            wire_reader.read_stream(changed)
    for start, end in cuts:
        for changed in (sample[:start], sample[:start] + sample[end:],
                        sample[:end] + sample[start:end] + sample[end:]):
            with pytest.raises(wire_reader.WireError):
                wire_reader.read_stream(changed)
    with pytest.raises(wire_reader.WireError):
        wire_reader.read_stream(sample + b"x")


def test_damage_is_named(sample):
    start, end = next((s, e) for s, e in frames(sample) if sample[s:s + 2] == b"\x08\x00")
    changed = bytearray(sample)
    changed[end - 1] ^= 1
    with pytest.raises(wire_reader.WireError, match=r"record PAGES \d+: block 0 page 7 does not match"):
        wire_reader.read_stream(changed)


def test_foreign_record_is_found(sample, tmp_path):
    write_sample("snapshot", tmp_path / "other")
    other = (tmp_path / "other").read_bytes()
    start, end = list(frames(sample))[3]
    with pytest.raises(wire_reader.WireError, match="check does not match"):
        wire_reader.read_stream(sample[:start] + other[start:end] + sample[end:])


def test_migration_is_read(traces):
    streams = wire_reader.read_migration(traces)
    assert len(streams) == 4
    assert {(s.role, s.sender) for s in streams.values()} == {
        ("control", "source"), ("control", "destination"), ("page", "source"), ("page", "destination")}
    page = next(s for s in streams.values() if s.role == "page" and s.sender == "source")
    assert [r["n_pages"] for r in page.rounds] == [12, 12]
    assert not page.suspects  # page 5 was, after the first round
    assert all(s.is_complete for s in streams.values())


def test_shared_memory_is_not_sent(traces):
    streams = list(wire_reader.read_migration(traces).values())
    source, destination = (next(s for s in streams if (s.role, s.sender) == ("control", sender))
                           for sender in ("source", "destination"))
    answer = destination.messages["RAM_SHARED"][0]
    assert (answer["is_shared"], answer["reason"]) == (0, "no descriptors came")
    answer["is_shared"] = 1
    with pytest.raises(wire_reader.WireError, match="pages of memory that is shared"):
        wire_reader.check_share(streams)
    answer["is_shared"] = 0
    source.messages["RAM_SHARE"][0]["blocks"].append({"index": 1, "offset": 0})
    with pytest.raises(wire_reader.WireError, match="different blocks"):
        wire_reader.check_share(streams)
    del source.messages["RAM_SHARE"]
    with pytest.raises(wire_reader.WireError, match="0 RAM_SHARE, 1 RAM_SHARED"):
        wire_reader.check_share(streams)


def fault_waits(faults=3, name=b"hart-0", quantiles=(5, 9, 9), n_threads=1):
    thread = (len(name).to_bytes(2, "little") + name
              + b"".join(n.to_bytes(8, "little") for n in (faults, 30, *quantiles)))
    return (b"".join(n.to_bytes(8, "little") for n in (2, 5, 9, 9))
            + n_threads.to_bytes(4, "little") + thread * n_threads)


def test_who_waited_for_pages_is_read():
    message = wire_reader.decode("FAULT_WAITS", fault_waits(n_threads=64), False)
    wire_reader.check_fault_waits(message)
    assert message["faults"] == 2 and len(message["threads"]) == 64
    assert message["threads"][63] == {"name": "hart-0", "faults": 3, "stall_ns": 30, "p50_ns": 5,
                                      "p99_ns": 9, "max_ns": 9}


@pytest.mark.parametrize("payload, field", [
    (fault_waits(n_threads=65), "threads"), (fault_waits(name=b"sixteen letters!"), "name"),
    (fault_waits(name=b"\xff"), "name"), (fault_waits(name=b"\x1b[m"), "name"),
    (fault_waits(faults=1 << 63), "faults"), (fault_waits(quantiles=(9, 8, 9)), "max_ns"),
    (fault_waits(quantiles=(8, 9, 8)), "max_ns"), (fault_waits()[:-1], "max_ns"),
    (fault_waits() + b"x", "length")])
def test_waits_that_cannot_be_are_refused(payload, field):
    with pytest.raises(wire_reader.WireError, match=field):
        wire_reader.check_fault_waits(wire_reader.decode("FAULT_WAITS", payload, False))


def test_difference_between_sent_and_received_is_found(traces):
    path = next(traces.glob("*-page-0-source-*.received"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(wire_reader.WireError, match="differ"):
        wire_reader.read_migration(traces)


def test_cut_is_allowed_only_when_asked(sample):
    with pytest.raises(wire_reader.Cut):
        wire_reader.read_stream(sample[:-1])
    stream = wire_reader.read_stream(sample[:-1], allow_cut=True)
    assert not stream.is_complete and stream.n_pages == 24


def test_command_line(sample, tmp_path, capsys):
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(sample)
    bad.write_bytes(sample[:100])
    assert wire_reader.main(["--records", str(good)]) == 0
    assert '"type": "STATE_END"' in capsys.readouterr().out
    assert wire_reader.main([str(bad)]) == 1
    assert "bytes missing" in capsys.readouterr().out
