# SPDX-License-Identifier: MIT
"""What the demo, the benchmarks and the system tests share: VMs, networks, guests, probes.

Python's standard library only. Nothing here outlives its `with` block or the process.
"""
import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
# How long what must happen may take before it is called a failure: far more than a busy machine with
# two cores needs, because nothing is learned from how long it took.
PATIENCE_S = 900.0 if os.environ.get("GODWIT_LAB_HOST") else 180.0  # emulated, far slower
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(ROOT, "build"))


class LabError(Exception):
    """Something in the laboratory is not as it must be; the text says what."""
