# SPDX-License-Identifier: GPL-3.0-or-later
"""First frames that are open in this Blender: data blocks that show their files, and may hold more than those do."""

from __future__ import annotations

import os
from pathlib import Path

import bpy


def strokes_on(path: Path):
    """The data block of the picture ``path`` with strokes that were not saved, None where there is none."""
    return next((image for image in _showing(path) if image.is_dirty and image.has_data and image.users), None)


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
