# SPDX-License-Identifier: MIT
"""The monitor's protocol: negotiation, errors, several clients, hostile input."""
import json
import socket

import pytest

from gwlab import PATIENCE_S
from gwlab.vm import wait_until

import bare

COMMANDS = """qmp_capabilities query-version query-commands query-status stop cont quit
system_powerdown system_reset query-cpus-fast query-memory-size-summary migrate migrate-incoming
migrate_cancel migrate-start-postcopy migrate-continue
migrate-pause migrate-recover migrate-set-parameters query-migrate-parameters query-migrate announce-self
query-blackout query-latency resolve migrate-set-capabilities
query-migrate-capabilities""".split()


class Raw:
    """A client that shows every byte."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(path)
        self.file = self.socket.makefile("rb")

    def read(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else json.dumps(data).encode())

    def ask(self, data):
        """The answer; events that come before it (the guest may only just be starting) are left out."""
        self.send(data)
        answer = self.read()
        while answer and "event" in answer:
            answer = self.read()
        return answer


@pytest.fixture
def vm(start_vm, tmp_path):
    vm = start_vm("v", *bare.options(bare.write(tmp_path / "k", bare.WFI_FOREVER)))
    wait_until("the guest to run", lambda: vm.status() == "running")
    return vm


def test_greeting_and_negotiation(vm):
    raw = Raw(vm.monitor_path)
    greeting = raw.read()
    assert set(greeting["QMP"]) == {"version", "capabilities"}
    assert set(greeting["QMP"]["version"]["qemu"]) == {"major", "minor", "micro"}
    answer = raw.ask({"execute": "query-status", "id": 7})
    assert answer["error"]["class"] == "CommandNotFound" and answer["id"] == 7
    assert raw.ask({"execute": "qmp_capabilities", "id": "x"}) == {"return": {}, "id": "x"}
    assert raw.ask({"execute": "query-status"})["return"]["running"] is True


def test_capabilities_that_are_not_offered_are_refused(vm):
    raw = Raw(vm.monitor_path)
    assert raw.read()["QMP"]["capabilities"] == []
    for arguments, why in (({"enable": ["oob"]}, "'oob' is not available"),
                           ({"enable": "oob"}, "expected: array"),
                           ({"enabled": []}, "'enabled' is unexpected")):
        answer = raw.ask({"execute": "qmp_capabilities", "arguments": arguments, "id": 1})
        assert why in answer["error"]["desc"] and answer["id"] == 1
    assert raw.ask({"execute": "query-status"})["error"]["class"] == "CommandNotFound"
    assert raw.ask({"execute": "qmp_capabilities", "arguments": {"enable": []}}) == {"return": {}}


def test_every_command_is_listed(vm):
    names = {row["name"] for row in vm.qmp.command("query-commands")}
    assert names >= set(COMMANDS)


def test_answers(vm):
    assert vm.qmp.command("query-memory-size-summary")["base-memory"] == 64 << 20
    cpu, = vm.qmp.command("query-cpus-fast")
    assert cpu["cpu-index"] == 0 and cpu["target"] == "riscv64" and cpu["thread-id"] > 0
    assert vm.qmp.command("query-migrate") == {"status": "none"}
    vm.qmp.command("migrate-set-parameters", **{"downtime-limit": 77, "max-bandwidth": 1 << 20})
    parameters = vm.qmp.command("query-migrate-parameters")
    assert (parameters["downtime-limit"], parameters["max-bandwidth"]) == (77, 1 << 20)
    assert parameters["multifd-compression"] == "auto" and parameters["delta"] == "auto"
    assert parameters["xbzrle-cache-size"] == 48 << 20
    vm.qmp.command("migrate-set-parameters",
                   **{"multifd-compression": "none", "xbzrle-cache-size": 1 << 20})
    vm.qmp.command("migrate-set-capabilities", capabilities=[{"capability": "xbzrle", "state": True}])
    parameters = vm.qmp.command("query-migrate-parameters")
    assert parameters["multifd-compression"] == "none" and parameters["delta"] == "on"
    assert parameters["xbzrle-cache-size"] == 1 << 20
    assert capabilities(vm) == {"xbzrle": True, "postcopy-ram": True,
                                "pause-before-switchover": False}
    assert vm.qmp.command("query-blackout")["attempts"] == []
    assert isinstance(vm.qmp.command("query-latency"), list)
    vm.qmp.command("announce-self", rounds=1)


def capabilities(vm):
    return {row["capability"]: row["state"] for row in
            vm.qmp.command("query-migrate-capabilities")}


def test_modes_and_policies_are_kept(vm):
    """Each parameter alone; capabilities are the same settings by QEMU's names."""
    names = ["mode", "at-max-time", "reconnect-time", "pause-before-switchover", "forbid-postcopy"]

    def settings():
        parameters = vm.qmp.command("query-migrate-parameters")
        return [parameters[name] for name in names]
    expected = ["auto", "cancel", 10000, False, False]
    assert settings() == expected
    for name, values in (("mode", ["precopy", "postcopy", "auto"]),
                         ("at-max-time", ["postcopy", "stop-and-copy", "cancel"]),
                         ("reconnect-time", [30000, 0, 10000]), ("pause-before-switchover", [True, False]),
                         ("forbid-postcopy", [True, False])):
        for value in values:
            vm.qmp.command("migrate-set-parameters", **{name: value})
            expected[names.index(name)] = value
            assert settings() == expected
    for name, state in (("postcopy-ram", False), ("pause-before-switchover", True)):
        vm.qmp.command("migrate-set-capabilities", capabilities=[{"capability": name,
                                                                  "state": state}])
        assert capabilities(vm)[name] is state
    assert settings() == ["auto", "cancel", 10000, True, True]


