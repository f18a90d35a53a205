# SPDX-License-Identifier: GPL-3.0-or-later
"""A synthetic scene as triangles and cameras, as the extension would export it: along them key pictures are carried."""

import math

import numpy as np

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence

from .raycast import BOX, CARD, GROUND, ROOM, SPHERE
from .scene import SyntheticScene

AROUND, UPWARDS = 36, 18
"""Segments of an ellipsoid; its outline is off by a tenth of a pixel where it is 50 pixels large."""
CARD_SEGMENTS = 60
GROUND_REACH = 60.0
"""How far the ray caster sees the ground."""
CLIP_START = 1e-2

_BLENDER_FROM_WORLD = np.diag([1.0, -1.0, -1.0])
"""The generator's world has the first camera's axes (y down, z forward), Blender's camera looks along -z."""


def scene_geometry(scene: SyntheticScene, height: int, width: int) -> GeometrySequence:
    """All frames of a scene; the frames' numbers count from 1."""
    triangles, vertices, start = [], [], 0
    for index, kind in enumerate(scene.kinds):
        points, faces = _unit_mesh(int(kind))
        local = points[None] * scene.scale[:, index, None, :]
        world = np.einsum("tij,tnj->tni", scene.rotation[:, index], local) + scene.position[:, index, None, :]
        vertices.append(world @ _BLENDER_FROM_WORLD)
        triangles.append(faces + start)
        start += len(points)
    count = len(scene.cameras)
    moved = np.tile(np.eye(4), (count, 1, 1))
    moved[:, :3, :3] = _BLENDER_FROM_WORLD @ scene.cameras[:, :, :3] @ _BLENDER_FROM_WORLD
    moved[:, :3, 3] = scene.cameras[:, :, 3] @ _BLENDER_FROM_WORLD
    cameras = CameraPath(
        camera_from_world=moved, focal_px=np.full((count, 2), float(scene.focal)),
        principal_px=np.tile((width / 2, height / 2), (count, 1)), clip_start=np.full(count, CLIP_START),
        clip_end=np.full(count, np.inf), width=width, height=height)
    return GeometrySequence(np.concatenate(triangles).astype(np.int32),
                            np.concatenate(vertices, axis=1).astype(np.float32), cameras, tuple(range(1, count + 1)))


def _unit_mesh(kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Points `[N, 3]` f64 and triangles `[M, 3]` of a unit shape of `raycast`."""
    if kind == SPHERE:
        return _sphere()
    if kind in (BOX, ROOM):
        points = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
        quads = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
        return points, np.array([face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))])
    if kind == CARD:
        angle = np.linspace(-math.pi, math.pi, CARD_SEGMENTS, endpoint=False)
        radius = 0.8 + 0.12 * np.sin(3 * angle) + 0.08 * np.sin(5 * angle + 1.0)
        rim = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(angle)], -1)
        return _fan(rim)
    if kind == GROUND:
        angle = np.linspace(-math.pi, math.pi, CARD_SEGMENTS, endpoint=False)
        rim = GROUND_REACH * np.stack([np.cos(angle), np.zeros_like(angle), np.sin(angle)], -1)
        return _fan(rim)
    raise ValueError(f"the ray caster has no shape {kind}")


def _fan(rim: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers = np.arange(len(rim))
    faces = np.stack([np.full_like(numbers, len(rim)), numbers, (numbers + 1) % len(rim)], -1)
    return np.concatenate([rim, np.zeros((1, 3))]), faces


def _sphere() -> tuple[np.ndarray, np.ndarray]:
    around = np.arange(AROUND) * (2 * math.pi / AROUND)
    up = np.linspace(0, math.pi, UPWARDS + 1)
    points = np.stack([np.outer(np.sin(up), np.cos(around)), np.outer(np.cos(up), np.ones(AROUND)),
                       np.outer(np.sin(up), np.sin(around))], -1).reshape(-1, 3)
    row, column = (part.reshape(-1) for part in np.mgrid[0:UPWARDS, 0:AROUND])
    beside = (column + 1) % AROUND
    here, below = row * AROUND, (row + 1) * AROUND
    upper = np.stack([here + column, here + beside, below + beside], -1)
    return points, np.concatenate([upper, np.stack([here + column, below + beside, below + column], -1)])
