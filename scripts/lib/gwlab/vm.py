# SPDX-License-Identifier: MIT
"""Runs `godwit run` as a child process, with its monitor and its console's text."""
import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time

from . import BUILD, PATIENCE_S, LabError
from .qmp import Qmp


def godwit_path():
    return os.environ.get("GODWIT", os.path.join(BUILD, "src", "cli", "godwit"))


def wait_until(what, predicate, timeout=PATIENCE_S, step=0.005):
    """Polls an outside condition that cannot be waited for in another way, up to a deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s for {what}")
        select.select([], [], [], step)


class Process:
    """A child with its output in a file; killed at the end of the with block."""

    def __init__(self, name, command, folder=None, monitor=None, console=None, **popen):
        self.name = name
        self._own = None if folder else tempfile.TemporaryDirectory(prefix="godwit-")
        self.folder = folder or self._own.name
        self.console_path = console or os.path.join(self.folder, f"{name}.console")
        self.log_path = os.path.join(self.folder, f"{name}.log")
        self.command = command
        self._qmp = None
        self._monitor = monitor
        if os.path.exists(self.console_path):
            os.unlink(self.console_path)  # of an earlier process of this name
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=subprocess.STDOUT, **popen)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self.process.pid

    @property
    def qmp(self):
        if self._qmp is None:
            self._qmp = Qmp(self._monitor, alive=self.is_alive)
        return self._qmp

    def is_alive(self):
        return self.process.poll() is None

    def kill(self, number=signal.SIGKILL):
        if self.is_alive():
            self.process.send_signal(number)

    def wait_exit(self, timeout=PATIENCE_S):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name} did not end within {timeout:g} s") from None

    def close(self):
        if self._qmp:
            self._qmp.close()
            self._qmp = None
        self.kill()
        self.process.wait()
        if self._own:
            self._own.cleanup()

    def log(self):
        with open(self.log_path, errors="replace") as file:
            return file.read()

    def console(self):
        try:
            with open(self.console_path, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def wait_console(self, pattern, timeout=PATIENCE_S, start=0):
        """Waits for a regular expression in the console text after position start; returns the
        match (positions are those of the whole text)."""
        expression = re.compile(pattern)

        def look():
            found = expression.search(self.console(), start)
            if not found and not self.is_alive():
                raise LabError(f"{self.name} ended with {self.process.returncode} before "
                               f"'{pattern}' came:\n{self.log()[-2000:]}\n{self.console()[-2000:]}")
            return found
        try:
            return wait_until(f"'{pattern}' on the console of {self.name}", look, timeout)
        except LabError as error:
            raise LabError(f"{error}; it ends with:\n{self.console()[-2000:]}") from None

    def memory_kib(self):
        """Memory of the process in KiB as {'Rss', 'Shmem', 'Anon', ...} of smaps_rollup."""
        found = {}
        with open(f"/proc/{self.pid}/smaps_rollup") as file:
            for line in file:
                match = re.match(r"(\w+):\s+(\d+) kB", line)
                if match:
                    found[match.group(1)] = int(match.group(2))
        return found

    def cpu_seconds(self):
        with open(f"/proc/{self.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Vm(Process):
    """`godwit run` with the given options, on machine virt unless they say otherwise; its monitor is
    .qmp, its console a file."""

    def __init__(self, name, *options, folder=None, wrapper=(), **popen):
        own = None if folder else tempfile.TemporaryDirectory(prefix="godwit-")
        folder = folder or own.name
        monitor = os.path.join(folder, f"{name}.qmp")
        console = os.path.join(folder, f"{name}.console")
        machine = () if "--machine" in options else ("--machine", "virt")
        command = [*wrapper, godwit_path(), "run", "--name", name, "--qmp", monitor,
                   "--console", f"file:{console}", *machine, *map(str, options)]
        super().__init__(name, command, folder=folder, monitor=monitor, console=console, **popen)
        self._own = own
        self.monitor_path = monitor

    def status(self):
        return self.qmp.command("query-status")["status"]

    def migration(self):
        return self.qmp.command("query-migrate")

    def ledger(self):
        return self.qmp.command("query-blackout")

    def godwit(self, *arguments, check=True, timeout=PATIENCE_S):
        """Runs a godwit subcommand with this VM as its first operand; returns CompletedProcess.
        Waits for the monitor of a VM that is still starting."""
        if self.is_alive():
            _ = self.qmp
        done = subprocess.run([godwit_path(), arguments[0], self.monitor_path, *arguments[1:]],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=timeout)
        if check and done.returncode:
            raise LabError(f"godwit {' '.join(map(str, arguments))} ended with {done.returncode}: "
                           f"{done.stderr.strip() or done.stdout.strip()}")
        return done

    def migrate(self, uri, *options, ram="copy", timeout=PATIENCE_S):
        """Moves the guest with `godwit migrate --json` and returns its summary object. Pages are
        copied also where memory could be shared, unless ram says otherwise."""
        done = self.godwit("migrate", uri, "--json", "--ram", ram, *options, timeout=timeout)
        return json.loads(done.stdout.strip().splitlines()[-1])
