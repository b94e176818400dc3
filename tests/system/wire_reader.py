#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Reads and verifies a recorded Godwit stream, independently of src/wire.

It is written from docs/wire-format.md and takes the tables of records and fields from that page
itself, so that a stream it accepts is a stream the page describes. It shares no code with the C
reader. What it reads: snapshots, and single directions of a live migration's channels as the trace
filter records them ("LABEL.sent", "LABEL.received").

    wire_reader.py [--records] [--allow-cut] FILE...     one JSON object per file
    wire_reader.py [--allow-cut] --migration DIRECTORY   all traces of a directory, and the rules
                                                         that hold between them

Exit status: 0 all is right; 1 a stream is not; 2 usage. As a module: read_stream, read_migration.
"""

import argparse
import json
import mmap
import os
import re
import sys
import uuid

import xxhash
import zstandard

PAGE_BYTES = 4096
MAX_PAYLOAD = 4 << 20
MAX_BULK = 1 << 20
MAX_SECTIONS = 65536
MAX_SECTIONS_BYTES = 1 << 30
MAX_SCHEMA_BYTES = 16 << 20
MAX_PROBE_BYTES = 64 << 20
OPTIONAL = 0x8000
ROLES = {1: "control", 2: "page", 3: "urgent", 4: "snapshot", 5: "probe"}
ROLE_LETTERS = {"control": "C", "page": "P", "urgent": "U", "snapshot": "S", "probe": "L"}
SECTION_KINDS = {1: "schema", 2: "device", 3: "rehearsal", 4: "pages"}
STOPPED, POSTCOPY, VOID = 1, 2, 4  # flags of a round
SIZES = {"u8": 1, "bool": 1, "u16": 2, "u32": 4, "u64": 8}
PLAIN, ZERO, DELTA, ZSTD = 1, 2, 3, 4
MAX_ENCODED_PAGES = 64
MAX_WINDOW = 256 << 10


class WireError(Exception):
    """A stream that is not right; str() names record, sequence number and field."""


class Cut(WireError):
    """A stream that ends too early, but is right so far."""


def unpack_zstd(frame, n_bytes):
    """The content of exactly one frame that says exactly this size."""
    try:
        head = zstandard.get_frame_parameters(frame)
        if head.content_size != n_bytes or head.window_size > MAX_WINDOW or head.dict_id:
            raise WireError(f"zstd frame of {head.content_size} bytes, window {head.window_size}")
        reader = zstandard.ZstdDecompressor().decompressobj()
        content = reader.decompress(frame)
    except zstandard.ZstdError as error:
        raise WireError(f"zstd: {error}") from None
    if len(content) != n_bytes or reader.unused_data:
        raise WireError("zstd frame that is cut or followed by something")
    return content


def apply_delta(page, delta):
    """The page after the pieces of a delta."""
    page, at, i = bytearray(page), 0, 0
    while i < len(delta):
        if len(delta) - i < 4:
            raise WireError("delta: no whole piece")
        n_same, n_changed = (int.from_bytes(delta[i + k:i + k + 2], "little") for k in (0, 2))
        piece = delta[i + 4:i + 4 + n_changed]
        at += n_same
        if not n_changed or len(piece) != n_changed or at + n_changed > PAGE_BYTES:
            raise WireError("delta: a piece leaves its bounds")
        page[at:at + n_changed] = piece
        at += n_changed
        i += 4 + n_changed
    return bytes(page)


def decode_page_list(data, version, n_pages):
    """The numbers in a section of kind "pages": a set."""
    if version != 1 or not data or data[0] not in (1, 2):
        raise WireError(f"page numbers: version {version}, form {data[:1].hex()}")
    if data[0] == 2:
        if len(data) != 1 + (n_pages + 7) // 8 and n_pages < 1 << 32:
            raise WireError(f"page numbers: {len(data)} bytes for {n_pages} pages")
        bits = int.from_bytes(data[1:], "little")
        if bits >> n_pages:
            raise WireError("page numbers: outside of the block")
        return {page for page in range(bits.bit_length()) if bits >> page & 1}
    if len(data) % 16 != 1:
        raise WireError("page numbers: a run is cut")
    pages, end = set(), 0
    for at in range(1, len(data), 16):
        first, n = (int.from_bytes(data[at + k:at + k + 8], "little") for k in (0, 8))
        if first < end or not n or first + n > n_pages:
            raise WireError(f"page numbers: {first}+{n}")
        end = first + n
        pages.update(range(first, end))
    return pages


def check_fault_waits(message):
    """The rules between the fields of FAULT_WAITS."""
    for wait in (message, *message["threads"]):
        if not wait["p50_ns"] <= wait["p99_ns"] <= wait["max_ns"]:
            raise WireError(f"field max_ns: {wait['p50_ns']}, {wait['p99_ns']}, {wait['max_ns']}")
    for thread in message["threads"]:
        if not all(" " <= character <= "~" for character in thread["name"]):
            raise WireError(f"field threads.name: {ascii(thread['name'])}")


def xxh3(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed=seed)


# ---- the tables of the page ----


class RecordType:
    def __init__(self, cells):
        self.number = int(cells[0], 16)
        self.name = cells[1]
        self.channels = cells[2]
        self.senders = cells[3]
        self.min_bytes, self.max_bytes, self.max_bulk = (int(c) for c in cells[5:8])


class Field:
    def __init__(self, name, kind, text):
        self.name = name
        self.kind = kind
        self.elements = []
        match = re.fullmatch(r"(?:len |n )?(\d+)\.\.(\d+)", text)
        self.min, self.max = (0, (1 << 64) - 1) if match is None else map(int, match.groups())


def page_path():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.join(here, "..", "..", "docs", "wire-format.md")


def cells_of(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def read_page(path=None):
    """The tables: {number: RecordType}, {name: [Field]}."""
    with open(path or page_path(), encoding="utf-8") as page:
        lines = page.read().split("\n")
    types = {}
    fields = {}
    heading = None
    for line in lines:
        if line.startswith("#"):
            match = re.fullmatch(r"### ([A-Z_]+)", line)
            heading = match.group(1) if match else None
            if heading:
                fields[heading] = []
        elif line.startswith("| 0x"):
            row = RecordType(cells_of(line))
            types[row.number] = row
        elif heading and line.startswith("|"):
            cells = cells_of(line)
            if cells[1] in SIZES or cells[1] in ("string", "list"):
                add_field(fields[heading], cells)
    return types, fields


def add_field(where, cells):
    *parents, name = cells[0].split(".")
    for parent in parents:
        where = next(field for field in where if field.name == parent).elements
    where.append(Field(name, cells[1], cells[2]))


TYPES, FIELDS = read_page()
NUMBERS = {row.name: row.number for row in TYPES.values()}


# ---- payloads ----


class Payload:
    def __init__(self, data):
        self.data = data
        self.at = 0

    def take(self, n_bytes, field):
        if self.at + n_bytes > len(self.data):
            raise WireError(f"field {field}: {self.at + n_bytes - len(self.data)} bytes short")
        self.at += n_bytes
        return self.data[self.at - n_bytes:self.at]

    def uint(self, n_bytes, field):
        return int.from_bytes(self.take(n_bytes, field), "little")

    def field(self, field):
        if field.kind == "string":
            n_bytes = self.uint(2, field.name)
            self.check(field, n_bytes)
            try:
                text = bytes(self.take(n_bytes, field.name)).decode("utf-8")
            except UnicodeDecodeError as error:
                raise WireError(f"field {field.name}: {error}") from None
            if "\0" in text:
                raise WireError(f"field {field.name}: NUL in text")
            return text
        if field.kind == "list":
            n = self.uint(4, field.name)
            self.check(field, n)
            return [{f.name: self.field(f) for f in field.elements} for _ in range(n)]
        value = self.uint(SIZES[field.kind], field.name)
        if field.kind == "bool" and value > 1:
            raise WireError(f"field {field.name}: {value} is no bool")
        self.check(field, value)
        return bool(value) if field.kind == "bool" else value

    @staticmethod
    def check(field, value):
        if not field.min <= value <= field.max:
            raise WireError(f"field {field.name}: {value} is not in {field.min}..{field.max}")


def page_head(table):
    """round, block, first page, runs, pages, digests: the head of a PAGES record"""
    return [table.uint(n_bytes, "head") for n_bytes in (4, 4, 8, 2, 2, 4)]


def page_run(table):
    """offset, pages, encoding, zero, bytes: one run of its table"""
    return [table.uint(n_bytes, "runs") for n_bytes in (4, 2, 1, 1, 4)]


def decode(name, data, is_later_minor):
    payload = Payload(data)
    message = {field.name: payload.field(field) for field in FIELDS[name]}
    if payload.at != len(data) and not is_later_minor:
        raise WireError(f"field length: {len(data) - payload.at} bytes too many")
    return message


# ---- streams ----


class Stream:
    """One direction of one channel, read from bytes."""

    def __init__(self, data):
        self.data = data
        self.at = 0
        self.sequence = 0
        self.digests = xxhash.xxh3_64()
        self.counts = {}
        self.read_preamble()
        # rounds
        self.round = 0
        self.round_flags = 0
        self.is_round_open = False
        self.round_sums = [0, 0, 0]
        self.rounds = []
        self.ram_map = None
        self.pages = {}  # (block, page): digest of what the receiver has, 0 for zero pages
        self.suspects = set()
        self.contents = {}  # (block, page): its bytes, for deltas
        self.n_pages = self.n_zero = self.n_zstd = self.n_delta = 0
        self.page_rounds = {}  # (block, page): the last round in which it came on this channel
        # sections
        self.open = None
        self.next_section = 0
        self.sections = []
        self.sums = [0, 0, []]
        # places of pages in a snapshot
        self.places = []
        self.listed = []
        self.first_unit = self.first_index = self.tail = None
        self.n_index = 0
        self.pushed = set()  # (block, page) that came after COMMIT, or was asked for
        self.missing = set()  # (block, page) that the last state was sent without, section 15
        # packets
        self.probe_bytes = 0
        self.packets = {}  # by device: frames
        self.ended_nics = set()
        # what tests ask for
        self.messages = {}
        self.is_complete = False

    def cut(self, n_bytes, what):
        if self.at + n_bytes > len(self.data):
            missing = self.at + n_bytes - len(self.data)
            raise Cut(f"{what}: stream ended, {missing} bytes missing")
        self.at += n_bytes
        return self.data[self.at - n_bytes:self.at]

    def read_preamble(self):
        raw = bytes(self.cut(64, "preamble"))
        word = lambda at, n=2: int.from_bytes(raw[at:at + n], "little")
        if raw[:8] != b"GODWIT\0\n":
            raise WireError("preamble: magic")
        self.seed = word(56, 8)
        if xxh3(raw[:56]) != self.seed:
            raise WireError("preamble: digest")
        if word(8) != 1:
            raise WireError(f"preamble: major version {word(8)}")
        if any(raw[34:40]) or any(raw[48:56]):
            raise WireError("preamble: reserved")
        self.minor = word(10)
        if word(12) not in ROLES:
            raise WireError(f"preamble: role {word(12)}")
        self.role = ROLES[word(12)]
        self.index = word(14)
        if self.index > 63 or (self.index and self.role != "page"):
            raise WireError(f"preamble: index {self.index}")
        self.migration = uuid.UUID(bytes=raw[16:32])
        if word(32) not in (1, 2):
            raise WireError(f"preamble: direction {word(32)}")
        self.sender = {1: "source", 2: "destination"}[word(32)]
        if self.role == "snapshot" and self.sender != "source":
            raise WireError("preamble: a snapshot has direction 1")

    def next_record(self):
        """One record as (row, payload, bulk); None at the end of the bytes; row None if skipped."""
        if self.at == len(self.data):
            return None
        where = f"record {self.sequence}"
        header = bytes(self.cut(32, where))
        word = lambda at, n: int.from_bytes(header[at:at + n], "little")
        if word(20, 4) != xxh3(header[:20], self.seed) & 0xFFFFFFFF:
            raise WireError(f"{where}: check does not match")
        number, length, bulk_bytes = word(0, 2), word(4, 4), word(16, 4)
        row = TYPES.get(number)
        where = f"record {row.name if row else hex(number)} {self.sequence}"
        if word(8, 8) != self.sequence:
            raise WireError(f"{where}: sequence {word(8, 8)}")
        if row is None and not number & OPTIONAL:
            raise WireError(f"{where}: unknown mandatory type")
        if word(2, 2):
            raise WireError(f"{where}: flags")
        self.check_limits(where, row, length, bulk_bytes)
        payload = self.cut(length, where)
        digest = word(24, 8)
        if xxh3(header[:24] + bytes(8) + bytes(payload), self.seed) != digest:
            raise WireError(f"{where}: digest does not match")
        if row and row.name == "PAGES":
            self.note_cut_pages(payload, len(self.data) - self.at, bulk_bytes)
        bulk = self.cut(bulk_bytes, where)
        self.sequence += 1
        name = row.name if row else "unknown"
        self.counts[name] = self.counts.get(name, 0) + 1
        self.last_digest = digest.to_bytes(8, "little")
        return where, row, payload, bulk

    def check_limits(self, where, row, length, bulk_bytes):
        least, most, most_bulk = 0, MAX_PAYLOAD, MAX_BULK
        if row:
            least, most_bulk = row.min_bytes, row.max_bulk
            most = MAX_PAYLOAD if self.minor > 0 else row.max_bytes
        if not least <= length <= most or bulk_bytes > most_bulk:
            raise WireError(f"{where}: length {length} or bulk {bulk_bytes}")
        if row and ROLE_LETTERS[self.role] not in row.channels:
            raise WireError(f"{where}: not on a {self.role} channel")
        if row and row.senders not in ("B", self.sender[0].upper()):
            raise WireError(f"{where}: not sent by the {self.sender}")

    def read(self, on_record=None):
        while not self.is_complete:
            start = self.at
            record = self.next_record()
            if record is None:
                last = "END" if self.role == "snapshot" else "GOODBYE"
                raise Cut(f"record {self.sequence}: stream ended without {last}")
            where, row, payload, bulk = record
            message = None
            if row:
                try:
                    message = self.take(row, payload, bulk, start)
                except WireError as error:
                    raise WireError(f"{where}: {error}") from None
            if on_record:
                on_record({"sequence": self.sequence - 1, "type": row.name if row else "unknown",
                           "length": len(payload), "bulk": len(bulk), "fields": message})
            self.digests.update(self.last_digest)
        if self.at != len(self.data):
            raise WireError(f"{len(self.data) - self.at} bytes after {'END' if self.role == 'snapshot' else 'GOODBYE'}")

    def take(self, row, payload, bulk, start):
        if row.name == "PAGES":
            return self.take_pages(payload, bulk, start)
        if row.name == "PAD":
            return self.take_pad(payload, start)
        if row.name in ("INDEX", "LOCATOR") and "STATE_END" not in self.messages:
            raise WireError("before STATE_END")
        message = decode(row.name, payload, self.minor > 0)
        handler = getattr(self, "take_" + row.name.lower(), None)
        self.start = start
        if self.role == "snapshot":
            self.check_order(row.name)
        if handler:
            handler(message, bulk)
        self.messages.setdefault(row.name, []).append(message)
        return message

    # order in a snapshot, section 10

    def check_order(self, name):
        seen = self.messages
        before = {
            "RAM_MAP": ["HELLO"], "ROUND_BEGIN": ["RAM_MAP"], "SWITCHOVER_BEGIN": ["RAM_MAP"],
            "STATE_END": ["SWITCHOVER_BEGIN"], "END": ["STATE_END"], "SECTION_BEGIN": ["HELLO"],
        }.get(name, [])
        for other in before:
            if other not in seen:
                raise WireError(f"before {other}")
        if name in ("HELLO", "RAM_MAP", "SWITCHOVER_BEGIN", "STATE_END") and name in seen:
            raise WireError("second")
        if name == "RAM_MAP" and not self.sections:
            raise WireError("before the schema")
        if "STATE_END" in seen and name not in ("INDEX", "LOCATOR", "END"):
            raise WireError("after STATE_END")
        if "LOCATOR" in seen and name != "END":
            raise WireError("after LOCATOR")
        if self.is_round_open and name != "ROUND_END":
            raise WireError("within a round")

    # memory

    def take_ram_map(self, message, _bulk):
        total = 0
        spans = []
        for position, block in enumerate(message["blocks"]):
            if block["index"] != position or block["size_bytes"] % PAGE_BYTES:
                raise WireError(f"field blocks: {block['name']}")
            total += block["size_bytes"]
            if block["gpa"] != (1 << 64) - 1:
                if block["gpa"] % PAGE_BYTES:
                    raise WireError(f"field blocks.gpa: {block['gpa']:#x}")
                spans.append((block["gpa"], block["gpa"] + block["size_bytes"]))
            end = 0
            for extent in block["extents"]:
                first, n = extent["first_page"], extent["n_pages"]
                if first < end or n == 0 or first + n > block["size_bytes"] // PAGE_BYTES:
                    raise WireError(f"field blocks.extents: {first}+{n}")
                end = first + n
        spans.sort()
        if any(a[1] > b[0] for a, b in zip(spans, spans[1:])):
            raise WireError("field blocks: overlap")
        if len({block["name"] for block in message["blocks"]}) != len(message["blocks"]):
            raise WireError("field blocks: one name twice")
        if total != message["total_bytes"]:
            raise WireError(f"field total_bytes: {message['total_bytes']}, blocks have {total}")
        self.ram_map = message

    def take_round_begin(self, message, _bulk):
        # A connection that replaces a lost one goes on counting, section 16.
        is_first = not self.round and ("RESUME" in self.messages or self.role == "page")
        if self.is_round_open or (message["round"] != self.round + 1 and not is_first):
            raise WireError(f"field round: {message['round']} after {self.round}")
        if message["flags"] & POSTCOPY and not message["flags"] & STOPPED:
            raise WireError("field flags: post-copy of a guest that runs")
        if message["flags"] & VOID and message["flags"] != VOID:
            raise WireError("field flags: a void round is nothing else")
        self.round, self.round_flags, self.is_round_open = message["round"], message["flags"], True
        self.round_sums = [0, 0, 0]

    def take_round_end(self, message, _bulk):
        found = [message["n_pages"], message["n_packets"], message["n_bytes"]]
        if not self.is_round_open or message["round"] != self.round or found != self.round_sums:
            raise WireError(f"round {message['round']}: {found}, expected {self.round_sums}")
        self.is_round_open = False
        self.note_first(self.start)
        self.tail = (self.start, self.sequence - 1)
        self.rounds.append(dict(message, flags=self.round_flags))

    def block_pages(self, block):
        if self.ram_map is None:
            return 1 << 32
        if block >= len(self.ram_map["blocks"]):
            raise WireError(f"field block: {block}")
        return self.ram_map["blocks"][block]["size_bytes"] // PAGE_BYTES

    # places, section 10

    def note_first(self, start):
        if self.first_unit is None and start % PAGE_BYTES == 0 and self.round:
            self.first_unit = (start, self.sequence - 1)

    def take_pad(self, data, start):
        if self.open or "STATE_END" in self.messages:
            raise WireError("within a section, or after STATE_END")
        if any(bytes(data)):
            raise WireError("not all zero")
        self.note_first(start)

    def take_index(self, message, _bulk):
        self.first_index = self.first_index or (self.start, self.sequence - 1)
        self.n_index += 1
        self.listed += message["entries"]

    def take_locator(self, message, _bulk):
        if self.listed != self.places:
            raise WireError("field entries: not the PAGES records of this stream")
        if any((e["offset"] + e["head_bytes"]) % PAGE_BYTES for e in self.places):
            raise WireError("field entries: pages that are not aligned")
        if len(self.rounds) != 1 or not self.rounds[0]["flags"] & 1:
            raise WireError("not one stopped round")
        pages, index = self.first_unit, self.first_index or (self.start, self.sequence - 1)
        expected = {"pages_offset": pages[0], "pages_sequence": pages[1],
                    "tail_offset": self.tail[0], "tail_sequence": self.tail[1],
                    "index_offset": index[0], "index_sequence": index[1],
                    "n_entries": len(self.places), "n_pages": self.n_pages,
                    "n_index": self.n_index}
        if message != expected:
            raise WireError(f"{message}, expected {expected}")

    def take_pages(self, data, bulk, start):
        record_bytes = self.at - start
        table = Payload(data)
        round_number, block, first_page, n_runs, n_pages, n_digests = page_head(table)
        if self.role == "urgent":
            if round_number != 0:
                raise WireError("field round: not 0 on the urgent channel")
        elif not self.is_round_open or round_number != self.round:
            raise WireError(f"field round: {round_number}, open is {self.round}")
        if not 1 <= n_runs <= 256 or not 1 <= n_pages <= 256:
            raise WireError(f"field n_runs {n_runs}, n_pages {n_pages}")
        end = first_page
        limit = self.block_pages(block)
        runs = []
        for i in range(n_runs):
            offset, n, encoding, zero, n_bytes = page_run(table)
            first = first_page + offset
            if (i == 0 and offset) or first < end or n == 0 or first + n > limit or zero:
                raise WireError(f"run {i}: {first}+{n}")
            limits = {PLAIN: (n * PAGE_BYTES,) * 2, ZERO: (0, 0), DELTA: (2 * n, n * PAGE_BYTES),
                      ZSTD: (0, 0) if any(run[2] == ZSTD for run in runs)
                      else (1, MAX_ENCODED_PAGES * PAGE_BYTES)}
            low, high = limits.get(encoding, (1, 0))
            if not low <= n_bytes <= high:
                raise WireError(f"run {i}: encoding {encoding}, {n_bytes} bytes")
            end = first + n
            runs.append((first, n, encoding, n_bytes))
        count = {kind: sum(run[1] for run in runs if run[2] == kind)
                 for kind in (PLAIN, ZERO, DELTA, ZSTD)}
        if self.round_flags & VOID and count[ZERO] != n_pages:
            raise WireError("pages in a void round")
        if n_pages != sum(count.values()) or n_digests != n_pages - count[ZERO]:
            raise WireError(f"field n_pages {n_pages}, n_digests {n_digests}")
        if count[DELTA] + count[ZSTD] > MAX_ENCODED_PAGES or (
                self.role == "snapshot" and count[DELTA] + count[ZSTD]):
            raise WireError(f"{count[DELTA] + count[ZSTD]} encoded pages")
        if len(bulk) != sum(run[3] for run in runs) or len(data) != 24 + 12 * n_runs + 8 * n_digests:
            raise WireError("field length or bulk")
        at = 0
        frame = b""
        for first, n, encoding, n_bytes in runs:
            run_data = bulk[at:at + n_bytes]
            at += n_bytes
            if encoding == ZSTD:
                frame = frame or unpack_zstd(run_data, count[ZSTD] * PAGE_BYTES)
                run_data, frame = frame[:n * PAGE_BYTES], frame[n * PAGE_BYTES:]
            self.take_run(block, first, n, encoding, run_data, table)
        self.note_first(start)
        self.places.append({"offset": start, "sequence": self.sequence - 1, "block": block,
                            "first_page": first_page, "n_pages": end - first_page,
                            "head_bytes": 32 + len(data), "bulk_bytes": len(bulk)})
        self.n_pages += n_pages
        self.n_zero += count[ZERO]
        self.n_zstd += count[ZSTD]
        self.n_delta += count[DELTA]
        self.round_sums[0] += n_pages
        self.round_sums[1] += 1
        self.round_sums[2] += record_bytes
        return {"round": round_number, "block": block, "first_page": first_page,
                "n_pages": n_pages, "n_zero": count[ZERO]}

    def note_cut_pages(self, data, n_here, bulk_bytes):
        """The end of a stream within a record: the plain pages before it may have been used."""
        if n_here >= bulk_bytes or not self.round_flags & POSTCOPY:
            return
        table = Payload(data)
        _, block, first_page, n_runs, _, _ = page_head(table)
        for _ in range(n_runs):
            offset, n, encoding, _, n_bytes = page_run(table)
            if encoding not in (PLAIN, ZERO):
                return
            n_whole = n if encoding == ZERO else min(n, n_here // PAGE_BYTES)
            self.pushed.update((block, first_page + offset + i) for i in range(n_whole))
            n_here -= n_bytes
            if n_here < 0:
                return

    def take_run(self, block, first, n, encoding, run_data, table):
        at = 0
        for page in range(first, first + n):
            if encoding == ZERO:
                self.contents.pop((block, page), None)
                self.set_page(block, page, 0, True)
                continue
            digest = table.uint(8, "digests")
            if encoding == DELTA:
                n_bytes = int.from_bytes(run_data[at:at + 2], "little")
                if len(run_data) < at + 2 + n_bytes:
                    raise WireError(f"page {page}: its delta is cut")
                base = self.contents.get((block, page), bytes(PAGE_BYTES))
                content = apply_delta(base, run_data[at + 2:at + 2 + n_bytes])
                at += 2 + n_bytes
            else:
                content = run_data[at:at + PAGE_BYTES]
                at += PAGE_BYTES
            self.contents[block, page] = content
            found = xxh3(content)
            # What a delta is made against may have come by another channel.
            is_good = found == digest or (encoding == DELTA and not self.is_only_channel)
            self.set_page(block, page, digest if is_good else found, is_good)
        if at != len(run_data):
            raise WireError(f"run of page {first}: {len(run_data) - at} bytes too many")

    def set_page(self, block, page, digest, is_good):
        self.pages[block, page] = digest
        self.page_rounds[block, page] = self.round
        if self.role == "urgent" or self.round_flags & POSTCOPY:
            self.pushed.add((block, page))
        if is_good:
            self.suspects.discard((block, page))
        elif self.role == "snapshot" and self.round_flags & 1:
            raise WireError(f"block {block} page {page} does not match its digest")
        else:
            self.suspects.add((block, page))

    # sections

    def take_section_begin(self, message, _bulk):
        if self.open or message["id"] != self.next_section:
            raise WireError(f"field id: {message['id']}, or a section is open")
        kind = SECTION_KINDS[message["kind"]]
        if kind == "schema":
            if message["n_bytes"] > MAX_SCHEMA_BYTES:
                raise WireError(f"field n_bytes: {message['n_bytes']}")
        elif (self.sums[0] >= MAX_SECTIONS
              or self.sums[1] + message["n_bytes"] > MAX_SECTIONS_BYTES):
            raise WireError("too much section data")
        if self.role == "snapshot":
            expected = "device" if "SWITCHOVER_BEGIN" in self.messages else "schema"
            if kind != expected or (kind == "schema" and self.sections):
                raise WireError(f"field kind: {kind}, expected one {expected}")
        elif self.sender == "destination" and (kind != "pages" or "RESUMED" not in self.messages):
            raise WireError(f"field kind: {kind} from a destination")
        self.next_section += 1
        self.open = {"kind": kind, "name": message["name"], "instance": message["instance"],
                     "version": message["version"], "attempt": message["attempt"],
                     "id": message["id"], "n_bytes": message["n_bytes"], "parts": []}

    def take_section_part(self, message, bulk):
        if not self.open or message["id"] != self.open["id"]:
            raise WireError(f"field id: {message['id']}")
        have = sum(len(part) for part in self.open["parts"])
        if message["offset"] != have or not bulk or have + len(bulk) > self.open["n_bytes"]:
            raise WireError(f"section {self.open['name']}: offset {message['offset']}, {len(bulk)} bytes")
        self.open["parts"].append(bytes(bulk))

    def take_section_end(self, message, _bulk):
        section, self.open = self.open, None
        if not section or message["id"] != section["id"]:
            raise WireError(f"field id: {message['id']}")
        parts = section.pop("parts")
        data = b"".join(parts)
        if (message["n_parts"] != len(parts) or message["n_bytes"] != section["n_bytes"]
                or len(data) != section["n_bytes"]):
            raise WireError(f"section {section['name']}: n_parts or n_bytes")
        if xxh3(data) != message["digest"]:
            raise WireError(f"section {section['name']}: its data does not match field digest")
        if section["kind"] == "pages":
            section["pages"] = decode_page_list(data, section["version"],
                                                self.block_pages(section["instance"]))
        section["digest"] = f"{message['digest']:016x}"
        section["data"] = data
        self.sections.append(section)
        if section["kind"] != "schema":
            self.sums[0] += 1
            self.sums[1] += len(data)
            self.sums[2].append(message["digest"].to_bytes(8, "little"))

    def take_state_end(self, message, _bulk):
        expected = [self.sums[0], self.sums[1], xxh3(b"".join(self.sums[2]))]
        found = [message["n_sections"], message["n_bytes"], message["digest"]]
        if self.open or found != expected:
            raise WireError(f"{found}, expected {expected}")
        self.sums = [0, 0, []]
        self.missing = {(section["instance"], page) for section in self.sections
                        if section["kind"] == "pages" and section["attempt"] == message["attempt"]
                        for page in section["pages"]}

    def take_switchover_cancel(self, _message, _bulk):
        self.sums = [0, 0, []]
        self.missing = set()

    # ends

    # packets, section 8

    def take_packet(self, message, bulk):
        nic = message["nic"]
        if "COMMIT" not in self.messages:
            raise WireError("before COMMIT")
        if nic in self.ended_nics:
            raise WireError(f"field nic: device {nic} has said its last")
        if message["flags"] & 1:
            self.ended_nics.add(nic)
        if len(bulk) < 12 + 14 and (len(bulk) or not message["flags"] & 1):
            raise WireError(f"a frame of {len(bulk)} bytes with its header")
        self.packets[nic] = self.packets.get(nic, 0) + (len(bulk) > 0)

    def take_probe(self, message, bulk):
        if xxh3(bytes(bulk)) != message["digest"]:
            raise WireError("field digest: does not match the bulk")
        self.probe_bytes += len(bulk)
        if self.probe_bytes > MAX_PROBE_BYTES:
            raise WireError(f"{self.probe_bytes} bytes in one probe")

    def take_probe_ack(self, message, _bulk):
        last = self.messages.get("PROBE_ACK", [{"n_bytes": 0, "monotonic_ns": 0}])[-1]
        if message["n_bytes"] < last["n_bytes"] or message["monotonic_ns"] < last["monotonic_ns"]:
            raise WireError("field n_bytes or monotonic_ns: less than before")

    # what the guest waited for, section 15

    def take_fault_waits(self, message, _bulk):
        if "WHOLE" in self.messages:
            raise WireError("after WHOLE")
        check_fault_waits(message)

    # connections that replace a lost one, section 16

    def take_resume(self, _message, _bulk):
        if self.messages:
            raise WireError("not the first record")

    def take_resumed(self, message, _bulk):
        if self.messages or (message["is_whole"] and not message["is_owned"]):
            raise WireError("not the first record, or whole but not owned")

    def take_goodbye(self, _message, _bulk):
        self.is_complete = True

    def take_end(self, message, _bulk):
        if self.suspects:
            raise WireError(f"{len(self.suspects)} pages do not match their digests")
        own = 32 + 40
        expected = {"n_records": self.sequence - 1, "n_pages": self.n_pages,
                    "n_sections": len(self.sections), "n_bytes": self.at - own,
                    "digest": self.digests.intdigest()}
        for field, value in expected.items():
            if message[field] != value:
                raise WireError(f"field {field}: {message[field]}, expected {value}")
        self.is_complete = True

    def summary(self):
        sections = [{k: v for k, v in section.items() if k not in ("data", "pages")} for section in self.sections]
        report = {
            "migration": str(self.migration), "role": self.role, "index": self.index,
            "sender": self.sender, "complete": self.is_complete, "bytes": self.at,
            "records": self.counts, "n_records": self.sequence, "n_pages": self.n_pages,
            "n_zero_pages": self.n_zero, "n_zstd_pages": self.n_zstd,
            "n_delta_pages": self.n_delta, "n_suspect": len(self.suspects), "rounds": self.rounds,
            "sections": sections, "packets": self.packets, "n_missing": len(self.missing),
        }
        for name in ("HELLO", "SCHEMA_VERDICT", "LOADED", "COMMIT", "RUNNING", "ABORT", "CANCEL"):
            if name in self.messages:
                report[name.lower()] = self.messages[name][-1]
        if self.ram_map:
            report["ram"] = [{k: block[k] for k in ("name", "gpa", "size_bytes")}
                             for block in self.ram_map["blocks"]]
        return report


def read_stream(source, allow_cut=False, on_record=None, is_only_channel=True):
    """Reads bytes or a path; returns the Stream. Raises WireError."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return read_bytes(memoryview(source), allow_cut, on_record, is_only_channel)
    with open(source, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return read_bytes(memoryview(b""), allow_cut, on_record, is_only_channel)
        # The map is closed with the last view of it.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return read_bytes(view, allow_cut, on_record, is_only_channel)


def read_bytes(view, allow_cut, on_record, is_only_channel):
    stream = Stream(view)
    stream.is_only_channel = is_only_channel  # that carries pages
    try:
        stream.read(on_record)
    except Cut:
        if not allow_cut:
            raise
    return stream


# ---- whole migrations ----


def check_pair(name, sent, received):
    """What was received is what was sent, or its beginning."""
    with open(sent, "rb") as a, open(received, "rb") as b:
        while chunk := b.read(1 << 20):
            if a.read(len(chunk)) != chunk:
                raise WireError(f"{name}: received bytes differ from those sent")


def check_rounds(streams):
    """Every ROUND_ACK repeats the counts of a ROUND_END on its channel; rounds end everywhere."""
    ends = {}
    for stream in streams:
        if stream.sender == "source" and stream.role in ("page", "control"):
            channel = stream.index if stream.role == "page" else 65535
            for end in stream.rounds:
                ends[channel, end["round"]] = end
    n_acks = 0
    for stream in streams:
        for ack in stream.messages.get("ROUND_ACK", []):
            end = ends.get((ack["channel"], ack["round"]))
            n_acks += 1
            if end is None:
                raise WireError(f"ROUND_ACK of round {ack['round']} on {ack['channel']}: no such end")
            if ack["n_pages"] != end["n_pages"] or ack["n_bytes"] != end["n_bytes"]:
                raise WireError(f"ROUND_ACK of round {ack['round']} on {ack['channel']}: counts")
    return n_acks


def check_handover(streams):
    """LOADED, COMMIT and STATE_END speak of one state; RUNNING only after COMMIT."""
    def last(name):
        found = [s.messages[name][-1] for s in streams if name in s.messages]
        return found[-1] if found else None

    state, loaded, commit, running = map(last, ("STATE_END", "LOADED", "COMMIT", "RUNNING"))
    for name, message in (("LOADED", loaded), ("COMMIT", commit)):
        if message and (state is None or message["state_digest"] != state["digest"]
                        or message["attempt"] != state["attempt"]):
            raise WireError(f"{name} is not of the state that was sent")
    if commit and not loaded:
        raise WireError("COMMIT without LOADED")
    if running and (not commit or running["attempt"] != commit["attempt"]):
        raise WireError("RUNNING without COMMIT of this attempt")


def check_share(streams):
    """RAM_SHARED answers an offer; memory that is shared is not sent."""
    found = {name: [m for s in streams for m in s.messages.get(name, [])]
             for name in ("RAM_SHARE", "RAM_SHARED", "RAM_MAP")}
    offers, answers = found["RAM_SHARE"], found["RAM_SHARED"]
    if len(offers) > 1 or len(answers) > len(offers):
        raise WireError(f"{len(offers)} RAM_SHARE, {len(answers)} RAM_SHARED")
    if offers and found["RAM_MAP"]:
        if len(offers[0]["blocks"]) != len(found["RAM_MAP"][0]["blocks"]):
            raise WireError("RAM_SHARE and RAM_MAP have different blocks")
    for position, block in enumerate(offers[0]["blocks"] if offers else []):
        if block["index"] != position or block["offset"] % PAGE_BYTES:
            raise WireError(f"RAM_SHARE: block {position}")
    if answers and answers[0]["is_shared"] and any(s.pages for s in streams):
        raise WireError("pages of memory that is shared")


def check_packets(streams):
    """PACKET only if both sides have said that they know it; a whole stream ends each device's."""
    hellos = [h for s in streams for h in s.messages.get("HELLO", [])]
    for stream in streams:
        if stream.packets or stream.ended_nics:
            if len(hellos) < 2 or not all(h["features"] >> 7 & 1 for h in hellos):
                raise WireError("PACKET without the feature packet-forward")
        if stream.is_complete and set(stream.packets) - stream.ended_nics:
            raise WireError("PACKETs of a device without the last one")


def check_postcopy(streams):
    """What a guest was handed over without comes after COMMIT, and is asked for only if it is among
    that; WHOLE counts it. Who never was without a page has not waited for one."""
    missing = set().union(*(s.missing for s in streams))
    pushed = set().union(*(s.pushed for s in streams))
    found = {name: [m for s in streams for m in s.messages.get(name, [])]
             for name in ("WHOLE", "PAGE_REQUEST", "HELLO", "FAULT_WAITS")}
    if missing and not all(h["features"] >> 4 & 1 for h in found["HELLO"]):
        raise WireError("post-copy without the feature urgent")
    if found["FAULT_WAITS"] and not missing:
        raise WireError("FAULT_WAITS of a guest that was never without a page")
    for request in found["PAGE_REQUEST"]:
        first = request["first_page"]
        if not any((request["block"], p) in missing for p in range(first, first + request["n_pages"])):
            raise WireError(f"PAGE_REQUEST of block {request['block']} page {first}: not missing")
    if found["WHOLE"] and (not missing or found["WHOLE"][-1]["n_pages"] < len(missing)
                           or missing - pushed):
        raise WireError(f"WHOLE, {len(missing)} pages missing, {len(missing - pushed)} never came")


def check_suspects(streams):
    """The last word on each page, on whichever channel it came: none may be suspect when LOADED was
    said. No page came on two channels in one round that was its last."""
    last = {}  # (block, page): (round, is it suspect)
    for stream in streams:
        for page, number in stream.page_rounds.items():
            known = last.get(page, (0, False))
            if number == known[0] and stream.role == "page":
                raise WireError(f"block {page[0]} page {page[1]} came twice in round {number}")
            if number > known[0]:
                last[page] = number, page in stream.suspects
    if any("LOADED" in stream.messages for stream in streams) and not any(
            stream.missing for stream in streams):  # else they are missing too, section 15
        suspects = {page for page, (_, is_suspect) in last.items() if is_suspect}
        if suspects:
            raise WireError(f"LOADED with {len(suspects)} suspect pages, first {min(suspects)}")


def read_migration(directory, allow_cut=False):
    """Reads all traces of one migration in a directory. Returns {label: Stream}. The rules between
    channels are checked on what the destination received, or else on what was sent."""
    files = sorted(os.listdir(directory))
    labels = sorted({name.rsplit(".", 1)[0] for name in files if name.endswith((".sent", ".received"))})
    is_only = not any("-page-1-" in label for label in labels)
    streams = {}
    for label in labels:
        paths = {end: os.path.join(directory, f"{label}.{end}") for end in ("sent", "received")}
        found = [path for path in (paths["received"], paths["sent"]) if os.path.exists(path)]
        if len(found) == 2:
            check_pair(label, paths["sent"], paths["received"])
        try:
            streams[label] = read_stream(found[0], allow_cut, is_only_channel=is_only)
        except WireError as error:
            raise type(error)(f"{label}: {error}") from None
    by_migration = {}
    for stream in streams.values():
        by_migration.setdefault(stream.migration, []).append(stream)
    for group in by_migration.values():
        check_rounds(group)
        check_handover(group)
        check_share(group)
        check_packets(group)
        check_postcopy(group)
        check_suspects(group)
    return streams


def main(arguments):
    parser = argparse.ArgumentParser(description="Reads and verifies recorded Godwit streams.")
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--records", action="store_true", help="list every record")
    parser.add_argument("--allow-cut", action="store_true", help="a stream may end anywhere")
    parser.add_argument("--migration", metavar="DIRECTORY", help="all traces of a directory")
    options = parser.parse_args(arguments)
    if bool(options.files) == bool(options.migration):
        parser.error("either FILEs or --migration DIRECTORY")
    status = 0
    if options.migration:
        try:
            streams = read_migration(options.migration, options.allow_cut)
            print(json.dumps({label: s.summary() for label, s in streams.items()}, indent=1))
        except WireError as error:
            print(json.dumps({"error": str(error)}))
            status = 1
    for path in options.files:
        records = []
        try:
            stream = read_stream(path, options.allow_cut,
                                 records.append if options.records else None)
            report = dict(stream.summary(), path=path)
        except WireError as error:
            report = {"path": path, "error": str(error)}
            status = 1
        if options.records:
            report["record_list"] = records
        print(json.dumps(report, indent=1))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
