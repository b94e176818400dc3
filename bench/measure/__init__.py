# SPDX-License-Identifier: MIT
"""One module per measurement, each with measure(folder, repeat) -> JSON-able object."""
