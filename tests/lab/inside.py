# SPDX-License-Identifier: MIT
"""Runs inside a laboratory host: takes one command from the virtio port, runs it, and sends back
what it left in /results and its exit status. Lines of JSON in both directions."""
import base64
import json
import os
import pathlib
import subprocess

PORT_NAME = "org.godwit.lab"
RESULTS = pathlib.Path("/results")


def port_path():
    for name in pathlib.Path("/sys/class/virtio-ports").glob("*/name"):
        if name.read_text().strip() == PORT_NAME:
            return f"/dev/{name.parent.name}"
    raise SystemExit(f"inside: there is no virtio port {PORT_NAME}")


def main():
    RESULTS.mkdir()
    with open(port_path(), "r+b", buffering=0) as port:
        order = b""
        while not order.endswith(b"\n"):
            order += port.read(1) or b""
        order = json.loads(order)
        done = subprocess.run(order["command"], env={**os.environ, **order["environment"]},
                              check=False)
        for path in sorted(RESULTS.iterdir()):
            line = {"file": path.name, "data": base64.b64encode(path.read_bytes()).decode()}
            port.write(json.dumps(line).encode() + b"\n")
        port.write(json.dumps({"exit": done.returncode}).encode() + b"\n")


main()
