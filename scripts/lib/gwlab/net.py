# SPDX-License-Identifier: MIT
"""A private network: a namespace of our own with a bridge and TAP devices.

The namespace belongs to the process, so the host's network is never touched and nothing is left
behind however the process ends.
"""
import os
import shutil
import socket
import subprocess
import sys

from . import LabError

MARK = "GWLAB_INSIDE"


def enter():
    """Runs the calling program again inside new network and PID namespaces (with a user namespace
    when not root). Returns only inside; every process started there dies with the program."""
    if os.environ.get(MARK):
        return
    if not shutil.which("unshare") or not shutil.which("ip"):
        raise LabError("unshare and ip are needed: run scripts/setup")
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child"]
    if os.geteuid() != 0:
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            raise LabError("/dev/net/tun may not be opened by this user; run as root")
        command += ["--user", "--map-root-user"]
    # /proc of our own, so that a child's number names the same process there; some containers
    # forbid the mount, and only measuring memory needs it.
    with_proc = command + ["--mount-proc"]
    if subprocess.run(with_proc + ["true"], stderr=subprocess.DEVNULL).returncode == 0:
        command = with_proc
    os.environ[MARK] = "1"
    os.execvp(command[0], command + [sys.executable] + sys.argv)


def ip(*args):
    done = subprocess.run(["ip", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise LabError(f"ip {' '.join(args)}: {done.stdout.strip()}")


def free_port():
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bridge:
    """A bridge with the host's address on it and TAPs plugged into it."""

    def __init__(self, name="gwbr0", address="10.0.0.1/24"):
        self.name = name
        ip("link", "set", "lo", "up")
        ip("link", "add", name, "type", "bridge", "forward_delay", "0", "stp_state", "0")
        # Of its own: else the address changes with the TAPs that come and go, and answers are lost.
        ip("link", "set", name, "address", "52:54:00:67:77:ff")
        ip("address", "add", address, "dev", name)
        ip("link", "set", name, "up")

    def tap(self, name):
        ip("tuntap", "add", name, "mode", "tap", "vnet_hdr")
        ip("link", "set", name, "master", self.name, "up")
        return name
