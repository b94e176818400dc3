#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Moves a Debian guest between TAPs of one bridge under a flood of numbered pings.

Runs in network and PID namespaces of its own (gwlab.net.enter) and prints one JSON object: for each
flood what was sent, answered, answered twice, answered out of order and never answered, and for each
move how many frames the source has forwarded. test_network_moves.py judges it.

    network_moves.py FOLDER MOVES PINGS-PER-SECOND [OPTION...]      options are the guest's
"""
import json
import os
import select
import socket
import struct
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "scripts", "lib")]

from gwlab import net  # noqa: E402
from gwlab.parts import part  # noqa: E402
from gwlab.vm import Vm, wait_until  # noqa: E402

GUEST, MAC = "10.0.0.2", "52:54:00:67:77:01"
APPEND = ("console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init "
          f"gw.ip={GUEST}/24")
# Answers that may be outstanding: less than any queue on the way holds. The smallest is the guest's:
# Linux has room for some 100 echo replies that its network device has not sent, and drops more.
WINDOW = 64
QUEUE_FRAMES = 4000
SO_RCVBUFFORCE = 33  # not in the module


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


class Flood(threading.Thread):
    """Numbered ICMP echo requests at a rate; notes every answer in the order in which it comes."""

    IDENT = 0x6777

    def __init__(self, per_second):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self.socket.setblocking(False)
        self.pause = 1 / per_second
        self.sent = 0
        self.answers = []  # numbers, as they came
        self.over = threading.Event()

    def send(self):
        number = struct.pack("!Q", self.sent)
        head = struct.pack("!BBHHH", 8, 0, 0, self.IDENT, self.sent & 0xFFFF)
        packet = head[:2] + struct.pack("!H", checksum(head + number)) + head[4:] + number
        self.socket.sendto(packet, (GUEST, 0))
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
        deadline = time.monotonic() + 60
        while len(set(self.answers)) < self.sent and time.monotonic() < deadline:
            select.select([self.socket], [], [], 0.5)
            self.take()


def main():
    folder, moves, per_second, *options = sys.argv[1:]
    net.enter()
    os.environ["XDG_RUNTIME_DIR"] = folder
    bridge = net.Bridge()
    net.ip("neighbour", "replace", GUEST, "lladdr", MAC, "dev", bridge.name, "nud", "permanent")

    def start(i, *more):
        # A new port each time: what the bridge does not yet know of it must not cost a packet.
        tap = bridge.tap(f"gwtap{i}")
        net.ip("link", "set", tap, "txqueuelen", str(QUEUE_FRAMES))
        return Vm(f"v{i}", "--memory", "128M", "--net", f"tap,ifname={tap},mac={MAC}", *options,
                  *more, folder=folder)
    vm = start(0, "--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"), "--append",
               APPEND)
    results = []
    try:
        vm.wait_console("GODWIT-NET-UP", 240)
        flood = Flood(float(per_second))
        flood.start()
        wait_until("the flood to be answered", lambda: len(flood.answers) > 100, 60)
        for i in range(1, int(moves) + 1):
            new = start(i, "--incoming", f"unix:{folder}/v{i}.sock")
            new.qmp.command("query-status")
            before = len(flood.answers)
            summary = vm.migrate(f"unix:{folder}/v{i}.sock")
            wait_until("the destination to run", lambda: new.status() == "running")
            info = vm.migration()
            vm.close()
            vm = new
            net.ip("link", "delete", f"gwtap{i - 1}")
            wait_until("answers from the destination",
                       lambda: len(flood.answers) > before + 200, 60)
            results.append({"forwarded": info["packets-forwarded"],
                            "dropped": info["packets-dropped"],
                            "blackout_ms": summary["blackout_ms"]})
        flood.end()
        numbers = sorted(set(flood.answers))
        print(json.dumps({
            "sent": flood.sent, "answered": len(flood.answers),
            "lost": sorted(set(range(flood.sent)) - set(numbers)),
            "twice": len(flood.answers) - len(numbers),
            "out_of_order": sum(b < a for a, b in zip(flood.answers, flood.answers[1:])),
            "moves": results}))
    finally:
        vm.close()


if __name__ == "__main__":
    main()
