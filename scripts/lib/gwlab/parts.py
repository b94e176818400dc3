# SPDX-License-Identifier: MIT
"""Where the guest parts are: what `scripts/setup --print-env` says."""
import functools
import os
import shlex
import subprocess

from . import BUILD, ROOT, LabError


@functools.cache
def parts():
    """Dictionary of GODWIT_* names to paths."""
    out = subprocess.run([os.path.join(ROOT, "scripts", "setup"), "--print-env", "--build", BUILD],
                         stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for word in shlex.split(out, comments=True):
        name, separator, value = word.partition("=")
        if separator:
            found[name] = value
    return found


def part(name):
    path = parts().get(name)
    if not path or not os.path.exists(path):
        raise LabError(f"{name} is not there ({path}); run scripts/setup")
    return path
