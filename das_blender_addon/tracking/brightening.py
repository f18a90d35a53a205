# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pictures are brightened only as far as they show that they were in shadow.

A shadow that is told a little beside where it is, or larger, would make the lit floor beside it glow; and where a ball
rests in both key pictures, both show its shadow at the same place, and none knows better.  What a surface reflects is
what the picture shows through the light that falls there.  Where that comes out brighter than around it, where light
stays as it is, the light was told too dark, and the surface is brightened so much less.

Measured against Cycles, a ball that bounces once between keys at 1 and 23, 288×192, frames between: the sum of what is
more than 15 levels too bright becomes 34 % less under a wide sun and 32 % less under a hard one, the pictures 31.16 →
31.20 and 30.50 → 30.46 dB.  The benchmark's shots at 384×256, keys at 1, 25 and 49 (at 1 and 49): a hard shadow 39.59 →
39.64 (38.08 → 38.34), the demo scene 33.66 → 33.64 (31.23 → 31.20), things that cross 36.38 → 36.38 (28.94 → 29.01).
With half of `BRIGHTER` 41 % of the first sum are gone, but 0.1 dB of the demo and 0.2 under the hard sun; with twice of
it 22 %; with half of `STEADY` things that cross lose 0.1.  It takes 2 to 4 ms a frame, however large: light and
composition 98.7 → 104.0 ms (hard shadow) and 157.8 → 159.0 ms (demo) at 720×480, 43.9 → 48.0 ms at 288×192.
"""

from __future__ import annotations

import numpy as np

#: Change of light, natural logarithms, below which a place counts as lit as it was.
STEADY = 0.1
#: How far away such places are asked, in places: around each of those that are asked before.
REACHES = (1, 3, 9)
#: How many deviations a surface may be brighter than on the average around it.
BRIGHTER = 1.2
#: Linear light that is too dark, or not painted, to count.
_DARK = 0.02


def log_light(picture: np.ndarray) -> np.ndarray:
    """[h,w] f16: natural logarithm of the mean of the colours of ``picture`` [h,w,3] f32, linear light."""
    return np.log(np.maximum(picture.mean(axis=2), np.float32(_DARK / 2.0))).astype(np.float16)


def temper(values: np.ndarray, place: np.ndarray, shown: np.ndarray, inverse: np.ndarray, alike: float) -> None:
    """Lessen the ratios of light ``values`` [4,h·w] f32, the last of them the light in the key picture, which ``shown``
    [P] f32 shows at the flat ``place`` [P]; see `_excess` for the rest.
    """
    change = np.log(values[:3].mean(axis=0))
    brighter = np.flatnonzero(change > STEADY)
    if not brighter.size:
        return
    surface, steady = np.zeros(change.shape, np.float32), np.zeros(change.shape, bool)
    surface[place] = shown - np.log(values[3, place])
    steady[place] = (np.abs(change[place]) <= STEADY) & (shown > np.log(_DARK))
    excess = _excess(surface.reshape(inverse.shape), steady.reshape(inverse.shape), brighter, inverse, alike)
    values[:3, brighter] *= np.exp(-np.clip(excess, 0.0, change[brighter]))


def _excess(
    surface: np.ndarray, steady: np.ndarray, asked: np.ndarray, inverse: np.ndarray, alike: float
) -> np.ndarray:
    """[A] f32: how much brighter, natural logarithms, the ``surface`` [h,w] f32 is told at the flat places ``asked``
    [A] than around them where it is ``steady`` [h,w] bool; 0 where that is nowhere.

    One surface is where 1/depth, ``inverse`` [h,w] f32, is the same but for a share ``alike``.
    """
    rows, columns = np.divmod(asked, inverse.shape[1])
    far = sum(REACHES)
    part = tuple(slice(max(at.min() - far, 0), at.max() + far + 1) for at in (rows, columns))
    depths, values = inverse[part], surface[part]
    height, width = depths.shape
    total = np.empty((3, height, width), np.float32)
    total[0] = steady[part]
    np.multiply(total[0], values, out=total[1])
    np.multiply(total[1], values, out=total[2])
    near = depths * np.float32(alike)
    for reach in REACHES:
        before, beyond = total, np.pad(depths, reach)
        framed = np.zeros((3, height + 2 * reach, width + 2 * reach), np.float32)
        framed[:, reach : reach + height, reach : reach + width] = before
        total = before.copy()
        for place in (0, 1, 2, 3, 5, 6, 7, 8):
            down, right = (step * reach for step in divmod(place, 3))
            there = slice(down, down + height), slice(right, right + width)
            total += framed[:, *there] * (np.abs(beyond[there] - depths) <= near)
    count, first, second = total.reshape(3, -1)[:, (rows - part[0].start) * width + columns - part[1].start]
    known = count > 0.0
    mean, square = (np.divide(of, count, out=np.zeros_like(count), where=known) for of in (first, second))
    usual = mean + np.float32(BRIGHTER) * np.sqrt(np.maximum(square - mean * mean, 0.0))
    return np.where(known, surface.reshape(-1)[asked] - usual, np.float32(0.0))
