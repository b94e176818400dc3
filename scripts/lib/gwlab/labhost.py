# SPDX-License-Identifier: MIT
"""Laboratory hosts: virtual machines of QEMU's TCG in which the stock kernel's KVM works.

Nothing touches this machine: no file but the image, no interface, no namespace. Consoles, the link
between two hosts and the port for orders and results are inherited descriptors, QEMU runs as nobody
when we are root, and the kernel kills it when the thread that started it ends, however that is.
"""
import base64
import json
import os
import re
import select
import socket
import subprocess
import sys
import time

from . import BUILD, LabError
from .parts import part

MODELS = {"a": "EPYC", "b": "EPYC-Rome"}
PROCESSOR = "+svm,+npt"
# How a host's own kernel says that it dies; QEMU then ends.
CRASH = re.compile(r".*Kernel panic - not syncing.*")
PORT_NAME = "org.godwit.lab"
NOBODY = "65534"
CONSOLE_KEPT = 40000


class HostCrash(LabError):
    """The kernel of a laboratory host died: not what is tested, but what it is tested on."""


def tsc_khz():
    done = subprocess.run([os.path.join(BUILD, "tests", "lab", "tsc-khz")], stdout=subprocess.PIPE,
                          text=True, check=True)
    return done.stdout.strip()


def why_not():
    """None where a laboratory can be started, else why not."""
    try:
        part("GODWIT_LAB_QEMU")
    except LabError as error:
        return f"{error} --for lab"
    return None


def emulator(folder):
    """The words that start the emulator in a folder like the cache's, with the loader and the
    libraries that came with it."""
    return [f"{folder}/lib/ld.so", "--library-path", f"{folder}/lib", f"{folder}/qemu-system-x86_64",
            "-L", f"{folder}/roms"]


def link():
    """Two ends of a cable between two hosts."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def _files(image):
    """Descriptors of the emulator's folder, the kernel and the image: whoever QEMU runs as need not
    reach them by their paths."""
    return [os.open(part("GODWIT_LAB_QEMU"), os.O_RDONLY | os.O_DIRECTORY),
            os.open(part("GODWIT_PC_KERNEL"), os.O_RDONLY), os.open(image, os.O_RDONLY)]


def _command(name, descriptors, khz, memory, append):
    qemu, kernel, image, order, cable = descriptors
    drop = ["--pdeathsig", "KILL", "--no-new-privs"]
    if os.geteuid() == 0:
        drop += ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
    command = ["setpriv", *drop, *emulator(f"/proc/self/fd/{qemu}"), "-nodefaults",
               "-no-user-config", "-nographic", "-name", f"lab-{name}", "-accel", "tcg,thread=multi",
               # One processor, and below a timer that ticks: the emulator loses interrupts
               # (docs/laboratory.md).
               "-cpu", f"{MODELS[name]},{PROCESSOR}", "-machine", "q35", "-m", memory, "-smp", "1",
               "-no-reboot",
               "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
               "-kernel", f"/proc/self/fd/{kernel}", "-initrd", f"/proc/self/fd/{image}",
               # All hosts share one counter, so all are told its frequency and none measures it. Nor
               # do they try whether timers tick, which a busy machine's do too late for them.
               "-append", "console=ttyS0 quiet panic=-1 oops=panic no_timer_check tsc=reliable "
               f"nohz=off highres=off hpet=disable pmtmr=0 tsc_early_khz={khz} cryptomgr.notests "
               f"initcall_blacklist=jent_mod_init lab.host={name} {append}"]
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
        files = _files(image)
        passed = [*files, far.fileno(), *([cable.fileno()] if cable else [])]
        command = _command(name, (*files, far.fileno(), cable.fileno() if cable else None),
                           khz or tsc_khz(), memory, "")
        self._process = subprocess.Popen(command, pass_fds=passed, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for fd in files:
            os.close(fd)
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

    def drain(self):
        """Reads what an ended host still said."""
        while select.select([self._process.stdout], [], [], 0)[0]:
            before = self.console
            self.take(self._process.stdout.fileno())
            if self.console == before:
                return

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
                host.drain()
                if crash := CRASH.search(host.console):
                    raise HostCrash(f"the kernel of laboratory host {host.name} crashed: "
                                    f"{crash[0].strip()}\n{host.console[-3000:]}")
                raise LabError(f"laboratory host {host.name} ended early; its console ends with:\n"
                               f"{host.console[-3000:]}")
        if time.monotonic() > deadline:
            raise LabError(f"laboratory host {wanted.name} did not finish within {timeout:g} s; its "
                           f"console ends with:\n{wanted.console[-3000:]}")
    return wanted.status


def shell(name, image, memory="2G"):
    """Becomes a laboratory host with a prompt on this terminal; C-a x ends it."""
    files = _files(image)
    for fd in files:
        os.set_inheritable(fd, True)
    command = _command(name, (*files, None, None), tsc_khz(), memory, "lab.shell")
    sys.stdout.flush()
    os.execvp(command[0], command)
