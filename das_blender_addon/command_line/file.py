# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of a command: opened, and its scene found."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from ..errors import SettingsError
from ..scene.drivers import allow_scripts


def absolute(chosen: str) -> Path:
    """The file or folder ``chosen``; ``//`` at its beginning is the folder of the open file."""
    return Path(os.path.realpath(bpy.path.abspath(chosen)))


def open_file(file: str, *, scripts: bool | None) -> None:
    """Open the .blend ``file``.  ``scripts``: run what it brings, None as the preferences say.

    Raises `SettingsError`.
    """
    path = Path(os.path.realpath(file))
    if not path.is_file():
        raise SettingsError(f"{path} is no file." if path.exists() else f"There is no file {path}.", field="file")
    chosen = {} if scripts is None else {"use_scripts": scripts}
    try:
        bpy.ops.wm.open_mainfile(filepath=os.fspath(path), load_ui=False, **chosen)
    except RuntimeError as error:
        raise SettingsError(f"{path} cannot be opened: {str(error).strip()}", field="file") from error
    if scripts:
        allow_scripts()


def chosen_scene(name: str):
    """The scene ``name``, made active; "" for the active one.  Raises `SettingsError`."""
    if not name:
        return bpy.context.scene
    scene = bpy.data.scenes.get(name)
    if scene is None:
        names = ", ".join(repr(scene.name) for scene in bpy.data.scenes)
        raise SettingsError(f"There is no scene {name!r} in the file; there are {names}.", field="scene")
    if bpy.context.window is not None:
        bpy.context.window.scene = scene
    return scene
