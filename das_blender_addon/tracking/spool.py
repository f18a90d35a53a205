# SPDX-License-Identifier: GPL-3.0-or-later
"""Geometry on disk: written once, forward, a frame at a time; read by frame in any order.

    <folder>/vertices.f32     world-space vertices, one block [N of that frame,3] f32 after the other
    <folder>/changes.bin      how meshes whose topology changes go on (`changes`), where there are any
    <folder>/geometry.npz     triangles, cameras, frame numbers, and where each frame's block is; written last

A frame that equals the one before shares its block.  In memory are the frame at hand and the one before, however long
the shot; readers map the file.  The folder belongs to whoever made it, and is removed by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ..errors import StorageError
from .changes import ArrayFile, Changes, FiledArrays
from .cut_outs import CutOuts
from .geometry import CameraPath, GeometrySequence, Note

VERTICES, CHANGES, GEOMETRY = "vertices.f32", "changes.bin", "geometry.npz"
_CAMERA_ARRAYS = ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end")


@dataclass(frozen=True)
class Blocks:
    """Where the frames' blocks are: ``starts`` [T] i64, in vertices from the file's begin.

    ``spans`` [S,2] i64: the vertices that a block holds, from … to (not included), increasing; ``firsts`` [T+1] i64:
    where in ``spans`` each frame's begin.
    """

    starts: np.ndarray
    spans: np.ndarray
    firsts: np.ndarray

    def at(self, index: int) -> tuple[int, np.ndarray]:
        """Start and spans of one frame."""
        return int(self.starts[index]), self.spans[self.firsts[index] : self.firsts[index + 1]]

    def part(self, indices: list[int]) -> Blocks:
        spans = [self.at(index)[1] for index in indices]
        firsts = np.cumsum([0, *(len(of_frame) for of_frame in spans)])
        return Blocks(self.starts[indices], np.concatenate([np.zeros((0, 2), np.int64), *spans]), firsts)


class SpooledVertices:
    """The vertices [T,N,3] f32 of a spooled shot: ``vertices[index]`` reads the frame ``index`` (0 to T − 1) as [N,3].

    ``order`` [N] i64: the number under which each vertex was written; those that a frame's block does not hold were not
    there (NaN).
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, blocks: Blocks, order: np.ndarray):
        self._path, self._blocks, self._order = path, blocks, order
        self._is_in_order = bool((order == np.arange(len(order))).all())
        self.shape = (len(blocks.starts), len(order), 3)

    @property
    def parts(self) -> tuple[Path, Blocks, np.ndarray]:
        """What it is made of: for another process, that reads the same file."""
        return self._path, self._blocks, self._order

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(index, self._order)

    def rows(self, index: int, ids: np.ndarray) -> np.ndarray:
        """[n,3] f32: the vertices ``ids`` [n] of the frame ``index``."""
        return self._read(index, self._order[ids])

    def _read(self, index: int, numbers: np.ndarray) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no frame {index} in a shot of {len(self)}.")
        start, spans = self._blocks.at(index % len(self))
        lengths = spans[:, 1] - spans[:, 0]
        count = int(lengths.sum())
        found = np.full((len(numbers), 3), np.nan, np.float32)
        if count:
            try:
                block = np.memmap(self._path, np.float32, "r", offset=start * 12, shape=(count, 3))
            except (OSError, ValueError) as error:
                raise StorageError(f"The geometry {self._path} cannot be read ({error}); start again.") from error
            if numbers is self._order and self._is_in_order and spans.tolist() == [[0, len(numbers)]]:
                found[:] = block
                return found
            span = np.searchsorted(spans[:, 0], numbers, side="right") - 1
            there = np.flatnonzero((span >= 0) & (numbers < spans[span, 1]))
            shift = np.cumsum(lengths) - lengths - spans[:, 0]
            found[there] = block[numbers[there] + shift[span[there]]]
        return found

    def part(self, indices: Sequence[int]) -> SpooledVertices:
        """The frames ``indices`` (0 to T − 1), still on disk."""
        return SpooledVertices(self._path, self._blocks.part(list(indices)), self._order)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        frames = np.stack([self[index] for index in range(len(self))])
        return frames if dtype is None else frames.astype(dtype)


