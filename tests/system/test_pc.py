# SPDX-License-Identifier: MIT
"""Machine pc with bare-metal programs: how it starts, ends, begins again, and moves."""
import pytest

import x86
from gwlab import kvm
from gwlab.vm import wait_until

pytestmark = pytest.mark.skipif(kvm.why_no_programs() is not None,
                                reason=str(kvm.why_no_programs()))

# Writes a number to both ends of RAM below the hole and above it, and to its own page, reads all
# of them back, says "o" and goes on with the next number; "!" and no more when one differs.
CHECKER = """
    # The map of the board ends at 4 GiB: the next 2 MiB, and the last ones of RAM.
    movq $0x40003, 0xa020
    movabs $0x100000083, %rax
    mov %rax, 0x40000
    movabs $0x107e00083, %rax
    mov %rax, 0x401f8
    mov $1, %rbx
    movabs $places, %rsi
next:
    mov $n_places, %ecx
    mov %rsi, %rdi
write:
    mov (%rdi), %rax
    mov %rbx, (%rax)
    add $8, %rdi
    loop write
    mov $2000, %ecx
rest:
    pause
    loop rest
    mov $n_places, %ecx
    mov %rsi, %rdi
read:
    mov (%rdi), %rax
    cmp %rbx, (%rax)
    jne bad
    add $8, %rdi
    loop read
    inc %rbx
    say 'o'
    jmp next
bad:
    say '!'
    hlt
.balign 8
places: .quad 0x180000, 0x3ffff8, 0xbffffff8, 0x100000000, 0x107fffff8
.set n_places, (. - places) / 8
"""
HOLE = ("--machine", "pc", "--memory", f"{3 * 1024 + 128}M")

# Says "w" until the power button is pressed, then "P", and switches off.
BUTTON = """
    mov $PM1_ENABLE, %dx
    mov $0x100, %ax
    out %ax, %dx
wait:
    say 'w'
    mov $PM1_STATUS, %dx
    in %dx, %ax
    test $0x100, %ax
    jz wait
    say 'P'
    power_off
"""


def test_real_mode_firmware_begins_at_the_reset_vector(start_vm, tmp_path):
    rom = x86.firmware(tmp_path, "rom", """
        say 'r'
        mov %cs, %bx
        cmp $0xf000, %bx
        jne 1f
        say 'f'
        mov $0xffff, %bx
        mov %bx, %ds
        movb 0, %al        # the same bytes are found at the end of the first MiB
        cmp $0xe9, %al
        jne 1f
        say 's'
    1:  power_off
    """)
    vm = start_vm("v", *x86.OPTIONS, "--bios", rom)
    assert vm.wait_exit() == 0
    assert vm.console() == "rfs"


def test_a_program_is_entered_in_long_mode_with_the_zero_page(start_vm, tmp_path):
    program = x86.assemble(tmp_path, "p", """
        cmpl $0x53726448, 0x202(%rsi)   # "HdrS"
        jne 1f
        say 'z'
        mov 0x228(%rsi), %ebx
        mov (%rbx), %al                 # of the command line
        mov $UART, %dx
        out %al, %dx
        mov 0x70(%rsi), %rbx
        cmpl $0x20445352, (%rbx)        # "RSD "
        jne 1f
        say 'a'
        mov 0x1e8(%rsi), %al            # memory map
        add $'0', %al
        out %al, %dx
        movl $7, 0x200000(%rip)         # RIP-relative: only in long mode
        say 'l'
    1:  power_off
    """)
    vm = start_vm("v", *x86.OPTIONS, "--kernel", program, "--append", "Q")
    assert vm.wait_exit() == 0
    assert vm.console() == "zQa5l"


def test_the_reset_port_starts_anew_and_memory_with_a_battery_stays(start_vm, tmp_path):
    program = x86.assemble(tmp_path, "p", """
    begin:
        mov $0x40, %al
        out %al, $CMOS
        in $CMOS + 1, %al
        cmp $3, %al
        je 1f
        inc %al
        out %al, $CMOS + 1
        say 'b'
        movl $0xdeadbeef, begin(%rip)   # the program's own bytes come back
        mov $0xfe, %al
        out %al, $RESET
        hlt
    1:  power_off
    """)
    vm = start_vm("v", *x86.OPTIONS, "--kernel", program)
    assert vm.wait_exit() == 0
    assert vm.console() == "bbb"
    vm = start_vm("w", *x86.OPTIONS, "--kernel", program, "--no-reboot")
    assert vm.wait_exit() == 0
    assert vm.console() == "b"


