# SPDX-License-Identifier: MIT
"""The manual page and the bash completion say what godwit's own --help says."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
GODWIT = pathlib.Path(os.environ.get("GODWIT_BUILD", ROOT / "build")) / "src" / "cli" / "godwit"
OPTION = re.compile(r"^  (?:-., )?(--[a-z0-9-]+)(=?)", re.MULTILINE)


def help_of(*command):
    return subprocess.run([GODWIT, *command, "--help"], check=True, capture_output=True,
                          text=True).stdout


def commands():
    """Command -> (operands, {option: whether it takes a value})."""
    listed = help_of().split("Commands:\n")[1].split("\n\n")[0]
    found = {}
    for line in listed.splitlines():
        name, operands = re.match(r"  ([a-z-]+) ?(.*?)  ", line + "  ").groups()
        options = help_of(name).split("Options:\n")[1].split("\n\n")[0]
        found[name] = operands, {option: value == "=" for option, value in OPTION.findall(options)}
    return found


@pytest.fixture(scope="module")
def table():
    return commands()


def test_table_is_read(table):
    assert {"run", "migrate", "status", "inspect"} <= set(table)
    assert table["migrate"][0] == "VM URI"
    assert table["migrate"][1]["--max-blackout"] and not table["migrate"][1]["--json"]


def test_manual_page_has_every_command_and_option(table):
    page = (ROOT / "man" / "godwit.1.scd").read_text()
    sections = dict(re.findall(r"^## ([a-z-]+)(.*?)(?=^##? )", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(table)
    for name, (operands, options) in table.items():
        assert sections[name].startswith(f" [OPTION...] {operands}".rstrip() + "\n"), name
        in_page = set(re.findall(r"\*(--[a-z0-9-]+)\*", sections[name]))
        assert in_page == set(options) - {"--help"}, name


def complete(tmp_path, *words, godwit=GODWIT):
    """What bash would offer for the last word."""
    script = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _godwit; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    env = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))
    out = subprocess.run(["bash", "-c", script, "bash", ROOT / "completion" / "godwit.bash",
                          godwit, *words], cwd=tmp_path, env=env, check=True, capture_output=True,
                         text=True).stdout
    return set(out.split())


def test_completion_offers_commands_and_options(table, tmp_path):
    assert complete(tmp_path, "") == set(table) | {"--help", "--version"}
    assert complete(tmp_path, "mig") == {"migrate"}
    for name, (_, options) in table.items():
        wanted = {option + ("=" if takes_value else "") for option, takes_value in options.items()}
        assert complete(tmp_path, name, "--") == wanted, name


def test_completion_offers_operands(tmp_path):
    (tmp_path / "snapshot.gw").touch()
    assert complete(tmp_path, "inspect", "snap") == {"snapshot.gw"}
    assert complete(tmp_path, "migrate", "vm", "u") == {"unix:"}
    assert complete(tmp_path, "resolve", "vm", "r") == {"run-here", "release"}
    assert complete(tmp_path, "run", "--kernel", "snap") == {"snapshot.gw"}
    assert complete(tmp_path, "run", "--kernel", "=", "snap") == {"snapshot.gw"}
    assert complete(tmp_path, "status", "") == set()


def test_completion_offers_vms(tmp_path):
    """Names come from `godwit status`; here from one that has two VMs."""
    fake = tmp_path / "godwit"
    fake.write_text(f'#!/bin/sh\n[ "$*" = status ] || exec {GODWIT} "$@"\n'
                    'echo "alpha    running  1 cpu  512 MiB"\necho "beta    paused  1 cpu"\n')
    fake.chmod(0o755)
    assert complete(tmp_path, "stop", "", godwit=fake) == {"alpha", "beta"}
    assert complete(tmp_path, "migrate", "b", godwit=fake) == {"beta"}
