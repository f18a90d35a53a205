# SPDX-License-Identifier: GPL-3.0-or-later
"""The light of a shot, told from key pictures: how much comes from where, so that the shadows of what moves are known
between them.

Two key pictures show the same surface point with different light where something has moved.  What has moved is known
exactly; unknown is only where light comes from.  Light falls on a point from each of D directions as far as the
surface is turned there and nothing that moves is in the way; how strong each is, is what explains best how the two
pictures differ: least squares without negative lights.  No lamp of the scene is asked: a painted picture has a light of
its own, and where nothing is explained, nothing is known.

What stands still casts no shadow here: its shadows are the same in all pictures.

Measured on the demo scene and a hard shadow, each with keys at 1 and 49 and at 1, 25 and 49 (frames 7, 13, 31 and 37 at
384×256): 31.0, 33.2, 38.0 and 38.0 dB.  Without finer directions 30.6, 32.9, 32.3 and 33.4: a hard sun is not where it
is.  With 32 cells instead of 64: 29.9, 32.7, none, 35.2; with 16 directions instead of 24: 30.8, 33.1, 36.2, 38.2; with
200 that are tried: 30.9, 33.2, 38.4, 38.1; with half the caster points: 31.0, 33.1, 36.9, 37.5; a bias of 1 or 3 cells:
30.3, 33.0, 36.4, 38.6 or 30.9, 33.2, 37.6, 38.0; ten times the evenness: 31.2, 33.1, 37.9, 38.1.  (All of that with
pictures of 192 pixels; now they have 384, see `relighting`, and the benchmarks say what half and twice of each does.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .drawn import rows_of
from .geometry import BACKGROUND, GeometrySequence
from .projection import Pinhole

#: Points on what moves that stand for it.
CASTER_POINTS = 6000
#: Cells along a shadow map's side.
CELLS = 64
#: How far towards the light of a point, in cells, something is another thing and no part of its own surface.
BIAS_CELLS = 2.0
#: Share of the shot's size that a vertex moves at least, to be called moving.
_LEAST_MOVE = 1e-4
#: Directions that are tried, and those that are kept, the strongest.
TRIED, KEPT = 100, 24
#: How often directions beside the strongest are tried, each time half as far away, and of how many.
REFINED, STRONGEST = 3, 6
#: Evens out the strengths of directions that explain as much.
_EVENNESS = 1e-5
_REWEIGHTED, _STEPS = 3, 200
_MOST_OFF = 0.5
_MOST_TANH = 0.9
#: Light from a direction is usable when it is this share of that from the one which lights most.
_LEAST_MEAN = 0.02
#: Share of light, of the mean, that is everywhere.
LEAST_LIGHT = 0.02


@dataclass(frozen=True)
class Casters:
    """Points on triangles that move, P of them.

    ``vertices`` [n]: those of the shot that are needed; ``corners`` [P,3]: three of them for each, with their
    ``weights`` [P,3] f32.
    """

    vertices: np.ndarray
    corners: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, geometry: GeometrySequence, indices: Sequence[int]) -> Casters | None:
        """What moves between the frames ``indices`` (0-based, increasing) and half-way between them; None for nothing.

        Spread evenly over its surface.  Triangles with holes and backgrounds cast nothing.
        """
        asked = sorted({*indices, *((a + b) // 2 for a, b in zip(indices, indices[1:], strict=False))})
        first = np.asarray(geometry.vertices[asked[0]])
        there = np.isfinite(first).all(axis=1)
        least = _LEAST_MOVE * float(np.linalg.norm(np.ptp(first[there], axis=0))) if there.any() else 0.0
        moved = np.zeros(len(first), bool)
        for index in asked[1:]:
            with np.errstate(invalid="ignore"):
                moved |= np.abs(np.asarray(geometry.vertices[index]) - first).max(axis=1) > least
        chosen = moved[geometry.triangles].any(axis=1) & there[geometry.triangles].all(axis=1)
        if geometry.cut is not None:
            chosen[geometry.cut.triangles] = False
        if geometry.roles is not None:
            chosen &= geometry.roles != BACKGROUND
        triangles = geometry.triangles[chosen]
        if not len(triangles):
            return None
        a, b, c = (first[corner].astype(np.float64) for corner in triangles.T)
        upto = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
        if not upto[-1] > 0.0:
            return None
        number = np.arange(CASTER_POINTS)
        triangle = np.minimum(np.searchsorted(upto, (number + 0.5) / CASTER_POINTS * upto[-1]), len(triangles) - 1)
        # Roberts' sequence: even over the triangles, and the same in every run.
        second, third = (number * 0.7548776662466927) % 1.0, (number * 0.5698402909980532) % 1.0
        beyond = second + third > 1.0
        second, third = np.where(beyond, 1.0 - second, second), np.where(beyond, 1.0 - third, third)
        weights = np.stack([1.0 - second - third, second, third], axis=1)
        vertices, corners = np.unique(triangles[triangle], return_inverse=True)
        return cls(vertices, corners.reshape(-1, 3), weights.astype(np.float32))

    def points(self, geometry: GeometrySequence, index: int) -> np.ndarray:
        """[P,3] f32, world: where they are in the frame ``index`` (0-based); without those that are nowhere."""
        corners = rows_of(geometry.vertices, index, self.vertices)[self.corners]
        found = sum(corners[:, corner] * self.weights[:, corner, None] for corner in range(3))
        return found[np.isfinite(found).all(axis=1)]


class ShadowMaps:
    """What the caster points [P,3] f32 hide from each of the ``directions`` [D,3] f32 (unit, towards the light)."""

    def __init__(self, casters: np.ndarray, directions: np.ndarray):
        self.directions = directions
        self._middle = casters.mean(axis=0) if len(casters) else np.zeros(3, np.float32)
        reach = float(np.sqrt(((casters - self._middle) ** 2).sum(axis=1).max(initial=0.0)))
        self._per_cell = np.float32(CELLS / 2.0 / max(reach, 1e-6) / 1.02)
        across = _across(directions)
        self._axes = np.stack([across, np.cross(directions, across), directions], axis=2).astype(np.float32)  # [D,3,3]
        self._nearest = np.full((len(directions), (CELLS + 2) ** 2), -np.inf, np.float32)
        places = (casters - self._middle) * self._per_cell
        for nearest, axes in zip(self._nearest, self._axes, strict=True):
            x, y, height = (places @ axes).T
            cell = (y + np.float32(CELLS / 2 + 1)).astype(np.int32) * (CELLS + 2)
            cell += (x + np.float32(CELLS / 2 + 1)).astype(np.int32)
            np.maximum.at(nearest, cell, height)

    def light(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[D,P] f32: the light that falls on ``points`` [P,3] f32 with ``normals`` [P,3] from each direction."""
        # Sums of our own: a product of matrices that small costs its library more to share out than to calculate.
        found = np.empty((len(self.directions), len(points)), np.float32)
        across, along, up = np.ascontiguousarray(normals.T, np.float32)
        places = np.ascontiguousarray(((points - self._middle) * self._per_cell).T)
        middle = np.float32(CELLS / 2 + 1)
        for light, nearest, axes in zip(found, self._nearest, self._axes, strict=True):
            np.multiply(across, axes[0, 2], out=light)
            light += along * axes[1, 2]
            light += up * axes[2, 2]
            np.maximum(light, 0.0, out=light)
            x, y, height = axes.T @ places
            x += middle
            y += middle
            cell = np.clip(y, 0.0, CELLS + 1, out=y).astype(np.int32)
            cell *= CELLS + 2
            cell += np.clip(x, 0.0, CELLS + 1, out=x).astype(np.int32)
            height += np.float32(BIAS_CELLS)
            light *= nearest.take(cell) <= height
        return found


