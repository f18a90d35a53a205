# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that cannot be seen, found before any of their pixels is looked at: all that they could cover is covered by
something nearer.

The z-buffer's farthest key is known of every tile of pixels, as it was some triangles ago.  What is left out could not
have changed a key: where there is much in one place, as in dense hair, most is, and of closed meshes what faces away.
"""

from __future__ import annotations

import numpy as np

from .snapping import Snapped, in_view

_TILE_BITS = 2
"""Side of a tile, as a power of two."""
_LEVELS = 4
"""Rows and columns of 1, 2, 4 … tiles whose farthest key is known; two that overlap make any number between."""
_MOST_TILES = 1 << _LEVELS
_LEVEL = np.array([max(0, count.bit_length() - 1) for count in range(_MOST_TILES)], np.int32)
_AGAIN_AFTER = 1 << 15
"""Triangles that are drawn until the tiles are looked at again, at most; a quarter of all where that is less."""
_SLICES, _SAMPLE, _TRIANGLES_AT_A_TIME = 8, 1 << 10, 1 << 17
_SLACK = 1.0 + 1e-6
"""What rounding may add to the nearness of a triangle's pixels beyond that of its nearest corner."""


class Hidden:
    """What the keys of ``width`` × ``height`` pixels hide."""

    def __init__(self, keys: np.ndarray, width: int, height: int, count: int):
        """``keys`` [H·W] u64: nearness as f32 bits above the 32 bits of a rank; they grow while it is used.  ``count``:
        how many triangles will be drawn.
        """
        self._keys, self._size = keys, (height, width)
        self._again_after = min(_AGAIN_AFTER, count // 4)
        self._farthest: np.ndarray | None = None
        self._since = 0

    def drawn(self, count: int) -> None:
        """So many triangles have been drawn."""
        self._since += count
        if self._since < self._again_after and self._farthest is not None:
            return
        self._since = 0
        nearness = (self._keys >> np.uint64(32)).astype(np.uint32).reshape(self._size)
        tiles = _smallest_of(_smallest_of(nearness, 1 << _TILE_BITS).T, 1 << _TILE_BITS).T
        self._farthest = np.empty((_LEVELS, _LEVELS, *tiles.shape), np.uint32)
        self._farthest[0, 0] = tiles
        for down in range(_LEVELS):
            if down:
                _smaller(self._farthest[down - 1, 0], 1 << (down - 1), self._farthest[down, 0])
            for across in range(1, _LEVELS):
                own = self._farthest[down]
                _smaller(own[across - 1].T, 1 << (across - 1), own[across].T)

    def seen(self, left, right, top, bottom, nearness: np.ndarray) -> np.ndarray | None:
        """[K] bool: the triangles that may be seen, None for all of them: nothing is known yet.

        ``left`` … ``bottom`` [K] i32: the pixels of their boxes; ``nearness`` [K] f64: of their nearest corners.
        """
        if self._farthest is None:
            return None
        mine = np.maximum(nearness * _SLACK, 0.0).astype(np.float32).view(np.uint32)
        _, _, rows, columns = self._farthest.shape
        left, right, top, bottom = (side >> _TILE_BITS for side in (left, right, top, bottom))
        across, down = right - left + 1, bottom - top + 1
        is_large = np.maximum(across, down) >= _MOST_TILES
        across, down = (_LEVEL.take(count, mode="clip") for count in (across, down))
        right -= (1 << across) - 1
        bottom -= (1 << down) - 1
        down *= _LEVELS
        down += across
        down *= rows
        flat = self._farthest.reshape(-1)
        top += down
        top *= columns
        bottom += down
        bottom *= columns
        farthest = flat.take(top + left, mode="clip")
        for row, column in ((top, right), (bottom, left), (bottom, right)):
            np.minimum(farthest, flat.take(row + column, mode="clip"), out=farthest)
        return (mine >= farthest) | is_large


def near_first(found: Snapped, inverse_depth: np.ndarray, triangles: np.ndarray, which) -> np.ndarray:
    """``which`` [K] of the ``triangles``, None for all, roughly in the order of a corner's nearness, and else as they
    were: what is hidden comes late.  Those beside the picture, and those without a finite corner, are left out.

    ``found``: of their corners, with ``inverse_depth`` [N] f64.
    """
    count, numbers, nearness = len(triangles) if which is None else len(which), [], []
    all_finite = bool(found.finite.all())
    for start in range(0, count, _TRIANGLES_AT_A_TIME):
        own = np.arange(start, min(start + _TRIANGLES_AT_A_TIME, count), dtype=np.int32)
        own = own if which is None else which[start : start + _TRIANGLES_AT_A_TIME]
        chunk = triangles[own[0] : own[-1] + 1] if which is None else triangles[own]
        if found.outside is not None:
            kept = in_view(found.outside, np.ascontiguousarray(chunk.T))
            own, chunk = own.take(kept), chunk.take(kept, axis=0)
        first = np.ascontiguousarray(chunk[:, 0])
        if not all_finite:
            kept = np.flatnonzero(found.finite.take(first))
            own, first = own.take(kept), first.take(kept)
        numbers.append(own)
        with np.errstate(over="ignore"):
            nearness.append(inverse_depth.take(first).astype(np.float32))
    numbers, nearness = np.concatenate(numbers), np.concatenate(nearness)
    sample = np.sort(nearness[:: max(1, len(nearness) // _SAMPLE)])
    late = np.zeros(len(nearness), np.uint8)
    for share in range(1, _SLICES if len(sample) else 0):
        late += nearness < sample[len(sample) * share // _SLICES]
    return numbers.take(np.argsort(late, kind="stable"))


def _smallest_of(rows: np.ndarray, count: int) -> np.ndarray:
    """The smallest of every ``count`` of the ``rows`` [h,w], one after the other; of what is left at the end, too."""
    smallest = rows[::count].copy()
    for number in range(1, count):
        some = rows[number::count]
        np.minimum(smallest[: len(some)], some, out=smallest[: len(some)])
    return smallest


def _smaller(rows: np.ndarray, step: int, out: np.ndarray) -> None:
    """Of each of the ``rows`` [h,w] and the one ``step`` after it, where there is one, the smaller into ``out``."""
    out[:] = rows
    if step < len(rows):
        np.minimum(rows[:-step], rows[step:], out=out[:-step])
