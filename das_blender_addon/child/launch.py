# SPDX-License-Identifier: GPL-3.0-or-later
"""How to start a Blender of the same kind as this one: the same binary, or the same Python with the `bpy` module.

Its environment is this one's without the variables that override settings: what counts of them is in what it is asked,
and a child that is kept serves the next job, and the next row of a table of shots, whatever that one's flags are.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bpy

from ..shot.settings import ENVIRONMENT
from .process import Launch


def launch() -> Launch:
    """The `Launch` of this Blender; on the thread that may touch it."""
    script = str(Path(__file__).with_name("host.py"))
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT}
    if bpy.app.binary_path:
        options = ("-b", "--python-exit-code", "1", "--python", script)
        return Launch((bpy.app.binary_path, *options), environment)
    # -P: the script's folder must not lend its module names to others.
    folder = str(Path(bpy.utils.resource_path("LOCAL")).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), folder)))
    return Launch((sys.executable, "-P", script), environment)
