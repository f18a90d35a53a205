# SPDX-License-Identifier: GPL-3.0-or-later
"""Vertex positions of every frame in a PC2 file, which Blender's Mesh Cache modifier reads."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import StorageError

_HEADER = "<12siiffi"
_MAGIC = b"POINTCACHE2\0"


def write_pc2(path: Path, frames: Iterable[np.ndarray], count: int, num_vertices: int) -> None:
    """``frames``: ``count`` arrays [V,3], in order.  The folder is made.  Raises `StorageError`."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(struct.pack(_HEADER, _MAGIC, 1, num_vertices, 0.0, 1.0, count))
            for frame in frames:
                file.write(np.ascontiguousarray(frame, "<f4").tobytes())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written ({error.strerror or error}); free some space there.") from error


def read_pc2(path: Path) -> np.ndarray:
    """[T,V,3] f32.  Raises `StorageError`."""
    try:
        data = path.read_bytes()
        magic, _, num_vertices, _, _, count = struct.unpack_from(_HEADER, data)
        if magic != _MAGIC:
            raise ValueError("it is no PC2 file")
        values = np.frombuffer(data, "<f4", offset=struct.calcsize(_HEADER))
        return values.reshape(count, num_vertices, 3).astype(np.float32)
    except (OSError, ValueError, struct.error) as error:
        raise StorageError(f"{path} cannot be read ({error}).") from error
