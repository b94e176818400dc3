# SPDX-License-Identifier: MIT
"""The tests of the laboratory: they run inside a laboratory host (docs/laboratory.md)."""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "scripts", "lib"), HERE]

from gwlab.vm import Vm  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only with LAB=long")


def pytest_collection_modifyitems(items):
    for item in items:
        if not os.environ.get("GODWIT_LAB_HOST"):
            item.add_marker(pytest.mark.skip(reason="not in a laboratory host"))
        elif item.get_closest_marker("long") and os.environ.get("LAB") != "long":
            item.add_marker(pytest.mark.skip(reason="takes long: make lab-check LAB=long"))


@pytest.fixture(autouse=True)
def private_runtime_folder(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))


@pytest.fixture
def here(tmp_path):
    """Starts VMs on this host."""
    started = []

    def start(name, *options):
        started.append(Vm(name, *options, folder=str(tmp_path)))
        return started[-1]
    yield start
    for vm in started:
        vm.close()


@pytest.fixture
def there():
    """Starts VMs on the other host."""
    from farvm import FarVm
    started = []

    def start(name, *options):
        started.append(FarVm(name, *options))
        return started[-1]
    yield start
    for vm in started:
        vm.close()
