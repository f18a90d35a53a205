# SPDX-License-Identifier: GPL-3.0-or-later
"""Points that move → a mesh that moves with them: each vertex goes as the points nearest to it on its own surface do.

What is nearest counts distance in the picture, a difference in depth, and in how the points move: two things that touch
do not drag each other along.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .lifting import Lifted, neighbours
from .mesh import PlateMesh, middles

NEAREST = 8
SURFACE_SHARE = 0.04
"""1/depth that differs by this share lies as far away as the next point."""
APART_PX = 1.5
"""Points whose motions differ by this many pixels more than a surface's between neighbours do not move together."""
ALIKE, ALIKE_SHARE = 2, 0.2
"""A track is believed where as many of its neighbours move as it does, to this share of its motion."""
_MOMENTS = 4
_FLAT = 0.05
"""How much an even motion is preferred to one that changes along the surface, where little tells."""
_SOFT = 0.05


@dataclass(frozen=True)
class Influence:
    """Each vertex goes as the sum over ``points`` i64 [V,K], times ``shares`` f64 [V,K], of how those go."""

    points: np.ndarray
    shares: np.ndarray


def motion_of(lifted: Lifted, focal: float) -> np.ndarray:
    """[N,2M] f64: pixels by which each point has moved before the first camera at M moments of the clip."""
    moments = np.unique(np.linspace(0, len(lifted.places) - 1, _MOMENTS + 1).astype(int)[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = focal * lifted.places[..., :2] / np.maximum(lifted.places[..., 2:], 1e-6)
    moved = seen[moments] - seen[:1]
    return np.clip(moved, -1e4, 1e4).transpose(1, 0, 2).reshape(len(lifted.at), -1)


def motion_field(
    lifted: Lifted, motion: np.ndarray, depth: np.ndarray, chosen: np.ndarray, every: int = 1
) -> np.ndarray:
    """[H,W,2M]: the ``motion`` of the point nearest to each pixel on its surface; ``depth`` [H,W] (0 for nothing).
    ``every``: pixels along the side of a block, all of which go as its middle does.
    """
    height, width = depth.shape
    rows, columns = middles(height, every), middles(width, every)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    there = depth[np.ix_(rows, columns)]
    inverse = 1.0 / np.where(there > 0.0, there, np.inf)
    nearest = np.zeros(y.size, np.int64)
    places = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)
    for vertices, points, apart in _blocks(places, inverse.ravel(), lifted, chosen):
        nearest[vertices] = points[apart.argmin(axis=1)]
    nearest = nearest.reshape(y.shape).repeat(every, axis=0).repeat(every, axis=1)[:height, :width]
    return motion[nearest]


def apart_limit(lifted: Lifted) -> float:
    """Pixels by which the motions of neighbours on one surface may differ."""
    return max(APART_PX, 0.75 * lifted.spacing)


def influence(mesh: PlateMesh, lifted: Lifted, motion: np.ndarray, chosen: np.ndarray) -> Influence:
    """What moves each vertex of ``mesh``, by those points that are ``chosen`` bool [N] (at least one)."""
    count = min(NEAREST, int(chosen.sum()))
    points, shares = (np.zeros((len(mesh.vertices), count), kind) for kind in (np.int64, np.float64))
    home = _homes(mesh)
    inverse = 1.0 / mesh.vertices[:, 2].astype(np.float64)
    spacing, limit = lifted.spacing, apart_limit(lifted)
    for vertices, candidates, apart in _blocks(home, inverse, lifted, chosen):
        moves = motion[candidates]
        own, which = np.unique(apart.argmin(axis=1), return_inverse=True)
        differs = np.linalg.norm(moves[own][:, None] - moves[None], axis=2)
        apart = apart + ((np.maximum(differs - limit, 0.0) / limit * 4.0) ** 2)[which]
        best = np.argpartition(apart, count - 1, axis=1)[:, :count] if count < apart.shape[1] else None
        best = np.broadcast_to(np.arange(apart.shape[1]), apart.shape) if best is None else best
        near = np.take_along_axis(apart, best, axis=1)
        here = candidates[best]
        step = (lifted.at[here] - mesh.pixels[vertices][:, None].astype(np.float64)) / spacing
        points[vertices, : best.shape[1]] = here
        shares[vertices, : best.shape[1]] = _shares(step, 1.0 / (near + _SOFT) ** 2)
    return Influence(np.asfortranarray(points), np.asfortranarray(shares))  # read point by point


def positions(mesh: PlateMesh, moved: Influence, lifted: Lifted, number: int) -> np.ndarray:
    """[V,3] f32: the mesh's vertices in frame ``number`` (from 0), optical space of the first camera."""
    steps = np.ascontiguousarray((lifted.places[number] - lifted.places[0]).T)
    gone = np.zeros((3, len(mesh.vertices)))
    for points, shares in zip(moved.points.T, moved.shares.T, strict=True):
        for axis in range(3):
            gone[axis] += shares * steps[axis][points]
    return (mesh.vertices + gone.T).astype(np.float32)


def _homes(mesh: PlateMesh) -> np.ndarray:
    """[V,2]: the middle of the quads that each vertex belongs to, pixels: on its own side of a cut."""
    middles = mesh.pixels[mesh.quads].mean(axis=1)
    total = np.stack(
        [
            np.bincount(mesh.quads.ravel(), np.repeat(middles[:, axis], 4), minlength=len(mesh.vertices))
            for axis in (0, 1)
        ],
        axis=1,
    )
    return total / np.maximum(np.bincount(mesh.quads.ravel(), minlength=len(mesh.vertices)), 1)[:, None]


def _blocks(places: np.ndarray, inverse: np.ndarray, lifted: Lifted, chosen: np.ndarray):
    """(places of one part of the picture, points that may be near to them, squared distances [places, points]) for all
    parts; 1 is a point's spacing.
    """
    spacing = lifted.spacing
    side = max(4.0 * spacing, 8.0)
    cell, owner = (np.floor(at / side).astype(np.int64) for at in (places, lifted.at))
    key = cell[:, 0] * 1_000_003 + cell[:, 1]
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    for number, start in enumerate(starts):
        end = starts[number + 1] if number + 1 < len(starts) else len(order)
        here = order[start:end]
        candidates = _candidates(cell[here[0]], owner, chosen)
        surface = (inverse[here][:, None] / lifted.inverse[candidates][None] - 1.0) / SURFACE_SHARE
        apart = np.minimum(surface**2, 1e6)
        for axis in (0, 1):
            apart += ((places[here, axis][:, None] - lifted.at[candidates, axis][None]) / spacing) ** 2
        yield here, candidates, apart


def _candidates(cell: np.ndarray, owner: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    away = np.abs(owner - cell).max(axis=1)
    reach, enough = 1, min(2 * NEAREST, int(chosen.sum()))
    while True:
        found = np.flatnonzero(chosen & (away <= reach))
        if len(found) >= enough:
            return found
        reach *= 2


def _shares(step: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[V,K] that sum to 1: the value at 0 of a plane fitted to values at ``step`` [V,K,2] with ``weight`` [V,K]."""
    weight = weight / weight.sum(axis=1, keepdims=True)
    basis = np.concatenate([np.ones((*step.shape[:2], 1)), step], axis=2)
    normal = np.einsum("vk,vki,vkj->vij", weight, basis, basis) + np.diag([0.0, _FLAT, _FLAT])
    row = np.linalg.inv(normal)[:, 0]
    return weight * np.einsum("vi,vki->vk", row, basis)


def trusted(lifted: Lifted, focal: float) -> Lifted:
    """``lifted`` without points that move as hardly any of those nearest to them do: their tracks are taken for wrong.

    All of it where there are too few points to tell.
    """
    if len(lifted.at) <= NEAREST:
        return lifted
    motion, beside = motion_of(lifted, focal), neighbours(lifted)
    apart = np.linalg.norm(motion[:, None] - motion[beside], axis=2)
    limit = apart_limit(lifted) + ALIKE_SHARE * np.linalg.norm(motion, axis=1)
    good = (apart <= limit[:, None]).sum(axis=1) >= ALIKE
    if not good.any():
        return lifted
    return Lifted(lifted.at[good], lifted.inverse[good], lifted.places[:, good], lifted.seen[:, good])
