#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the handover model exhaustively, and that it finds each of a list of planted faults.

usage: check.py EXPORT_TABLES    (the program built from export_tables.c)
Prints TAP.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))

# Side, state, event, wrong next state, wrong action: each must make the model find a violation.
FAULTS = [
    # a link that is lost after COMMIT is no licence to go on
    ("source", "committed", "link-lost", "failed", "resume-end"),
    ("source", "committed", "failed", "failed", "resume-end"),
    ("source", "committed", "cancel", "cancelled", "resume-end"),
    ("source", "in-doubt", "cancel", "cancelled", "resume-end"),
    ("source", "in-doubt", "running", "failed", "resume-end"),
    # a guest that is left stopped
    ("source", "blackout", "cancel", "cancelled", "release"),
    ("source", "in-doubt", "never", "completed", "release"),
    ("source", "committed", "link-lost", "committed", "nothing"),
    ("source", "in-doubt", "never", "in-doubt", "nothing"),
    # a destination that does not keep its word, or runs without one
    ("destination", "disowned", "commit", "running", "run"),
    ("destination", "loaded", "query", "loaded", "answer-never"),
    ("destination", "loaded", "put-off", "running", "run"),
    ("destination", "receiving", "loaded", "running", "run"),
    ("destination", "running", "query", "running", "answer-never"),
    ("destination", "loaded", "commit", "loaded", "nothing"),
    # post-copy, and links that are replaced
    ("source", "postcopy", "link-lost", "failed", "resume-end"),
    ("source", "in-doubt", "running-partial", "failed", "resume-end"),
    ("source", "committed", "running-partial", "completed", "resume-end"),
    ("source", "postcopy", "whole", "postcopy", "nothing"),
    ("source", "postcopy-paused", "reconnected", "postcopy-paused", "nothing"),
    ("source", "blackout", "link-broken", "reconnecting", "reconnect"),
    ("destination", "loaded", "link-broken", "running", "run"),
    ("destination", "postcopy-paused", "query", "postcopy-paused", "answer-never"),
    ("destination", "postcopy-paused", "resume", "postcopy-paused", "nothing"),
    ("destination", "running", "resume", "running", "nothing"),
]


class SpinError(Exception):
    pass


def run(command, folder):
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=600)
    if done.returncode:
        raise SpinError(f"{' '.join(command)}:\n{done.stdout[-3000:]}")
    return done.stdout


# What is searched: how many cuts of the link, and whether links that break before COMMIT are
# replaced. More of both at once is 10^8 states.
SEARCHES = (("-DCUTS=2",), ("-DCUTS=1", "-DKEEPS=1"))


def search(export, options, fault=()):
    """Returns (errors, states, transitions, the checker's text)."""
    with tempfile.TemporaryDirectory(prefix="godwit-model-") as folder:
        shutil.copy(os.path.join(HERE, "handover.pml"), folder)
        with open(os.path.join(folder, "tables.pml"), "w") as file:
            file.write(run([export, *fault], folder))
        run(["spin", *options, "-a", "handover.pml"], folder)
        run(["cc", "-O0" if fault else "-O1", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", "-o", "pan", "pan.c"],
            folder)
        text = run(["./pan", "-m200000", "-w22"], folder)
    errors = re.search(r"errors: (\d+)", text)
    states = re.search(r"(\d+) states, stored", text)
    transitions = re.search(r"(\d+) transitions", text)
    if not errors or not states:
        raise SpinError(text[-3000:])
    is_whole = "Search not completed" not in text and "max search depth too small" not in text
    if errors.group(1) == "0" and not is_whole:
        raise SpinError("the search was not exhaustive:\n" + text[-3000:])
    return int(errors.group(1)), int(states.group(1)), int(transitions.group(1)), text


def main():
    export = os.path.abspath(sys.argv[1])
    print(f"1..{len(SEARCHES) + len(FAULTS)}", flush=True)
    failed = False
    for number, options in enumerate(SEARCHES, 1):
        errors, states, transitions, text = search(export, options)
        name = f"the handover, {' '.join(options)}"
        if errors:
            failed = True
            print(f"not ok {number} {name}")
            print("\n".join("# " + line for line in text.splitlines()[:6]), flush=True)
        else:
            print(f"ok {number} {name}: {states} states, {transitions} transitions", flush=True)
    for number, fault in enumerate(FAULTS, 1 + len(SEARCHES)):
        errors, states, _, _ = search(export, SEARCHES[1] if "broken" in fault[2] else ("-DCUTS=1",), fault)
        failed |= not errors
        print(f"{'ok' if errors else 'not ok'} {number} finds {' '.join(fault)} "
              f"after {states} states", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
