# SPDX-License-Identifier: MIT
"""Fixtures of the whole-process tests; the tools behind them are in scripts/lib/gwlab."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "lib"))
