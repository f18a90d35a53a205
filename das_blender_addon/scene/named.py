# SPDX-License-Identifier: GPL-3.0-or-later
"""Data blocks by name.  A linked one may have the name of one of the file's own: its full name says its library."""

from __future__ import annotations

import bpy

from ..errors import SceneError


def scene_named(name_full: str):
    """The scene with this ``name_full``, in which a linked one says its library.  Raises `SceneError`."""
    scene = _named(bpy.data.scenes, name_full)
    if scene is None:
        raise SceneError(f"There is no scene {name_full!r} in the file any more.")
    return scene


def image_named(name_full: str):
    """The image with this ``name_full``, None where there is none."""
    return _named(bpy.data.images, name_full)


def text_named(name_full: str):
    """The text with this ``name_full``, None where there is none."""
    return _named(bpy.data.texts, name_full)


def _named(blocks, name_full: str):
    return next((block for block in blocks if block.name_full == name_full), None)


def render_scene(scene, **options) -> None:
    """Blender's render operator on ``scene``, with its ``options``; it knows scenes by their short names only.

    Raises `RuntimeError`.
    """
    if bpy.data.scenes.get(scene.name) == scene:
        bpy.ops.render.render(scene=scene.name, **options)
        return
    with bpy.context.temp_override(scene=scene):
        bpy.ops.render.render(**options)
