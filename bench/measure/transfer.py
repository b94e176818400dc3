# SPDX-License-Identifier: MIT
"""Total time of moving a bare-metal guest with 2 GiB of random data over loopback TCP."""
import json
import os
import statistics
import subprocess

from gwlab import LabError, net
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm

MIB = 2048
MEMORY = "2304M"
APPEND = f"mib={MIB} rate=1 fill=random"
ROW = "{:<34} {:>9} {:>9} {:>9}"


def iperf3_gbits():
    """One stream over loopback."""
    port = str(net.free_port())
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", port], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            done = subprocess.run(["iperf3", "-c", "127.0.0.1", "-p", port, "-t", "3", "-J"],
                                  stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9
        raise LabError("iperf3 did not run")
    finally:
        server.kill()
        server.wait()


def payload():
    return os.path.join(part("GODWIT_BARE"), "memtick.elf")


def godwit(folder, prefault):
    options = ["--bios", "none", "--memory", MEMORY]
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    with Vm("src", *options, "--kernel", payload(), "--append", APPEND, folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 180)
        with Vm("dst", *options, "--incoming", uri, *(["--prefault"] if prefault else []),
                folder=folder) as destination:
            destination.qmp.command("query-status")
            summary = source.migrate(uri)
            return summary["total_ms"] / 1e3, summary["bytes"]


def qemu(folder, prefault, channels):
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    with Qemu("qsrc", "-bios", "none", "-kernel", payload(), "-append", APPEND, memory=MEMORY,
              folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 180)
        with Qemu("qdst", "-bios", "none", memory=MEMORY, folder=folder, incoming=True,
                  prefault=prefault) as destination:
            for vm in (source, destination):
                vm.parameters(max_bandwidth=10**11)
                if channels > 1:
                    vm.capabilities(multifd=True)
                    vm.parameters(multifd_channels=channels)
            destination.listen(uri)
            info = source.move(uri, destination)
            return info["total-time"] / 1e3, info["ram"]["transferred"]


def measure(folder, repeat):
    net.ip("link", "set", "lo", "up")
    repeat = repeat or 3
    results = {"iperf3_gbits": iperf3_gbits(), "mib": MIB, "runs": {}}
    print(ROW.format("", "seconds", "Gb/s", "of iperf3"))
    print(ROW.format("iperf3, one stream", "", f"{results['iperf3_gbits']:.1f}", "1.00"))
    cases = [(f"{who}, memory {'present' if prefault else 'fresh'}", run, prefault)
             for prefault in (True, False)
             for who, run in (("godwit", godwit),
                              ("QEMU", lambda f, p: qemu(f, p, 1)),
                              ("QEMU multifd 2", lambda f, p: qemu(f, p, 2)))]
    for name, run, prefault in cases:
        times = [run(folder, prefault)[0] for _ in range(repeat)]
        seconds = statistics.median(times)
        gbits = MIB * 2**20 * 8 / seconds / 1e9
        results["runs"][name] = {"seconds": times, "gbits": gbits,
                                 "of_iperf3": gbits / results["iperf3_gbits"]}
        print(ROW.format(name, f"{seconds:.2f}", f"{gbits:.1f}",
                         f"{gbits / results['iperf3_gbits']:.2f}"), flush=True)
    return results
