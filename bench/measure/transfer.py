# SPDX-License-Identifier: MIT
"""Total time of moving a bare-metal guest with 2 GiB of random data over loopback TCP, beside the
least program that moves memory (bench/limit.c), iperf3 and QEMU; a guest that is mostly holes; what
is had of a slow link; and how the bandwidth limit is kept.

A virtual host may have given its free memory back to the host below, and who is first to touch it
again pays for that. So the memory that a move will take is touched and freed right before it, for
whoever moves."""
import json
import mmap
import os
import statistics
import subprocess

from gwlab import BUILD, LabError, net
from gwlab.parts import part
from gwlab.qemu import Qemu
from gwlab.vm import Vm

from measure.shaping import shape, unshape

MIB = 2048
MEMORY = "2304M"
WARM_MIB = 2 * MIB + 512  # the limit program fills its source as well
MADV_POPULATE_WRITE = 23
APPEND = f"mib={MIB} rate=1 fill=random"
ROW = "{:<34} {:>9} {:>9} {:>9} {:>9} {:>16}"
HOLES_MEMORY, HOLES_MIB = "4096M", 400
LIMITED_MIB, LIMIT_BYTES = 512, 200 * 2**20
LINK, LINK_BITS = "1gbit", 1e9


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


def warm_up():
    """Has this machine hold the memory that a move will take. It may be given back in seconds."""
    with mmap.mmap(-1, WARM_MIB * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(MADV_POPULATE_WRITE)


def payload():
    return os.path.join(part("GODWIT_BARE"), "memtick.elf")


def limit(prefault, connections):
    """The least program; into fresh memory it may populate beside the receivers."""
    state = ["--present"] if prefault else ["--populate"]
    warm_up()
    done = subprocess.run([os.path.join(BUILD, "bench", "limit"), "--mib", str(MIB), "--connections",
                           str(connections), *state], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)["seconds"], ""


def move(folder, memory, mib, *options, prefault=False):
    """Moves a guest with mib MiB of random data; returns the summary of `godwit migrate`."""
    machine = ["--bios", "none", "--memory", memory]
    append = f"mib={mib} rate=1 fill=random"
    uri = f"tcp:127.0.0.1:{net.free_port()}"
    with Vm("src", *machine, "--kernel", payload(), "--append", append, folder=folder) as source:
        source.wait_console(r"tick \d+ pass", 180)
        with Vm("dst", *machine, "--incoming", uri, *(["--prefault"] if prefault else []),
                folder=folder) as destination:
            destination.qmp.command("query-status")
            warm_up()
            return source.migrate(uri, *options)


def godwit(folder, prefault, channels):
    summary = move(folder, MEMORY, MIB, "--channels", channels, prefault=prefault)
    info = summary["migration"]
    cost = [info[name] / 1e9 / (MIB / 1024) for name in ("cpu-ns", "peer-cpu-ns")]
    return summary["total_ms"] / 1e3, "{:.2f} + {:.2f}".format(*cost)


def holes(folder, repeat):
    """A guest that has touched a tenth of its memory: holes cost nothing."""
    times = [move(folder, HOLES_MEMORY, HOLES_MIB)["total_ms"] / 1e3 for _ in range(repeat)]
    print(f"{HOLES_MEMORY} with {HOLES_MIB} MiB touched: {statistics.median(times):.3f} s")
    return {"seconds": times, "mib_touched": HOLES_MIB}


def shaped(folder, repeat):
    """An idle guest over a link of known rate: how much of it the guest's pages got in the time that
    the move took. Ordinary frames carry 0.956 of the rate at most."""
    shape(LINK)
    try:
        carried = iperf3_gbits() * 1e9
        seconds = [move(folder, "768M", LIMITED_MIB)["total_ms"] / 1e3 for _ in range(repeat)]
    finally:
        unshape()
    rate = LIMITED_MIB * 2**20 * 8 / statistics.median(seconds)
    print(f"{LINK} link (tbf): {rate / LINK_BITS:.3f} of it, {rate / carried:.3f} of what iperf3 gets")
    return {"link_bits_per_s": LINK_BITS, "seconds": seconds, "of_link": rate / LINK_BITS,
            "of_iperf3": rate / carried}


def limited(folder):
    """What a bandwidth limit lets through, of the time in which pages were sent."""
    summary = move(folder, "768M", LIMITED_MIB, "--max-bandwidth", str(LIMIT_BYTES))
    info = summary["migration"]
    seconds = (info["total-ns"] / 1e9) - info["setup-time"] / 1e3
    ratio = summary["bytes"] / seconds / LIMIT_BYTES
    print(f"limit of {LIMIT_BYTES / 2**20:.0f} MiB/s: {ratio:.3f} of it")
    return {"limit_bytes_per_s": LIMIT_BYTES, "of_limit": ratio}


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
            warm_up()
            info = source.move(uri, destination)
            return info["total-time"] / 1e3, ""


CASES = {
    "limit program, 1 connection": lambda folder, prefault: limit(prefault, 1),
    "limit program, 2 connections": lambda folder, prefault: limit(prefault, 2),
    "godwit, 1 channel": lambda folder, prefault: godwit(folder, prefault, "1"),
    "godwit, automatic": lambda folder, prefault: godwit(folder, prefault, "auto"),
    "QEMU": lambda folder, prefault: qemu(folder, prefault, 1),
    "QEMU multifd 2": lambda folder, prefault: qemu(folder, prefault, 2),
}


def ratios(runs, state):
    """The better of godwit's figures to the best of each reference."""
    best = {who: max(run["gbits"] for name, run in runs.items()
                     if name.startswith(who) and name.endswith(state))
            for who in ("limit", "godwit", "QEMU")}
    found = {"of_limit": best["godwit"] / best["limit"], "of_qemu": best["godwit"] / best["QEMU"]}
    print(f"memory {state}: {found['of_limit']:.2f} of the limit program's best, "
          f"{found['of_qemu']:.2f} of QEMU's best", flush=True)
    return found


def measure(folder, repeat):
    net.ip("link", "set", "lo", "up")
    repeat = repeat or 3
    results = {"iperf3_gbits": iperf3_gbits(), "mib": MIB, "runs": {}, "ratios": {}}
    print(ROW.format("", "seconds", "Gb/s", "of iperf3", "", "CPU s/GiB"))
    print(ROW.format("iperf3, one stream", "", f"{results['iperf3_gbits']:.1f}", "1.00", "", ""))
    for prefault, state in ((True, "present"), (False, "fresh")):
        for who, run in CASES.items():
            times, costs = zip(*(run(folder, prefault) for _ in range(repeat)))
            seconds = statistics.median(times)
            gbits = MIB * 2**20 * 8 / seconds / 1e9
            of_iperf3 = gbits / results["iperf3_gbits"]
            results["runs"][f"{who}, {state}"] = {"seconds": times, "gbits": gbits,
                                                  "of_iperf3": of_iperf3, "cpu_s_per_gib": costs}
            print(ROW.format(who, f"{seconds:.2f}", f"{gbits:.1f}", f"{of_iperf3:.2f}", state,
                             costs[-1]), flush=True)
        results["ratios"][state] = ratios(results["runs"], state)
    results["holes"] = holes(folder, repeat)
    results["shaped"] = shaped(folder, repeat)
    results["limited"] = limited(folder)
    return results
