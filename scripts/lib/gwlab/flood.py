# SPDX-License-Identifier: MIT
"""A flood of numbered pings, and what became of each."""
import select
import socket
import struct
import threading
import time

from . import PATIENCE_S

# Answers that may be outstanding: less than any queue on the way holds. The smallest is the guest's:
# Linux has room for some 100 echo replies that its network device has not sent, and drops more.
WINDOW = 64
SO_RCVBUFFORCE = 33  # not in the module


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Flood(threading.Thread):
    """Numbered ICMP echo requests at a rate; notes every answer in the order in which it comes."""

    IDENT = 0x6777

    def __init__(self, address, per_second):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self.socket.setblocking(False)
        self.address = address
        self.pause = 1 / per_second
        self.sent = 0
        self.answers = []  # numbers, as they came
        self.over = threading.Event()

    def send(self):
        number = struct.pack("!Q", self.sent)
        head = struct.pack("!BBHHH", 8, 0, 0, self.IDENT, self.sent & 0xFFFF)
        packet = head[:2] + struct.pack("!H", checksum(head + number)) + head[4:] + number
        self.socket.sendto(packet, (self.address, 0))
        self.sent += 1

    def take(self):
        while True:
            try:
                packet = self.socket.recv(2048)
            except BlockingIOError:
                return
            kind, _, _, ident, _ = struct.unpack("!BBHHH", packet[20:28])
            if kind == 0 and ident == self.IDENT:
                self.answers.append(struct.unpack("!Q", packet[28:36])[0])

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            now = time.monotonic()
            while due <= now and self.sent - len(self.answers) < WINDOW:
                self.send()
                due += self.pause
            due = max(due, now - 0.05)
            select.select([self.socket], [], [], self.pause)
            self.take()

    def end(self):
        """Ends sending and waits for what is outstanding."""
        self.over.set()
        self.join()
        deadline = time.monotonic() + PATIENCE_S
        while len(set(self.answers)) < self.sent and time.monotonic() < deadline:
            select.select([self.socket], [], [], 0.5)
            self.take()

    def verdict(self):
        """After end(): how many were sent, which were never answered, how many twice, how many after
        a later one."""
        numbers = set(self.answers)
        return {"sent": self.sent, "answered": len(self.answers),
                "lost": sorted(set(range(self.sent)) - numbers),
                "twice": len(self.answers) - len(numbers),
                "out_of_order": sum(b < a for a, b in zip(self.answers, self.answers[1:]))}