class SpoolWriter:
    """Writes the vertices of a shot into ``folder``, which exists."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._file = None
        self._changes = ArrayFile(self.folder / CHANGES)
        self._starts: list[int] = []
        self._spans: list[np.ndarray] = []
        self._written = 0
        self._last: np.ndarray | None = None

    def add(self, vertices: np.ndarray, spans: np.ndarray | None = None) -> None:
        """The next frame: ``vertices`` [N of this frame,3] f32 world space, NaN where there is none.

        ``spans`` [S,2] i64: which numbers they have, from … to (not included), increasing; None for 0 to N.  Raises
        `StorageError` when the disk refuses.
        """
        spans = np.array([(0, len(vertices))], np.int64) if spans is None else spans
        try:
            if self._file is None:
                self._file = (self.folder / VERTICES).open("wb")
            if self._last is None or not self._repeats(vertices, spans):
                self._starts.append(self._written)
                self._file.write(np.ascontiguousarray(vertices, np.float32).data)
                self._written += len(vertices)
            else:
                self._starts.append(self._starts[-1])
        except OSError as error:
            raise self._refused(error) from error
        self._spans.append(spans)
        self._last = vertices

    def _repeats(self, vertices: np.ndarray, spans: np.ndarray) -> bool:
        return np.array_equal(self._spans[-1], spans) and np.array_equal(self._last, vertices, equal_nan=True)

    def keep(self, array: np.ndarray) -> int:
        """Write an array of `Changes`, [n,3] i32 or f32; returns its number there.  Raises `StorageError`."""
        try:
            return self._changes.append(array)
        except OSError as error:
            raise self._refused(error) from error

    def finish(
        self,
        triangles: np.ndarray,
        order: np.ndarray,
        cameras: CameraPath,
        frames: tuple[int, ...],
        appearance: str = "",
        notes: tuple[Note, ...] = (),
        cut: CutOuts | None = None,
        epochs: np.ndarray | None = None,
        roles: np.ndarray | None = None,
        objects: np.ndarray | None = None,
        names: tuple[str, ...] = (),
    ) -> GeometrySequence:
        """All frames are there.  ``order`` [N] i64: see `SpooledVertices`; ``epochs``: see `Changes`, whose arrays were
        kept, None for no changes; the others: of `GeometrySequence`.

        Raises `StorageError`.
        """
        changes = {} if epochs is None else {
            "epochs": epochs, "arrays": np.array(self._changes.rows, np.int64).reshape(-1, 3)
        }
        try:
            self.close()
            part = self.folder / f"{GEOMETRY}.part"
            with part.open("wb") as file:
                np.savez(
                    file,
                    triangles=triangles,
                    order=order,
                    starts=np.array(self._starts, np.int64),
                    spans=np.concatenate([np.zeros((0, 2), np.int64), *self._spans]),
                    firsts=np.cumsum([0, *(len(spans) for spans in self._spans)]),
                    frames=np.array(frames, np.int64),
                    appearance=np.array(appearance),
                    notes=np.array([astuple(note) for note in notes], np.str_).reshape(-1, 3),
                    **({} if cut is None else cut.arrays()),
                    size=np.array([cameras.width, cameras.height], np.int64),
                    **{name: getattr(cameras, name) for name in _CAMERA_ARRAYS},
                    **({} if cameras.virtual_distance is None else {"virtual_distance": cameras.virtual_distance}),
                    **changes,
                    **({} if roles is None else {"roles": roles}),
                    **({} if objects is None else {"objects": objects, "names": np.array(names, np.str_)}),
                )
            part.replace(self.folder / GEOMETRY)
        except OSError as error:
            raise self._refused(error) from error
        return open_spool(self.folder)

    def close(self) -> None:
        """Let go of the files, also when the shot was not finished."""
        self._changes.close()
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
        cameras = CameraPath(
            **{name: said[name] for name in _CAMERA_ARRAYS},
            width=width,
            height=height,
            virtual_distance=said.get("virtual_distance"),
        )
        blocks = Blocks(said["starts"], said["spans"], said["firsts"])
        vertices = SpooledVertices(folder / VERTICES, blocks, said["order"])
        changes = None
        if "epochs" in said:
            changes = Changes(said["epochs"], FiledArrays(folder / CHANGES, said["arrays"]))
        notes, cut = tuple(Note(*map(str, note)) for note in said["notes"]), CutOuts.from_arrays(said)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile) as error:
        raise StorageError(f"The exported geometry in {folder} cannot be read ({error}); start again.") from error
    frames = tuple(int(frame) for frame in said["frames"])
    return GeometrySequence(
        said["triangles"], vertices, cameras, frames, str(said["appearance"]), notes, cut, changes,
        said.get("roles"), said.get("objects"), tuple(map(str, said.get("names", ()))),
    )
