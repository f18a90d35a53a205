# SPDX-License-Identifier: GPL-3.0-or-later
"""Which points of a clip move by themselves: those that no single motion of the camera explains together with most."""

from __future__ import annotations

import numpy as np

_GUESSES = 600
_FEWEST = 16
"""Points in common that two frames need to tell anything."""
OFF_PX, OFF_SHARE = 0.4, 0.001
"""A point is explained where it lies this near to its line, pixels, and this share of the picture's longer side."""


def moving_points(tracks: np.ndarray, visible: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool [N] of ``tracks`` [T,N,2] in pixels of a picture of ``size`` (width, height), ``visible`` [T,N].

    Each time two frames are compared, as far apart as most points live; what is off the most often moves.
    """
    count = len(tracks)
    asked, off = np.zeros(tracks.shape[1]), np.zeros(tracks.shape[1])
    random = np.random.default_rng(0)
    for gap in sorted({max(count // 4, 1), max(count // 2, 1), count - 1}):
        for start in np.unique(np.linspace(0, count - 1 - gap, 4).astype(int)):
            both = visible[start] & visible[start + gap]
            if both.sum() < _FEWEST:
                continue
            away = _off_lines(tracks[start, both], tracks[start + gap, both], size, random)
            asked[both] += 1
            off[both] += away > OFF_PX + OFF_SHARE * max(size)
    return (asked > 0) & (off > 0.5 * asked)


def _off_lines(one: np.ndarray, other: np.ndarray, size: tuple[int, int], random) -> np.ndarray:
    """[P]: Sampson's distance of each pair of places [P,2], pixels, by the motion that explains most of them."""
    middle, scale = np.array(size) / 2.0, max(size) / 2.0
    a, b = ((np.c_[(places.astype(np.float64) - middle) / scale, np.ones(len(places))]) for places in (one, other))
    picked = np.argsort(random.random((_GUESSES, len(a))), axis=1)[:, :8]
    rows = (b[picked][..., :, None] * a[picked][..., None, :]).reshape(_GUESSES, 8, 9)
    guesses = np.linalg.svd(rows)[2][:, -1].reshape(_GUESSES, 3, 3)
    left, values, right = np.linalg.svd(guesses)
    values[:, 2] = 0.0
    guesses = (left * values[:, None]) @ right
    away = _sampson(guesses, a, b) * scale
    limit = OFF_PX + OFF_SHARE * max(size)
    return away[np.minimum(away, 2.0 * limit).sum(axis=1).argmin()]


def _sampson(guesses: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    lines = np.einsum("gij,pj->gpi", guesses, a)
    back = np.einsum("gji,pj->gpi", guesses, b)
    error = np.abs(np.einsum("pi,gpi->gp", b, lines))
    return error / np.sqrt(np.maximum((lines[..., :2] ** 2).sum(axis=2) + (back[..., :2] ** 2).sum(axis=2), 1e-18))
