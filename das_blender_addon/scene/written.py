# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender has written of a render: on a full disk it leaves empty or cut files behind and calls them saved."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

PNG_END = b"IEND\xaeB`\x82"


def unwritten(scene, *, is_animation: bool) -> str:
    """Why the file of the frame that Blender has just written is none, one sentence; "" where it looks whole.

    ``is_animation``: else it is a still, whose file has no number.
    """
    render = scene.render
    if render.is_movie_format:
        return ""
    path = render.frame_path(frame=scene.frame_current) if is_animation else still_path(scene)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - len(PNG_END)))
            end = file.read() if size else b""
    except OSError as error:
        return f"The frame {path} cannot be read again ({error.strerror}); render it again."
    if not size:
        return f"The frame {path} was written as an empty file: the disk is full; free some space and render it again."
    if render.image_settings.file_format == "PNG" and end != PNG_END:
        return f"The frame {path} was cut off: the disk is full; free some space and render it again."
    return ""


def output_file(scene, frame: int) -> Path:
    """Where Blender writes the ``frame`` of an animation."""
    return Path(bpy.path.abspath(scene.render.frame_path(frame=frame)))


def still_path(scene) -> str:
    """Where Blender writes a still: the output path as it is, every # too, with the extension of the format."""
    render = scene.render
    number = f"{scene.frame_current:04d}"
    named = render.frame_path(frame=scene.frame_current)  # with what Blender 5 puts in for {names}
    extension = render.file_extension if render.use_file_extension else ""
    path = bpy.path.abspath(render.filepath)
    if "#" not in os.path.basename(path) and named.endswith(number + extension):
        path = named.removesuffix(extension).removesuffix(number)
    if not extension or os.path.isfile(path):
        return path
    root, other = os.path.splitext(path)
    return (root if other.lower() in bpy.path.extensions_image else path) + extension
