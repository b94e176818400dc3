# SPDX-License-Identifier: MIT
"""Writes Godwit streams, honest or not, from docs/wire-format.md: a source that tests control record
by record. It shares no code with src/wire. What it needs of a real guest (schema, RAM map, device
state) it takes from a snapshot.
"""
import os
import select
import socket
import struct

import xxhash

HELLO, SECTION_BEGIN, SECTION_PART, SECTION_END = 1, 2, 3, 4
SCHEMA_VERDICT, RAM_MAP, ROUND_BEGIN, PAGES, ROUND_END, ROUND_ACK = 5, 6, 7, 8, 9, 10
SWITCHOVER_BEGIN, STATE_END, LOADED, COMMIT, RUNNING = 12, 14, 15, 16, 17
ABORT, CLOCK_PING, END, KEEPALIVE = 18, 22, 26, 0x8001
SNAPSHOT_ONLY = (END, 0x8005, 0x8006, 0x8007)  # PAD, INDEX, LOCATOR
CONTROL, PAGE, URGENT = 1, 2, 3
HEADER_BYTES, PREAMBLE_BYTES = 32, 64
PATIENCE = 180.0


def xxh3(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed=seed)


def records_of(path):
    """The records of a snapshot that a live migration has too: (type, payload, bulk)."""
    with open(path, "rb") as file:
        data = file.read()
    at, found = PREAMBLE_BYTES, []
    while at < len(data):
        kind, _, length, _, bulk = struct.unpack_from("<HHIQI", data, at)
        body = at + HEADER_BYTES
        if kind not in SNAPSHOT_ONLY:
            found.append((kind, data[body:body + length],
                          data[body + length:body + length + bulk]))
        at = body + length + bulk
    return found


def text(string):
    return struct.pack("<H", len(string)) + string.encode()


def hello(page_channels=0, software="stranger"):
    return (struct.pack("<IIIIQQIQQQQQQ", 12, 256, page_channels, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0)
            + text(software) + text("") + text("") + text(""))


def section_begin(number, kind, attempt, n_bytes, name):
    return struct.pack("<IIIIIQ", number, kind, 0, 1, attempt, n_bytes) + text(name)


class Closed(Exception):
    """The destination has ended the channel."""


class Channel:
    """One channel to a unix: destination."""

    def __init__(self, uri, role=CONTROL, index=0, migration_id=None, preamble=True):
        self.id = migration_id or os.urandom(16)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(uri.removeprefix("unix:"))  # waits while the backlog is full
        self.socket.settimeout(PATIENCE)
        self.sequence, self.seed = 0, 0
        if preamble:
            self.send_bytes(self.preamble(role, index))

    def preamble(self, role, index, sender=1):
        body = (b"GODWIT\x00\x0a" + struct.pack("<HHHH", 1, 0, role, index) + self.id
                + struct.pack("<H", sender) + bytes(6) + os.urandom(8) + bytes(8))
        self.seed = xxh3(body)
        return body + struct.pack("<Q", self.seed)

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send_bytes(self, data):
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed(str(error)) from None

    def record(self, kind, payload=b"", bulk=b"", bulk_bytes=None):
        """The bytes of the next record, with right digests."""
        head = struct.pack("<HHIQI", kind, 0, len(payload), self.sequence,
                           len(bulk) if bulk_bytes is None else bulk_bytes)
        self.sequence += 1
        head += struct.pack("<I", xxh3(head, self.seed) & 0xffffffff)
        digest = xxh3(head + bytes(8) + payload, self.seed)
        return head + struct.pack("<Q", digest) + payload + bulk

    def send(self, kind, payload=b"", bulk=b"", **options):
        self.send_bytes(self.record(kind, payload, bulk, **options))

    def receive_bytes(self, n_bytes):
        data = b""
        while len(data) < n_bytes:
            try:
                piece = self.socket.recv(n_bytes - len(data))
            except ConnectionResetError:
                piece = b""
            if not piece:
                raise Closed("the destination closed the channel")
            data += piece
        return data

    def receive(self):
        head = self.receive_bytes(HEADER_BYTES)
        kind, _, length, _, bulk = struct.unpack_from("<HHIQI", head)
        return kind, self.receive_bytes(length + bulk)[:length]

    def read_preamble(self):
        return self.receive_bytes(PREAMBLE_BYTES)

    def wait_for(self, wanted):
        """Passes over everything up to a record of this type; its payload."""
        abort = b"no ABORT"
        while True:
            try:
                kind, payload = self.receive()
            except Closed as closed:
                raise Closed(f"{closed}, after {abort}") from None
            if kind == wanted:
                return payload
            if kind == ABORT:
                abort = payload

    def wait_end(self, timeout=PATIENCE):
        """Reads until the destination ends the channel."""
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            pass

    def is_ended(self):
        """Has the destination ended it by now? Reads what there is."""
        while select.select([self.socket], [], [], 0)[0]:
            try:
                if not self.socket.recv(65536):
                    return True
            except ConnectionResetError:
                return True
        return False


class Source(Channel):
    """A control channel that can play a whole migration out of a snapshot's records."""

    def __init__(self, uri, records, page_channels=0, **options):
        super().__init__(uri, **options)
        self.records, self.digests, self.state_bytes = records, b"", 0
        self.state_digest = 0
        self.read_preamble()
        self.send(HELLO, hello(page_channels))
        self.wait_for(HELLO)

    def section(self, number, payload, data):
        """Sends SECTION_END of what was sent before."""
        self.send(SECTION_END, struct.pack("<IIQQ", number, 1 if data else 0, len(data),
                                           xxh3(data)))

    def until(self, last, change=lambda kind, payload, bulk: (payload, bulk)):
        """Sends the snapshot's records up to the first of type `last`, and waits where an honest
        source would. `change` may alter a record; digests of sections are made right again."""
        data, is_schema = b"", False
        while self.records:
            kind, payload, bulk = self.records.pop(0)
            if kind == HELLO:
                continue
            payload, bulk = change(kind, payload, bulk)
            if kind == SECTION_BEGIN:
                data, is_schema = b"", payload[4] == 1
            elif kind == SECTION_PART:
                data += bulk
            elif kind == SECTION_END:
                digest = xxh3(data)
                payload = payload[:16] + struct.pack("<Q", digest)
                if not is_schema:
                    self.digests += struct.pack("<Q", digest)
            elif kind == STATE_END:
                self.state_digest = xxh3(self.digests)
                payload = payload[:16] + struct.pack("<Q", self.state_digest)
            self.send(kind, payload, bulk)
            if kind == RAM_MAP:
                verdict = self.wait_for(SCHEMA_VERDICT)
                assert verdict[0] == 1, verdict
            elif kind == ROUND_END:
                self.wait_for(ROUND_ACK)
            if kind == last:
                return

    def commit(self):
        self.send(COMMIT, struct.pack("<IQQ", 1, self.state_digest, 0))
