# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tracks of a clip are of things that move by themselves, and which only went wrong, as the pictures tell.

A track that no standing point explains may have slipped, along a pattern for one.  What it began on is looked for where
it would be had it stood still: if it is there as well as where the track has gone to, it stands.
"""

from __future__ import annotations

import numpy as np

from .lifting import OPTICAL
from .plate import focal_px
from .triangulation import Points

FRAMES = 12
"""Of the clip, evenly chosen, that are looked at."""
HALF = 3
"""Pixels from the middle of a window that is compared to its side."""
UNLIKE = 0.1
"""Share of a window's contrast that is unlike where a thing has moved away."""
WORSE = 1.6
"""Times as much is unlike there as where the track has gone to."""
GONE = 0.25
"""As much is unlike only where the thing is gone, wherever the track is: its window may be half of something else."""
NOISE = 4.0
"""Levels squared: contrast that says nothing."""
INSIDE = 0.6
"""Share of a window that a picture must show."""


def moving_tracks(
    points: Points,
    tracks: np.ndarray,
    visible: np.ndarray,
    pictures: np.ndarray,
    cameras: np.ndarray,
    lens_mm: float,
    depth: np.ndarray,
) -> np.ndarray:
    """Bool [N]: which of ``points.moves`` the pictures confirm; one that they tell nothing of is.

    ``tracks`` [T,N,2+] (pixels) and ``visible`` [T,N] of the ``points``; ``pictures`` u8 [T,H,W,3]; ``depth`` [H,W] of
    the first one, in the unit of ``cameras`` [T,4,4] (camera → world), as far as it is known.
    """
    chosen = np.flatnonzero(points.moves)
    if not chosen.size:
        return points.moves
    height, width = depth.shape
    focal = focal_px(lens_mm, (width, height))
    began = np.nan_to_num(tracks[0, chosen, :2]).astype(np.float64)
    column, row = (np.clip(began[:, axis].astype(int), 0, side - 1) for axis, side in ((0, width), (1, height)))
    middle = np.array([width, height]) / 2.0
    there = np.concatenate([(began - middle) / focal, np.ones((len(began), 1))], axis=1) * depth[row, column, None]
    views = np.linalg.inv(OPTICAL @ np.linalg.inv(cameras[0]) @ cameras @ OPTICAL)
    first, _ = _windows(_grey(pictures[0]), began)
    followed, standing = [], []
    for number in np.unique(np.linspace(1, len(pictures) - 1, min(FRAMES, len(pictures) - 1)).astype(int)):
        seen = there @ views[number, :3, :3].T + views[number, :3, 3]
        still = focal * seen[:, :2] / np.maximum(seen[:, 2:], 1e-6) + middle
        gone = tracks[number, chosen, :2].astype(np.float64)
        compared = visible[number, chosen] & np.isfinite(gone).all(axis=1) & (seen[:, 2] > 1e-6)
        found, grey = [], _grey(pictures[number])
        for at in (gone, still):
            window, inside = _windows(grey, at)
            compared &= inside
            found.append(_unlike(first, window))
        followed.append(np.where(compared, found[0], np.nan))
        standing.append(np.where(compared, found[1], np.nan))
    count = np.isfinite(followed).sum(axis=0)
    followed, standing = (np.nansum(values, axis=0) for values in (followed, standing))
    out = points.moves.copy()
    has_gone = (standing > UNLIKE * count) & (standing > WORSE * followed) | (standing > GONE * count)
    out[chosen] = has_gone | (count == 0)
    return out


def _unlike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N]: contrast of the difference of the windows [N,S,S] as a share of both: 0 the same, 1 nothing in common."""
    return (other - one).var(axis=(1, 2)) / (one.var(axis=(1, 2)) + other.var(axis=(1, 2)) + NOISE)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture.astype(np.float64).mean(axis=2)


def _windows(grey: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(levels f64 [N,S,S] of ``grey`` [H,W] round each of ``at`` [N,2], pixels, bool [N]: whether it has enough of
    them).
    """
    height, width = grey.shape
    steps = np.arange(-HALF, HALF + 1) - 0.5
    at = np.clip(np.nan_to_num(at, nan=-1e3), -1e3, 2.0 * max(width, height))
    x, y = np.broadcast_arrays(at[:, 0, None, None] + steps, at[:, 1, None, None] + steps[:, None])
    inside = ((x >= 0.0) & (x <= width - 1) & (y >= 0.0) & (y <= height - 1)).mean(axis=(1, 2)) >= INSIDE
    x, y = np.clip(x, 0.0, width - 1), np.clip(y, 0.0, height - 1)
    left, top = x.astype(int), y.astype(int)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = x - left, y - top
    upper = grey[top, left] * (1.0 - across) + grey[top, right] * across
    lower = grey[below, left] * (1.0 - across) + grey[below, right] * across
    return upper * (1.0 - down) + lower * down, inside
