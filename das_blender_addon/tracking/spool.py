# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry on disk: written once, forward, a frame at a time; read by frame in any order.

    <folder>/vertices.f32     world-space vertices, one block [N of that frame,3] f32 after the other
    <folder>/geometry.npz     triangles, cameras, frame numbers, and where each frame's block is; written last

A frame that equals the one before shares its block.  In memory are the frame at hand and the one before, however long
the shot; readers map the file.  The folder belongs to whoever made it, and is removed by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..errors import StorageError
from .cut_outs import CutOuts
from .geometry import CameraPath, GeometrySequence, Note

VERTICES, GEOMETRY = "vertices.f32", "geometry.npz"
_CAMERA_ARRAYS = ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end")


class SpooledVertices:
    """The vertices [T,N,3] f32 of a spooled shot: ``vertices[index]`` reads the frame ``index`` (0 to T − 1) as [N,3].

    ``order`` [N] i64: where in a frame's block each vertex is; those beyond a block's end were not there yet (NaN).
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, starts: np.ndarray, counts: np.ndarray, order: np.ndarray):
        self._path, self._starts, self._counts, self._order = path, starts, counts, order
        self.shape = (len(starts), len(order), 3)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no frame {index} in a shot of {len(self)}.")
        start, count = int(self._starts[index]), int(self._counts[index])
        frame = np.full((self.shape[1], 3), np.nan, np.float32)
        if count:
            try:
                block = np.memmap(self._path, np.float32, "r", offset=start * 12, shape=(count, 3))
            except (OSError, ValueError) as error:
                raise StorageError(f"The geometry {self._path} cannot be read ({error}); start again.") from error
            there = np.flatnonzero(self._order < count)
            frame[there] = block[self._order[there]]
        return frame

    def part(self, indices: Sequence[int]) -> SpooledVertices:
        """The frames ``indices`` (0 to T − 1), still on disk."""
        chosen = list(indices)
        return SpooledVertices(self._path, self._starts[chosen], self._counts[chosen], self._order)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        frames = np.stack([self[index] for index in range(len(self))])
        return frames if dtype is None else frames.astype(dtype)


class SpoolWriter:
    """Writes the vertices of a shot into ``folder``, which exists."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._file = None
        self._starts: list[int] = []
        self._counts: list[int] = []
        self._written = 0
        self._last: np.ndarray | None = None

    def add(self, vertices: np.ndarray) -> None:
        """The next frame: ``vertices`` [N of this frame,3] f32 world space, NaN where there is none.

        Raises `StorageError` when the disk refuses.
        """
        try:
            if self._file is None:
                self._file = (self.folder / VERTICES).open("wb")
            if self._last is None or not np.array_equal(self._last, vertices, equal_nan=True):
                self._starts.append(self._written)
                self._file.write(np.ascontiguousarray(vertices, np.float32).data)
                self._written += len(vertices)
            else:
                self._starts.append(self._starts[-1])
        except OSError as error:
            raise self._refused(error) from error
        self._counts.append(len(vertices))
        self._last = vertices

    def finish(
        self,
        triangles: np.ndarray,
        order: np.ndarray,
        cameras: CameraPath,
        frames: tuple[int, ...],
        appearance: str = "",
        notes: tuple[Note, ...] = (),
        cut: CutOuts | None = None,
    ) -> GeometrySequence:
        """All frames are there.  ``order`` [N] i64: see `SpooledVertices`; the others: of `GeometrySequence`.

        Raises `StorageError`.
        """
        try:
            if self._file is not None:
                self._file.close()
            part = self.folder / f"{GEOMETRY}.part"
            with part.open("wb") as file:
                np.savez(
                    file,
                    triangles=triangles,
                    order=order,
                    starts=np.array(self._starts, np.int64),
                    counts=np.array(self._counts, np.int64),
                    frames=np.array(frames, np.int64),
                    appearance=np.array(appearance),
                    notes=np.array([astuple(note) for note in notes], np.str_).reshape(-1, 3),
                    **({} if cut is None else cut.arrays()),
                    size=np.array([cameras.width, cameras.height], np.int64),
                    **{name: getattr(cameras, name) for name in _CAMERA_ARRAYS},
                )
            part.replace(self.folder / GEOMETRY)
        except OSError as error:
            raise self._refused(error) from error
        return open_spool(self.folder)

    def close(self) -> None:
        """Let go of the file, also when the shot was not finished."""
        if self._file is not None:
            self._file.close()

    def _refused(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        return StorageError(
            f"The scene's geometry cannot be written into {self.folder} ({reason}); free some space in the temporary "
            "folder."
        )


def open_spool(folder: Path) -> GeometrySequence:
    """The shot that a `SpoolWriter` finished in ``folder``; its vertices stay on disk.

    Raises `StorageError` when it is not there or cannot be read.
    """
    folder = Path(folder)
    try:
        with np.load(folder / GEOMETRY, allow_pickle=False) as arrays:
            said = {name: arrays[name] for name in arrays.files}
        width, height = (int(pixels) for pixels in said["size"])
        cameras = CameraPath(**{name: said[name] for name in _CAMERA_ARRAYS}, width=width, height=height)
        vertices = SpooledVertices(folder / VERTICES, said["starts"], said["counts"], said["order"])
        notes, cut = tuple(Note(*map(str, note)) for note in said["notes"]), CutOuts.from_arrays(said)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise StorageError(f"The exported geometry in {folder} cannot be read ({error}); start again.") from error
    frames = tuple(int(frame) for frame in said["frames"])
    return GeometrySequence(said["triangles"], vertices, cameras, frames, str(said["appearance"]), notes, cut)
