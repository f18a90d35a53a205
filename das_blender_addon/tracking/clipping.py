# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles in optical space cut at planes through the camera's frustum, without cracks between neighbours.

Sutherland and Hodgman, "Reentrant Polygon Clipping" (1974), one plane at a time on arrays of triangles: a triangle with
one corner inside gives one, with two corners inside gives two.  A cut point is always computed from the inside corner
to the outside corner, so two triangles that share an edge get the same point to the last bit.
"""

from __future__ import annotations

import numpy as np


def clip_triangles(corners: np.ndarray, owners: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut triangles so that every remaining corner satisfies ``plane · (x, y, z, 1) ≥ 0`` for every plane.

    ``corners`` [K,3,3] f64 (triangle, corner, xyz), finite; ``owners`` [K] i64: an index carried along;
    ``planes`` [Q,4] f64.  Returns the cut ``corners`` [L,3,3] f64 and the ``owners`` [L] they came from.
    """
    # Whole triangles outside one plane go first: most of what crosses a plane lies elsewhere anyway.
    for plane in planes:
        some_inside = (_signed_distances(corners, plane) >= 0.0).any(axis=1)
        corners, owners = corners[some_inside], owners[some_inside]
    for plane in planes:
        corners, owners = _clip_at_plane(corners, owners, plane)
    return corners, owners


def _signed_distances(corners: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """``plane`` [4] evaluated at ``corners`` [K,3,3] → [K,3]; summed term by term, so equal corners give equal bits."""
    return corners[..., 0] * plane[0] + corners[..., 1] * plane[1] + corners[..., 2] * plane[2] + plane[3]


def _clip_at_plane(corners: np.ndarray, owners: np.ndarray, plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances = _signed_distances(corners, plane)
    inside = distances >= 0.0
    num_inside = inside.sum(axis=1)
    kept = [corners[num_inside == 3]]
    kept_owners = [owners[num_inside == 3]]

    one = np.flatnonzero(num_inside == 1)
    if one.size:
        turned = _turned(corners[one], distances[one], inside[one].argmax(axis=1))
        lone, after, before, d_lone, d_after, d_before = turned
        kept.append(np.stack([lone, _cut(lone, after, d_lone, d_after), _cut(lone, before, d_lone, d_before)], axis=1))
        kept_owners.append(owners[one])

    two = np.flatnonzero(num_inside == 2)
    if two.size:
        turned = _turned(corners[two], distances[two], inside[two].argmin(axis=1))
        lone, after, before, d_lone, d_after, d_before = turned
        cut_after = _cut(after, lone, d_after, d_lone)
        cut_before = _cut(before, lone, d_before, d_lone)
        kept.append(np.stack([cut_after, after, before], axis=1))
        kept.append(np.stack([cut_after, before, cut_before], axis=1))
        kept_owners += [owners[two], owners[two]]
    return np.concatenate(kept), np.concatenate(kept_owners)


def _turned(corners: np.ndarray, distances: np.ndarray, lone: np.ndarray):
    """Corners and distances in cyclic order, beginning with corner number ``lone`` [K] of each triangle."""
    rows = np.arange(len(lone))
    order = [(lone + step) % 3 for step in range(3)]
    return (*(corners[rows, column] for column in order), *(distances[rows, column] for column in order))


def _cut(inside: np.ndarray, outside: np.ndarray, d_inside: np.ndarray, d_outside: np.ndarray) -> np.ndarray:
    """The point of each edge [K,3] where the distance is 0."""
    share = d_inside / (d_inside - d_outside)
    return inside + share[:, None] * (outside - inside)
