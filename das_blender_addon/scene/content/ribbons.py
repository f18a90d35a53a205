# SPDX-License-Identifier: GPL-3.0-or-later
"""Strands of hair → ribbons: one strip of quads per strand that faces the camera, as wide as the strand is thick.

The ribbon of each frame faces that frame's camera: each of its points keeps its place along its strand and its side.

Strands are thinned where they are thinner than `THINNEST_PX`, in a dense groom `THINNEST_DENSE_PX`: of those that are a
tenth of it, a tenth stays, each as wide as it is, so that as much of the picture is covered.  Which ones stay goes by
their number alone, and more of them where the camera is nearer.  The rest has no width and is not drawn, and keeps its
place in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .eye import Eye
from .shape import Faces, Shape, placed

THINNEST_PX = 0.25
"""Pixels that a ribbon is wide at least."""
THINNEST_DENSE_PX = 1.0
"""The same where there are more than `DENSE_SEGMENTS`."""
DENSE_SEGMENTS = 100_000
"""Segments of strands beyond which a groom is dense."""
SMOOTH_SEGMENTS = 200_000
"""Segments that strands are divided into, at most, to be as smooth as Blender draws them."""
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Strands:
    """``points`` [P,3] f32 local; ``radii`` [P] f32, local units; ``starts`` [S+1] i64: the first point of each strand,
    then P.  Every strand has two points at least.  ``is_straight``: lines lead from point to point, no curve.
    """

    points: np.ndarray
    radii: np.ndarray
    starts: np.ndarray
    is_straight: bool = False


class Ribbons:
    """Makes the ribbons of strands that are as many, with as many points, in every frame."""

    def __init__(self, starts: np.ndarray, is_straight: bool = False):
        """For strands with these ``starts`` and straight or not, see `Strands`."""
        self.starts, self.is_straight = starts, is_straight
        segments = int(starts[-1]) - (len(starts) - 1)
        smooth = (steps for steps in (4, 2) if segments * steps <= SMOOTH_SEGMENTS and not is_straight)
        steps = next(smooth, 1)
        self._thinnest_px = np.float32(THINNEST_DENSE_PX if segments > DENSE_SEGMENTS else THINNEST_PX)
        self._spline = _Spline(starts, steps) if steps > 1 else None
        drawn = starts if self._spline is None else self._spline.starts
        self._drawn = drawn
        count = int(drawn[-1])
        number = np.arange(count)
        strand = np.repeat(np.arange(len(drawn) - 1), np.diff(drawn))
        self._strand = strand
        self._before = np.maximum(number - 1, drawn[strand])
        self._after = np.minimum(number + 1, drawn[strand + 1] - 1)
        self._chance = (np.arange(1, len(drawn)) * _GOLDEN % 1.0).astype(np.float32)
        first = np.delete(number, drawn[1:] - 1).astype(np.int32) * 2
        corners = np.stack([first, first + 1, first + 3, first + 2], axis=1)
        triangles = corners[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
        self.faces = Faces(2 * count, len(first), corners.reshape(-1), triangles)

    def shape(self, strands: Strands, world_from_local: np.ndarray, eye: Eye) -> Shape:
        """The ribbons of ``strands`` at ``world_from_local`` [3,4] f32, seen by ``eye``."""
        points, radii, seen = strands.points, strands.radii, eye.within(world_from_local)
        if self._spline is not None:
            both = self._spline(np.concatenate([points, radii[:, None]], axis=1))
            points, radii = both[:, :3], np.maximum(both[:, 3], np.float32(0.0))
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            # In local space: a strand that is squeezed is flat in the world, as Blender draws it.
            side = np.zeros_like(points)
            if seen is not None:
                along = points.take(self._after, axis=0) - points.take(self._before, axis=0)
                side = _across(along, seen[0] - points)
                side *= radii[:, None]
            points, side = placed(points, world_from_local), side @ world_from_local[:, :3].T
            side *= self._widened(points, np.sqrt(np.einsum("pk,pk->p", side, side)), eye)[:, None]
        positions = np.empty((len(points), 2, 3), np.float32)
        np.subtract(points, side, out=positions[:, 0])
        np.add(points, side, out=positions[:, 1])
        return Shape(positions.reshape(-1, 3), self.faces)

    def _widened(self, points, radii, eye: Eye) -> np.ndarray:
        """[P] f32: how many times wider than it is each point's strand is drawn; 0 where it is not.  ``points`` [P,3]
        and ``radii`` [P] f32: in the world.
        """
        width_px = 2.0 * radii * eye.pixels_per_unit(points)
        counts = np.diff(self._drawn)
        share = np.add.reduceat(width_px, self._drawn[:-1]) / (counts * self._thinnest_px)
        widened = np.where(share >= 1.0, np.float32(1.0), np.where(self._chance < share, 1.0 / share, 0.0))
        return widened.astype(np.float32).take(self._strand)


class _Spline:
    """Uniform Catmull-Rom curves through the points of strands, each segment in ``steps`` parts; their ends doubled."""

    def __init__(self, starts: np.ndarray, steps: int):
        counts = np.diff(starts)
        strand = np.repeat(np.arange(len(counts)), (counts - 1) * steps + 1)
        self.starts = np.concatenate([[0], np.cumsum((counts - 1) * steps + 1)])
        place = np.arange(len(strand)) - self.starts[strand]
        segment, part = np.divmod(place, steps)
        last = counts[strand] - 1
        at_end = segment == last
        segment, t = np.where(at_end, last - 1, segment), np.where(at_end, 1.0, part / steps)
        base = starts[strand]
        self._rows = [base + np.clip(segment + step, 0, last) for step in (-1, 0, 1, 2)]
        t2, t3 = t * t, t * t * t
        weights = (-t3 + 2 * t2 - t, 3 * t3 - 5 * t2 + 2, -3 * t3 + 4 * t2 + t, t3 - t2)
        self._weights = [(0.5 * weight).astype(np.float32)[:, None] for weight in weights]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """``values`` [P,C] f32 of the strands' points → those of the finer points."""
        made = values.take(self._rows[0], axis=0) * self._weights[0]
        for rows, weight in zip(self._rows[1:], self._weights[1:], strict=True):
            made += values.take(rows, axis=0) * weight
        return made


def _across(along: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """[P,3] f32: unit vectors across ``along`` [P,3] and ``towards`` [P,3]; 0 where those agree."""
    ax, ay, az = along.T
    bx, by, bz = towards.T
    across = np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)
    length = np.sqrt(np.einsum("pk,pk->p", across, across))
    lost = ~(length > 0.0)
    across /= length[:, None]
    across[lost] = 0.0
    return across
