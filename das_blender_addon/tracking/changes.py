# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes whose topology changes: each lives through *epochs*, in which its topology is constant, linked to each other.

An epoch has vertices of its own, which are there in the frames of its life only.  What joins it to its neighbours are
two links: where each of its points lay on the epoch before, at the moment of the change, and where it went to on the
epoch after.  A point is followed from epoch to epoch along them, as far as wanted, and with each epoch's own vertices
to any frame of that epoch's life.  Nothing is kept for every pair of frames: links grow with the geometry itself.

Where triangles are large an epoch is drawn as smaller ones (`fine`): links are given at vertices and interpolated
between them, and what is new must not take a whole wall with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import StorageError

NONE = -1
START, COUNT, TRIANGLES, NUM_TRIANGLES, FIRST, LAST, BEFORE, AFTER, FINE, LINK_BEFORE, LINK_AFTER = range(11)
"""Columns of `Changes.epochs`: first vertex and number of vertices; first triangle and number of triangles; first and
last frame of its life (Blender's numbers); the epochs before and after; and places in `Changes.arrays`."""
COLUMNS = 11
MOST_LOST = 0.5


@dataclass(frozen=True)
class Changes:
    """All epochs of a shot.

    ``epochs`` [E,11] i64: see the columns; `NONE` where there is no such thing.  ``arrays``: what they point to, each
    read when it is asked for: at ``FINE`` triangles [m,3] i32 over the epoch's points, then the points as corners
    [n,3] i32 and weights [n,3] f32 over its vertices; without, the vertices are the points.  At a link corners [n,3]
    i32 among the other epoch's points and weights [n,3] f32; NaN for a point that the other epoch does not have.
    """

    epochs: np.ndarray
    arrays: Sequence[np.ndarray]

    def in_memory(self) -> Changes:
        """The same without a file."""
        return Changes(self.epochs, tuple(np.array(array) for array in self.arrays))


def combined(points: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[n,3] f32: ``points`` [·,3] at ``corners`` [n,3], weighted by ``weights`` [n,3].

    NaN where the weights are, and where corners that are nowhere count for more than half; with less, the others stand
    for them: else what is new would grow by a triangle with every link.
    """
    total = np.zeros(corners.shape, np.float32)
    lost = np.zeros(len(corners), np.float32)
    for corner in range(3):
        weight = weights[:, corner]
        part = points.take(corners[:, corner], axis=0)
        nowhere = np.isnan(part).any(axis=1)
        part[nowhere] = 0.0
        lost += np.where(nowhere, weight, np.float32(0.0))
        total += part * weight[:, None]
    some = np.flatnonzero(lost > 0.0)
    total[some] /= np.where(lost[some] < MOST_LOST, 1.0 - lost[some], np.nan)[:, None]
    return total


class ArrayFile:
    """Arrays one after the other in a file, written forward: `append` gives each its number."""

    def __init__(self, path: Path):
        self._path = Path(path)
        self._file = None
        self._written = 0
        self.rows: list[tuple[int, int, int]] = []

    def append(self, array: np.ndarray) -> int:
        """Write ``array`` [n,3], i32 or f32.  Raises OSError when the disk refuses."""
        if self._file is None:
            self._file = self._path.open("wb")
        self._file.write(np.ascontiguousarray(array).data)
        self.rows.append((self._written, len(array), int(array.dtype.kind == "f")))
        self._written += array.nbytes
        return len(self.rows) - 1

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class FiledArrays(Sequence):
    """What an `ArrayFile` wrote: ``rows`` [A,3] i64 are offset in bytes, length, and whether it is f32."""

    def __init__(self, path: Path, rows: np.ndarray):
        self._path, self._rows = Path(path), rows

    @property
    def parts(self) -> tuple[Path, np.ndarray]:
        """What it is made of: for another process, that reads the same file."""
        return self._path, self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> np.ndarray:
        """The array ``number``.  Raises `StorageError`."""
        offset, length, is_float = (int(value) for value in self._rows[number])
        kind = np.float32 if is_float else np.int32
        if not length:
            return np.zeros((0, 3), kind)
        try:
            return np.memmap(self._path, kind, "r", offset=offset, shape=(length, 3))
        except (OSError, ValueError) as error:
            raise StorageError(f"The geometry {self._path} cannot be read ({error}); start again.") from error
