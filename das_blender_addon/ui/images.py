# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the extension in Blender's own Image Editor."""

from __future__ import annotations

import os
from pathlib import Path

import bpy


def load_sequence(name: str, files: list[Path]):
    """The image data block ``name`` as the sequence of ``files``; the one that is there already is used again."""
    image = bpy.data.images.get(name)
    if image is None:
        image = bpy.data.images.load(os.fspath(files[0]))
        image.name = name
    image.filepath = os.fspath(files[0])
    image.source = "SEQUENCE" if len(files) > 1 else "FILE"
    image.reload()
    return image


def show_image(image, num_frames: int = 1, frame_start: int = 1) -> None:
    """Show ``image`` in an Image Editor: one that is open, else in a window of its own.  Nothing in the background."""
    if bpy.app.background:
        return
    manager = bpy.context.window_manager
    areas = [area for window in manager.windows for area in window.screen.areas if area.type == "IMAGE_EDITOR"]
    if not areas:
        with bpy.context.temp_override(window=manager.windows[0]):
            bpy.ops.wm.window_new()
        areas = [manager.windows[-1].screen.areas[0]]
        areas[0].type = "IMAGE_EDITOR"
    space = areas[0].spaces.active
    space.image = image
    if num_frames > 1:
        space.image_user.frame_duration = num_frames
        space.image_user.frame_start = frame_start
        space.image_user.use_auto_refresh = True
