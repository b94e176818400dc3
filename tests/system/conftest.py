# SPDX-License-Identifier: MIT
"""Fixtures of the whole-process tests; the tools behind them are in scripts/lib/gwlab."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "scripts", "lib"))
sys.path.insert(0, os.path.dirname(__file__))

from gwlab import PATIENCE_S  # noqa: E402
from gwlab.vm import Vm, godwit_path  # noqa: E402


@pytest.fixture(autouse=True)
def private_runtime_folder(tmp_path, monkeypatch):
    """VM names are private to each test, so that tests may run beside each other."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))


@pytest.fixture
def start_vm(tmp_path):
    """Starts VMs that end with the test, whatever happens."""
    started = []

    def start(name, *options, **popen):
        vm = Vm(name, *options, folder=str(tmp_path), **popen)
        started.append(vm)
        return vm
    yield start
    for vm in started:
        vm.close()


@pytest.fixture
def godwit():
    """Runs the godwit command to its end."""
    def run(*arguments, timeout=PATIENCE_S, **options):
        return subprocess.run([godwit_path(), *map(str, arguments)], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=timeout, **options)
    return run
