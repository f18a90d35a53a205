# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame composed from several key pictures, at their size: what each pixel sees is looked up where a key shows it.

Weights.  The key pictures before and after the frame count by their distance in time, so that light that differs
between them passes over from one to the other; others help only where those two do not show the point.  A key that sees
the surface smaller or more slanted than the frame does counts less, with the square of the lost resolution.  Near the
rim of what a key shows its weight falls to nothing within a few pixels.

Outlines.  A rendered pixel at an outline mixes two surfaces.  Where the frame has no outline of its own, such pixels of
a key are not believed: no thin light or dark lines where something stood.

What no key shows is filled: see `filling`.

Measured (`tests/bench/bench_key_pictures.py`, 384×256, keys at 1, 25 and 49, frames between, against Cycles): orbits of
40° 36.4 to 43.9 dB, one of 90° 34.9, the demo scene 30.3, moving shadows 31.5, things that cross 29.3.  The belief that
is needed inside a surface (0.55 or 0.8) was chosen on two orbits of 40°, one of 90°, the demo, a skinned tube and
crossing things; the other constants are set by reasoning, not by measurement.  All without `relighting`, which changes
the keys' light to that of the frame where it is known: without it a shadow that moves is seen at both keys' places.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .correspondences import FrameCorrespondences, outlines
from .filling import clear_outlines, fill_holes, soften
from .pyramid import MOST_TAPS, Pyramid
from .relighting import FrameLight

#: How much a key's pixel at an outline is believed, and how much is needed: inside a surface, and at an outline.
OUTLINE_BELIEF = 0.2
_NEEDED_INSIDE, _NEEDED_AT_OUTLINE = 0.55, 0.1
#: Weight of a key that neither comes just before nor just after the frame, before its distance in time.
DISTANT_KEY = 1e-3
#: Weights below this share of all are not looked up.
_LEAST_SHARE = 0.004
#: Key pictures before a frame, and after it, that it is composed from: others are too far away in time to know better.
#: Of a model's own frames it is one.
NEIGHBOURS = 2
#: Width in pixels over which a key's weight rises from the rim of what it shows.
FEATHER_PX = 4
_LEAST_AT_RIM = 0.05
#: Smallest resolution, in key pixels per pixel, that still gets a weight.
_LEAST_RESOLUTION = 0.05
#: Footprints up to this many key pixels are looked up in the sharpest level.
_SHARP_FOOTPRINT = 1.2
_PIXELS_PER_TILE = 1 << 16


@dataclass(frozen=True)
class Composed:
    """``picture`` [H,W,3] of the keys' type; ``known`` [H,W] bool: some key picture shows what the pixel sees."""

    picture: np.ndarray
    known: np.ndarray


