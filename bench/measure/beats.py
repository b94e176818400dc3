# SPDX-License-Identifier: MIT
"""Watches the consoles of guests that print all the time: when nothing came, none of them ran.

A probe from outside that needs no network: the kernel tells when a console's file was written to, by
whichever process runs the guest."""
import ctypes
import os
import select
import threading
import time

IN_MODIFY = 2


class Beats:
    """Stamps every sign of life of the guests whose consoles are watched, until its block ends."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self.stamps = []
        self.ended, self.end = os.pipe()
        self.thread = threading.Thread(target=self.listen)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.write(self.end, b"x")
        self.thread.join()
        for fd in (self.fd, self.ended, self.end):
            os.close(fd)

    def watch(self, vm):
        if self.libc.inotify_add_watch(self.fd, os.fsencode(vm.console_path), IN_MODIFY) < 0:
            raise OSError(ctypes.get_errno(), f"watching {vm.console_path}")

    def listen(self):
        while self.ended not in select.select([self.fd, self.ended], [], [])[0]:
            os.read(self.fd, 65536)
            self.stamps.append(time.monotonic())

    def largest_gap_ms(self, begun, ended):
        """Between two signs of life, of those from begun to ended (monotonic seconds)."""
        stamps = [stamp for stamp in list(self.stamps) if begun <= stamp <= ended]
        return 1e3 * max((later - stamp for stamp, later in zip(stamps, stamps[1:])), default=0)