def test_the_power_button_works_before_and_after_a_move(start_vm, tmp_path):
    program = x86.assemble(tmp_path, "p", BUTTON)
    uri = f"unix:{tmp_path}/move"
    first = start_vm("a", *x86.OPTIONS, "--kernel", program)
    first.wait_console("w")
    second = start_vm("b", *x86.OPTIONS, "--incoming", uri)
    second.qmp.command("query-status")
    first.migrate(uri)
    second.wait_console("w")
    second.qmp.command("system_powerdown")
    assert second.wait_exit() == 0
    assert second.console().endswith("wP")
    third = start_vm("c", *x86.OPTIONS, "--kernel", program)
    third.wait_console("w")
    third.qmp.command("system_powerdown")
    assert third.wait_exit() == 0


def move(old, new, uri):
    new.qmp.command("query-status")
    old.migrate(uri)
    wait_until("the destination to run", lambda: new.status() in ("running", "paused"))
    old.qmp.command("quit")
    old.wait_exit()
    return new


def test_memory_around_the_hole_moves(start_vm, tmp_path):
    """Each page that the guest writes lies in another place: below, at the ends of, above the
    hole. Ten moves, and a reset in the last process."""
    program = x86.assemble(tmp_path, "p", CHECKER)
    vm = start_vm("v0", *HOLE, "--kernel", program)
    vm.wait_console("o")
    for i in range(1, 11):
        uri = f"unix:{tmp_path}/move{i}"
        vm = move(vm, start_vm(f"v{i}", *HOLE, "--incoming", uri), uri)
        vm.wait_console("oo")
        assert "!" not in vm.console()
    start = len(vm.console())
    vm.qmp.command("system_reset")
    vm.wait_console("oo", start=start + 2)
    assert "!" not in vm.console()


def test_a_paused_guest_moves_and_goes_on(start_vm, tmp_path):
    program = x86.assemble(tmp_path, "p", CHECKER)
    vm = start_vm("a", *HOLE, "--kernel", program)
    vm.wait_console("o")
    vm.qmp.command("stop")
    uri = f"unix:{tmp_path}/move"
    vm = move(vm, start_vm("b", *HOLE, "--incoming", uri), uri)
    assert vm.status() == "paused"
    assert vm.console() == ""
    vm.qmp.command("cont")
    vm.wait_console("oo")
    assert "!" not in vm.console()


def test_a_running_guest_is_saved_at_one_instant_and_restored_lazily(start_vm, tmp_path):
    """The program notices when its places are not all of one pass, or not there."""
    program = x86.assemble(tmp_path, "p", CHECKER)
    vm = start_vm("a", *HOLE, "--kernel", program)
    vm.wait_console("o")
    for i in range(4):
        path = tmp_path / f"{i}.gw"
        vm.godwit("save", path, "--live")
        assert vm.migration()["live"] is True, vm.migration()["note"]
        again = start_vm(f"r{i}", *HOLE, "--restore", path, "--lazy")
        again.wait_console("oo")
        assert "!" not in again.console() and "note" not in again.migration()
        again.close()
    vm.wait_console("oo", start=len(vm.console()))
    assert "!" not in vm.console()


def test_a_snapshot_holds_both_sides_of_the_hole(start_vm, tmp_path):
    program = x86.assemble(tmp_path, "p", CHECKER)
    vm = start_vm("a", *HOLE, "--kernel", program)
    vm.wait_console("o")
    vm.godwit("save", tmp_path / "guest.gw")
    vm.qmp.command("quit")
    vm.wait_exit()
    vm = start_vm("b", *HOLE, "--restore", tmp_path / "guest.gw")
    vm.wait_console("oo")
    assert "!" not in vm.console()


@pytest.mark.parametrize("options, sentence", [
    (("--machine", "virt", "--memory", "64M"), "machine"),
    (("--machine", "pc", "--memory", "128M"), "ram"),
    (("--machine", "pc", "--memory", "64M", "--cpus", 2), "cpus"),
])
def test_another_machine_is_refused_before_the_first_page(start_vm, tmp_path, options, sentence):
    uri = f"unix:{tmp_path}/move"
    vm = start_vm("a", *x86.OPTIONS, "--kernel", x86.assemble(tmp_path, "p", BUTTON))
    vm.wait_console("w")
    start_vm("b", *options, "--incoming", uri).qmp.command("query-status")
    done = vm.godwit("migrate", uri, check=False)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert vm.status() == "running"


@pytest.mark.parametrize("options, sentence", [
    (["--memory", "15M"], "machine pc takes whole MiB from 16"),
    (["--cpus", "65"], "65 CPUs: machine pc takes 1 to 64"),
    (["--bios", "/dev/null"], "machine pc takes firmware or a kernel, not both"),
])
def test_wrong_options_are_named(godwit, tmp_path, options, sentence):
    program = x86.assemble(tmp_path, "p", "hlt")
    done = godwit("run", "--machine", "pc", "--kernel", program, *options)
    assert done.returncode != 0
    assert sentence in done.stderr
