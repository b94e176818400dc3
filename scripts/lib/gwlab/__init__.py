# SPDX-License-Identifier: MIT
"""What the demo, the benchmarks and the system tests share: VMs, networks, guests, probes.

Python's standard library only. Nothing here outlives its `with` block or the process.
"""
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(ROOT, "build"))


class LabError(Exception):
    """Something in the laboratory is not as it must be; the text says what."""
