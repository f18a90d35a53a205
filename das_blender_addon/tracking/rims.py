# SPDX-License-Identifier: GPL-3.0-or-later
"""How near a pixel is to the rim of what a key picture shows, and what the key counts there.

A key that comes just before or after a frame fades over a wide band: beyond the rim other keys show the surface, in
another light, and a narrow one is seen as a line.  Of those others the band may be narrow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .correspondences import FrameCorrespondences

#: Width in pixels over which a key's weight rises from the rim of what it shows.
FEATHER_PX = 4
_LEAST_AT_RIM = 0.05
#: Width of the band over which a key beside the frame fades, as a share of the picture's width; and what it counts at
#: the rim itself.
BAND_SHARE, LEAST_IN_BAND = 1.0 / 30.0, 0.02
#: Of the pixels around, beyond the half of them that a straight rim has, how many make a key count wholly: single
#: pixels that it does not show are no rim.
_WHOLE_AT = 0.9


def bands_of(visible: np.ndarray) -> np.ndarray:
    """[H,W] u8: what a key beside the frame counts, of 255: 0 where not ``visible`` [H,W] bool, little at the rim of
    what is, all of it from about `BAND_SHARE` of the width inside it.
    """
    reach = max(FEATHER_PX, round(visible.shape[1] * BAND_SHARE))
    count = visible.astype(np.int32)
    for axis, length in enumerate(count.shape):
        padded = np.pad(count, [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        upto = np.moveaxis(np.cumsum(padded, axis=axis, dtype=np.int32), axis, 0)
        count = np.moveaxis(upto[2 * reach + 1 :] - upto[:length], 0, axis)
    half = (2 * reach + 1) ** 2 / 2.0
    share = np.clip((count - np.float32(half)) / np.float32(half * _WHOLE_AT), LEAST_IN_BAND, 1.0)
    return np.rint(share * np.float32(255.0)).astype(np.uint8) * visible


def rims_of(visible: np.ndarray) -> np.ndarray:
    """[H,W] u8: 0 where not ``visible`` [H,W], else how many of the pixels around are, for `RISE`."""
    return around(visible) * visible


def around(mask: np.ndarray, reach: int = FEATHER_PX) -> np.ndarray:
    """[H,W] u8: how many of the pixels up to ``reach`` (7 at most) away are ``mask`` [H,W] bool; the border is
    repeated.
    """
    count = mask.astype(np.uint8)
    for axis in (0, 1):
        padded = np.pad(count, [(reach, reach) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = count.shape[axis]
        total = np.zeros_like(count)
        for shift in range(2 * reach + 1):
            total += padded[shift : shift + length] if axis == 0 else padded[:, shift : shift + length]
        count = total
    return count


def rims_of_others(
    frame: FrameCorrespondences, numbers: Iterable[int], part: slice, left: np.ndarray
) -> dict[int, np.ndarray]:
    """[P] u8: `rims_of` at the pixels ``left`` [P] of the rows ``part``, of those of the ``numbers`` that show some.
    """
    height, width = frame.coverage.shape
    found, flat = {}, part.start * width + left
    row, column = np.divmod(flat, width)
    box = tuple(  # nothing farther away than a rim is wide is looked at
        slice(max(0, int(places.min()) - FEATHER_PX), min(length, int(places.max()) + 1 + FEATHER_PX))
        for places, length in ((row, height), (column, width))
    )
    wanted = np.zeros((height, width), bool)
    wanted.reshape(-1)[flat] = True
    wanted[box] = around(wanted[box]) > 0
    for number in numbers:
        frame.follow(number, wanted)
        rims = rims_of(frame.visible[number][box])[row - box[0].start, column - box[1].start]
        if rims.any():
            found[int(number)] = rims
    return found


def _rise() -> np.ndarray:
    """[256] f32: the weight that goes with a count of `rims_of`, from the rim of what is visible to 1 inside."""
    half = (2 * FEATHER_PX + 1) ** 2 / 2.0
    rise = np.clip((np.arange(256) - half) / half, _LEAST_AT_RIM, 1.0)
    rise[0] = 0.0
    return rise.astype(np.float32)


RISE = _rise()
