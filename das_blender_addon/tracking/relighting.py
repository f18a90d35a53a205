# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pictures relit for the frames between them: a shadow lies where the thing that casts it is, not half at the place
of each key picture.

The light of a shot is told from its key pictures (`light`).  A surface point that a key picture shows had one light
there and has another one in the frame; the key's colour is multiplied with the ratio of both.  The ratio is measured at
every few pixels of the frame and, because a surface has its own, joined between them along planes in depth.  At the
rim of a shadow the ratio is not exact, and a thin line is left: there a key picture counts little, and the other one,
whose shadow lies elsewhere, shows the surface.  What was lit is not made to glow: see `brightening`.

Measured against Cycles at 384×256, frames between keys at 1, 25 and 49 (at 1 and 49), dB: the demo scene 30.17 to 33.75
(27.74 to 31.00), a hard shadow 31.46 to 38.94 (28.74 to 38.08), things that cross 29.30 to 36.05 (25.19 to 28.94).
Where only the camera moves every byte stays.  What each constant is worth: `tests/bench/bench_constants.py`, and the
table in the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .brightening import log_light, temper
from .correspondences import FrameCorrespondences, correspondences
from .geometry import GeometrySequence
from .light import Casters, Compared, Light, ShadowMaps, fitted, places_and_normals
from .projection import pinhole_at
from .resampling import resize_lanczos
from .suggest import small_cameras

#: Places in a frame at which light is measured, about, and pixels from one to the next, at least.
PLACES, LEAST_STEP = 12000, 2
#: Frames whose shadow maps are kept, 0.4 MB each: a window is looked at in two sizes.
MAPS_KEPT = 64
#: Longer side of the pictures that light is told from, pixels; points that are compared of two of them; and how dark
#: linear light, of 1, is too dark to compare.  Sides of 192, 256, 320 and 384 give 33.5, 33.5, 34.0 and 34.5 dB, the
#: mean of the six above; with 8000 points 34.7, at 0.1 s more a take.
FITTED_SIDE, FITTED_POINTS, DARKEST = 384, 4000, 0.02
#: Share of the differences between key pictures that light must explain, to be believed.  Measured: 0.15 to 0.84 where
#: relighting brings 2 to 9 dB, 0.07 where it costs 0.2 (a lamp moves), 0.00 where pictures do not differ in light.
LEAST_EXPLAINED = 0.1
#: Linear light is this power of what is stored in 8 bits.
GAMMA = 2.2
#: Most times that light changes, and the change, as a share, that is seen.
MOST, SEEN = 3.0, 0.004
#: Difference in 1/depth, as a share, that counts half as much as none.
_SAME_PLANE = 0.01
_SAME_SURFACE = 0.1
#: How much a key picture's light varies around a place, natural logarithms, where it is worth half: at the rim of a
#: shadow, which lies elsewhere in the frame.
EDGE = 0.07
#: Change of light, natural logarithms, at which a key picture is worth half: light that changes much is never
#: told exactly, and what it makes bright was dark, and is coarse.
MUCH = 0.1


