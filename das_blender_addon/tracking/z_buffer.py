# SPDX-License-Identifier: GPL-3.0-or-later
"""The z-buffer: a key per pixel, of what is nearest there so far; it takes candidates in any order."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .hidden import Hidden

_SMALLEST_INVERSE_DEPTH = float(np.finfo(np.float32).tiny)
_SCATTER_ROUNDS = 6
_ROWS_AT_A_TIME = 16


class Buffer(NamedTuple):
    """``keys`` [H·W] u64; nothing is entered that is not smaller than ``beyond`` [H·W] u64, where there is one;
    ``hidden``: what the keys hide, None where it is not worth while.
    """

    keys: np.ndarray
    beyond: np.ndarray | None
    hidden: Hidden | None


def fill_rows(buffer, member, row, pixel, lengths, depth, depth_step, rank, width) -> None:
    """Enter spans [R] of large triangles, row after row of each: rows of one side by side, without their order lost.

    ``member`` [R]: whose each is, ``row`` [R]: which of its rows; ``pixel`` [R]: the first one, ``lengths`` [R] pixels.
    """
    picture = buffer.keys.reshape(-1, width)
    beyond = None if buffer.beyond is None else buffer.beyond.reshape(-1, width)
    top, begin = np.divmod(pixel, width)
    breaks = (member[1:] != member[:-1]) | (row[1:] != row[:-1] + 1)
    firsts = np.concatenate([[0], np.flatnonzero(breaks) + 1, [len(member)]]).tolist()
    for first, last in pairwise(firsts):
        for start in range(first, last, _ROWS_AT_A_TIME):
            own = slice(start, min(start + _ROWS_AT_A_TIME, last))
            left, right = int(begin[own].min()), int((begin[own] + lengths[own]).max())
            block = (slice(top[start], top[start] + own.stop - start), slice(left, right))
            column = np.arange(right - left, dtype=np.float64) - (begin[own, None] - left)
            outside = (column < 0.0) | (column >= lengths[own, None])
            column *= depth_step[own, None]
            column += depth[own, None]
            keys = _keys(column, rank[own, None])
            keys[outside] = 0
            if beyond is not None:
                keys[keys >= beyond[block]] = 0
            np.maximum(picture[block], keys, out=picture[block])


def _keys(depths: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """u64: the float32 bits of 1/depth, which are ordered like the number as it is positive, above the 32 of the rank.
    """
    keys = np.maximum(depths, _SMALLEST_INVERSE_DEPTH).astype(np.float32).view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= ranks
    return keys


def keep_nearest(buffer, pixels, depths, ranks) -> None:
    """Enter candidates [K] into the z-buffer: largest 1/depth wins, then the highest rank (the lowest triangle index).
    """
    keys = _keys(depths, ranks)
    if buffer.beyond is not None:
        behind = np.flatnonzero(keys < buffer.beyond[pixels])
        pixels, keys = pixels[behind], keys[behind]
    # Scatter, then repeat for those that lost against a key that came later but lies behind: a few rounds settle nearly
    # everything; `maximum.at`, slow before numpy 1.25, takes what heaps up on one pixel.
    for _ in range(_SCATTER_ROUNDS):
        better = np.flatnonzero(keys > buffer.keys[pixels])
        if not better.size:
            return
        pixels, keys = pixels[better], keys[better]
        buffer.keys[pixels] = keys
    np.maximum.at(buffer.keys, pixels, keys)
