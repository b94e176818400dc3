# SPDX-License-Identifier: MIT
"""The godwit command: help, exit statuses, names."""
import json

import pytest

import bare
from gwlab.vm import wait_until

SUBCOMMANDS = """run migrate status watch cancel resolve save stop cont reset powerdown quit qmp
schema inspect postcopy switchover recover""".split()


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_help_with_exit_status(godwit, name):
    done = godwit(name, "--help")
    assert done.returncode == 0
    assert f"godwit {name}" in done.stdout and "Exit status:" in done.stdout
    assert name in godwit("--help").stdout


@pytest.mark.parametrize("arguments", [
    [], ["fly"], ["stop"], ["stop", "a", "b"], ["migrate", "a"], ["stop", "--fast", "a"],
    ["resolve", "a", "maybe"], ["migrate", "a", "tcp:x:1", "--max-blackout", "soon"],
    ["recover"], ["recover", "a", "tcp:x:1", "b"], ["postcopy", "a", "b"], ["switchover"],
    ["migrate", "a", "tcp:x:1", "--mode", "normal"],
    ["migrate", "a", "tcp:x:1", "--at-max-time", "never"],
    ["migrate", "a", "tcp:x:1", "--reconnect-time", "soon"],
    ["migrate", "a", "tcp:x:1", "--forbid-postcopy", "--mode", "postcopy"],
    ["migrate", "a", "tcp:x:1", "--forbid-postcopy", "--at-max-time", "postcopy"],
    ["run"], ["run", "--memory", "much", "--bios", "none", "--kernel", "k"],
    ["stop", "not a name"]])
def test_wrong_usage_is_status_2(godwit, arguments):
    done = godwit(*arguments)
    assert done.returncode == 2
    assert done.stderr


@pytest.mark.parametrize("arguments", [["stop", "nobody"], ["status", "nobody"],
                                       ["migrate", "nobody", "tcp:127.0.0.1:1"],
                                       ["watch", "/nonexistent/socket"]])
def test_no_such_vm_is_status_6(godwit, arguments):
    done = godwit(*arguments)
    assert done.returncode == 6
    assert "no VM answers at" in done.stderr


def test_commands_by_name(start_vm, godwit, tmp_path):
    vm = start_vm("bird", *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    wait_until("it to run", lambda: vm.status() == "running")
    assert "bird" in godwit("status").stdout
    assert json.loads(godwit("status", "--json", "bird").stdout)["status"]["running"] is True
    for command, status in (("stop", "paused"), ("cont", "running"), ("reset", "running"),
                            ("powerdown", "running")):
        assert godwit(command, "bird").returncode == 0
        assert vm.status() == status
    for command in ("cancel", "postcopy", "switchover", "recover"):
        done = godwit(command, "bird")
        assert done.returncode == 1 and "there is no migration" in done.stderr
    assert json.loads(godwit("qmp", "bird", "query-name").stdout) == {"name": "bird"}
    lines = godwit("qmp", "bird", input="query-name\nmigrate {\"uri\": 1}\n")
    assert '"bird"' in lines.stdout and "expected: string" in lines.stderr
    assert godwit("quit", "bird").returncode == 0
    assert vm.wait_exit() == 0
    assert godwit("status", "bird").returncode == 6


def test_options_of_modes_reach_the_monitor(start_vm, godwit, tmp_path):
    """A destination that nobody listens at: what was set before the attempt stays. Waiting is asked
    for each time, that post-copy is forbidden holds until it is allowed again."""
    vm = start_vm("bird", "--no-postcopy",
                  *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    parameters = vm.qmp.command("query-migrate-parameters")
    assert parameters["forbid-postcopy"] is True
    vm.qmp.command("migrate-set-parameters", **{"forbid-postcopy": False})
    nowhere = f"unix:{tmp_path}/nobody"
    assert godwit("migrate", "bird", nowhere, "--mode", "precopy", "--at-max-time", "stop-and-copy",
                  "--reconnect-time", "1500ms", "--wait-before-switchover",
                  "--forbid-postcopy").returncode == 1
    assert vm.qmp.command("query-migrate-parameters").items() >= {
        "mode": "precopy", "at-max-time": "stop-and-copy", "reconnect-time": 1500,
        "pause-before-switchover": True, "forbid-postcopy": True}.items()
    assert godwit("migrate", "bird", nowhere, "--reconnect-time", "0s").returncode == 1
    assert vm.qmp.command("query-migrate-parameters").items() >= {
        "mode": "precopy", "pause-before-switchover": False, "forbid-postcopy": True}.items()


def test_help_says_what_the_loss_of_a_host_means(godwit):
    text = " ".join(godwit("migrate", "--help").stdout.split())
    assert "the loss of either host is the loss of the guest" in text
    assert "7 guest lost in post-copy" in text


def test_a_name_is_taken_only_once(start_vm, godwit, tmp_path):
    options = bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER))
    start_vm("bird", *options).qmp.command("query-status")
    done = godwit("run", "--name", "bird", *options)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr


def test_a_dead_process_does_not_keep_its_name(start_vm, tmp_path):
    options = bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER))
    vm = start_vm("bird", *options)
    vm.qmp.command("query-status")
    vm.kill()
    vm.wait_exit()
    again = start_vm("bird", *options)
    wait_until("it to run", lambda: again.status() == "running")


def test_schema_is_json(godwit):
    schema = json.loads(godwit("schema", "--machine", "virt", "--cpus", "2").stdout)
    text = json.dumps(schema)
    for device in ("hart/0", "hart/1", "plic", "aclint", "uart0", "rtc", "virtio-net/0",
                   "virtio-blk/0", "machine"):
        assert f'"{device}"' in text


def test_what_is_no_stream_is_told_in_one_line(godwit, tmp_path):
    path = tmp_path / "text"
    path.write_text("root:x:0:0:root:/root:/bin/bash\n" * 20)
    done = godwit("inspect", path)
    assert done.returncode == 1 and done.stdout == ""
    assert "not a Godwit stream" in done.stderr
    whole = json.loads(godwit("inspect", "--json", path).stdout)
    assert whole["complete"] is False and "not a Godwit stream" in whole["findings"][0]


def test_a_uri_that_is_none_never_starts_a_migration(start_vm, godwit, tmp_path):
    vm = start_vm("bird", *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    vm.qmp.command("query-status")
    for uri in ("smoke:signal", "tcp:localhost"):
        done = godwit("migrate", "bird", uri)
        assert done.returncode == 1 and done.stdout == "" and uri in done.stderr
    assert vm.migration()["status"] == "none"


def test_an_attempt_that_never_began_has_no_channels(start_vm, godwit, tmp_path):
    vm = start_vm("bird", *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    vm.qmp.command("query-status")
    done = godwit("migrate", "bird", f"unix:{tmp_path}/nobody")
    assert done.returncode == 1 and "channel" not in done.stdout
    text = godwit("watch", "bird", "--json").stdout
    assert not [number for number in json.loads(text, parse_float=str).values()
                if isinstance(number, str) and len(number) > 17 and number[0].isdigit()]