class Relighting:
    """Of the key pictures at the frames ``keys`` (0-based) of a shot; `relighting` makes it.

    Several threads may ask at a time.
    """

    def __init__(
        self,
        geometry: GeometrySequence,
        keys: Sequence[int],
        casters: Casters,
        light: Light,
        gamma: float,
        shown: Sequence[np.ndarray],
    ):
        self._geometry, self._keys, self._casters, self._light = geometry, tuple(keys), casters, light
        self._gamma, self._shown, self._least_step = gamma, tuple(shown), LEAST_STEP
        self._known: dict[int, ShadowMaps] = {}
        self._at_keys = [self._maps(key) for key in self._keys]

    @property
    def light(self) -> Light:
        """What was told from the key pictures."""
        return self._light

    @property
    def told(self) -> tuple[Casters, Light, float, tuple[np.ndarray, ...]]:
        """What it was made of, besides geometry and keys: for another process."""
        return self._casters, self._light, self._gamma, self._shown

    def seen_by(self, geometry: GeometrySequence, least_step: int) -> Relighting:
        """The same light for the same shot in ``geometry``, whose cameras have another size; measured at every
        ``least_step``-th pixel at most.
        """
        other = copy(self)
        other._geometry, other._least_step = geometry, least_step
        return other

    def _maps(self, index: int) -> ShadowMaps:
        found = self._known.get(index)
        if found is None:
            found = ShadowMaps(self._casters.points(self._geometry, index), self._light.directions)
            while len(self._known) >= MAPS_KEPT:
                with suppress(KeyError):  # another thread was faster
                    self._known.pop(next(iter(self._known)))
            self._known[index] = found
        return found

    def at(self, frame: FrameCorrespondences) -> FrameLight:
        """How the key pictures' light changes until ``frame``, of `correspondences` with the same keys."""
        height, width = frame.coverage.shape
        step = min(max(self._least_step, round((height * width / PLACES) ** 0.5)), height, width)
        rows, columns = np.arange(step // 2, height, step), np.arange(step // 2, width, step)
        inverse = np.where(frame.coverage, 1.0 / frame.depth, 0.0).astype(np.float32)
        grid_inverse = np.ascontiguousarray(inverse[step // 2 :: step, step // 2 :: step])
        there = np.flatnonzero(grid_inverse.reshape(-1) > 0.0)
        row, column = rows[there // len(columns)], columns[there % len(columns)]
        flat = row * width + column
        places, normals = places_and_normals(inverse, row, column, pinhole_at(self._geometry.cameras, frame.index))
        now = self._light.on(self._maps(frame.index), places, normals)
        shape = len(rows), len(columns)
        ratios = np.ones((len(self._keys), *shape, 4), np.float32)
        alike = _alike(grid_inverse)
        asked = np.zeros(height * width, bool)
        asked[flat] = True
        for number in range(len(self._keys)):
            frame.follow(number, asked.reshape(height, width))
            seen = np.flatnonzero(frame.visible[number].reshape(-1).take(flat))
            xy = frame.xy[number].view(np.complex64).reshape(-1).take(flat[seen])
            before, good, shown = self._of_key(number, frame, xy.imag.astype(np.int64), xy.real.astype(np.int64))
            place, ratio = there[seen[good]], now[seen[good]] / before
            values, known = np.ones((4, len(rows) * len(columns)), np.float32), np.zeros(len(rows) * len(columns), bool)
            values[:3, place], values[3, place] = np.clip(ratio, 1.0 / MOST, MOST).T, before.mean(axis=1)
            known[place] = True
            temper(values, place, shown, grid_inverse, _SAME_SURFACE)
            ratios[number] = _smooth(values.reshape(4, *shape), known.reshape(shape), alike, self._gamma)
        return FrameLight(ratios, grid_inverse, inverse, step, *_slopes(grid_inverse, step))

    def _of_key(self, number: int, frame: FrameCorrespondences, row: np.ndarray, column: np.ndarray):
        """The light [G,3] f32 that falls in the key picture ``number`` at its pixels ``row``, ``column`` [P]; which of
        them [G], those inside one surface, that is; and what the picture shows there [G] f32, see `log_light`.
        """
        inverse = frame.key_inverse_depth[number]
        row, column = np.clip(row, 0, len(inverse) - 1), np.clip(column, 0, inverse.shape[1] - 1)
        flat = row * inverse.shape[1] + column
        good = np.flatnonzero((inverse.reshape(-1).take(flat) > 0.0) & ~frame.key_edges[number].reshape(-1).take(flat))
        camera = pinhole_at(self._geometry.cameras, self._keys[number])
        places, normals = places_and_normals(inverse, row[good], column[good], camera)
        shown = self._shown[number]
        at = row[good] * shown.shape[0] // inverse.shape[0], column[good] * shown.shape[1] // inverse.shape[1]
        return self._light.on(self._at_keys[number], places, normals), good, shown[at].astype(np.float32)


def relighting(
    geometry: GeometrySequence,
    keys: Sequence[int],
    pictures: Sequence[np.ndarray],
    should_stop: Callable[[], bool] | None = None,
) -> Relighting | None:
    """Of the key ``pictures`` [H,W,3 or 4] (u8, or f32 linear light) at the frames ``keys`` (0-based, increasing); None
    where nothing moves between them, where the topology of a mesh changes, or where light does not explain how the
    pictures differ.

    Raises `JobCancelled` when ``should_stop`` says so.
    """
    if len(keys) < 2 or geometry.changes is not None:
        return None
    casters = Casters.of(geometry, keys)
    if casters is None:
        return None
    gamma = GAMMA if pictures[0].dtype == np.uint8 else 1.0
    cameras = geometry.cameras
    width = round(cameras.width * FITTED_SIDE / max(cameras.width, cameras.height))
    small = replace(geometry, cameras=small_cameras(cameras, width))
    size, compared = (small.cameras.width, small.cameras.height), []
    smaller = [_smaller(picture, size, gamma) for picture in pictures]
    for number, frame in enumerate(correspondences(small, keys, frame_indices=keys[:-1], should_stop=should_stop)):
        compared.append(_compared(small, frame, number, smaller[number : number + 2], casters))
    compared = [pair for pair in compared if len(pair.before)]
    if not compared:
        return None
    light = fitted(compared)
    if light.explained < LEAST_EXPLAINED:
        return None
    return Relighting(geometry, keys, casters, light, gamma, [log_light(picture) for picture in smaller])


def _compared(geometry, frame: FrameCorrespondences, number: int, pair, casters: Casters) -> Compared:
    """Points that the key ``number``, which ``frame`` is, and the next one show; ``pair``: [h,w,3] f32 of both."""
    keys, inverse, edges = frame.key_indices[number : number + 2], frame.key_inverse_depth, frame.key_edges
    row, column = np.nonzero(frame.visible[number + 1] & frame.coverage & ~edges[number])
    x, y = frame.xy[number + 1, row, column].T
    height, width = frame.coverage.shape  # a place on the picture's border belongs to its last pixel
    places = (row, column), (np.minimum(y.astype(np.int64), height - 1), np.minimum(x.astype(np.int64), width - 1))
    colours = [picture[place] for picture, place in zip(pair, places, strict=True)]
    good = (inverse[number + 1][places[1]] > 0.0) & ~edges[number + 1][places[1]]
    good &= np.minimum(*colours).min(axis=1) > DARKEST
    good = np.flatnonzero(good)
    good = good[:: max(1, len(good) // FITTED_POINTS)]
    moments = []
    for index, depth, (row, column) in zip(keys, inverse[number : number + 2], places, strict=True):
        seen = places_and_normals(depth, row[good], column[good], pinhole_at(geometry.cameras, index))
        moments.append((casters.points(geometry, index), *seen))
    return Compared(colours[0][good], colours[1][good], tuple(moments))


def _smaller(picture: np.ndarray, size: tuple[int, int], gamma: float) -> np.ndarray:
    """[h,w,3] f32: linear light, 0 where nothing is painted."""
    height, width = picture.shape[:2]
    if picture.dtype == np.uint8:
        small = resize_lanczos(np.ascontiguousarray(picture[..., :3]), (0, 0, width, height), size) / np.float32(255.0)
    else:
        small = picture[..., :3][_middles(height, size[1])[:, None], _middles(width, size[0])]
    small = np.maximum(small, 0.0).astype(np.float32) ** np.float32(gamma)
    if picture.shape[2] == 4:
        alpha = picture[..., 3][_middles(height, size[1])[:, None], _middles(width, size[0])]
        small[alpha < (255 if picture.dtype == np.uint8 else 1.0)] = 0.0
    return small


def _middles(length: int, count: int) -> np.ndarray:
    return ((np.arange(count) + 0.5) / count * length).astype(np.int64)


def _smooth(values: np.ndarray, known: np.ndarray, alike: Sequence[np.ndarray], gamma: float) -> np.ndarray:
    """[h,w,4] f32: ratios of stored colours, and what they are worth, of ``values`` [4,h,w] f32: the ratios of light,
    and the light in the key picture; where they are ``known`` [h,w] bool.

    Evened out over 3×3 places of one surface; where they are not known, what is known around.  ``alike``: see `_alike`.
    """
    height, width = known.shape
    framed = np.zeros((6, height + 2, width + 2), np.float32)
    middle = framed[:, 1:-1, 1:-1]
    np.log(values, out=middle[:4], where=known)
    middle[4] = known
    np.multiply(middle[3], middle[3], out=middle[5])
    total, around = np.zeros((6, height, width), np.float32), np.zeros((6, height, width), np.float32)
    for place, weight in enumerate(alike):
        down, right = divmod(place, 3)
        there = framed[:, down : down + height, right : right + width]
        around += there
        total += there * weight
    found = np.where(known, total, around)
    found /= np.maximum(found[4], np.float32(1e-6))
    spread = np.maximum(found[5] - found[3] ** 2, 0.0)
    smooth = np.empty((height, width, 4), np.float32)
    smooth[..., :3] = np.exp(found[:3] / np.float32(gamma)).transpose(1, 2, 0)
    smooth[..., 3] = 1.0 / (1.0 + spread / np.float32(EDGE**2))
    smooth[..., 3] /= 1.0 + (found[:3].mean(axis=0) / np.float32(MUCH)) ** 2
    return smooth


def _alike(inverse: np.ndarray) -> list[np.ndarray]:
    """[h,w] f32 for each of 3×3 places around one: how much it counts there, nothing where it is of another surface.

    ``inverse`` [h,w] f32: 1/depth.
    """
    depths, (height, width), found = np.pad(inverse, 1), inverse.shape, []
    for down in range(3):
        for right in range(3):
            other = depths[down : down + height, right : right + width]
            same = np.abs(other - inverse) <= _SAME_SURFACE * np.maximum(other, inverse)
            found.append(same * np.float32((2 - abs(down - 1)) * (2 - abs(right - 1))))
    return found


@dataclass(frozen=True)
class FrameLight:
    """``ratios`` [K,h,w,4] f32: what the stored colour of each key picture is multiplied with, and what the picture is
    worth there, 0 to 1, at every ``step``-th pixel of a frame, where 1/depth is ``grid_inverse`` [h,w] and changes by
    ``slope_x``, ``slope_y`` [h,w] a pixel; ``inverse`` [H,W] f32: of all pixels, 0 for the sky.
    """

    ratios: np.ndarray
    grid_inverse: np.ndarray
    inverse: np.ndarray
    step: int
    slope_x: np.ndarray
    slope_y: np.ndarray

    @cached_property
    def _changed(self) -> np.ndarray:
        """[h,w] bool: light changes at a place, the next one on its right or below, or beside that."""
        changed = np.abs(self.ratios - 1.0).max(axis=0).max(axis=2) > SEEN
        changed[:-1] |= changed[1:]
        changed[:, :-1] |= changed[:, 1:]
        return changed

    def rows(self, part: slice) -> RowsLight:
        """Of the frame's rows ``part``."""
        width, (height, count) = self.inverse.shape[1], self.grid_inverse.shape
        step, start = self.step, self.step // 2
        upper, down = _between(np.arange(part.start, min(part.stop, len(self.inverse))), start, step, height)
        left, right = _between(np.arange(width), start, step, count)
        pixels = np.flatnonzero(self._changed[upper[:, None], left[None]].reshape(-1))
        if not pixels.size:
            return RowsLight(self.ratios, 0, pixels, (), ())
        row, column = np.divmod(pixels, width)
        first = (upper * count)[row] + left[column]
        down, right = down[row], right[column]
        here = self.inverse[part].reshape(-1)[pixels]
        offset_x, offset_y = right * step, down * step
        places, weights, total = [], [], np.zeros(len(pixels), np.float32)
        for below in (0, 1):
            for beside in (0, 1):
                place = first + (below * count if height > 1 else 0) + (beside if count > 1 else 0)
                told = self.grid_inverse.take(place, mode="wrap")
                told += self.slope_x.take(place, mode="wrap") * (offset_x - beside * step)
                told += self.slope_y.take(place, mode="wrap") * (offset_y - below * step)
                off = (told - here) / (np.maximum(np.abs(told), here) * np.float32(_SAME_PLANE) + np.float32(1e-12))
                weight = (right if beside else 1.0 - right) * (down if below else 1.0 - down) + np.float32(1e-4)
                weight /= (1.0 + off * off) ** 2
                places.append(place)
                weights.append(weight)
                total += weight
        total = np.where(here > 0.0, 1.0 / np.maximum(total, 1e-20), 0.0).astype(np.float32)
        weights = [np.repeat(weight * total, 4) for weight in weights]
        return RowsLight(self.ratios, len(self.inverse[part]) * width, pixels, places, weights)


def _slopes(values: np.ndarray, step: int) -> list[np.ndarray]:
    """[h,w] f32, twice: how ``values`` [h,w], ``step`` pixels apart, change per pixel along x and y; of both sides that
    where they change less.
    """
    found = []
    for axis in (1, 0):
        change = np.diff(values, axis=axis) / np.float32(step)
        ahead, behind = (np.concatenate(part, axis=axis) for part in _with_ends(change, axis))
        found.append(np.where(np.abs(ahead) <= np.abs(behind), ahead, behind))
    return found


def _with_ends(change: np.ndarray, axis: int):
    if not change.shape[axis]:
        nothing = np.zeros_like(change, shape=[max(1, count) for count in change.shape])
        return [nothing], [nothing]
    return [change, change.take([-1], axis)], [change.take([0], axis), change]


@dataclass(frozen=True)
class RowsLight:
    """Of some rows of a frame: the flat ``pixels`` [P] of ``count`` whose light changes, and how the ratios [K,h,w,4]
    at four ``places`` [P] are weighed there, ``weights`` [P·4], each four times.
    """

    ratios: np.ndarray
    count: int
    pixels: np.ndarray
    places: Sequence[np.ndarray]
    weights: Sequence[np.ndarray]

    def of(self, number: int) -> np.ndarray | None:
        """[count,4] f32: what colours of the key picture ``number`` are multiplied with, and what they are worth; None
        for 1.
        """
        if not self.pixels.size:
            return None
        packed, total = (self.ratios[number] - 1.0).view(np.complex128).reshape(-1), None
        for place, weight in zip(self.places, self.weights, strict=True):
            # Four floats at a time, which numpy moves as one number.
            part = packed.take(place, mode="wrap").view(np.float32)
            part *= weight
            total = part if total is None else np.add(total, part, out=total)
        total += 1.0
        found = np.ones((self.count, 4), np.float32)
        found.view(np.complex128)[self.pixels, 0] = total.view(np.complex128)
        return found


def _between(pixels: np.ndarray, start: int, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The last of ``count`` places, ``step`` apart from ``start`` on, before each of the ``pixels``, and the share of
    the way to the next.
    """
    position = np.clip((pixels - start) / step, 0.0, count - 1.0)
    floor = np.minimum(position.astype(np.int64), max(count - 2, 0))
    return floor, (position - floor).astype(np.float32)
