# SPDX-License-Identifier: GPL-3.0-or-later
"""Things that move by themselves in a clip and that nobody masked: the parts of its first picture that they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SMALLEST = 0.004
"""Share of the picture below which a part is a few tracks that went wrong."""
FEWEST = 4
"""Tracks in a part; fewer may have been too short to tell anything."""
MOST = 0.5
"""Share of the picture from which on it is not things that move, but all of it."""


def movers(moving: np.ndarray, at: np.ndarray, masks: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Bool [H,W] of each connected part of ``moving`` bool [H,W] that is large enough to be a thing, that some tracks,
    ``at`` [N,2+] px, lie in, and of which ``masks`` (name → bool [H,W]) have less than half; the largest first.
    """
    if moving.mean() > MOST:
        return []
    masked = np.any(list(masks.values()), axis=0) if masks else np.zeros(moving.shape, bool)
    x, y = np.floor(at[np.isfinite(at[:, :2]).all(axis=1), :2].T).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < moving.shape[1]) & (y < moving.shape[0])
    found = [part for part in connected(moving) if part.mean() >= SMALLEST and masked[part].mean() < 0.5]
    found = [part for part in found if part[y[inside], x[inside]].sum() >= FEWEST]
    return sorted((part & ~masked for part in found), key=np.count_nonzero, reverse=True)


def words_of_movers(found: list[np.ndarray]) -> str:
    """What to know of the `movers`, in a sentence or two; "" for none."""
    if not found:
        return ""
    boxes = []
    for part in found:
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        boxes.append(f"box:{columns[0]},{rows[0]},{np.ptp(columns) + 1},{np.ptp(rows) + 1}")
    share = float(np.any(found, axis=0).mean())
    return (
        f"What moves by itself ({share:.0%} of the first picture: {', '.join(boxes)}) has no mask: how "
        "far away it is is guessed from what is around it, and its edges may tear; give it a --mask (a file, salient, "
        "cut: with its box) to make it an object of its own."
    )


def connected(mask: np.ndarray) -> list[np.ndarray]:
    """Bool [H,W] of each part of ``mask`` bool [H,W] that hangs together, in the order of their first ones."""
    height = len(mask)
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    first = np.searchsorted(rows, np.arange(height + 1))
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for row in range(1, height):
        above, run = first[row - 1], first[row]
        while above < first[row] and run < first[row + 1]:
            if starts[above] < ends[run] and starts[run] < ends[above]:
                one, other = sorted((root(above), root(run)))
                parent[other] = one
            if ends[above] < ends[run]:
                above += 1
            else:
                run += 1
    roots = np.array([root(run) for run in range(len(rows))], dtype=int)
    parts = []
    for one in np.unique(roots):
        part = np.zeros(mask.shape, bool)
        for run in np.flatnonzero(roots == one):
            part[rows[run], starts[run] : ends[run]] = True
        parts.append(part)
    return parts
