# SPDX-License-Identifier: GPL-3.0-or-later
"""What is drawn in a frame, and where the points of that surface were in any other frame.

Where no topology changes, every frame draws the same triangles, and a point's place in another frame is that of its
vertices there.  Where one does, a frame draws the epochs that live in it, and their points are followed along the links
(`changes`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import changes as at
from .changes import NONE, combined
from .cut_outs import CutOuts
from .geometry import BACKGROUND, HOLE, SILHOUETTE, GeometrySequence
from .projection import Pinhole


@dataclass(frozen=True)
class Drawn:
    """The surface of one frame: ``triangles`` [M,3] i32 over its points; ``cut``: those of them that have holes, None
    where none has; ``epochs``: those that it draws; ``roles`` [M] u8: of its triangles, None where all are tracked;
    ``objects`` [M] i32: whose they are, see `GeometrySequence`; ``of_shot`` [M] i64: which of the shot's triangles each
    is, `NONE` for none of them, None where all are the shot's.
    """

    triangles: np.ndarray
    cut: CutOuts | None = None
    epochs: tuple[int, ...] = ()
    roles: np.ndarray | None = None
    objects: np.ndarray | None = None
    of_shot: np.ndarray | None = None

    def vertices_of(self, role: int) -> np.ndarray:
        """[n] i32: the points of the triangles that have the ``role``."""
        if self.roles is None:
            return np.zeros(0, np.int32)
        return np.unique(self.triangles[self.roles == role])

    def without_holes(self, pixels: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the flat ``pixels`` [P] and the triangles that they have ``seen`` [P] those that see a surface; and the
        pixels that see a hole.
        """
        if self.roles is None:
            return pixels, seen, pixels[:0]
        is_hole = self.roles[seen] == HOLE
        if not is_hole.any():
            return pixels, seen, pixels[:0]
        return pixels[~is_hole], seen[~is_hole], pixels[is_hole]


