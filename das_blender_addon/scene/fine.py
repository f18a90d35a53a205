# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles cut into smaller ones, none with an edge longer than asked for, without cracks between neighbours.

An edge is cut in the middle or not at all, for both triangles that share it; new points are weighted sums of the
corners of one triangle of the mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_ROUNDS = 8
MOST_TRIANGLES = 100_000
"""No cutting goes on beyond that."""


@dataclass(frozen=True)
class Fine:
    """``triangles`` [M,3] i32 over points, which are ``corners`` [P,3] i32 with ``weights`` [P,3] f32 of a mesh."""

    triangles: np.ndarray
    corners: np.ndarray
    weights: np.ndarray


def cut(points: np.ndarray, triangles: np.ndarray, longest: float) -> Fine | None:
    """The ``triangles`` [M,3] i32 over ``points`` [N,3] f32, cut until no edge is longer than ``longest``, in the units
    of the points.  None where nothing has to be cut.
    """
    places, faces = points.astype(np.float64), triangles.astype(np.int64)
    owner = np.arange(len(triangles))
    weights = np.tile(np.eye(3), (len(triangles), 1, 1))
    was_cut = False
    for _ in range(MOST_ROUNDS):
        sides = np.sort(faces[:, ((0, 1), (1, 2), (2, 0))].reshape(-1, 2), axis=1)
        names, of_side = np.unique(sides[:, 0] * len(places) + sides[:, 1], return_inverse=True)
        edges = np.stack(np.divmod(names, len(places)), axis=1)
        long = np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1) > longest
        split = long[of_side.reshape(-1)].reshape(-1, 3)
        if not long.any() or len(faces) + split.sum() > MOST_TRIANGLES:
            break
        was_cut = True
        middles = np.full(len(edges), -1)
        middles[long] = len(places) + np.arange(int(long.sum()))
        places = np.concatenate([places, places[edges[long]].mean(axis=1)])
        faces, owner, weights = _split(faces, owner, weights, split, middles[of_side.reshape(-1)].reshape(-1, 3))
    if not was_cut:
        return None
    corners, of_points = np.zeros((len(places), 3), np.int32), np.zeros((len(places), 3), np.float32)
    at = faces.reshape(-1)
    corners[at] = np.repeat(triangles[owner], 3, axis=0)
    of_points[at] = weights.reshape(-1, 3)
    corners[: len(points)] = np.arange(len(points))[:, None]
    of_points[: len(points)] = (1.0, 0.0, 0.0)
    return Fine(faces.astype(np.int32), corners, of_points)


def _split(faces, owner, weights, split, middles):
    """Every triangle in one to four, by which of its sides 0–1, 1–2, 2–0 are ``split`` [M,3]."""
    count = split.sum(axis=1)
    # Turned so that the cut sides come first: 0 (and 1) of one (two) cut sides.
    turn = np.select(
        [count == 1, count == 2], [split.argmax(axis=1), (split.argmin(axis=1) + 1) % 3], default=0
    )
    order = (turn[:, None] + np.arange(3)) % 3
    faces, middles = np.take_along_axis(faces, order, 1), np.take_along_axis(middles, order, 1)
    weights = np.take_along_axis(weights, order[:, :, None], 1)
    # Six points each: the corners 0, 1, 2 and the middles 3 (of 0–1), 4 (of 1–2), 5 (of 2–0).
    names = np.concatenate([faces, middles], axis=1)
    shares = np.concatenate([weights, (weights + np.roll(weights, -1, axis=1)) / 2.0], axis=1)
    patterns = {
        0: ((0, 1, 2),),
        1: ((0, 3, 2), (3, 1, 2)),
        2: ((0, 3, 2), (3, 4, 2), (3, 1, 4)),
        3: ((0, 3, 5), (3, 1, 4), (5, 4, 2), (3, 4, 5)),
    }
    parts = [
        (names[own][:, pattern], owner[own], shares[own][:, pattern])
        for cuts, patterns_of in patterns.items()
        for own in (np.flatnonzero(count == cuts),)
        for pattern in patterns_of
    ]
    faces, owner, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return faces, owner, weights
