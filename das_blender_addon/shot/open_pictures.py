# SPDX-License-Identifier: GPL-3.0-or-later
"""First frames that are open in this Blender: data blocks that show their files, and may hold more than those do."""

from __future__ import annotations

import os
from pathlib import Path

import bpy

from ..errors import StorageError
from .pictures import free_name


def strokes_on(path: Path):
    """The data block of the picture ``path`` with strokes that were not saved, None where there is none."""
    return next((image for image in _showing(path) if image.is_dirty and image.has_data and image.users), None)


def unsaved_strokes(path: Path):
    """`strokes_on`, shown anywhere or not."""
    return next((image for image in _showing(path) if image.is_dirty and image.has_data), None)


def keep_strokes(path: Path) -> Path | None:
    """Save the strokes on the picture ``path`` beside it, under a numbered name; returns that, None where there are
    none.  Raises `StorageError`.
    """
    image = unsaved_strokes(path)
    if image is None:
        return None
    kept = free_name(path)
    try:
        image.save(filepath=os.fspath(kept), save_copy=True)
    except RuntimeError as error:
        raise StorageError(
            f"The strokes on {path} cannot be saved as {kept}; save the image under another name."
        ) from error
    return kept


def read_again(path: Path) -> None:
    """The file ``path`` is another one by now: its data blocks show it."""
    for image in _showing(path):
        image.reload()


def holds_more(image) -> bool:
    """Whether ``image`` holds what its file does not: strokes that were not saved, or packed data of its own."""
    if image.is_dirty:
        return True
    if image.packed_file is None:
        return False
    try:
        return Path(_file(image)).read_bytes() != image.packed_file.data
    except OSError:
        return True


def _showing(path: Path) -> list:
    """The data blocks of the file ``path``."""
    name = os.path.basename(path)
    return [
        image
        for image in bpy.data.images
        if image.source == "FILE"
        and os.path.basename(image.filepath) == name
        and os.path.realpath(_file(image)) == os.path.realpath(path)
    ]


def _file(image) -> str:
    return bpy.path.abspath(image.filepath, library=image.library)