class Composer:
    """Composes frames from K ``pictures`` [H,W,3 or 4] of one size, u8 or f32 (linear light), alpha 0 = not painted.

    Several threads may compose at a time.
    """

    def __init__(self, pictures: Sequence[np.ndarray], *, pixels_per_tile: int = _PIXELS_PER_TILE):
        self._pictures = [np.asarray(picture) for picture in pictures]
        self._tile = max(1, int(pixels_per_tile))
        self._pyramids: list[Pyramid] | None = None
        self._lock = threading.Lock()
        _check_pictures(self._pictures)

    def compose(
        self, frame: FrameCorrespondences, fill: np.ndarray | None = None, light: FrameLight | None = None
    ) -> Composed:
        """The picture of ``frame``; ``fill`` [H,W,3], of the pictures' type, is shown where no key knows better.

        ``light``: how the light of the key pictures changes until then; None for nothing.

        All frames must come from one `correspondences`.  A frame at a key returns that picture as it is, where it is
        painted.  Raises `SettingsError` when the sizes do not fit together.
        """
        self._check_frame(frame, fill)
        with self._lock:
            if self._pyramids is None:
                self._pyramids = [
                    _prepared(picture, edges) for picture, edges in zip(self._pictures, frame.key_edges, strict=True)
                ]
        height, width = frame.coverage.shape
        picture = np.zeros((height, width, 3), dtype=np.float32)
        known = np.zeros((height, width), dtype=bool)
        trust = np.zeros((height, width), dtype=np.float32)
        inverse_depth = (1.0 / frame.depth).astype(np.float32)
        at_outline = outlines(inverse_depth)
        rims = [_rims(visible) for visible in frame.visible]
        in_time = time_weights(frame.index, frame.key_indices)
        rows = max(2, self._tile // width // 2 * 2)  # even: footprints are measured at every second pixel
        for top in range(0, height, rows):
            part = slice(top, min(top + rows, height))
            self._compose_rows(frame, part, in_time, rims, at_outline, picture, known, trust, light)
        own = frame.key_indices.index(frame.index) if frame.index in frame.key_indices else None
        if own is not None:
            painted = _painted(self._pictures[own])
            picture[painted], known = self._pictures[own][..., :3][painted], known | painted
        fill_holes(picture, known, inverse_depth, None if fill is None else fill.astype(np.float32))
        if own is None:
            clear_outlines(picture, known & at_outline & (trust < _NEEDED_INSIDE), inverse_depth)
            soften(picture, np.flatnonzero(at_outline))
        result = _stored(picture, self._pictures[0].dtype)
        if own is not None:
            result[painted] = self._pictures[own][..., :3][painted]
        return Composed(result, known)

    def _compose_rows(self, frame, part, in_time, rims, at_outline, picture, known, trust, light) -> None:
        shape = frame.coverage[part].shape
        count = shape[0] * shape[1]
        needed = np.where(at_outline[part], np.float32(_NEEDED_AT_OUTLINE), np.float32(_NEEDED_INSIDE)).reshape(-1)
        footprints, weights = {}, np.zeros((len(in_time), count), dtype=np.float32)

        def weigh(number: int) -> None:
            rim = rims[number][part].reshape(-1)
            if rim.any():
                footprints[number] = _footprint(frame.xy[number], part)
                weights[number] = _RISE.take(rim) * footprints[number].resolution_squared
                weights[number] *= in_time[number]

        total = np.zeros((count, 4), dtype=np.float32)
        plain = np.zeros(count, dtype=np.float32)
        left = None
        lit = None if light is None else light.rows(part)
        # First the two keys beside the frame, then, where these do not tell, all others.
        near = in_time > DISTANT_KEY
        for group in (np.flatnonzero(near), np.flatnonzero(~near & (in_time > 0.0))):
            for number in group:
                weigh(number)
            sums = weights[group].sum(axis=0)
            sums *= np.float32(_LEAST_SHARE)
            for number in group:
                if number not in footprints:
                    continue
                worth = weights[number] > sums
                chosen = np.flatnonzero(worth if left is None else worth & left)
                if chosen.size:
                    self._add(total, plain, chosen, frame.xy[number][part], footprints[number], weights[number], needed,
                              number, None if lit is None else lit.of(number))
            left = total[:, 3] <= 0.0
            if not left.any():
                break
        done = ~left
        believed = np.where(done, total[:, 3], np.float32(1.0))
        trust[part] = (believed / np.where(done, plain, np.float32(np.inf))).reshape(shape)
        for channel in range(3):
            picture[part][..., channel] = (total[:, channel] / believed).reshape(shape)
        known[part] = done.reshape(shape)

    def _add(self, total, plain, chosen, xy, footprint, weights, needed, number, lit) -> None:
        """Add ``chosen`` pixels of key ``number``, weighted, to ``total`` [P,4], and their weights to ``plain``."""
        pyramid = self._pyramids[number]
        places = np.ascontiguousarray(xy).view(np.complex64).reshape(-1).take(chosen)
        x, y = places.real.copy(), places.imag.copy()
        scaled = np.flatnonzero(footprint.scaled.take(chosen))
        found = pyramid.look_up(x, y, 0)
        if scaled.size:
            at = chosen[scaled]
            step = footprint.step.take(at)
            packed = found.view(np.complex128)
            packed[scaled] = pyramid.look_up_scaled(
                x[scaled], y[scaled], footprint.level.take(at), step.real.copy(), step.imag.copy(),
                footprint.taps.take(at),
            ).view(np.complex128)
        belief = found[3::4] * np.float32(1.0 / pyramid.full_belief)
        own = weights.take(chosen)
        if lit is not None:
            change = lit.view(np.complex128).take(chosen).view(np.float32)
            found *= change
            own *= change[3::4]
        own[belief < needed.take(chosen)] = 0.0
        found[3::4] = 1.0
        found *= np.repeat(own * belief, 4)
        # Four floats at a time, which numpy moves as one number.
        packed = total.view(np.complex128).reshape(-1)
        found += packed.take(chosen).view(np.float32)
        packed[chosen] = found.view(np.complex128)
        plain[chosen] += own

    def _check_frame(self, frame: FrameCorrespondences, fill) -> None:
        shape = frame.coverage.shape
        if len(self._pictures) != len(frame.key_indices):
            raise SettingsError(
                f"There are {len(self._pictures)} key pictures and correspondences with {len(frame.key_indices)}: "
                "give one picture for each key frame."
            )
        for name, picture in (("key pictures", self._pictures[0]), ("fill", fill)):
            if picture is not None and picture.shape[:2] != shape:
                raise SettingsError(
                    f"The {name} have {picture.shape[1]}×{picture.shape[0]} pixels and the correspondences "
                    f"{shape[1]}×{shape[0]}: they must be equal."
                )
        if fill is not None and (fill.ndim != 3 or fill.shape[2] != 3 or fill.dtype != self._pictures[0].dtype):
            raise SettingsError(
                f"The fill must be [H,W,3] {self._pictures[0].dtype} as the key pictures and is {list(fill.shape)} "
                f"{fill.dtype}."
            )


def painted_over(
    composed: Composed, inverse_depth: np.ndarray, painting: np.ndarray, share: float = 1.0
) -> np.ndarray:
    """[H,W,3] u8: ``composed`` with the ``share`` (0 to 1) of ``painting`` [H,W,3] u8, its tone matched to the
    surroundings, where no key picture knows better; all of it where none knows anything.

    ``inverse_depth`` [H,W] f32: 1/Blender units, 0 for the sky.
    """
    holes = ~composed.known
    share = share if composed.known.any() else 1.0  # else there is nothing to continue
    if share <= 0.0 or not holes.any():
        return composed.picture
    picture = composed.picture.astype(np.float32)
    continued = picture[holes]
    fill_holes(picture, composed.known, inverse_depth, painting.astype(np.float32))
    picture[holes] = continued + np.float32(share) * (picture[holes] - continued)
    return _stored(picture, np.dtype(np.uint8))


def keys_around(keys: Sequence[int], index: int, neighbours: int = NEIGHBOURS) -> tuple[int, ...]:
    """Places in ``keys`` (increasing) of those that the frame ``index`` is composed from."""
    before = bisect_right(keys, index)
    return tuple(range(max(0, before - neighbours), min(len(keys), before + neighbours)))


def time_weights(index: int, key_indices: Sequence[int]) -> np.ndarray:
    """[K] f32: how much each key counts for frame ``index``: 1 in all for the nearest two, little for others."""
    keys = np.asarray(key_indices, dtype=np.float64)
    weights = DISTANT_KEY * np.exp2(-np.abs(keys - index) / max(1.0, np.abs(keys - index).max()))
    before, after = keys[keys <= index], keys[keys >= index]
    if before.size and after.size:
        first, last = before.max(), after.min()
        share = 0.0 if first == last else (index - first) / (last - first)
        weights[keys == first] = 1.0 - share
        if first != last:
            weights[keys == last] = share
    else:
        nearest = before.max() if before.size else after.min()
        weights[keys == nearest] = 1.0
    return weights.astype(np.float32)


@dataclass(frozen=True)
class _Footprint:
    """What of a key picture the pixels [P] cover: ``resolution_squared`` f32, that of the narrow way in key pixels per
    pixel, at most 1.

    ``scaled`` bool: more than one look-up is needed, ``taps`` of them at ``level`` f32 along ``step`` c64 (x + iy), the
    long way in key pixels.
    """

    resolution_squared: np.ndarray
    scaled: np.ndarray
    level: np.ndarray
    taps: np.ndarray
    step: np.ndarray


def _footprint(xy: np.ndarray, part: slice) -> _Footprint:
    """Of the rows ``part`` of ``xy`` [H,W,2], measured at every second pixel of every second row.

    Of the two differences to the neighbours on an axis the shorter counts: the other may lead to another surface.
    """
    height, width = xy.shape[:2]
    rows = np.arange(part.start, part.stop, 2)
    places = xy.view(np.complex64)[..., 0]
    middle = places[rows, ::2]
    beside = np.concatenate([places[rows, 1::2], np.full((len(rows), width % 2), np.nan, np.complex64)], axis=1)
    before = np.concatenate([np.full((len(rows), 1), np.nan, np.complex64), beside[:, :-1]], axis=1)
    across = _shorter(middle - before, beside - middle)
    above, below = (np.full(middle.shape, np.nan, np.complex64) for _ in range(2))
    there = np.flatnonzero(rows > 0)
    above[there] = places[rows[there] - 1, ::2]
    there = np.flatnonzero(rows + 1 < height)
    below[there] = places[rows[there] + 1, ::2]
    down = _shorter(middle - above, below - middle)
    length_across, length_down = _square(across), _square(down)
    area = np.abs(across.real * down.imag - across.imag * down.real)
    wide = length_across >= length_down
    long = np.sqrt(np.where(wide, length_across, length_down))
    step = np.where(wide, across, down)
    lost = ~np.isfinite(long) | ~np.isfinite(area)
    long[lost], area[lost], step[lost] = 1.0, 1.0, 0.0
    narrow = np.minimum(area / np.maximum(long, np.float32(1e-6)), long)
    taps = np.clip(np.ceil(long / np.maximum(narrow, 1.0) - np.float32(0.5)), 1, MOST_TAPS)
    size = np.maximum(narrow, long / taps)
    level = np.where(size > _SHARP_FOOTPRINT, np.log2(np.maximum(size, 1.0)), np.float32(0.0))
    resolution = np.clip(narrow, _LEAST_RESOLUTION, 1.0)

    def everywhere(values: np.ndarray) -> np.ndarray:
        doubled = np.repeat(np.repeat(values, 2, axis=0), 2, axis=1)
        return np.ascontiguousarray(doubled[: part.stop - part.start, :width]).reshape(-1)

    scaled = (level > 0.0) | (taps > 1)
    if not scaled.any():
        nothing = np.zeros(0, dtype=np.float32)
        return _Footprint(everywhere(resolution * resolution), everywhere(scaled), nothing, nothing, nothing)
    return _Footprint(
        everywhere(resolution * resolution), everywhere(scaled), everywhere(level), everywhere(taps.astype(np.int8)),
        everywhere(step),
    )


def _shorter(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two c64 arrays the shorter number, or that which is not NaN."""
    other = _square(second)
    return np.where((_square(first) <= other) | np.isnan(other), first, second)


def _square(values: np.ndarray) -> np.ndarray:
    return values.real * values.real + values.imag * values.imag


def _rims(visible: np.ndarray) -> np.ndarray:
    """[H,W] u8: 0 where not ``visible`` [H,W], else how many of the pixels around are, for `_RISE`."""
    count = visible.astype(np.uint8)
    for axis in (0, 1):
        padded = np.pad(count, [(FEATHER_PX, FEATHER_PX) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = count.shape[axis]
        total = np.zeros_like(count)
        for shift in range(2 * FEATHER_PX + 1):
            total += padded[shift : shift + length] if axis == 0 else padded[:, shift : shift + length]
        count = total
    count *= visible
    return count


def _rise() -> np.ndarray:
    """[256] f32: the weight that goes with a count of `_rims`, from the rim of what is visible to 1 inside."""
    half = (2 * FEATHER_PX + 1) ** 2 / 2.0
    rise = np.clip((np.arange(256) - half) / half, _LEAST_AT_RIM, 1.0)
    rise[0] = 0.0
    return rise.astype(np.float32)


_RISE = _rise()


def _prepared(picture: np.ndarray, edges: np.ndarray) -> Pyramid:
    painted = _painted(picture)
    colours = picture[..., :3]
    if not painted.all():
        filled = colours.astype(np.float32)
        fill_holes(filled, painted, np.ones(painted.shape, np.float32))
        colours = np.where(painted[..., None], colours, _stored(filled, picture.dtype))
    belief = np.where(edges, np.float32(OUTLINE_BELIEF), np.float32(1.0)) * painted
    return Pyramid.of(colours, belief)


def _painted(picture: np.ndarray) -> np.ndarray:
    """[H,W] bool: at least half of the pixel is painted."""
    if picture.shape[2] == 3:
        return np.ones(picture.shape[:2], dtype=bool)
    return picture[..., 3] >= (128 if picture.dtype == np.uint8 else 0.5)


def _stored(picture: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.rint(np.clip(picture, 0.0, 255.0)).astype(np.uint8) if dtype == np.uint8 else picture.astype(dtype)


def _check_pictures(pictures: list[np.ndarray]) -> None:
    if not pictures:
        raise SettingsError("There is no key picture: give at least one.")
    first = pictures[0]
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[2] not in (3, 4) or picture.dtype not in (np.uint8, np.float32):
            raise SettingsError(
                f"Key pictures must be [H,W,3] or [H,W,4], u8 or f32, and one is {list(picture.shape)} {picture.dtype}."
            )
        if picture.shape[:2] != first.shape[:2] or picture.dtype != first.dtype:
            raise SettingsError(
                f"Key pictures must have one size and type, and one has {picture.shape[1]}×{picture.shape[0]} pixels, "
                f"{picture.dtype}, another {first.shape[1]}×{first.shape[0]}, {first.dtype}."
            )
