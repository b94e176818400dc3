# SPDX-License-Identifier: MIT
"""A loopback device that is a wire of a given rate (tc's words, as in 1gbit)."""
import subprocess

from gwlab import LabError, net


def shape(rate):
    """The loopback device of our namespace becomes a slow wire with ordinary frames."""
    net.ip("link", "set", "lo", "up", "mtu", "1500")
    done = subprocess.run(["tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", rate,
                           "burst", "32kb", "latency", "50ms"], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError(f"tc: {done.stderr.strip()}")


def unshape():
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=False)
    net.ip("link", "set", "lo", "mtu", "65536")
