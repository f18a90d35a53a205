# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that cannot be seen, found before any of their pixels is looked at: all that they could cover is covered by
something nearer.

The z-buffer's farthest key is known of every tile of pixels, as it was some triangles ago.  What is left out could not
have changed a key: where there is much in one place, as in dense hair, most is, and of closed meshes what faces away.
"""

from __future__ import annotations

import numpy as np

_TILE_BITS = 2
"""Side of a tile, as a power of two."""
_LEVELS = 4
"""Rows and columns of 1, 2, 4 … tiles whose farthest key is known; two that overlap make any number between."""
_MOST_TILES = 1 << _LEVELS
_LEVEL = np.array([max(0, count.bit_length() - 1) for count in range(_MOST_TILES)], np.int32)
_AGAIN_AFTER = 1 << 15
"""Triangles that are drawn until the tiles are looked at again, at most; a quarter of all where that is less."""
_SLICES, _SAMPLE = 8, 1 << 10
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


def near_first(inverse_depth: np.ndarray, finite: np.ndarray, triangles: np.ndarray, which) -> np.ndarray:
    """``which`` [K] of the ``triangles``, None for all, roughly in the order of a corner's nearness, and else as they
    were: what is hidden comes late.  Those whose corner is not ``finite`` are left out.
    """
    first = np.ascontiguousarray(triangles[:, 0] if which is None else triangles[which, 0])
    kept = None
    if not finite.all():
        kept = np.flatnonzero(finite.take(first))
        first = first.take(kept)
    nearness = inverse_depth.take(first)
    sample = np.sort(nearness[:: max(1, len(nearness) // _SAMPLE)])
    late = np.zeros(len(nearness), np.uint8)
    for share in range(1, _SLICES if len(sample) else 0):
        late += nearness < sample[len(sample) * share // _SLICES]
    order = np.argsort(late, kind="stable")
    order = order if kept is None else kept.take(order)
    return order if which is None else which[order]


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
