#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Moves a Debian guest between TAPs of one bridge under a flood of numbered pings.

Runs in network and PID namespaces of its own (gwlab.net.enter) and prints one JSON object: for each
flood what was sent, answered, answered twice, answered out of order and never answered, and for each
move how many frames the source has forwarded. test_network_moves.py judges it.

    network_moves.py FOLDER MOVES PINGS-PER-SECOND [OPTION...]      options are the guest's
"""
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "..", "scripts", "lib")]

from gwlab import net  # noqa: E402
from gwlab.flood import Flood  # noqa: E402
from gwlab.parts import part  # noqa: E402
from gwlab.vm import Vm, wait_until  # noqa: E402

GUEST, MAC = "10.0.0.2", "52:54:00:67:77:01"
APPEND = ("console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init "
          f"gw.ip={GUEST}/24")
QUEUE_FRAMES = 4000


def main():
    folder, moves, per_second, *options = sys.argv[1:]
    net.enter()
    os.environ["XDG_RUNTIME_DIR"] = folder
    bridge = net.Bridge()
    net.ip("neighbour", "replace", GUEST, "lladdr", MAC, "dev", bridge.name, "nud", "permanent")

    def start(i, *more):
        # A new port each time: what the bridge does not yet know of it must not cost a packet.
        tap = bridge.tap(f"gwtap{i}")
        net.ip("link", "set", tap, "txqueuelen", str(QUEUE_FRAMES))
        return Vm(f"v{i}", "--memory", "128M", "--net", f"tap,ifname={tap},mac={MAC}", *options,
                  *more, folder=folder)
    vm = start(0, "--kernel", part("GODWIT_KERNEL"), "--initrd", part("GODWIT_INITRD"), "--append",
               APPEND)
    results = []
    try:
        vm.wait_console("GODWIT-NET-UP")
        flood = Flood(GUEST, float(per_second))
        flood.start()
        wait_until("the flood to be answered", lambda: len(flood.answers) > 100)
        for i in range(1, int(moves) + 1):
            new = start(i, "--incoming", f"unix:{folder}/v{i}.sock")
            new.qmp.command("query-status")
            before = len(flood.answers)
            summary = vm.migrate(f"unix:{folder}/v{i}.sock")
            wait_until("the destination to run", lambda: new.status() == "running")
            info = vm.migration()
            vm.close()
            vm = new
            net.ip("link", "delete", f"gwtap{i - 1}")
            wait_until("answers from the destination",
                       lambda: len(flood.answers) > before + 200)
            results.append({"forwarded": info["packets-forwarded"],
                            "dropped": info["packets-dropped"],
                            "blackout_ms": summary["blackout_ms"]})
        flood.end()
        print(json.dumps(dict(flood.verdict(), moves=results)))
    finally:
        vm.close()


if __name__ == "__main__":
    main()
