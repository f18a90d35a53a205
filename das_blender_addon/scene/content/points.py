# SPDX-License-Identifier: GPL-3.0-or-later
"""Point clouds → balls, which do not turn; of large clouds domes: the half of each that the camera sees, a fan of
triangles whose rim is the sphere's outline.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from .eye import Eye
from .shape import Faces, Shape, placed

FINE, FEW = 1_000, 4_000
"""Point clouds up to these sizes are balls of 320 and of 80 triangles, larger ones domes with octagons as outlines."""
DEFAULT_RADIUS = 0.01
"""Blender units, of points that have no radius."""


def solids(count: int) -> Balls | Domes:
    """What makes the shape of ``count`` points in every frame."""
    return Domes(count) if count > FEW else Balls(count)


class Balls:
    """Makes the balls of ``count`` points in every frame: each of their surface points keeps its place on them."""

    def __init__(self, count: int):
        self._unit, own = _ball(2 if count <= FINE else 1)
        each = len(self._unit)
        first = np.arange(count, dtype=np.int32) * each
        triangles = (own[None] + first[:, None, None]).reshape(-1, 3)
        self.faces = Faces(count * each, len(triangles), triangles.reshape(-1), triangles)

    def shape(self, points: np.ndarray, radii: np.ndarray, world_from_local: np.ndarray, eye: Eye) -> Shape:
        """Local ``points`` [P,3] f32 with ``radii`` [P] f32 at ``world_from_local`` [3,4] f32.  Those that the ``eye``
        is in are not seen, as in Cycles.
        """
        radii, seen = np.maximum(radii, np.float32(0.0)), eye.within(world_from_local)
        if seen is not None:
            apart = seen[0] - points
            with np.errstate(invalid="ignore", over="ignore"):
                radii = np.where(np.einsum("pk,pk->p", apart, apart) > radii * radii, radii, np.float32(0.0))
        surface = points[:, None] + radii[:, None, None] * self._unit
        return Shape(placed(surface.reshape(-1, 3), world_from_local), self.faces)


class Domes:
    """Makes the domes of ``count`` points in every frame."""

    def __init__(self, count: int):
        self.count = count
        self.sides = sides = 8
        rim = np.arange(sides, dtype=np.int32)
        fan = np.stack([np.zeros(sides, np.int32), rim + 1, (rim + 1) % sides + 1], axis=1)
        first = np.arange(count, dtype=np.int32) * (sides + 1)
        triangles = (fan[None] + first[:, None, None]).reshape(-1, 3)
        self.faces = Faces(count * (sides + 1), len(triangles), triangles.reshape(-1), triangles)
        angle = 2.0 * np.pi * rim / sides
        # As large as the circle, which neither the polygon inside it nor the one around it is.
        reach = np.sqrt(2.0 * np.pi / (sides * np.sin(2.0 * np.pi / sides)))
        self._rim = (reach * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)

    def shape(self, points: np.ndarray, radii: np.ndarray, world_from_local: np.ndarray, eye: Eye) -> Shape:
        """Local ``points`` [P,3] f32 with ``radii`` [P] f32 at ``world_from_local`` [3,4] f32, seen by ``eye``."""
        seen = eye.within(world_from_local)
        if seen is None:
            flat = np.repeat(placed(points, world_from_local), self.sides + 1, axis=0)
            return Shape(flat, self.faces)
        # In local space: a sphere that is squeezed is an ellipsoid in the world, as Blender draws it.
        place, up = seen
        towards, radii = place - points, np.maximum(radii, np.float32(0.0))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            distance = np.sqrt(np.einsum("pk,pk->p", towards, towards))
            towards /= distance[:, None]
            share = np.clip(radii / distance, 0.0, 1.0)  # the sine of the angle that the sphere is seen under
        right = np.cross(np.broadcast_to(up, towards.shape), towards)
        right /= np.maximum(np.sqrt(np.einsum("pk,pk->p", right, right)), np.float32(1e-12))[:, None]
        up = np.cross(towards, right)
        rim = (radii * np.sqrt(1.0 - share * share))[:, None, None]
        middle = (points + towards * (radii * share)[:, None])[:, None]
        across = self._rim[None, :, :1] * right[:, None] + self._rim[None, :, 1:] * up[:, None]
        positions = np.empty((self.count, self.sides + 1, 3), np.float32)
        positions[:, 0] = points + towards * radii[:, None]
        positions[:, 1:] = middle + across * rim
        return Shape(placed(positions.reshape(-1, 3), world_from_local), self.faces)


def _ball(halvings: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [N,3] f32 and triangles [M,3] i32 of an icosahedron whose edges are halved so many times, whose
    outlines are as large as those of the sphere of radius 1, seen from all sides.
    """
    golden = (1.0 + 5.0**0.5) / 2.0
    corners = np.array([(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)])
    vertices = np.concatenate([np.roll(corners, turn, axis=1) for turn in range(3)])
    apart = np.linalg.norm(vertices[:, None] - vertices[None], axis=2)
    near = np.isclose(apart, 2.0)
    found = [
        (a, b, c) for a, b, c in combinations(range(12), 3) if near[a, b] and near[b, c] and near[a, c]
    ]
    triangles = np.array(found)
    for _ in range(halvings):
        sides = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
        edges, number = np.unique(sides, axis=0, return_inverse=True)
        ab, bc, ca = (number.reshape(-1) + len(vertices)).reshape(3, -1)
        vertices = np.concatenate([vertices, vertices[edges].sum(axis=1)])
        a, b, c = triangles.T
        parts = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
        triangles = np.concatenate([np.stack(part, axis=1) for part in parts])
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    is_inward = np.einsum("mk,mk->m", np.cross(b - a, c - a), a + b + c) < 0.0
    triangles[is_inward] = triangles[is_inward][:, [0, 2, 1]]
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1).sum()
    return (vertices * np.sqrt(4.0 * np.pi / area)).astype(np.float32), triangles.astype(np.int32)


