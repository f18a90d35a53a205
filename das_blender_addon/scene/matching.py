# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the points of a mesh lay on another mesh that it continues, though the two share no topology.

The meshes are one surface at two moments.  First the motion between them is found as a smooth field: at some hundred
nodes the new surface is moved until it lies on the old one, where every node may slide along the surface but goes with
its neighbours, and with the way that the surface went before (point-to-plane registration; Chen and Medioni, "Object
Modelling by Registration of Multiple Range Images", 1992).  Then each point, moved by that field, continues the closest
point of the old surface that looks the same way.

A point that lies too far from the old surface, or beside its rim, is new.  Vertices with one `id` are one point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mathutils.bvhtree import BVHTree

from ..tracking.changes import combined

MOST_NODES = 1500
ROUNDS = 6
"""Of the registration: closest points are searched so many times."""
SOLVER_STEPS = 40
STIFFNESS, PRIOR, KNOWN = 0.5, 0.002, 100.0
"""Weights beside a node's distance from the surface: of its going with its neighbours, of the motion before, of ids."""
LEAST_COSINE = 0.3
"""Between the normals of a point and of what it continues."""
FAR_SHARE = 0.03
"""How far from the old surface a point may lie along its normal, as a share of the mesh's size."""
BESIDE_SHARE = 0.5
"""How far beside it, as a share of the length of edges, where the mesh is not so coarse that its size counts."""
AMONG_SHARE, AMONG_BESIDE, AMONG_ROUNDS = 0.4, 1.5, 3
"""Of the corners around a point so many must go on for it to go on though it lies farther beside the surface, and how
far then, as a multiple of the length of edges."""
SMOOTHING = 4
"""Of the nodes' motion between them: rounds over neighbouring points."""
FINE_SHARE = 1.0 / 48.0
"""Triangles with longer edges than this share of a mesh's size are coarse."""


@dataclass(frozen=True)
class Surface:
    """``points`` [N,3] f32, ``triangles`` [M,3] i32, ``ids`` [≤ N] i32 of the first points, None where it has none."""

    points: np.ndarray
    triangles: np.ndarray
    ids: np.ndarray | None = None


@dataclass(frozen=True)
class Match:
    """Where the points [n] of a surface lie on another: ``corners`` [n,3] i32 and ``weights`` [n,3] f32, NaN for new
    points.  ``motion`` [n,3] f32: how far each is away from there, smoothly.
    """

    corners: np.ndarray
    weights: np.ndarray
    motion: np.ndarray


@dataclass(frozen=True)
class Guide:
    """The same mesh, by number of its vertices, where a surface's guide was at the earlier and at the later moment."""

    before: np.ndarray
    after: np.ndarray
    triangles: np.ndarray


def match(
    new: Surface, old: Surface, *, expected: np.ndarray | None = None, guide: Guide | None = None
) -> tuple[Match, Match]:
    """Where the points of ``new`` lay on ``old``, and where those of ``old`` lie on ``new``.

    ``expected`` [N,3] f32: how each point of ``old`` moved last; the surface is expected to go on like this.
    ``guide``: what tells exactly how it moved.
    """
    if not _can_be_matched(new) or not _can_be_matched(old):
        return _nothing(new), _nothing(old)
    size = float(np.linalg.norm(np.ptp(old.points, axis=0)))
    then, now = _Target(old), _Target(new)
    known, partner = _same_ids(new, old)
    if guide is not None:
        motion = _motion_of_guide(guide, guide.after, new.points)
        ahead = _motion_of_guide(guide, guide.before, old.points)
    else:
        prior = np.zeros((len(new.points), 3)) if expected is None else _carried(expected, then, new.points)
        motion = _registered(new, now.normals, then, old, prior, known, partner, size)
        ahead = _carried(motion, now, old.points)
        ahead = _carried(motion, now, old.points + ahead)
    back = _attached(new, now.normals, then, motion, size)
    forth = _attached(old, then.normals, now, -ahead, size)
    for found, own, others in ((back, known, partner), (forth, partner, known)):
        found.corners[own] = others[:, None]
        found.weights[own] = (1.0, 0.0, 0.0)
    return back, forth


def _can_be_matched(surface: Surface) -> bool:
    return len(surface.triangles) > 0 and bool(np.isfinite(surface.points).all())


def _nothing(surface: Surface) -> Match:
    """All its points are new."""
    shape = (len(surface.points), 3)
    return Match(np.zeros(shape, np.int32), np.full(shape, np.nan, np.float32), np.zeros(shape, np.float32))


def _attached(surface: Surface, normals: np.ndarray, target: _Target, motion: np.ndarray, size: float) -> Match:
    """The points of ``surface``, which have come by ``motion`` [n,3], on the surface of ``target``."""
    result = _nothing(surface)
    moved = surface.points - motion
    found, triangle, away = target.closest(moved, normals, FAR_SHARE * size)
    result.corners[found] = target.surface.triangles[triangle]
    result.weights[found] = _barycentric(moved[found] + away, target.surface.points, result.corners[found])
    # Along the normal a point may be away, as surfaces are sampled anew; beside it there is no surface to go on.
    along = np.einsum("pk,pk->p", away, normals[found])
    beside = np.linalg.norm(away - along[:, None] * normals[found], axis=1)
    edge = float(np.median(_edge_lengths(surface)))
    is_near, is_beside = np.zeros(len(moved), bool), np.zeros(len(moved), bool)
    is_near[found] = beside <= BESIDE_SHARE * min(edge, FINE_SHARE * size)
    is_beside[found] = beside <= AMONG_BESIDE * edge
    # Among points that go on, one goes on too, where sampling anew has cut an edge off.
    count = np.bincount(surface.triangles.reshape(-1), minlength=len(moved))
    for _ in range(AMONG_ROUNDS):
        share = np.repeat(is_near[surface.triangles].mean(axis=1), 3).reshape(-1, 3)
        around = _gathered(share, surface.triangles, len(moved))[:, 0]
        is_near |= is_beside & (around >= AMONG_SHARE * count)
    result.weights[~is_near] = np.nan
    result.motion[:] = motion
    return result


def _carried(values: np.ndarray, target: _Target, points: np.ndarray) -> np.ndarray:
    """[P,3] f64: ``values`` [N,3] of the vertices of ``target`` at its places that are closest to ``points`` [P,3]."""
    corners, weights = target.nearest(points)
    return combined(np.nan_to_num(values).astype(np.float32), corners, weights).astype(np.float64)


def _motion_of_guide(guide: Guide, places: np.ndarray, points: np.ndarray) -> np.ndarray:
    """[P,3] f64: how the guide moves where, being at ``places`` [N,3], it is closest to ``points`` [P,3]."""
    return _carried(guide.after - guide.before, _Target(Surface(places, guide.triangles)), points)


def vertex_normals(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """[N,3] f64 unit normals, weighted by area; 0 where there is none."""
    a, b, c = (points[corner].astype(np.float64) for corner in triangles.T)
    return _unit(_gathered(np.cross(b - a, c - a), triangles, len(points)))


def _gathered(values: np.ndarray, triangles: np.ndarray, count: int) -> np.ndarray:
    """[count,3]: the sum of ``values`` [M,3] over the triangles around each vertex."""
    at = triangles.T.reshape(-1)
    return np.stack([np.bincount(at, np.tile(values[:, axis], 3), count) for axis in range(3)], axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0.0, length, 1.0)


def _edge_lengths(surface: Surface) -> np.ndarray:
    a, b, c = (surface.points[corner] for corner in surface.triangles.T)
    return np.linalg.norm(np.concatenate([b - a, c - b, a - c]), axis=1)


def _same_ids(new: Surface, old: Surface) -> tuple[np.ndarray, np.ndarray]:
    """The points of ``new`` whose id one point of ``old`` has too, and those points."""
    none = np.zeros(0, np.int64), np.zeros(0, np.int32)
    if new.ids is None or old.ids is None:
        return none
    once, where, counts = np.unique(old.ids, return_index=True, return_counts=True)
    own, first, own_counts = np.unique(new.ids, return_index=True, return_counts=True)
    once, where, own, first = once[counts == 1], where[counts == 1], own[own_counts == 1], first[own_counts == 1]
    _, in_new, in_old = np.intersect1d(own, once, assume_unique=True, return_indices=True)
    return first[in_new], where[in_old].astype(np.int32)


class _Target:
    """The old surface, to be asked for closest points."""

    def __init__(self, surface: Surface):
        self._tree = BVHTree.FromPolygons(surface.points.tolist(), surface.triangles.tolist(), all_triangles=True)
        a, b, c = (surface.points[corner].astype(np.float64) for corner in surface.triangles.T)
        self.face_normals = _unit(np.cross(b - a, c - a))
        self.normals = vertex_normals(surface.points, surface.triangles)
        self.surface = surface

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners [P,3] i32 and weights [P,3] f32 of the places closest to ``points`` [P,3], wherever they look."""
        hits = [self._tree.find_nearest(point) for point in points.tolist()]
        corners = self.surface.triangles[[hit[2] for hit in hits]]
        return corners, _barycentric(np.array([hit[0][:] for hit in hits]), self.surface.points, corners)

    def closest(self, points: np.ndarray, normals: np.ndarray, reach: float):
        """Of each of ``points`` [P,3] the closest point within ``reach`` that looks the way of ``normals`` [P,3].

        Returns the points that have one [F], its triangles [F] and the way there [F,3].
        """
        find = self._tree.find_nearest
        hits = [find(point, reach) for point in points.tolist()]
        triangle = np.array([-1 if hit[2] is None else hit[2] for hit in hits], np.int64)
        place = np.array([(0.0, 0.0, 0.0) if hit[0] is None else hit[0][:] for hit in hits]).reshape(-1, 3)
        wrong = np.flatnonzero((triangle >= 0) & ~self._agrees(triangle, normals))
        for number in wrong:
            triangle[number] = -1
            others = self._tree.find_nearest_range(points[number].tolist(), reach)
            others.sort(key=lambda hit: hit[3])
            for other, _, face, _ in others:
                if self.face_normals[face] @ normals[number] > LEAST_COSINE:
                    triangle[number], place[number] = face, other
                    break
        found = np.flatnonzero(triangle >= 0)
        return found, triangle[found], place[found] - points[found]

    def _agrees(self, triangle: np.ndarray, normals: np.ndarray) -> np.ndarray:
        mean = self.normals[self.surface.triangles[triangle]].sum(axis=1)
        return (np.einsum("pk,pk->p", self.face_normals[triangle], normals) > LEAST_COSINE) | (
            np.einsum("pk,pk->p", _unit(mean), normals) > LEAST_COSINE
        )


def _barycentric(points: np.ndarray, vertices: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """[P,3] f32 weights of ``corners`` [P,3] at the ``points`` [P,3], which lie in those triangles."""
    a, b, c = (vertices[corner].astype(np.float64) for corner in corners.T)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (np.einsum("pk,pk->p", *pair) for pair in ((u, u), (u, v), (v, v)))
    wu, wv = np.einsum("pk,pk->p", w, u), np.einsum("pk,pk->p", w, v)
    area = uu * vv - uv * uv
    area = np.where(area > 0.0, area, np.inf)
    second = np.clip((vv * wu - uv * wv) / area, 0.0, 1.0)
    third = np.clip((uu * wv - uv * wu) / area, 0.0, 1.0)
    excess = np.maximum(second + third, 1.0)
    second, third = second / excess, third / excess
    return np.stack([1.0 - second - third, second, third], axis=1).astype(np.float32)


# ── The motion between the two ──────────────────────────────────────────────────────────────────────────────────────


def _registered(new, normals, target, old, expected, known, partner, size) -> np.ndarray:
    """[n,3] f64: how far each point of ``new`` is from where it lay on the old surface, as a smooth field."""
    node_of, edges = _nodes(new, size)
    count = int(node_of.max()) + 1
    members = np.maximum(np.bincount(node_of, minlength=count), 1)[:, None]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(node_of, values[:, axis], count) for axis in range(3)], axis=1) / members

    # One point stands for each node: the one that is nearest to the middle.
    middle = mean(new.points.astype(np.float64))
    apart = np.linalg.norm(new.points - middle[node_of], axis=1)
    order = np.lexsort((apart, node_of))
    chosen = order[np.unique(node_of[order], return_index=True)[1]]
    places, looks = new.points[chosen].astype(np.float64), normals[chosen]
    prior = mean(expected)
    pinned, pins = np.zeros(count), np.zeros((count, 3))
    if known.size:
        told = new.points[known] - old.points[partner]
        amount = np.bincount(node_of[known], minlength=count)
        sums = np.stack([np.bincount(node_of[known], told[:, axis], count) for axis in range(3)], axis=1)
        pinned, pins = KNOWN * (amount > 0), sums / np.maximum(amount, 1)[:, None]
    motion = prior.copy()
    for _ in range(ROUNDS):
        found, triangle, away = target.closest(places - motion, looks, FAR_SHARE * 2 * size)
        way = target.face_normals[triangle]
        weight, aim, plane = np.zeros(count), np.zeros(count), np.zeros((count, 3))
        weight[found], plane[found] = 1.0, way
        # The moved node must reach the plane: n·(motion + change) = n·motion − n·away
        aim[found] = np.einsum("pk,pk->p", way, motion[found] - away)
        motion = _solved(motion, edges, weight, plane, aim, prior, pinned, pins)
    return _spread(motion, places, node_of, new, edges)


def _nodes(surface: Surface, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The node of each point [N], and pairs of neighbouring nodes [E,2]: cells of a grid, as far as they hang together.
    """
    cell = size / 40.0
    while True:
        cells = np.floor(surface.points / cell).astype(np.int64)
        cells -= cells.min(axis=0)
        normals = vertex_normals(surface.points, surface.triangles)
        side = np.abs(normals).argmax(axis=1) * 2 + (np.take_along_axis(
            normals, np.abs(normals).argmax(axis=1)[:, None], 1)[:, 0] > 0)
        span = cells.max(axis=0) + 1
        flat = ((cells[:, 0] * span[1] + cells[:, 1]) * span[2] + cells[:, 2]) * 6 + side
        names, node_of = np.unique(flat, return_inverse=True)
        if len(names) <= MOST_NODES:
            break
        cell *= 1.3
    node_of = node_of.reshape(-1)
    pairs = np.concatenate([surface.triangles[:, (0, 1)], surface.triangles[:, (1, 2)], surface.triangles[:, (2, 0)]])
    pairs = np.sort(node_of[pairs], axis=1)
    pairs = np.unique(pairs[:, 0] * len(names) + pairs[:, 1])
    pairs = np.stack(np.divmod(pairs, len(names)), axis=1)
    return node_of, pairs[pairs[:, 0] != pairs[:, 1]]


def _solved(start, edges, weight, plane, aim, prior, pinned, pins) -> np.ndarray:
    """[K,3]: the motion that fits best, by conjugate gradients from ``start`` on."""
    count = len(start)
    ends, others = edges.T
    degree = np.bincount(ends, minlength=count) + np.bincount(others, minlength=count)
    scale = STIFFNESS

    def neighbours(values):
        return np.stack(
            [np.bincount(ends, values[others, axis], count) + np.bincount(others, values[ends, axis], count)
             for axis in range(3)], axis=1)

    def apply(values):
        along = weight * np.einsum("pk,pk->p", plane, values)
        return (
            along[:, None] * plane
            + scale * (degree[:, None] * values - neighbours(values))
            + (PRIOR + pinned)[:, None] * values
        )

    wanted = (weight * aim)[:, None] * plane + PRIOR * prior + pinned[:, None] * pins
    # Stiffness holds the change against what was expected, not the motion itself.
    wanted += scale * (degree[:, None] * prior - neighbours(prior))
    solution = start.copy()
    rest = wanted - apply(solution)
    direction, size = rest.copy(), float((rest * rest).sum())
    for _ in range(SOLVER_STEPS):
        if size < 1e-20:
            break
        turned = apply(direction)
        step = size / float((direction * turned).sum())
        solution += step * direction
        rest -= step * turned
        before, size = size, float((rest * rest).sum())
        direction = rest + (size / before) * direction
    return solution


def _spread(motion, places, node_of, surface: Surface, edges) -> np.ndarray:
    """[n,3]: the nodes' motion at all points, smooth over the surface."""
    values = motion[node_of]
    corners = surface.triangles
    degree = np.maximum(np.bincount(corners.reshape(-1), minlength=len(values)), 1)[:, None]
    for _ in range(SMOOTHING):
        mean = values[corners].mean(axis=1)
        values = _gathered(mean, corners, len(values)) / degree
    return values
