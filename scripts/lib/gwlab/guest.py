# SPDX-License-Identifier: MIT
"""Clients of the agent in our Linux guests (docs/guests.md) and of the outside probe."""
import json
import os
import socket
import subprocess
import threading
import time

from . import BUILD, LabError
from .vm import wait_until


class Agent:
    """One TCP connection to the agent's control port, kept for as long as this object lives."""

    def __init__(self, address, port=7777, timeout=120.0):
        def connect():
            try:
                return socket.create_connection((address, port), timeout=1.0)
            except OSError:
                return None
        self._socket = wait_until(f"the agent at {address}:{port}", connect, timeout)
        self._socket.settimeout(timeout)
        self._file = self._socket.makefile("rw", newline="\n")

    def close(self):
        self._file.close()
        self._socket.close()

    def ask(self, line):
        """Sends one command; returns the text after 'ok' of the answer's last line."""
        self._file.write(line + "\n")
        self._file.flush()
        while True:
            answer = self._file.readline()
            if not answer:
                raise LabError(f"the agent closed the connection at '{line}'")
            word, _, rest = answer.strip().partition(" ")
            if word == "ok":
                return rest
            if word == "error":
                raise LabError(f"agent: {line}: {rest}")

    def status(self):
        """The status line as a dictionary; numbers are converted. asked_ms is the middle of the
        question on the asker's wall clock, for comparison with the guest's wall_ms."""
        found = {}
        asked = time.time()
        answer = self.ask("status")
        found["asked_ms"] = int((asked + time.time()) * 500)
        for word in answer.split():
            name, _, value = word.partition("=")
            found[name] = int(value) if value.lstrip("-").isdigit() else value
        return found


class Stream(threading.Thread):
    """One TCP connection to the echo port on which numbered lines go back and forth all the time;
    a wrong, missing or repeated line, or a closed connection, is remembered in .error."""

    def __init__(self, address, port=7007, timeout=60.0):
        super().__init__(daemon=True)
        self._socket = socket.create_connection((address, port), timeout=timeout)
        self._file = self._socket.makefile("rw", newline="\n")
        self._ending = threading.Event()
        self.lines = 0
        self.error = None
        self.start()

    def run(self):
        try:
            while not self._ending.wait(0.002):
                line = f"line {self.lines} {self.lines * 2654435761 % 2**32:08x}\n"
                self._file.write(line)
                self._file.flush()
                answer = self._file.readline()
                if answer != line:
                    raise LabError(f"echo: sent {line!r}, got {answer!r}")
                self.lines += 1
        except (OSError, LabError) as error:
            self.error = str(error)

    def close(self):
        """Ends it; returns the number of lines that came back right, or raises what went wrong."""
        self._ending.set()
        self.join(self._socket.gettimeout())
        self._socket.close()
        if self.error:
            raise LabError(f"the TCP connection broke after {self.lines} lines: {self.error}")
        return self.lines


class Probe:
    """The outside probe (bench/probe.c): pings the guest every millisecond."""

    def __init__(self, address, interval_us=1000):
        path = os.path.join(BUILD, "bench", "probe")
        self._process = subprocess.Popen([path, "--interval-us", str(interval_us), address],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def mark(self, name):
        """Ends a window: its answers, losses and largest gap. Losses are judged after a second."""
        self._process.stdin.write(f"mark {name}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LabError("the probe has ended")
        return json.loads(line)

    def settle(self, seconds=1.1):
        """Lets the probe judge what is still open."""
        threading.Event().wait(seconds)

    def close(self):
        self._process.stdin.close()
        self._process.stdout.read()
        self._process.stdout.close()
        return self._process.wait(10)


