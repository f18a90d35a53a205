# SPDX-License-Identifier: GPL-3.0-or-later
"""Points projected onto the sub-pixel grid of a picture, and on which side of the picture those lie that are not in it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .projection import Pinhole

SUBPIXEL_BITS = 10
SUBPIXEL = 1 << SUBPIXEL_BITS
HALF = SUBPIXEL // 2
#: Corners farther from the picture's origin than this are cut off first: ±2**19 px · 2**10 keeps products in int64.
GUARD_PX = float(1 << 19)
_LEFT, _RIGHT, _ABOVE, _BELOW, _BEHIND = (np.uint8(1 << bit) for bit in range(5))
_POINTS_PER_CHUNK = 1 << 13
_MANY = 0.2
"""Share of the points that must lie outside for it to be worth while to ask of every triangle whether it does."""


class Snapped(NamedTuple):
    """``x``, ``y`` [N] i32 (1/1024 px), ``inverse_depth`` [N] f64, ``drawable`` [N] bool (beyond the near plane and
    inside the guard band; triangles with other corners must be cut), ``finite`` [N] bool, and ``outside`` [N] u8: on
    which sides of the picture's outermost pixel centres, or behind the near plane; None where few are outside.
    """

    x: np.ndarray
    y: np.ndarray
    inverse_depth: np.ndarray
    drawable: np.ndarray
    finite: np.ndarray
    outside: np.ndarray | None


def snapped(points: np.ndarray, camera: Pinhole) -> Snapped:
    """Of ``points`` [N,3] f64, optical space of ``camera``."""
    count = len(points)
    x, y = np.empty(count, np.int32), np.empty(count, np.int32)
    inverse_depth = np.empty(count)
    drawable, finite, outside = np.empty(count, bool), np.empty(count, bool), np.empty(count, np.uint8)
    columns, rows = ((side - 1) * SUBPIXEL + HALF for side in (camera.width, camera.height))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for start in range(0, count, _POINTS_PER_CHUNK):
            piece = slice(start, start + _POINTS_PER_CHUNK)
            px, py, depth = np.ascontiguousarray(points[piece].T)
            inside = np.isfinite(px + py + depth, out=finite[piece])
            if not inside.all():
                np.logical_and(np.isfinite(px) & np.isfinite(py), np.isfinite(depth), out=inside)
            scale = np.divide(1.0, depth, out=inverse_depth[piece])
            for values, axis in ((px, 0), (py, 1)):
                values *= camera.focal_px[axis]
                if not camera.is_orthographic:
                    values *= scale
                values += camera.principal_px[axis]
            behind = depth < camera.clip_start
            own = inside & ~behind & (np.abs(px) < GUARD_PX) & (np.abs(py) < GUARD_PX)
            drawable[piece] = own
            all_own = own.all()
            for values, found in ((px, x[piece]), (py, y[piece])):
                values *= SUBPIXEL
                np.rint(values, out=values)
                if not all_own:
                    values[~own] = 0.0
                found[:] = values
            code = (px < HALF) * _LEFT | (px > columns) * _RIGHT | (py < HALF) * _ABOVE | (py > rows) * _BELOW
            if not all_own:
                code[~own] = 0
                code[behind & inside] = _BEHIND
            outside[piece] = code
    is_many = np.count_nonzero(outside) > _MANY * count
    return Snapped(x, y, inverse_depth, drawable, finite, outside if is_many else None)


def in_view(outside: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The triangles [K] of ``corners`` [3,M] that do not lie on one side of the picture whole; ``outside``: see above.
    """
    a, b, c = outside.take(corners)
    return np.flatnonzero((a & b & c) == 0)
