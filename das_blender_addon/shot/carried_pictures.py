# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pictures that buttons put into a shot's folder for their user to paint.  No Blender in here."""

from __future__ import annotations

import json
from pathlib import Path

from ..client.files import write_whole
from ..protocol.png import blob_sha
from .pictures import Owner, place_for, put_aside_painted, read_record


def keep_carried(folder: Path, frame: int, png: bytes, geometry: str, owner: Owner, file: str) -> Path:
    """Put a picture that was carried from others into the place for ``frame``, to be painted there; what was painted
    for that frame before is put aside.

    ``geometry``: `PictureView.digest`.  Returns its path.  Raises `StorageError`.
    """
    put_aside_painted(folder, frame, geometry=geometry, owner=owner)
    path = place_for(folder, frame)
    record = {"maker": "carried", "frame": frame, "geometry": geometry, "file": file, "carried": blob_sha(png)}
    write_whole(path.with_suffix(".json"), json.dumps(record, indent=1, sort_keys=True).encode())
    write_whole(path, png)
    return path


def put_in_place(folder: Path, frame: int, png: bytes, owner: Owner) -> Path:
    """Put a picture of the user's own into the place for ``frame``; what was painted there before is put aside.

    Returns its path.  Raises `StorageError`.
    """
    put_aside_painted(folder, frame, owner=owner)
    path = place_for(folder, frame)
    path.with_suffix(".json").unlink(missing_ok=True)
    write_whole(path, png)
    return path


def is_carried(path: Path) -> bool:
    """Whether the picture ``path`` was carried from others, painted over by now or not."""
    return read_record(path).get("maker") == "carried"
