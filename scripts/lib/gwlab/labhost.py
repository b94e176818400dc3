# SPDX-License-Identifier: MIT
"""Laboratory hosts: virtual machines of QEMU's TCG in which the stock kernel's KVM works.

Nothing touches this machine: no file but the image, no interface, no namespace. Consoles, the link
between two hosts and the port for orders and results are inherited descriptors, QEMU runs as nobody
when we are root, and the kernel kills it when the thread that started it ends, however that is.
"""
import base64
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time

from . import BUILD, LabError
from .parts import part

MODELS = {"a": "EPYC", "b": "EPYC-Rome"}
# After cmpxchg16b under QEMU 7.2 a kernel was seen with rubbish in the flags, and died; without it the
# kernel takes another way.
PROCESSOR = "+svm,+npt,-cx16"
PORT_NAME = "org.godwit.lab"
NOBODY = "65534"
CONSOLE_KEPT = 40000


def tsc_khz():
    done = subprocess.run([os.path.join(BUILD, "tests", "lab", "tsc-khz")], stdout=subprocess.PIPE,
                          text=True, check=True)
    return done.stdout.strip()


def why_not():
    """None where a laboratory can be started, else why not."""
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not there; run scripts/setup --for lab"
    return None


def link():
    """Two ends of a cable between two hosts."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _command(name, descriptors, khz, memory, append):
    kernel, image, order, cable = descriptors
    drop = ["--pdeathsig", "KILL", "--no-new-privs"]
    if os.geteuid() == 0:
        drop += ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    command = ["setpriv", *drop, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-nographic",
               "-name", f"lab-{name}", "-accel", "tcg,thread=multi", "-cpu", f"{MODELS[name]},{PROCESSOR}",
               "-machine", "q35", "-m", memory, "-smp", "2", "-no-reboot",
               "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
               "-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{image}",
               # All hosts share one counter, so all are told its frequency and none measures it.
               "-append", "console=ttyS0 quiet panic=-1 tsc=reliable hpet=disable pmtmr=0 "
               f"tsc_early_khz={khz} cryptomgr.notests initcall_blacklist=jent_mod_init "
               f"lab.host={name} {append}"]
    if order is None:
        command += ["-serial", "mon:stdio"]
    else:
        command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                    "-chardev", f"socket,id=order,fd={order}", "-device", "virtio-serial-pci",
                    "-device", f"virtserialport,chardev=order,name={PORT_NAME}"]
    if cable is not None:
        command += ["-netdev", f"socket,id=cable,fd={cable}", "-device",
                    f"virtio-net-pci,netdev=cable,romfile=,mac=52:54:00:6c:61:{ord(name):02x}"]
    return command


class LabHost:
    """One laboratory host. Start it, give it one order, and wait for the results."""

    def __init__(self, name, image, cable=None, khz=None, memory="2G", show=None):
        self.name, self.show = name, show
        self.console = ""
        self.files, self.status = {}, None
        self._buffer = b""
        self._order, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with open(part("GODWIT_PC_KERNEL"), "rb") as kernel, open(image, "rb") as archive:
            passed = [kernel.fileno(), archive.fileno(), far.fileno()]
            if cable:
                passed.append(cable.fileno())
            command = _command(name, (*passed[:3], cable.fileno() if cable else None),
                               khz or tsc_khz(), memory, "")
            self._process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        far.close()
        if cable:
            cable.close()

    def order(self, command, **environment):
        line = {"command": command, "environment": environment}
        self._order.sendall(json.dumps(line).encode() + b"\n")

    def descriptors(self):
        return [self._process.stdout.fileno(), self._order.fileno()]

    def take(self, ready):
        """Reads what has come on a descriptor of ours."""
        if ready == self._process.stdout.fileno():
            text = os.read(ready, 65536).decode(errors="replace")
            self.console = (self.console + text)[-CONSOLE_KEPT:]
            if self.show and text:
                self.show.write(text)
                self.show.flush()
            return
        try:
            data = self._order.recv(1 << 20)
        except ConnectionError:
            data = b""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "exit" in message:
                self.status = message["exit"]
            else:
                self.files[message["file"]] = base64.b64decode(message["data"])

    def has_ended(self):
        return self._process.poll() is not None

    def close(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._order.close()


def wait_for(hosts, wanted, timeout):
    """Serves all hosts until `wanted` has sent its exit status; raises if one ends before."""
    deadline = time.monotonic() + timeout
    while wanted.status is None:
        owners = {fd: host for host in hosts for fd in host.descriptors()}
        for fd in select.select(list(owners), [], [], 1.0)[0]:
            owners[fd].take(fd)
        for host in hosts:
            if wanted.status is None and host.has_ended():
                raise LabError(f"laboratory host {host.name} ended early; its console ends with:\n"
                               f"{host.console[-3000:]}")
        if time.monotonic() > deadline:
            raise LabError(f"laboratory host {wanted.name} did not finish within {timeout:g} s; its "
                           f"console ends with:\n{wanted.console[-3000:]}")
    return wanted.status


def shell(name, image, memory="2G"):
    """Becomes a laboratory host with a prompt on this terminal; C-a x ends it."""
    kernel = os.open(part("GODWIT_PC_KERNEL"), os.O_RDONLY)
    archive = os.open(image, os.O_RDONLY)
    for fd in (kernel, archive):
        os.set_inheritable(fd, True)
    command = _command(name, (kernel, archive, None, None), tsc_khz(), memory, "lab.shell")
    sys.stdout.flush()
    os.execvp(command[0], command)
