# SPDX-License-Identifier: MIT
"""The laboratory itself: KVM works in it, the hosts see each other, guests move between them."""
import os
import re
import subprocess

from far import WAIT_S, far
from gwlab import BUILD
from gwlab.parts import part
from gwlab.vm import wait_until

# In real mode, at the reset vector: a jump to the segment's start. There: say "K" on the serial
# port, and switch off by the board's power register.
CODE = (b"\xba\xf8\x03\xb0K\xee"               # mov $0x3f8,%dx; mov $'K',%al; out %al,%dx
        b"\xba\x04\x06\xb8\x00\x34\xef\xf4")  # mov $0x604,%dx; mov $(5<<10|1<<13),%ax; out; hlt
MEMTICK = ("--machine", "virt", "--memory", "64M", "--bios", "none")


def test_kvm_is_of_the_processor_and_runs_a_program(here, tmp_path):
    with open("/proc/cpuinfo") as file:
        assert re.search(r"^flags.*\bsvm\b.*\bnpt\b", file.read(), re.MULTILINE)
    rom = bytearray(0x10000)
    rom[:len(CODE)] = CODE
    rom[-16:-13] = b"\xe9" + (0x10000 - (0xfff0 + 3)).to_bytes(2, "little")
    path = tmp_path / "rom"
    path.write_bytes(rom)
    vm = here("k", "--machine", "pc", "--memory", "64M", "--bios", path)
    assert vm.wait_exit(WAIT_S) == 0, vm.log()
    assert vm.console() == "K"


def test_the_backend_passes_its_own_tests():
    """The unit tests of src/cpu/kvm, which most build machines cannot run."""
    program = os.path.join(BUILD, "tests", "unit", "cpu", "test-cpu-kvm")
    done = subprocess.run([program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={**os.environ, "CMOCKA_MESSAGE_OUTPUT": "TAP"}, timeout=WAIT_S)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("\nok ") > 10 and "# skip" not in done.stdout.lower()


def test_the_hosts_are_two_and_reach_each_other():
    assert far("hostname").strip() == "lab-b"
    subprocess.run(["ping", "-c", "3", "10.0.0.3"], check=True, stdout=subprocess.DEVNULL)
    with open("/proc/cpuinfo") as file:
        mine = re.search(r"model name\s*: (.*)", file.read())[1]
    assert mine not in far("cat", "/proc/cpuinfo")


def wait_tick(vm):
    """The bare-metal guest says that all is well, and nothing else."""
    vm.wait_console("tick [0-9]+ .* errors 0 ", WAIT_S)
    assert "BAD" not in vm.console()


def test_a_software_machine_moves_there_and_back(here, there):
    vm = here("m0", *MEMTICK, "--kernel", f"{part('GODWIT_BARE')}/memtick.elf",
              "--append", "mib=1 rate=1 hz=10")
    wait_tick(vm)
    away = there("m1", *MEMTICK, "--incoming", "tcp:10.0.0.3:7000")
    wait_until("the other side to listen", away.status, WAIT_S, step=0.2)
    vm.migrate("tcp:10.0.0.3:7000", "--max-blackout", "5s", timeout=WAIT_S)
    wait_tick(away)
    back = here("m2", *MEMTICK, "--incoming", "tcp:10.0.0.1:7000")
    back.qmp.command("query-status")
    away.migrate("tcp:10.0.0.1:7000", "--max-blackout", "5s", timeout=WAIT_S)
    wait_tick(back)
    assert vm.status() == "postmigrate" and back.status() == "running"
