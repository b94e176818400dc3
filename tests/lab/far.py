# SPDX-License-Identifier: MIT
"""Commands on the other laboratory host.

One TCP connection is one command: a line of JSON with the argument vector goes there; lines with
its output and at the end its exit status come back. A connection that closes kills its command.
As a program this is the server; host a imports it as the client.
"""
import json
import os
import select
import socket
import subprocess
import threading
import time

ADDRESS = ("10.0.0.3", 9000)
WAIT_S = 300  # only reached in failure: a machine in a machine, on a busy host


class Far:
    """A command on the other host. It runs as long as this object is open."""

    def __init__(self, *argv):
        self._socket = self._connect()
        self._socket.sendall(json.dumps(list(map(str, argv))).encode() + b"\n")
        self.output, self.status = "", None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _connect():
        """The other host may still be booting."""
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                connection = socket.create_connection(ADDRESS, timeout=5)
                connection.settimeout(None)
                return connection
            except OSError:
                if time.monotonic() > deadline:
                    raise
                select.select([], [], [], 0.2)

    def _read(self):
        try:
            for line in self._socket.makefile():
                message = json.loads(line)
                self.output += message.get("output", "")
                if "status" in message:
                    self.status = message["status"]
                    return
        except OSError:
            pass

    def is_alive(self):
        return self._reader.is_alive()

    def wait(self, timeout=WAIT_S):
        self._reader.join(timeout)
        if self._reader.is_alive():
            raise TimeoutError("the command on the other host did not end")
        return self.status

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join(30)
        self._socket.close()


def far(*argv, check=True):
    """Runs a command on the other host to its end; returns its output."""
    command = Far(*argv)
    status = command.wait()
    command.close()
    assert status == 0 or not check, f"{argv} ended with {status}: {command.output}"
    return command.output


def _serve(connection):
    with connection, connection.makefile("rw") as file:
        argv = json.loads(file.readline())
        try:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            file.write(json.dumps({"output": f"{error}\n", "status": 127}) + "\n")
            return

        def watch():
            try:
                connection.recv(1)
            except OSError:
                pass
            child.kill()
        threading.Thread(target=watch, daemon=True).start()
        try:
            while data := os.read(child.stdout.fileno(), 65536):
                file.write(json.dumps({"output": data.decode(errors="replace")}) + "\n")
                file.flush()
            file.write(json.dumps({"status": child.wait()}) + "\n")
            file.flush()
        except OSError:
            child.kill()
            child.wait()
        finally:
            try:
                connection.shutdown(socket.SHUT_RDWR)  # ends the watcher, too
            except OSError:
                pass


def main():
    with socket.create_server(("", ADDRESS[1])) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
