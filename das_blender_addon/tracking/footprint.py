# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a key picture the pixels of a frame cover: how large and how long it is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pyramid import MOST_TAPS

#: Smallest resolution, in key pixels per pixel, that still gets a weight.
_LEAST_RESOLUTION = 0.05
#: Footprints up to this many key pixels are looked up in the sharpest level.
_SHARP_FOOTPRINT = 1.2


@dataclass(frozen=True)
class Footprint:
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


def footprint_of(xy: np.ndarray, part: slice) -> Footprint:
    """Of the rows ``part`` of ``xy`` [H,W,2], which begin with an even one; measured as `footprint_at`."""
    height, width = xy.shape[:2]
    rows = np.arange(part.start, part.stop, 2)
    places = xy.view(np.complex64)[..., 0]
    middle = places[rows, ::2]
    beside = np.concatenate([places[rows, 1::2], np.full((len(rows), width % 2), np.nan, np.complex64)], axis=1)
    before = np.concatenate([np.full((len(rows), 1), np.nan, np.complex64), beside[:, :-1]], axis=1)
    above, below = (np.full(middle.shape, np.nan, np.complex64) for _ in range(2))
    there = np.flatnonzero(rows > 0)
    above[there] = places[rows[there] - 1, ::2]
    there = np.flatnonzero(rows + 1 < height)
    below[there] = places[rows[there] + 1, ::2]
    found = _measured(middle, before, beside, above, below)

    def everywhere(values: np.ndarray) -> np.ndarray:
        if not values.size:
            return values
        doubled = np.empty((part.stop - part.start, width), values.dtype)
        doubled[::2, ::2], doubled[::2, 1::2] = values, values[:, : width // 2]
        doubled[1::2] = doubled[: len(doubled) // 2 * 2 : 2]
        return doubled.reshape(-1)

    return Footprint(*(everywhere(values) for values in vars(found).values()))


def footprint_at(xy: np.ndarray, pixels: np.ndarray) -> Footprint:
    """Of the flat ``pixels`` [P] of ``xy`` [H,W,2], measured at every second pixel of every second row.

    Of the two differences to the neighbours on an axis the shorter counts: the other may lead to another surface.
    """
    height, width = xy.shape[:2]
    row, column = np.divmod(pixels, width)
    row, column = row // 2 * 2, column // 2 * 2
    places = xy.view(np.complex64).reshape(-1)

    def beside(down: int, across: int) -> np.ndarray:
        y, x = row + down, column + across
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.where(inside, places.take(np.where(inside, y * width + x, 0)), np.complex64(np.nan))

    return _measured(*(beside(*way) for way in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))))


def _measured(middle, before, beside, above, below) -> Footprint:
    """From places (x + iy) in the key picture, c64 of one shape: a pixel's and its neighbours'; NaN for none."""
    across, down = _shorter(middle - before, beside - middle), _shorter(middle - above, below - middle)
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
    scaled = (level > 0.0) | (taps > 1)
    if not scaled.any():
        nothing = np.zeros(0, dtype=np.float32)
        return Footprint(resolution * resolution, scaled, nothing, nothing, nothing)
    return Footprint(resolution * resolution, scaled, level, taps.astype(np.int8), step)


def _shorter(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of two c64 arrays the shorter number, or that which is not NaN."""
    other = _square(second)
    return np.where((_square(first) <= other) | np.isnan(other), first, second)


def _square(values: np.ndarray) -> np.ndarray:
    return values.real * values.real + values.imag * values.imag
