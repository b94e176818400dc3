# SPDX-License-Identifier: MIT
"""A bare-metal guest that runs, and a process that waits for it: what measurements of moves begin
with."""
from contextlib import contextmanager

from gwlab import net
from gwlab.qemu import Qemu
from gwlab.vm import Vm

from measure.transfer import payload

GUEST_UP = r"tick \d+ pass"


@contextmanager
def godwit_pair(folder, append, memory, until=GUEST_UP):
    """(source, destination, the destination's URI), when the guest has said `until`."""
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    machine = ["--bios", "none", "--memory", memory]
    with Vm("src", *machine, "--kernel", payload(), "--append", append, folder=folder) as source:
        source.wait_console(until, 180)
        with Vm("dst", *machine, "--incoming", uri, folder=folder) as destination:
            destination.qmp.command("query-status")
            yield source, destination, uri


@contextmanager
def qemu_pair(folder, append, memory, capabilities, **parameters):
    """The same of QEMU, both ends set up alike and without a limit to the bandwidth."""
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    with Qemu("qsrc", "-bios", "none", "-kernel", payload(), "-append", append, memory=memory,
              folder=folder) as source:
        source.wait_console(GUEST_UP, 180)
        with Qemu("qdst", "-bios", "none", memory=memory, folder=folder,
                  incoming=True) as destination:
            for vm in (source, destination):
                vm.capabilities(**capabilities)
                vm.parameters(**{"max-bandwidth": 10**11, **parameters})
            destination.listen(uri)
            yield source, destination, uri
