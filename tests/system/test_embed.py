# SPDX-License-Identifier: MIT
"""examples/embed.c against the installed library: a stranger's program moves its own memory."""

import contextlib
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

from gwlab import PATIENCE_S

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ.get("GODWIT_BUILD", ROOT / "build"))
LIMIT_S = PATIENCE_S


def build_option(name):
    path = BUILD / "meson-info" / "intro-buildoptions.json"
    return next(option["value"] for option in json.loads(path.read_text())
                if option["name"] == name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Environment in which pkg-config and the linker find a fresh installation."""
    staging = tmp_path_factory.mktemp("installed")
    subprocess.run(["meson", "install", "-C", str(BUILD), "--no-rebuild", "--quiet",
                    "--destdir", str(staging)], check=True)
    pc = next(staging.rglob("libgodwit.pc"))
    # The staging folder is where it stays.
    prefix = f"{staging}{build_option('prefix')}"
    pc.write_text(re.sub("^prefix=.*", f"prefix={prefix}", pc.read_text(), flags=re.MULTILINE))
    env = dict(os.environ, PKG_CONFIG_PATH=str(pc.parent), LD_LIBRARY_PATH=str(pc.parent.parent))
    return staging, env


@pytest.fixture(scope="module")
def embed(installed, tmp_path_factory):
    """The example, built by its own Makefile in a folder that knows nothing of our tree."""
    _, env = installed
    folder = tmp_path_factory.mktemp("embed")
    for name in ("embed.c", "Makefile"):
        shutil.copy(ROOT / "examples" / name, folder)
    sanitizers = build_option("b_sanitize")
    cflags = "-O2 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers"
    ldflags = "" if sanitizers == "none" else f"-fsanitize={sanitizers}"
    if "thread" not in sanitizers:  # its machine writes its memory while it is sent, on purpose
        cflags += f" {ldflags}"
    subprocess.run(["make", "-s", "-C", str(folder), f"CFLAGS={cflags}", f"LDFLAGS={ldflags}"],
                   env=env, check=True)
    return str(folder / "embed")


class Embed:
    """One run of the example, whose lines are read as they come."""

    def __init__(self, command, env):
        self.text = ""
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.set_blocking(self.process.stdout.fileno(), False)

    def read_until(self, text):
        end = time.monotonic() + LIMIT_S
        while text not in self.text:
            left = end - time.monotonic()
            assert left > 0, f"no '{text}' within {LIMIT_S} s:\n{self.text}"
            select.select([self.process.stdout], [], [], left)
            got = self.process.stdout.read()
            assert got != b"", f"ended without '{text}':\n{self.text}"
            self.text += (got or b"").decode()

    def end(self):
        """Exit status; the rest of the output is in text."""
        os.set_blocking(self.process.stdout.fileno(), True)
        output, _ = self.process.communicate(timeout=LIMIT_S)
        self.text += output.decode()
        return self.process.returncode


@pytest.fixture
def pair(embed, installed, tmp_path):
    """Starts both ends: pair(memory, writes, bandwidth) -> (source, destination)."""
    _, env = installed
    runs = []

    def start(memory_mib, writes=64, bandwidth=0):
        uri = f"unix:{tmp_path}/socket"
        runs.append(Embed([embed, "receive", uri, str(memory_mib)], env))
        runs[0].read_until("listening")
        runs.append(Embed([embed, "send", uri, str(memory_mib), str(writes), str(bandwidth)], env))
        return runs[1], runs[0]

    yield start
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


def test_moves_its_memory_while_a_thread_writes_it(pair):
    memory_mib = 256 if build_option("b_sanitize") == "none" else 64
    source, destination = pair(memory_mib)
    assert source.end() == 0, source.text
    assert destination.end() == 0, destination.text
    assert "completed" in source.text and "memory" not in source.text
    assert "memory is right" in destination.text


def test_cancelled_machine_goes_on_at_the_source(pair):
    source, destination = pair(256, bandwidth=20)
    source.read_until("rounds: round 1")
    source.process.send_signal(signal.SIGINT)
    assert source.end() == 4, source.text
    assert "cancelled" in source.text and "memory is right" in source.text
    assert destination.end() == 1
    assert "disowned" in destination.text and "cancelled" in destination.text
    assert "memory" not in destination.text


def test_threads_of_the_library_take_no_signals(pair):
    source, destination = pair(256, bandwidth=20)
    source.read_until("rounds: round 1")
    for run in (source, destination):
        masks = []
        for task in pathlib.Path(f"/proc/{run.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread may just have ended
                blocked = re.search(r"SigBlk:\s*(\w+)", (task / "status").read_text())[1]
                masks.append(int(blocked, 16) >> (signal.SIGINT - 1) & 1)
        # The embedder's own threads are its main thread and its machine's.
        assert masks.count(0) == 2 and masks.count(1) >= 2, masks


def test_machine_survives_a_killed_destination(pair):
    source, destination = pair(256, bandwidth=20)
    source.read_until("rounds: round 1")
    destination.process.kill()
    assert source.end() == 1, source.text
    assert "failed" in source.text and "memory is right" in source.text


def test_destination_lets_go_of_a_killed_source(pair):
    source, destination = pair(256, bandwidth=20)
    source.read_until("rounds: round 1")
    source.process.kill()
    assert destination.end() == 1, destination.text
    assert "disowned" in destination.text and "memory" not in destination.text


def test_refuses_another_size_before_the_first_page(embed, installed, tmp_path):
    _, env = installed
    uri = f"unix:{tmp_path}/socket"
    destination = Embed([embed, "receive", uri, "64"], env)
    destination.read_until("listening")
    source = Embed([embed, "send", uri, "32"], env)
    assert source.end() == 1
    assert "failed" in source.text and "memory is right" in source.text
    assert "rounds" not in source.text
    assert destination.end() == 1


def test_installs_everything(installed):
    prefix, _ = installed
    names = {path.name for path in prefix.rglob("*") if path.is_file()}
    headers = {path.name for path in (ROOT / "include" / "godwit").glob("*.h")}
    wanted = headers | {"libgodwit.pc", "libgodwit.so.1.0.0", "godwit.1", "libgodwit.3", "godwit"}
    assert wanted <= names
    assert next(prefix.rglob("bin/godwit")).is_file()
    assert next(prefix.rglob("bash-completion/completions/godwit")).is_file()
