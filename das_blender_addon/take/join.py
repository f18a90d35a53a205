# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip of a model passing into the next, where both show the same moments: the same surface at the same pixel, but
not the same appearance.  No Blender in here.

Colours of large areas are mixed, so that nothing jumps.  Details are not, which would blur them or show both: each
place takes them from one clip, and changes over at a moment of its own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

DETAIL_PX = 6
"""Radius in pixels of what counts as detail: smaller things come from one clip, larger areas are mixed."""
PATCH_PX = 24
"""Size of the patches that change over together."""
EDGE = 0.04
"""Share of the overlap within which a patch changes over: neighbouring patches join without a hard line."""


def passed_over(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    """[H,W,3] u8: the frame of ``before`` on its way to that of ``after``, both [H,W,3] u8, at ``share`` (0 to 1)."""
    first, second = before.astype(np.float32), after.astype(np.float32)
    low_first, low_second = _blurred(first), _blurred(second)
    low = low_first + np.float32(share) * (low_second - low_first)
    moment = _moments(*before.shape[:2])[..., None]
    chosen = np.clip((share - moment) / EDGE + 0.5, 0.0, 1.0).astype(np.float32)
    detail = (first - low_first) * (1.0 - chosen) + (second - low_second) * chosen
    return np.rint(np.clip(low + detail, 0.0, 255.0)).astype(np.uint8)


@lru_cache(maxsize=2)
def _moments(height: int, width: int) -> np.ndarray:
    """[H,W] f32 in (0, 1): when each place changes over, smooth over `PATCH_PX`; the same for every frame.

    As much changes over in each frame: between patches moments of the middle are the most, so they are spread out.
    """
    rows, columns = -(-height // PATCH_PX) + 2, -(-width // PATCH_PX) + 2
    order = np.random.default_rng(0).permutation(rows * columns).reshape(rows, columns)
    smooth = _between(_between(order.astype(np.float64), height).T, width).T
    moments = np.empty(smooth.size, np.float32)
    moments[np.argsort(smooth, axis=None, kind="stable")] = (np.arange(smooth.size) + 0.5) / smooth.size
    return moments.reshape(smooth.shape)


def _between(coarse: np.ndarray, length: int) -> np.ndarray:
    """[length,…]: the rows of ``coarse``, `PATCH_PX` apart, with linear ones between."""
    place = np.arange(length) / PATCH_PX + 0.5
    low = place.astype(np.int64)
    share = (place - low)[:, None]
    return coarse[low] * (1.0 - share) + coarse[low + 1] * share


def _blurred(values: np.ndarray) -> np.ndarray:
    """``values`` [H,W,3] f32 with a box of `DETAIL_PX` run over it twice in each direction."""
    for _ in range(2):
        values = _box(_box(values).transpose(1, 0, 2)).transpose(1, 0, 2)
    return values


def _box(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, ((DETAIL_PX + 1, DETAIL_PX), (0, 0), (0, 0)), mode="edge")
    total = np.cumsum(padded, axis=0, dtype=np.float64)
    width = 2 * DETAIL_PX + 1
    return ((total[width:] - total[:-width]) / width).astype(np.float32)
