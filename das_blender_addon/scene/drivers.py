# SPDX-License-Identifier: GPL-3.0-or-later
"""Drivers that Blender does not run: Python expressions in a file whose scripts are not trusted.

Such a driver keeps its last value, and the rig stands wrong without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy

from ..errors import SceneError

OWNERS = (
    "objects",
    "armatures",
    "meshes",
    "curves",
    "cameras",
    "lights",
    "materials",
    "shape_keys",
    "node_groups",
    "worlds",
    "scenes",
    "lattices",
    "metaballs",
    "particles",
    "collections",
)


def check_drivers(scene) -> None:
    """Raise `SceneError` when Blender refused to run a Python driver of the open file, naming its owner."""
    name = untrusted_driver()
    if name:
        raise SceneError(
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
    for collection in OWNERS:
        for owner in getattr(bpy.data, collection, ()):
            for block, name in ((owner, owner.name), (getattr(owner, "node_tree", None), owner.name)):
                animation = getattr(block, "animation_data", None) if block is not None else None
                for curve in animation.drivers if animation is not None else ():
                    driver = curve.driver
                    is_python = driver.type == "SCRIPTED" and not driver.is_simple_expression
                    if is_python and not driver.is_valid and not curve.mute:
                        yield f"{name!r} ({curve.data_path}, {driver.expression!r})"
