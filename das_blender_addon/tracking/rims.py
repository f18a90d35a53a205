# SPDX-License-Identifier: GPL-3.0-or-later
"""How near a pixel is to the rim of what a key picture shows, and what the key counts there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .correspondences import FrameCorrespondences

#: Width in pixels over which a key's weight rises from the rim of what it shows.
FEATHER_PX = 4
_LEAST_AT_RIM = 0.05


def rims_of(visible: np.ndarray) -> np.ndarray:
    """[H,W] u8: 0 where not ``visible`` [H,W], else how many of the pixels around are, for `RISE`."""
    return around(visible) * visible


def around(mask: np.ndarray) -> np.ndarray:
    """[H,W] u8: how many of the pixels up to `FEATHER_PX` away are ``mask`` [H,W] bool; the border is repeated."""
    count = mask.astype(np.uint8)
    for axis in (0, 1):
        padded = np.pad(count, [(FEATHER_PX, FEATHER_PX) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        length = count.shape[axis]
        total = np.zeros_like(count)
        for shift in range(2 * FEATHER_PX + 1):
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
    for number in numbers:
        wanted[box] = False
        wanted.reshape(-1)[flat] = True
        frame.follow(number, wanted)
        shown = flat[frame.visible[number].reshape(-1).take(flat)]
        if not shown.size:
            continue
        wanted[box] = False
        wanted.reshape(-1)[shown] = True
        wanted[box] = around(wanted[box]) > 0
        frame.follow(number, wanted)
        rims = rims_of(frame.visible[number][box])
        found[int(number)] = rims[row - box[0].start, column - box[1].start]
    return found


def _rise() -> np.ndarray:
    """[256] f32: the weight that goes with a count of `rims_of`, from the rim of what is visible to 1 inside."""
    half = (2 * FEATHER_PX + 1) ** 2 / 2.0
    rise = np.clip((np.arange(256) - half) / half, _LEAST_AT_RIM, 1.0)
    rise[0] = 0.0
    return rise.astype(np.float32)


RISE = _rise()
