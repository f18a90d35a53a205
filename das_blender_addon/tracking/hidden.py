# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that cannot be seen, found before any of their pixels is looked at: all that they could cover is covered by
something nearer.

The z-buffer's farthest key is known of every tile of pixels, as it was some triangles ago.  What is left out could not
have changed a key: where there is much in one place, as in dense hair, most is.
"""

from __future__ import annotations

import numpy as np

_TILE_BITS = (3, 5)
"""Sides of tiles, as powers of two; the box of a triangle lies in 2×2 tiles of the smallest that are as large."""
_AGAIN_AFTER = 1 << 15
"""Triangles that are drawn until the tiles are looked at again."""
_SLACK = 1.0 + 1e-6
"""What rounding may add to the nearness of a triangle's pixels beyond that of its nearest corner."""


class Hidden:
    """What the keys of ``width`` × ``height`` pixels hide."""

    def __init__(self, keys: np.ndarray, width: int, height: int):
        """``keys`` [H·W] u64: nearness as f32 bits above the 32 bits of a rank; they grow while it is used."""
        self._keys, self._size = keys, (height, width)
        self._farthest: list[np.ndarray] = []
        self._since = 0

    def drawn(self, count: int) -> None:
        """So many triangles have been drawn."""
        self._since += count
        if self._since >= _AGAIN_AFTER or not self._farthest:
            self._since = 0
            nearness = (self._keys >> np.uint64(32)).astype(np.uint32).reshape(self._size)
            self._farthest = []
            known = 0
            for bits in _TILE_BITS:
                for axis in (0, 1):
                    firsts = np.arange(0, nearness.shape[axis], 1 << (bits - known))
                    nearness = np.minimum.reduceat(nearness, firsts, axis=axis)
                known = bits
                self._farthest.append(_of_four(nearness))

    def seen(self, left, right, top, bottom, nearness: np.ndarray) -> np.ndarray | None:
        """[K] bool: the triangles that may be seen, None for all of them: nothing is known yet.

        ``left`` … ``bottom`` [K] i32: the pixels of their boxes; ``nearness`` [K] f64: of their nearest corners.
        """
        if not self._farthest:
            return None
        mine = np.maximum(nearness * _SLACK, 0.0).astype(np.float32).view(np.uint32)
        size = np.maximum(right - left, bottom - top)
        seen = np.ones(len(left), bool)
        smaller = 0
        for bits, farthest in zip(_TILE_BITS, self._farthest, strict=True):
            own = np.flatnonzero((size >= smaller) & (size < 1 << bits))
            place = (top.take(own) >> bits) * farthest.shape[1] + (left.take(own) >> bits)
            seen[own] = mine.take(own) >= farthest.reshape(-1).take(place)
            smaller = 1 << bits
        return seen


def _of_four(tiles: np.ndarray) -> np.ndarray:
    """Of each of the ``tiles`` [h,w] the smallest of it and those to its right and below."""
    framed = np.pad(tiles, ((0, 1), (0, 1)), mode="edge")
    across = np.minimum(framed[:, :-1], framed[:, 1:])
    return np.ascontiguousarray(np.minimum(across[:-1], across[1:]))
