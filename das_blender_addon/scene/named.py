# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes by name, where a linked scene may have the name of one of the file's own."""

from __future__ import annotations

import bpy

from ..errors import SceneError


def scene_named(name_full: str):
    """The scene with this ``name_full``, in which a linked one says its library.  Raises `SceneError`."""
    for scene in bpy.data.scenes:
        if scene.name_full == name_full:
            return scene
    raise SceneError(f"There is no scene {name_full!r} in the file any more.")


def render_scene(scene, **options) -> None:
    """Blender's render operator on ``scene``, with its ``options``; it knows scenes by their short names only.

    Raises `RuntimeError`.
    """
    if bpy.data.scenes.get(scene.name) == scene:
        bpy.ops.render.render(scene=scene.name, **options)
        return
    with bpy.context.temp_override(scene=scene):
        bpy.ops.render.render(**options)