class DrawnSurfaces:
    """The surfaces of a shot's frames; equal ones are one object.  Cheapest when asked for frame after frame."""

    def __init__(self, geometry: GeometrySequence):
        self._geometry, self._changes = geometry, geometry.changes
        self._last: Drawn | None = None
        self._followed: dict[tuple[int, int], np.ndarray] = {}
        if self._changes is None:
            self._last = Drawn(geometry.triangles, geometry.cut, roles=geometry.roles, objects=geometry.objects)
        else:
            self._find_constant()

    def at(self, index: int) -> Drawn:
        """What the frame ``index`` (0-based) draws."""
        if self._changes is None:
            return self._last
        frame, epochs = self._geometry.frames[index], self._changes.epochs
        alive = (epochs[:, at.FIRST] <= frame) & (frame <= epochs[:, at.LAST])
        numbers = tuple(np.flatnonzero(alive).tolist())
        if self._last is None or self._last.epochs != numbers:
            triangles, of_shot = self._triangles(numbers)
            per_triangle = (self._geometry.roles, self._geometry.objects)
            roles, objects = (self._of_triangles(values, numbers, of_shot) for values in per_triangle)
            self._last = Drawn(triangles, self._cut(of_shot), numbers, roles, objects, of_shot)
        return self._last

    def points(self, surface: Drawn, index: int) -> np.ndarray:
        """[N,3] f32, world: where the points of ``surface`` were, are or will be in the frame ``index`` (0-based); NaN
        for those that were not there.
        """
        if self._changes is None:
            return self._geometry.vertices[index]
        parts = [rows_of(self._geometry.vertices, index, self._constant)]
        parts += [self._points_of(number, index, surface) for number in surface.epochs]
        return np.concatenate(parts)

    def optical(self, surface: Drawn, index: int, camera: Pinhole) -> np.ndarray:
        """[N,3] f64: `points` in the optical space of ``camera``, the frame's, as they are drawn there: backgrounds lie
        behind everything.
        """
        points = camera.optical_points(self.points(surface, index))
        background = surface.vertices_of(BACKGROUND)
        if len(background):
            points[background] = camera.pushed_away(points[background])
        return points

    def known(self, surface: Drawn, index: int, camera: Pinhole) -> np.ndarray:
        """`optical`, NaN for points that nobody knows from one frame to another: those of silhouettes."""
        points = self.optical(surface, index, camera)
        silhouette = surface.vertices_of(SILHOUETTE)
        if len(silhouette):
            points[silhouette] = np.nan
        return points

    def _find_constant(self) -> None:
        """Vertices and triangles that no epoch has."""
        geometry, epochs = self._geometry, self._changes.epochs
        vertices = np.ones(geometry.vertices.shape[1], bool)
        triangles = np.ones(len(geometry.triangles), bool)
        for epoch in epochs:
            vertices[epoch[at.START] : epoch[at.START] + epoch[at.COUNT]] = False
            triangles[epoch[at.TRIANGLES] : epoch[at.TRIANGLES] + epoch[at.NUM_TRIANGLES]] = False
        self._constant = np.flatnonzero(vertices)
        places = np.cumsum(vertices, dtype=np.int32) - np.int32(1)
        self._constant_triangles = places[geometry.triangles[triangles]]
        self._constant_numbers = np.flatnonzero(triangles)

    def _triangles(self, numbers: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Triangles of the constant meshes and of the epochs ``numbers``, and [M] which of the shot's each is, `NONE`
        for none of it.
        """
        parts, offset, of_shot = [self._constant_triangles], len(self._constant), [self._constant_numbers]
        for number in numbers:
            epoch = self._changes.epochs[number]
            if epoch[at.FINE] == NONE:
                first, start, count = (int(epoch[column]) for column in (at.TRIANGLES, at.START, at.COUNT))
                own = self._geometry.triangles[first : first + epoch[at.NUM_TRIANGLES]] - np.int32(start)
                of_shot.append(np.arange(first, first + len(own)))
            else:
                of_shot.append(np.full(len(self._changes.arrays[epoch[at.FINE]]), NONE))
                own, count = self._changes.arrays[epoch[at.FINE]], len(self._changes.arrays[epoch[at.FINE] + 1])
            parts.append(own + np.int32(offset))
            offset += count
        return np.concatenate(parts), np.concatenate(of_shot)

    def _of_triangles(self, values: np.ndarray | None, numbers: tuple[int, ...], of_shot) -> np.ndarray | None:
        """``values`` of the shot's triangles for the triangles ``of_shot`` [M]; finer ones have that of their epoch."""
        if values is None:
            return None
        found = values[of_shot]
        place = len(self._constant_numbers)
        for number in numbers:
            epoch = self._changes.epochs[number]
            is_fine = epoch[at.FINE] != NONE
            count = len(self._changes.arrays[epoch[at.FINE]]) if is_fine else int(epoch[at.NUM_TRIANGLES])
            if is_fine and epoch[at.NUM_TRIANGLES]:
                found[place : place + count] = values[epoch[at.TRIANGLES]]
            place += count
        return found

    def _cut(self, of_shot: np.ndarray) -> CutOuts | None:
        """The triangles with holes among those that are number ``of_shot`` [M] of the shot, `NONE` for none of it."""
        cut = self._geometry.cut
        if cut is None:
            return None
        places = np.full(len(self._geometry.triangles) + 1, NONE)
        places[of_shot] = np.arange(len(of_shot))
        places = places[cut.triangles]
        order = np.argsort(places)
        order = order[places[order] != NONE]
        return CutOuts(places[order].astype(np.int32), cut.uv[order], cut.picture[order], cut.pictures)

    def _points_of(self, number: int, index: int, surface: Drawn) -> np.ndarray:
        """[n,3] f32: the points of the epoch ``number``, which ``surface`` draws, in the frame ``index``."""
        epochs, arrays, frame = self._changes.epochs, self._changes.arrays, self._geometry.frames[index]
        links, known = [], None
        while known is None:
            epoch = epochs[number]
            known = self._followed.get((number, index))
            if known is not None:
                break
            if frame < epoch[at.FIRST]:
                link, other = at.LINK_BEFORE, at.BEFORE
            elif frame > epoch[at.LAST]:
                link, other = at.LINK_AFTER, at.AFTER
            else:
                known = self._own_points(epoch, index)
                break
            if epoch[link] == NONE or epoch[other] == NONE:
                known = np.full((self._num_points(epoch), 3), np.nan, np.float32)
                break
            links.append((number, int(epoch[link])))
            number = int(epoch[other])
        for _, link in reversed(links):
            known = combined(known, arrays[link], arrays[link + 1])
        if links:
            drawn = set(surface.epochs)
            for key in [key for key in self._followed if key[1] == index and key[0] not in drawn]:
                del self._followed[key]
            self._followed[links[0][0], index] = known
        return known

    def _own_points(self, epoch: np.ndarray, index: int) -> np.ndarray:
        ids = np.arange(epoch[at.START], epoch[at.START] + epoch[at.COUNT])
        vertices = rows_of(self._geometry.vertices, index, ids)
        if epoch[at.FINE] == NONE:
            return vertices
        arrays, fine = self._changes.arrays, int(epoch[at.FINE])
        return combined(vertices, arrays[fine + 1], arrays[fine + 2])

    def _num_points(self, epoch: np.ndarray) -> int:
        if epoch[at.FINE] == NONE:
            return int(epoch[at.COUNT])
        return len(self._changes.arrays[epoch[at.FINE] + 1])


def rows_of(vertices, index: int, ids: np.ndarray) -> np.ndarray:
    """[n,3] f32: the vertices ``ids`` [n] of the frame ``index``."""
    return vertices[index][ids] if isinstance(vertices, np.ndarray) else vertices.rows(index, ids)