@pytest.mark.parametrize("message, sentence", [
    ({"execute": "fly"}, "the command fly has not been found"),
    ({"execute": "migrate"}, "Parameter 'uri' is missing"),
    ({"execute": "migrate", "arguments": {"uri": 5}},
     "Invalid parameter type for 'uri', expected: string"),
    ({"execute": "stop", "arguments": {"x": 1}}, "Parameter 'x' is unexpected"),
    ({"execute": "stop", "arguments": []}, "QMP input member 'arguments' must be an object"),
    ({"execute": 1}, "QMP input lacks a string member 'execute'"),
    ({"execute": "stop", "extra": 1}, "QMP input member 'extra' is unexpected"),
    ([1], "QMP input must be a JSON object"),
    ({"execute": "migrate_cancel"}, "there is no migration to cancel"),
    ({"execute": "resolve", "arguments": {"decision": "release"}},
     "there is no migration in doubt"),
    ({"execute": "migrate-start-postcopy"}, "there is no migration under way"),
    ({"execute": "migrate-pause"}, "there is no migration under way"),
    ({"execute": "migrate-recover"}, "there is no migration under way"),
    ({"execute": "migrate", "arguments": {"uri": "tcp:127.0.0.1:1", "resume": True}},
     "there is no migration under way"),
    ({"execute": "migrate-continue", "arguments": {"state": "pre-switchover"}},
     "there is no migration under way"),
    ({"execute": "migrate-continue", "arguments": {"state": "active"}},
     "Parameter 'state' expects one of pre-switchover"),
    ({"execute": "migrate-set-parameters", "arguments": {"mode": "normal"}},
     "Parameter 'mode' expects one of auto, precopy, postcopy"),
    ({"execute": "migrate-set-parameters", "arguments": {"at-max-time": ""}},
     "Parameter 'at-max-time' expects one of cancel, postcopy, stop-and-copy"),
    ({"execute": "migrate-set-parameters", "arguments": {"reconnect-time": -1}},
     "Parameter 'reconnect-time' expects 0 to 1000000000, got -1"),
    ({"execute": "migrate-set-capabilities",
      "arguments": {"capabilities": [{"capability": "x-colo", "state": True}]}},
     "there is no capability 'x-colo'"),
    ({"execute": "migrate-incoming", "arguments": {"uri": "tcp:127.0.0.1:0"}},
     "cannot receive a guest: the machine is running"),
])
def test_errors_say_what_is_wrong(vm, message, sentence):
    raw = Raw(vm.monitor_path)
    raw.read()
    raw.ask({"execute": "qmp_capabilities"})
    assert raw.ask(message)["error"]["desc"] == sentence


@pytest.mark.parametrize("data", [
    b"nonsense\n", b"}\n", b"{]}\n", b'{"a":1,"a":2}', b'{"execute":"\xff\xfe"}', b"\x00\n",
    b'{"execute":"stop\\u0000x"}'], ids=range(7))
def test_nonsense_is_an_error_and_no_more(vm, data):
    wait_until("the guest to run", lambda: vm.status() == "running")
    raw = Raw(vm.monitor_path)
    raw.read()
    raw.ask({"execute": "qmp_capabilities"})
    assert raw.ask(data)["error"]["class"]
    answer = raw.ask({"execute": "query-name", "id": 1})
    while "id" not in answer:
        answer = raw.read()
    assert answer["return"] == {"name": "v"}


@pytest.mark.parametrize("data", [b"[" * 1000, b'{"x":"' + b"y" * (1 << 20)],
                         ids=["deep", "long"])
def test_too_much_ends_the_connection(vm, data):
    raw = Raw(vm.monitor_path)
    raw.read()
    try:
        raw.send(data)
        while raw.read():
            pass
    except (BrokenPipeError, ConnectionResetError):
        pass
    assert vm.status() == "running"


def test_pipelined_commands_are_answered_in_order(vm):
    raw = Raw(vm.monitor_path)
    raw.read()
    raw.ask({"execute": "qmp_capabilities"})
    names = ["stop", "query-status", "cont", "query-status"] * 50
    raw.send(b"".join(json.dumps({"execute": name, "id": i}).encode()
                      for i, name in enumerate(names)))
    answers = []
    while len(answers) < len(names):
        answer = raw.read()
        if "event" not in answer:
            answers.append(answer)
    assert [answer["id"] for answer in answers] == list(range(len(names)))
    states = [answer["return"]["status"] for answer in answers[1::2]]
    assert states == ["paused", "running"] * 50


def test_many_clients_hear_every_event(vm):
    clients = [Raw(vm.monitor_path) for _ in range(10)]
    for raw in clients:
        raw.read()
        raw.ask({"execute": "qmp_capabilities"})
    vm.qmp.command("stop")
    for raw in clients:
        event = raw.read()
        while event["event"] == "RESUME":  # of the start
            event = raw.read()
        assert event["event"] == "STOP" and event["timestamp"]["seconds"] > 0


def test_a_client_that_does_not_read_hurts_nobody(vm):
    lazy = Raw(vm.monitor_path)
    lazy.send({"execute": "qmp_capabilities"})
    request = json.dumps({"execute": "query-commands"}).encode()
    lazy.socket.setblocking(False)
    try:
        for _ in range(20000):
            lazy.socket.send(request)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        pass
    assert vm.status() == "running"


def test_quit_is_answered(vm):
    assert vm.qmp.command("quit") == {}
    assert vm.wait_exit() == 0
