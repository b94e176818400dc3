# SPDX-License-Identifier: MIT
"""The laboratory's image: an initramfs made of Debian's files on this machine, the guest parts from
the cache, and the built tree at /godwit. docs/laboratory.md says what it is for."""
import importlib.machinery
import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys

from . import BUILD, ROOT, LabError
from .parts import part

TOOLS = ("realpath", "ip", "unshare", "setpriv")
PYTHON_PACKAGES = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "attr", "attrs", "py")
# What no test of the laboratory imports, and what would bring large libraries.
PYTHON_LEAVE = re.compile(r"/(test|tests|idlelib|lib2to3|ensurepip|distutils|pydoc_data|tkinter|turtledemo|"
                          r"sqlite3|curses|dbm|config-[^/]*)(/|$)|"
                          r"/(_ssl|_hashlib|_sqlite3|_curses|_dbm|_gdbm|_tkinter|_codecs_|_crypt|"
                          r"readline|_ctypes_test|_test)[^/]*\.so$")
TREE = ("scripts", "tests/lab", "tests/system", "bench/measure", "bench/run", "bench/report.py",
        "bench/charts.py", "bench/convergence.py")
BUILT = ("src/cli/godwit", "bench/probe", "guest/initrd-pc.cpio", "guest/memtick.elf",
         "guest/memtick-x86.elf", "tests/unit/cpu/test-cpu-kvm")


def _cpio():
    """The archive writer of the guests' initramfs."""
    loader = importlib.machinery.SourceFileLoader(
        "mkinitrd", os.path.join(ROOT, "guest", "initramfs", "mkinitrd"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("mkinitrd", loader))
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = keep
    return module.Cpio()


class Image:
    """Paths inside the image, each with the file it is made of; folders come by themselves."""

    def __init__(self):
        self.files = {}
        self.programs = set()

    def add(self, inside, outside, is_ours=True):
        """is_ours: the shared libraries of a program are to come along, too."""
        if not os.path.exists(outside):
            raise LabError(f"{outside} is not there; run scripts/setup --for lab, and build")
        self.files[inside.strip("/")] = outside
        with open(outside, "rb") as file:
            if is_ours and file.read(4) == b"\x7fELF":
                self.programs.add(outside)

    def add_folder(self, inside, outside, leave=None):
        for folder, names, files in os.walk(outside):
            names.sort()
            for name in sorted(files):
                path = os.path.join(folder, name)
                if not (leave and leave.search(path)) and os.path.isfile(path):
                    self.add(os.path.join(inside, os.path.relpath(path, outside)), path)

    def add_libraries(self):
        """The shared libraries of all programs, where their loader looks for them."""
        done = subprocess.run(["ldd", *sorted(self.programs)], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)
        if missing := re.findall(r"(\S+) => not found", done.stdout):
            raise LabError(f"libraries that programs of the image want: {' '.join(set(missing))}")
        built = os.path.realpath(BUILD) + os.sep
        for path in sorted(set(re.findall(r"(?:=> |^\s+)(/\S+) \(", done.stdout, re.MULTILINE))):
            if os.path.realpath(path).startswith(built):
                self.add(os.path.join("godwit/build", os.path.relpath(path, BUILD)), path)
            else:
                self.add(path, path)

    def write(self, path):
        cpio = _cpio()
        cpio.add("dev", stat.S_IFDIR | 0o755)
        cpio.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
        folders = {"", "dev"}

        def add_parents(inside):
            if inside not in folders:
                add_parents(os.path.dirname(inside))
                folders.add(inside)
                cpio.add(inside, stat.S_IFDIR | 0o755)
        for folder in ("proc", "sys", "tmp", "sbin", "bin", "usr/sbin", "usr/bin"):
            add_parents(folder)
        for inside, outside in sorted(self.files.items()):
            add_parents(os.path.dirname(inside))
            status = os.stat(outside)
            with open(outside, "rb") as file:
                cpio.add(inside, stat.S_IFREG | (0o755 if status.st_mode & 0o111 else 0o644),
                         file.read(), mtime_s=int(status.st_mtime) & 0xffffffff)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(cpio.bytes())
        os.replace(temporary, path)


def _add_python(image):
    program = os.path.realpath("/usr/bin/python3")  # whatever runs us; it is called by its version
    version = os.path.basename(program)
    image.add("usr/bin/python3", program)
    image.add_folder(f"usr/lib/{version}", f"/usr/lib/{version}", PYTHON_LEAVE)
    packages = "usr/lib/python3/dist-packages"
    for name in os.listdir(f"/{packages}"):
        if name in (f"{wanted}.py" for wanted in PYTHON_PACKAGES):
            image.add(f"{packages}/{name}", f"/{packages}/{name}")
        elif name.split("-")[0] in PYTHON_PACKAGES:
            image.add_folder(f"{packages}/{name}", f"/{packages}/{name}")


def _add_tree(image):
    for name in TREE:
        outside = os.path.join(ROOT, name)
        if os.path.isdir(outside):
            image.add_folder(f"godwit/{name}", outside, re.compile("__pycache__|\\.pytest_cache"))
        else:
            image.add(f"godwit/{name}", outside)
    for name in BUILT:
        image.add(f"godwit/build/{name}", os.path.join(BUILD, name))


def build(with_qemu=False):
    """Writes the image and returns its path. with_qemu adds the reference, for benchmarks."""
    image = Image()
    image.add("init", os.path.join(ROOT, "tests", "lab", "init"))
    image.add("bin/busybox", part("GODWIT_PC_BUSYBOX"))
    image.add_folder("modules", part("GODWIT_LAB_MODULES"))
    kernel = part("GODWIT_PC_KERNEL")
    image.add("cache/guest/pc-kernel/vmlinuz", kernel)
    image.add("cache/guest/pc-kernel/VERSION", os.path.join(os.path.dirname(kernel), "VERSION"))
    for tool in TOOLS:
        path = shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin")
        if not path:
            raise LabError(f"{tool} is not there; run scripts/setup --for lab")
        image.add(f"usr/bin/{tool}", path)
    image.add("bin/bash", "/bin/bash")
    _add_python(image)
    _add_tree(image)
    if with_qemu:
        qemu = part("GODWIT_LAB_QEMU")  # with its own libraries
        for folder, _, names in os.walk(qemu):
            for name in names:
                path = os.path.join(folder, name)
                image.add(f"cache/guest/lab-qemu/{os.path.relpath(path, qemu)}", path, is_ours=False)
    image.add_libraries()
    folder = os.path.join(BUILD, "lab")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "image-qemu.cpio" if with_qemu else "image.cpio")
    image.write(path)
    return path
