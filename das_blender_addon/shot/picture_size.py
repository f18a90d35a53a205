# SPDX-License-Identifier: GPL-3.0-or-later
"""The size of a first frame that somebody painted or chose: the automatic size is that one, where the model makes it.
No Blender in here.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .pictures import Owner, first_frame_path, first_frame_state

_HEAD = struct.Struct(">8sI4sII")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def own_picture_size(folder: Path, frame: int, owner: Owner, path: str | Path = "") -> tuple[int, int] | None:
    """(width, height) in pixels of the user's own first frame for ``frame``: the file ``path``, else one that was
    painted in the shot's ``folder``.  None where there is none, or one that is no PNG.
    """
    if path:
        return png_size(Path(path))
    if first_frame_state(folder, frame, owner=owner) != "user":
        return None
    return png_size(first_frame_path(folder, frame, owner=owner))


def png_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels as the head of the file says; None for what is no PNG or cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with open(path, "rb") as file:
            signature, _, kind, width, height = _HEAD.unpack(file.read(_HEAD.size))
    except (OSError, struct.error):
        return None
    return (width, height) if signature == _SIGNATURE and kind == b"IHDR" else None
