# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies behind a thing that moves away: values that continue those around it as evenly as possible.

The fill is harmonic (no value differs from the mean of its neighbours), solved from coarse to fine.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 60
"""Sweeps over the hole at each scale; what they leave is below what can be seen."""
_SMALLEST = 4


def fill_harmonic(values: np.ndarray, known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """``values`` [H,W,C] f64 with ``hole`` [H,W] bool filled from the ``known`` [H,W] bool around it.

    What is neither known nor a hole (the sky) is a border across which nothing flows.  A hole that touches nothing
    known gets the mean of all that is known, 0 where nothing is.
    """
    filled = np.where(known[..., None], values, 0.0).astype(np.float64)
    if hole.any():
        filled[hole] = _solved(filled, known & ~hole, hole)[hole]
    return filled


def _solved(values: np.ndarray, known: np.ndarray, hole: np.ndarray) -> np.ndarray:
    height, width = known.shape
    if min(height, width) <= _SMALLEST or not hole.any():
        mean = values[known].mean(axis=0) if known.any() else 0.0
        return np.where(known[..., None], values, mean)
    coarse = _halved(values, known, hole)
    guess = np.repeat(np.repeat(_solved(*coarse), 2, axis=0), 2, axis=1)[:height, :width]
    out = np.where(known[..., None], values, guess)
    rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
    box = (
        slice(max(rows[0] - 1, 0), rows[-1] + 2),
        slice(max(columns[0] - 1, 0), columns[-1] + 2),
    )
    out[box] = _relaxed(out[box], (known | hole)[box], hole[box])
    return out


def _relaxed(values: np.ndarray, there: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Red-black relaxation of the ``hole`` where neighbours are ``there``."""
    framed = np.pad(values * there[..., None], ((1, 1), (1, 1), (0, 0)))
    weight = np.pad(there.astype(np.float64), 1)
    inner = framed[1:-1, 1:-1]
    count = weight[:-2, 1:-1] + weight[2:, 1:-1] + weight[1:-1, :-2] + weight[1:-1, 2:]
    parity = np.add.outer(np.arange(hole.shape[0]), np.arange(hole.shape[1])) % 2
    turns = [np.nonzero(hole & (count > 0) & (parity == turn)) for turn in (0, 1)]
    for _ in range(_ROUNDS):
        for y, x in turns:
            total = framed[y, x + 1] + framed[y + 2, x + 1] + framed[y + 1, x] + framed[y + 1, x + 2]
            mean = total / count[y, x][:, None]
            inner[y, x] += 1.5 * (mean - inner[y, x])
    for y, x in turns:  # the last one lands on the mean itself: no value outside of those around
        total = framed[y, x + 1] + framed[y + 2, x + 1] + framed[y + 1, x] + framed[y + 1, x + 2]
        inner[y, x] = total / count[y, x][:, None]
    return np.where(there[..., None], inner, values)


def _halved(values, known, hole) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each of 2 × 2 places: the mean of what is known there."""
    height, width = (side + side % 2 for side in known.shape)
    pad = (0, height - known.shape[0]), (0, width - known.shape[1])
    known, hole = np.pad(known, pad), np.pad(hole, pad)
    values = np.pad(values, (*pad, (0, 0)))
    blocks = known.reshape(height // 2, 2, width // 2, 2)
    count = blocks.sum(axis=(1, 3))
    total = (values * known[..., None]).reshape(height // 2, 2, width // 2, 2, -1).sum(axis=(1, 3))
    coarse_known = count > 0
    coarse_hole = hole.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)) & ~coarse_known
    return total / np.maximum(count, 1)[..., None], coarse_known, coarse_hole


def nearest_label(label: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """``label`` [H,W] bool with each place of ``hole`` [H,W] bool taking that of a nearest place outside (in steps to
    the four neighbours; True where both are as near).
    """
    out, open_ = label & ~hole, hole.copy()
    other = ~label & ~hole
    while open_.any():
        grown, grown_other = _grown(out) & open_, _grown(other) & open_
        if not (grown | grown_other).any():
            break
        out |= grown
        other |= grown_other & ~grown
        open_ &= ~(grown | grown_other)
    return out


def _grown(mask: np.ndarray) -> np.ndarray:
    framed = np.pad(mask, 1)
    return framed[:-2, 1:-1] | framed[2:, 1:-1] | framed[1:-1, :-2] | framed[1:-1, 2:]
