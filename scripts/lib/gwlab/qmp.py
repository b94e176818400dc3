# SPDX-License-Identifier: MIT
"""A small QMP client that works with our monitor and with QEMU's."""
import json
import os
import select
import socket
import time

from . import LabError


WAIT_S = 300.0 if os.environ.get("GODWIT_LAB_HOST") else 20.0  # in the laboratory all is slow


class QmpError(LabError):
    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('desc')}")
        self.error = error


class Qmp:
    def __init__(self, path, alive=lambda: True, timeout=WAIT_S):
        """Connects to the socket at path, waiting until it is there or alive() says no."""
        self.events = []
        self._buffer = b""
        deadline = time.monotonic() + timeout
        while True:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.connect(path)
                break
            except OSError as error:
                self._socket.close()
                if not alive() or time.monotonic() > deadline:
                    raise LabError(f"no monitor at {path}: {error}") from error
                select.select([], [], [], 0.005)
        self._receive(deadline)
        self.command("qmp_capabilities")

    def close(self):
        self._socket.close()

    def _receive(self, deadline):
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise LabError("the monitor does not answer")
            data = self._socket.recv(65536)
            if not data:
                raise LabError("the monitor has closed the connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def command(self, name, timeout=WAIT_S, **arguments):
        message = {"execute": name}
        if arguments:
            message["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        deadline = time.monotonic() + timeout
        while True:
            answer = self._receive(deadline)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise QmpError(name, answer["error"])
            else:
                return answer["return"]

    def wait_event(self, name, timeout=WAIT_S, match=lambda data: True):
        """Takes the first event of this name (also one that came earlier) for which match is true."""
        deadline = time.monotonic() + timeout
        seen = 0
        while True:
            while seen < len(self.events):
                event = self.events[seen]
                if event["event"] == name and match(event.get("data", {})):
                    del self.events[seen]
                    return event
                seen += 1
            answer = self._receive(deadline)
            if "event" in answer:
                self.events.append(answer)
