# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame composed from several key pictures, at their size: what each pixel sees is looked up where a key shows it.

Weights.  The key pictures before and after the frame count by their distance in time, so that light that differs between
them passes over from one to the other; others help only where those two do not show the point.  A key that sees the
surface smaller or more slanted than the frame does counts less, with the square of the lost resolution.  Near the rim of
what a key shows its weight falls to nothing within a few pixels.

Outlines.  A rendered pixel at an outline mixes two surfaces.  Where the frame has no outline of its own, such pixels of
a key are not believed: no thin light or dark lines where something stood.

What no key shows is filled: see `filling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import SettingsError
from .correspondences import FrameCorrespondences, outlines
from .filling import clear_outlines, fill_holes, soften
from .pyramid import MOST_TAPS, Pyramid

#: How much a key's pixel at an outline is believed, and how much is needed: inside a surface, and at an outline.
OUTLINE_BELIEF = 0.2
_NEEDED_INSIDE, _NEEDED_AT_OUTLINE = 0.55, 0.1
#: Weight of a key that neither comes just before nor just after the frame, before its distance in time.
DISTANT_KEY = 1e-3
#: Weights below this share of all are not looked up.
_LEAST_SHARE = 0.004
#: Width in pixels over which a key's weight rises from the rim of what it shows.
FEATHER_PX = 4
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
    """Composes frames from K ``pictures`` [H,W,3 or 4] of one size, u8 or f32 (linear light), alpha 0 = not painted."""

    def __init__(self, pictures: Sequence[np.ndarray], *, pixels_per_tile: int = _PIXELS_PER_TILE):
        self._pictures = [np.asarray(picture) for picture in pictures]
        self._tile = max(1, int(pixels_per_tile))
        self._pyramids: list[Pyramid] | None = None
        _check_pictures(self._pictures)

    def compose(self, frame: FrameCorrespondences, fill: np.ndarray | None = None) -> Composed:
        """The picture of ``frame``; ``fill`` [H,W,3], of the pictures' type, is shown where no key knows better.

        All frames must come from one `correspondences`.  A frame at a key returns that picture as it is, where it is
        painted.  Raises `SettingsError` when the sizes do not fit together.
        """
        self._check_frame(frame, fill)
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
        rows = max(1, self._tile // width)
        for top in range(0, height, rows):
            part = slice(top, min(top + rows, height))
            self._compose_rows(frame, part, in_time, rims, at_outline, picture, known, trust)
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

    def _compose_rows(self, frame, part, in_time, rims, at_outline, picture, known, trust) -> None:
        shape = frame.coverage[part].shape
        needed = np.where(at_outline[part], _NEEDED_AT_OUTLINE, _NEEDED_INSIDE).astype(np.float32).reshape(-1)
        footprints = {}
        weights = np.zeros((len(in_time), shape[0] * shape[1]), dtype=np.float32)
        for number in np.flatnonzero(in_time > 0.0):
            shown = rims[number][part].reshape(-1)
            if shown.any():
                footprints[number] = _footprint(frame.xy[number], part)
                weights[number] = in_time[number] * shown * footprints[number].resolution ** 2
        total = np.zeros((shape[0] * shape[1], 5), dtype=np.float32)
        open_pixels = np.ones(shape[0] * shape[1], dtype=bool)
        # First the two keys beside the frame, then, where these do not tell, all others.
        near = in_time >= DISTANT_KEY * 10
        for group in (near, ~near):
            sums = weights[group].sum(axis=0)
            for number in np.flatnonzero(group):
                if number not in footprints:
                    continue
                chosen = np.flatnonzero(open_pixels & (weights[number] > _LEAST_SHARE * sums))
                if chosen.size:
                    self._add(total, chosen, frame.xy[number][part], footprints[number], weights[number], needed, number)
            open_pixels = total[:, 3] <= 0.0
            if not open_pixels.any():
                break
        done = total[:, 3] > 0.0
        plain = total[:, 4]
        trust[part] = np.where(done, total[:, 3] / np.where(done, plain, 1.0), 0.0).reshape(shape)
        total[:, :3] /= np.where(done, total[:, 3], 1.0)[:, None]
        picture[part] = total[:, :3].reshape(*shape, 3)
        known[part] = done.reshape(shape)

    def _add(self, total, chosen, xy, footprint, weights, needed, number) -> None:
        """Add the ``chosen`` pixels of key ``number``, weighted, to ``total`` [P,4]."""
        pyramid = self._pyramids[number]
        places = xy.reshape(-1, 2)[chosen]
        x, y = np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1])
        level, taps = footprint.level[chosen], footprint.taps[chosen]
        if level.any() or (taps > 1).any():
            found = np.empty((len(chosen), 4), dtype=np.float32)
            plain = (level == 0.0) & (taps == 1)
            at = np.flatnonzero(plain)
            found[at] = pyramid.look_up(x[at], y[at], 0).reshape(-1, 4)
            at = np.flatnonzero(~plain)
            step = footprint.step.reshape(-1, 2)[chosen[at]]
            found[at] = pyramid.look_up_scaled(
                x[at], y[at], level[at], np.ascontiguousarray(step[:, 0]), np.ascontiguousarray(step[:, 1]), taps[at]
            ).reshape(-1, 4)
        else:
            found = pyramid.look_up(x, y, 0).reshape(-1, 4)
        belief = found[:, 3] * np.float32(1.0 / pyramid.full_belief)
        weight = np.where(belief >= needed[chosen], weights[chosen] * belief, np.float32(0.0))
        found[:, 3] = 1.0
        found *= weight[:, None]
        total[chosen, :4] += found
        total[chosen, 4] += np.where(weight > 0.0, weights[chosen], np.float32(0.0))

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


def time_weights(index: int, key_indices: Sequence[int]) -> np.ndarray:
    """[K] f32: how much each key counts for frame ``index``: 1 in all for the nearest before and after, less for others."""
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
    """What of a key picture the pixels [P] cover: ``resolution`` key pixels per pixel, at most 1, across the narrow way;
    ``level`` f32 and ``taps`` of the look-up, ``step`` [P,2] the long way in key pixels."""

    resolution: np.ndarray
    level: np.ndarray
    taps: np.ndarray
    step: np.ndarray


def _footprint(xy: np.ndarray, part: slice) -> _Footprint:
    """Of the rows ``part`` of ``xy`` [H,W,2], from the smaller of the differences to both neighbours on each axis: that
    to another surface is larger."""
    height, width = xy.shape[:2]
    top, bottom = max(part.start - 1, 0), min(part.stop + 1, height)
    rows = xy[top:bottom]
    own = slice(part.start - top, part.stop - top)
    across = _smaller_step(np.diff(rows[own], axis=1), 1, width)
    down = _smaller_step(np.diff(rows, axis=0), 0, bottom - top)[own]
    length_x, length_y = (across * across).sum(axis=-1), (down * down).sum(axis=-1)
    area = np.abs(across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0])
    wide = length_x >= length_y
    long = np.sqrt(np.where(wide, length_x, length_y))
    lost = ~np.isfinite(long) | ~np.isfinite(area)
    long[lost], area[lost] = 1.0, 1.0
    narrow = np.minimum(area / np.maximum(long, 1e-6), long)
    step = np.where(wide[..., None], across, down)
    step[lost] = 0.0
    taps = np.clip(np.ceil(long / np.maximum(narrow, 1.0) - 0.5), 1, MOST_TAPS)
    size = np.maximum(narrow, long / taps)
    level = np.where(size > _SHARP_FOOTPRINT, np.log2(np.maximum(size, 1.0)), 0.0).astype(np.float32)
    resolution = np.clip(narrow, _LEAST_RESOLUTION, 1.0)
    return _Footprint(
        resolution.reshape(-1), level.reshape(-1), taps.astype(np.int8).reshape(-1), step.astype(np.float32)
    )


def _smaller_step(steps: np.ndarray, axis: int, count: int) -> np.ndarray:
    """For each of ``count`` pixels along ``axis`` the shorter of the steps before and after it; NaN where there is none."""
    padded = np.full((*steps.shape[:axis], count + 1, *steps.shape[axis + 1 :]), np.nan, dtype=np.float32)
    middle = [slice(None)] * 3
    middle[axis] = slice(1, count)
    padded[tuple(middle)] = steps
    before, after = np.moveaxis(padded, axis, 0)[:-1], np.moveaxis(padded, axis, 0)[1:]
    length_before, length_after = (before * before).sum(axis=-1), (after * after).sum(axis=-1)
    chosen = (length_before <= length_after) | np.isnan(length_after)
    return np.moveaxis(np.where(chosen[..., None], before, after), 0, axis)


def _rims(visible: np.ndarray) -> np.ndarray:
    """[H,W] f32: 0 where not ``visible`` [H,W], rising from the rim of what is to 1 within `FEATHER_PX`."""
    count = visible.astype(np.uint8)
    side = 2 * FEATHER_PX + 1
    for axis in (0, 1):
        padded = np.pad(count, [(FEATHER_PX, FEATHER_PX) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = count.shape[axis]
        count = sum(padded.take(range(shift, shift + length), axis) for shift in range(side)).astype(np.uint8)
    half = side * side / 2.0
    return np.where(visible, np.clip((count - half) / half, 0.05, 1.0), 0.0).astype(np.float32)


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
