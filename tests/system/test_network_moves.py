# SPDX-License-Identifier: MIT
"""Nothing that clients send is lost, doubled or overtaken when the guest moves."""
import json
import os
import shutil
import subprocess
import sys

import pytest

PROGRAM = os.path.join(os.path.dirname(__file__), "network_moves.py")


@pytest.fixture
def flood(tmp_path):
    """Runs network_moves.py; its report."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("unshare and ip are needed")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun may not be opened")

    def run(moves, per_second, *options):
        done = subprocess.run([sys.executable, PROGRAM, str(tmp_path), str(moves), str(per_second),
                               *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=1800)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout)
    return run


def test_a_flood_of_pings_through_moves(flood):
    found = flood(6, 2000)
    assert len(found["moves"]) == 6 and found["sent"] > 1000
    assert found["lost"] == [], found
    assert found["twice"] == 0, found
    assert found["out_of_order"] == 0, found
    # Every blackout is longer than the pings' interval, but the sender may have been held up.
    assert sum(move["forwarded"] for move in found["moves"]) > 0
    assert all(move["dropped"] == 0 for move in found["moves"])