@dataclass(frozen=True)
class Light:
    """``directions`` [D,3] f32 (unit, towards the light), ``strengths`` [D,3] f32 (red, green, blue), and what comes
    from everywhere, ``ambient`` [3] f32.  ``explained``: share of the differences between key pictures, 0 to 1.
    """

    directions: np.ndarray
    strengths: np.ndarray
    ambient: np.ndarray
    explained: float

    def on(self, maps: ShadowMaps, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """[P,3] f32: the light that ``points`` [P,3] with ``normals`` [P,3] have; more than nothing."""
        # Sums of our own, each in the same order whatever a library makes of a product.
        total, part = np.zeros((3, len(points)), np.float32), np.empty(len(points), np.float32)
        for light, strength in zip(maps.light(points, normals), self.strengths, strict=True):
            for own, of_channel in zip(total, strength, strict=True):
                own += np.multiply(light, of_channel, out=part)
        return total.T + self.ambient


@dataclass(frozen=True)
class Compared:
    """P surface points that two key pictures show: linear light ``before`` and ``after`` [P,3] f32; for each of the two
    moments casters [C,3], places [P,3] and normals [P,3].
    """

    before: np.ndarray
    after: np.ndarray
    moments: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]

    def light(self, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[D,P] f32, twice: what falls on the points from the ``directions`` [D,3]."""
        first, second = (ShadowMaps(casters, directions).light(*places) for casters, *places in self.moments)
        return first, second


def fitted(compared: Sequence[Compared]) -> Light:
    """The light that explains best how key pictures differ.

    Tried are directions over the whole sphere, then ever finer ones beside the strongest: a sun has one.  What is
    lighter in all of a picture than in the other is not of things that move.
    """
    before, after = (np.concatenate([getattr(pair, name) for pair in compared]) for name in ("before", "after"))
    pairs = np.repeat(np.arange(len(compared)), [len(pair.before) for pair in compared])
    ratio = np.log(after / before)
    for pair in range(len(compared)):
        ratio[pairs == pair] -= np.median(ratio[pairs == pair], axis=0)
    chosen, light = np.zeros((0, 3), np.float32), (np.zeros((0, len(pairs)), np.float32),) * 2
    added, angle = _directions(TRIED), (4.0 * np.pi / TRIED) ** 0.5
    for _ in range(1 + REFINED):
        more = [np.concatenate(part, axis=1) for part in zip(*(pair.light(added) for pair in compared), strict=True)]
        chosen, light = np.concatenate([chosen, added]), tuple(map(np.concatenate, zip(light, more, strict=True)))
        strengths, _ = _strengths(ratio.mean(axis=1, keepdims=True), *light)
        order = np.argsort(-strengths[:-1].sum(axis=1), kind="stable")
        angle /= 2.0
        added = _beside(chosen[order[:STRONGEST]], angle)
        kept = np.sort(order[:KEPT])
        chosen, light = chosen[kept], (light[0][kept], light[1][kept])
    strengths, explained = _strengths(ratio, *light)
    strengths = strengths.astype(np.float32)
    return Light(chosen, strengths[:-1], strengths[-1] + np.float32(LEAST_LIGHT), explained)


def _directions(count: int) -> np.ndarray:
    """[count,3] f32, evenly over the sphere (Fibonacci's spiral)."""
    number = np.arange(count) + 0.5
    up = 1.0 - 2.0 * number / count
    turn, reach = np.pi * (1.0 + 5.0**0.5) * number, np.sqrt(1.0 - up * up)
    return np.stack([reach * np.cos(turn), reach * np.sin(turn), up], axis=1).astype(np.float32)


def _beside(directions: np.ndarray, angle: float) -> np.ndarray:
    """[6·D,3] f32: six around each of the ``directions`` [D,3], ``angle`` radians away."""
    across = _across(directions)
    along = np.cross(directions, across)
    turns = np.arange(6) * (np.pi / 3.0)
    around = across[:, None] * np.cos(turns)[:, None] + along[:, None] * np.sin(turns)[:, None]
    return (directions[:, None] * np.cos(angle) + around * np.sin(angle)).reshape(-1, 3).astype(np.float32)


def _across(directions: np.ndarray) -> np.ndarray:
    """[D,3]: unit vectors at right angles to the ``directions`` [D,3]."""
    aside = np.where(np.abs(directions[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    across = np.cross(aside, directions)
    return across / np.linalg.norm(across, axis=1, keepdims=True)


def _strengths(ratio: np.ndarray, light_before: np.ndarray, light_after: np.ndarray) -> tuple[np.ndarray, float]:
    """[D+1,C] f64: strengths of the directions whose light [D,P] f32 fell before and after, and of what comes from
    everywhere; and the share of the ``ratio`` [P,C], natural logarithms, that they explain, outliers cut.
    """
    ones = np.ones((1, len(ratio)), np.float32)
    first, second = (np.concatenate([light, ones]) for light in (light_before, light_after))
    mean = (first.mean(axis=1) + second.mean(axis=1)) / 2.0
    usable = np.flatnonzero(mean > _LEAST_MEAN * mean.max())
    first, second = first[usable] / mean[usable, None], second[usable] / mean[usable, None]
    found = np.zeros((len(mean), ratio.shape[1]))
    left = there = 0.0
    for channel in range(ratio.shape[1]):
        wanted = ratio[:, channel]
        target, change, total = np.tanh(wanted / 2.0), second - first, first + second
        strengths, level = None, np.full(len(wanted), 2.0, np.float32)
        for _ in range(_REWEIGHTED):
            rows = change / level
            squares, aim = rows @ rows.T / np.float32(len(wanted)), rows @ target / np.float32(len(wanted))
            strengths = _not_negative(squares.astype(np.float64), aim.astype(np.float64), strengths)
            level = strengths.astype(np.float32) @ total + np.float32(2.0 * LEAST_LIGHT)
        off = wanted - 2.0 * np.arctanh(np.clip(strengths.astype(np.float32) @ change / level, -_MOST_TANH, _MOST_TANH))
        left += np.minimum(off**2, _MOST_OFF**2).sum()
        there += np.minimum(wanted**2, _MOST_OFF**2).sum()
        found[usable, channel] = strengths / mean[usable]
    return found, 1.0 - left / max(there, 1e-12)


def _not_negative(squares: np.ndarray, aim: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    """[D] f64 ≥ 0 of sum 1 with the least x·squares·x − 2 x·aim (Beck and Teboulle, "FISTA", 2009)."""
    count = len(squares)
    found = np.full(count, 1.0 / count) if start is None else start
    if not np.trace(squares) > 0.0:
        return found
    squares = squares + _EVENNESS * np.trace(squares) * np.eye(count)
    rate = 1.0 / np.linalg.norm(squares, 2)
    ahead, pace, numbers = found, 1.0, np.arange(1, count + 1)
    for _ in range(_STEPS):  # methods and not functions: what is so small costs its call
        moved = ahead - rate * (np.einsum("ij,j->i", squares, ahead) - aim)
        order = moved.copy()
        order.sort()
        order = order[::-1]
        excess = (order.cumsum() - 1.0) / numbers
        moved = np.maximum(moved - excess[(order > excess).nonzero()[0][-1]], 0.0)
        faster = (1.0 + np.sqrt(1.0 + 4.0 * pace * pace)) / 2.0
        ahead, found, pace = moved + (pace - 1.0) / faster * (moved - found), moved, faster
    return found


def places_and_normals(
    inverse_depth: np.ndarray, rows: np.ndarray, columns: np.ndarray, camera: Pinhole
) -> tuple[np.ndarray, np.ndarray]:
    """World places [P,3] f32 and normals [P,3] f32, towards the camera, of what the pixels ``rows``, ``columns`` [P]
    see; ``inverse_depth`` [H,W] is 1/Blender units, more than 0 at all of them.

    Of the two neighbours on an axis that counts which is nearer in depth.
    """
    height, width = inverse_depth.shape
    flat = inverse_depth.reshape(-1)
    here = flat.take(rows * width + columns)
    middle = _seen_at(here, rows, columns, camera)
    along = []
    for down, right in ((0, 1), (1, 0)):
        best, sign, gap = None, None, None
        for step in (1, -1):
            row, column = np.clip(rows + step * down, 0, height - 1), np.clip(columns + step * right, 0, width - 1)
            there = flat.take(row * width + column)
            off = np.where((there > 0.0) & ((row != rows) | (column != columns)), np.abs(there - here), np.inf)
            if best is None:
                best, sign, gap = (row, column, there), np.ones(len(rows)), off
            else:
                better = off < gap
                best = tuple(np.where(better, new, old) for new, old in zip((row, column, there), best, strict=True))
                sign, gap = np.where(better, -1.0, sign), np.minimum(gap, off)
        row, column, there = best
        there = np.where(there > 0.0, there, here)
        along.append((_seen_at(there, row, column, camera) - middle) * sign[:, None])
    normal = np.cross(along[1], along[0])
    length = np.sqrt(np.einsum("pk,pk->p", normal, normal))[:, None]
    normal = np.where(length > 0.0, normal / np.maximum(length, 1e-30), [[0.0, 0.0, -1.0]])
    turn = camera.optical_from_world[:3, :3]
    world = (middle - camera.optical_from_world[:3, 3]) @ turn
    return world.astype(np.float32), (normal @ turn).astype(np.float32)


def _seen_at(inverse_depth, rows, columns, camera: Pinhole) -> np.ndarray:
    """[P,3] f64, optical space: what is seen at pixels with ``inverse_depth`` [P] > 0."""
    depth = 1.0 / inverse_depth.astype(np.float64)
    scale = np.ones_like(depth) if camera.is_orthographic else depth
    x = (columns + 0.5 - camera.principal_px[0]) / camera.focal_px[0] * scale
    y = (rows + 0.5 - camera.principal_px[1]) / camera.focal_px[1] * scale
    return np.stack([x, y, depth], axis=1)
