# SPDX-License-Identifier: MIT
"""The reference: QEMU from the cache, on the same board with the same guests."""
import os
import tempfile

from . import PATIENCE_S, LabError
from .parts import part
from .vm import Process, wait_until


class Qemu(Process):
    """A `qemu-system-riscv64 -machine virt` with our console and monitor conventions; program (words)
    and machine name another one.

    prefault allocates guest memory at the start. incoming waits for a migration; its URI is given
    by listen()."""

    def __init__(self, name, *options, memory="512M", cpus=1, folder=None, incoming=False,
                 prefault=False, program=None, machine="virt"):
        own = None if folder else tempfile.TemporaryDirectory(prefix="godwit-")
        folder = folder or own.name
        monitor = os.path.join(folder, f"{name}.qmp")
        console = os.path.join(folder, f"{name}.console")
        backend = f"memory-backend-memfd,id=ram,size={memory}" + (",prealloc=on" if prefault else "")
        command = [*(program or [part("GODWIT_QEMU")]), "-nodefaults", "-nographic", "-machine",
                   f"{machine},memory-backend=ram", "-object", backend, "-m", memory, "-smp", str(cpus),
                   "-serial", f"file:{console}", "-qmp", f"unix:{monitor},server=on,wait=off",
                   *map(str, options)]
        if incoming:
            command += ["-incoming", "defer"]
        super().__init__(name, command, folder=folder, monitor=monitor, console=console)
        self._own = own

    def capabilities(self, **wanted):
        self.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": name.replace("_", "-"), "state": state} for name, state in wanted.items()])

    def parameters(self, **wanted):
        self.qmp.command("migrate-set-parameters", **wanted)

    def listen(self, uri):
        self.qmp.command("migrate-incoming", uri=uri)

    def move(self, uri, destination, timeout=PATIENCE_S):
        """Migrates and waits; returns query-migrate's answer of the source."""
        self.qmp.command("migrate", uri=uri)

        def look():
            info = self.qmp.command("query-migrate")
            if info["status"] == "failed":
                raise LabError(f"QEMU's migration failed: {info.get('error-desc')}")
            return info if info["status"] == "completed" else None
        info = wait_until("QEMU's migration", look, timeout)
        wait_until("QEMU's destination to run",
                   lambda: destination.qmp.command("query-status")["status"] == "running", timeout)
        return info
