# SPDX-License-Identifier: GPL-3.0-or-later
"""Drivers that Blender does not run: Python expressions in a file whose scripts are not trusted.

Such a driver keeps its last value, and the rig stands wrong without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from ..errors import ScriptsDisabled


def check_drivers(scene) -> None:
    """Raise `ScriptsDisabled` when Blender refused to run a Python driver of the open file, naming its owner."""
    name = untrusted_driver()
    if name:
        raise ScriptsDisabled(
            f"The Python driver of {name} does not run, because the scripts of the file are not trusted: allow them "
            "(--enable-autoexec, or Preferences › Save & Load › Auto Run Python Scripts), or remove the driver.",
            field="autoexec",
        )


def untrusted_driver() -> str:
    """The first Python driver that does not run because scripts are switched off, in words; "" when there is none."""
    if not bpy.app.autoexec_fail:
        return ""
    return next(_failed_drivers(), "")


def _failed_drivers() -> Iterator[str]:
    """Python drivers that failed: those of objects first, then those of everything else."""
    collections = [value for value in map(_collection, dir(bpy.data)) if value is not None]
    for owner in (*bpy.data.objects, *(owner for owners in collections for owner in owners)):
        for block in (owner, getattr(owner, "node_tree", None)):
            animation = getattr(block, "animation_data", None)
            for curve in animation.drivers if animation is not None else ():
                driver = curve.driver
                is_python = driver.type == "SCRIPTED" and not driver.is_simple_expression
                if is_python and not driver.is_valid and not curve.mute:
                    yield f"{_name(owner)!r} ({curve.data_path}, {driver.expression!r})"


def _collection(name: str):
    value = getattr(bpy.data, name)
    return value if isinstance(value, bpy.types.bpy_prop_collection) else None


def _name(owner) -> str:
    """Shape keys go by the name of what they belong to: their own is the same for all."""
    return owner.user.name if isinstance(owner, bpy.types.Key) else owner.name
