# SPDX-License-Identifier: GPL-3.0-or-later
"""The script of a helper process: finds the package that started it and serves.  Never imported.

The first line on its standard input says where that package is, and what it is called there: as an extension it has a
name below two packages that only Blender makes.
"""

import importlib
import json
import os
import sys
from types import ModuleType

if __name__ == "__main__":
    said, output = sys.stdin.buffer, sys.stdout.buffer
    told = json.loads(said.readline())
    sys.stdout = sys.stderr  # whatever prints writes into no message
    sys.path[:] = told["path"]
    *outer, last = told["package"].split(".")
    for depth in range(1, len(outer) + 1):
        package = ModuleType(".".join(outer[:depth]))
        package.__path__ = [os.path.dirname(told["folder"])] if depth == len(outer) else []
        sys.modules[package.__name__] = package
    if not outer and os.path.dirname(told["folder"]) not in sys.path:
        sys.path.append(os.path.dirname(told["folder"]))
    importlib.import_module(f"{told['package']}.take.helper").serve(said, output)
