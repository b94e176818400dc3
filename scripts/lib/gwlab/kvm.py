# SPDX-License-Identifier: MIT
"""What this host's KVM can run, as `godwit run` judges it when no machine is named."""
import functools
import os
import platform


@functools.cache
def why_no_programs():
    """None where machine pc runs small bare-metal programs, else the reason."""
    if platform.machine() != "x86_64":
        return "the processor is no x86-64"
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None


@functools.cache
def why_no_linux():
    """None where machine pc runs stock kernels, else the reason."""
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), ())
    if why_no_programs() is None and not {"vmx", "svm"} & set(flags):
        return "KVM works here without VT-x or SVM, and stock kernels do not run on it"
    return why_no_programs()