class Groups:
    """Which solids are those of the points of a cloud that come and go: one group for all that appear in one frame."""

    def __init__(self):
        self._groups: list[np.ndarray] = []

    def places(self, ids: np.ndarray) -> list[np.ndarray]:
        """For each group, the points with ``ids`` [P] i32 that its solids stand for in this frame; −1 where one is not
        there.  Of points that share an id, only the first is followed.
        """
        sorted_ids, first = np.unique(ids, return_index=True)
        is_new = np.ones(len(sorted_ids), bool)
        for own in self._groups:
            is_new &= ~np.isin(sorted_ids, own, assume_unique=True)
        if is_new.any():
            self._groups.append(sorted_ids[is_new])
        found = []
        for own in self._groups:
            at = np.minimum(np.searchsorted(sorted_ids, own), len(sorted_ids) - 1)
            found.append(np.where(sorted_ids[at] == own, first[at], -1) if len(sorted_ids) else np.full(len(own), -1))
        return found


def read_points(data) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(positions [P,3] f32 local, radii [P] f32, ids [P] i32) of an evaluated point cloud; the ids are the numbers of
    the points where it has none.
    """
    count = len(data.points)
    positions, radii = np.empty((count, 3), np.float32), np.full(count, DEFAULT_RADIUS, np.float32)
    if count:
        data.attributes["position"].data.foreach_get("vector", positions.reshape(-1))
        radius = data.attributes.get("radius")
        if radius is not None and radius.domain == "POINT" and radius.data_type == "FLOAT":
            radius.data.foreach_get("value", radii)
    ids = np.arange(count, dtype=np.int32)
    named = data.attributes.get("id")
    if count and named is not None and named.domain == "POINT" and named.data_type == "INT":
        named.data.foreach_get("value", ids)
    return positions, radii, ids
