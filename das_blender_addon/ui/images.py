# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the extension in Blender's own Image Editor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import bpy

from ..scene.colours import read_as_srgb
from ..shot.open_pictures import holds_more

OUR_NAMES = "DAS "
"""Begins the names of images that the extension makes; by it they are known in a file that is opened again."""

_ours: set[int] = set()
"""Images (`session_uid`) that were shown by a button of the extension."""


def load_sequence(name: str, files: list[Path]):
    """The image data block ``name`` as the sequence of ``files``; the one that is there already is used again."""
    image = bpy.data.images.get(name)
    if image is None or holds_more(image):  # its user's
        image = bpy.data.images.load(os.fspath(files[0]))
        image.name = name
    image.filepath = os.fspath(files[0])
    image.source = "SEQUENCE" if len(files) > 1 else "FILE"
    image.reload()
    return image


def show_image(image, num_frames: int = 1, frame_start: int = 1) -> None:
    """Show ``image`` in an Image Editor that is free for it, else in a window of its own; not in the background."""
    if bpy.app.background:
        return
    manager = bpy.context.window_manager
    area = editor_for(image, [area for window in manager.windows for area in window.screen.areas])
    if area is None:
        with bpy.context.temp_override(window=manager.windows[0]):
            bpy.ops.wm.window_new()
        area = manager.windows[-1].screen.areas[0]
        area.type = "IMAGE_EDITOR"
        area.ui_type = "IMAGE_EDITOR"
    put(image, area.spaces.active, num_frames, frame_start)


def shown_as(name: str) -> Callable[[list[Path]], None]:
    """``show(files)``: `show_image` of the sequence ``name``, in step with the timeline where files go by frames."""

    def show(files: list[Path]) -> None:
        image = load_sequence(name, files)
        read_as_srgb(image)
        show_image(image, len(files), int(files[0].stem) if len(files) > 1 else 1)

    return show


def editor_for(image, areas):
    """The Image Editor among ``areas`` that may show ``image``: one that shows it, another picture of ours, or nothing.
    None where there is none; a UV editor, or one with a mask, is its user's.
    """
    free = [area for area in areas if area.type == "IMAGE_EDITOR" and _is_free(area, image)]
    return max(free, key=lambda area: _rank(area.spaces.active.image, image), default=None)


def put(image, space, num_frames: int = 1, frame_start: int = 1) -> None:
    """Let the Image Editor ``space`` show ``image``, a sequence of ``num_frames``."""
    _ours.add(image.session_uid)
    space.image = image
    if num_frames > 1:
        space.image_user.frame_duration = num_frames
        space.image_user.frame_start = frame_start
        space.image_user.use_auto_refresh = True


def _is_free(area, image) -> bool:
    space = area.spaces.active
    return area.ui_type == "IMAGE_EDITOR" and space.mode in {"VIEW", "PAINT"} and _rank(space.image, image) > 0


def _rank(shown, image) -> int:
    """How well an editor that shows ``shown`` suits ``image``, 0 for not at all: strokes that were not saved may be
    nowhere else.
    """
    if shown is None:
        return 1
    if shown == image:
        return 3
    if shown.is_dirty:
        return 0
    return 2 if shown.session_uid in _ours or shown.name.startswith(OUR_NAMES) else 0
