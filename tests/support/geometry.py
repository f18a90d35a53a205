# SPDX-License-Identifier: GPL-3.0-or-later
"""Small scenes as arrays: cameras, spheres, planes and boxes for the tests of the tracking video."""

from __future__ import annotations

import numpy as np

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence


def look_at(position, target, up=(0.0, 0.0, 1.0)) -> np.ndarray:
    """``camera_from_world`` [4,4] f64 of a camera at ``position`` that looks at ``target``."""
    position, target = np.asarray(position, float), np.asarray(target, float)
    backward = (position - target) / np.linalg.norm(position - target)
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = right, np.cross(backward, right), backward
    matrix[:3, 3] = -matrix[:3, :3] @ position
    return matrix


def camera_path(
    matrices, *, width=96, height=64, focal_px=80.0, principal_px=None, clip_start=0.1, clip_end=np.inf
) -> CameraPath:
    """A path through ``matrices`` [T,4,4]; ``focal_px`` one number or T of them."""
    matrices = np.asarray(matrices, dtype=np.float64)
    count = len(matrices)
    focal = np.broadcast_to(np.asarray(focal_px, dtype=np.float64), (count,))
    principal = (width / 2, height / 2) if principal_px is None else principal_px
    return CameraPath(
        camera_from_world=matrices,
        focal_px=np.stack([focal, focal], axis=-1),
        principal_px=np.tile(np.asarray(principal, dtype=np.float64), (count, 1)),
        clip_start=np.full(count, float(clip_start)),
        clip_end=np.full(count, float(clip_end)),
        width=width,
        height=height,
    )


def sequence(parts, cameras: CameraPath) -> GeometrySequence:
    """Join ``parts``, pairs of vertices ([N,3] for all frames or [T,N,3]) and triangles [M,3]."""
    count, vertices, triangles, offset = cameras.num_frames, [], [], 0
    for points, faces in parts:
        points = np.asarray(points, dtype=np.float32)
        if points.ndim == 2:
            points = np.repeat(points[None], count, axis=0)
        vertices.append(points)
        triangles.append(np.asarray(faces, dtype=np.int32).reshape(-1, 3) + offset)
        offset += points.shape[1]
    return GeometrySequence(
        triangles=np.concatenate(triangles).astype(np.int32),
        vertices=np.concatenate(vertices, axis=1),
        cameras=cameras,
        frames=tuple(range(1, count + 1)),
    )


def sphere(centre=(0, 0, 0), radius=1.0, segments=24, rings=12):
    """Vertices [N,3] and triangles [M,3] of a UV sphere."""
    longitude = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    latitude = np.linspace(0, np.pi, rings + 1)[1:-1]
    belt = np.stack(
        [
            np.sin(latitude)[:, None] * np.cos(longitude),
            np.sin(latitude)[:, None] * np.sin(longitude),
            np.cos(latitude)[:, None] * np.ones(segments),
        ],
        axis=-1,
    ).reshape(-1, 3)
    points = np.concatenate([belt, [[0, 0, 1], [0, 0, -1]]]) * radius + np.asarray(centre, float)
    top, bottom = len(belt), len(belt) + 1
    faces = []
    for segment in range(segments):
        after = (segment + 1) % segments
        faces.append((top, segment, after))
        for ring in range(rings - 2):
            a, b = ring * segments + segment, ring * segments + after
            c, d = a + segments, b + segments
            faces += [(a, c, d), (a, d, b)]
        faces.append((bottom, (rings - 2) * segments + after, (rings - 2) * segments + segment))
    return points, np.array(faces)


def box(centre=(0, 0, 0), size=(1, 1, 1)):
    """Vertices [8,3] and triangles [12,3] of a box."""
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [triangle for a, b, c, d in quads for triangle in ((a, b, c), (a, c, d))]
    return corners * np.asarray(size, float) + np.asarray(centre, float), np.array(faces)


def ground(extent=100.0, height=0.0, cells=1):
    """A square in the plane z = ``height``, ``2 · cells²`` triangles."""
    axis = np.linspace(-extent, extent, cells + 1)
    points = np.array([(x, y, height) for y in axis for x in axis])
    faces = []
    for row in range(cells):
        for column in range(cells):
            a = row * (cells + 1) + column
            b, c, d = a + 1, a + cells + 1, a + cells + 2
            faces += [(a, b, d), (a, d, c)]
    return points, np.array(faces)


def triangle_soup(rng: np.random.Generator, count: int, *, spread=3.0, size=1.0):
    """``count`` unconnected random triangles around the origin."""
    centres = rng.uniform(-spread, spread, (count, 1, 3))
    points = (centres + rng.normal(0, size, (count, 3, 3))).reshape(-1, 3)
    return points, np.arange(3 * count).reshape(-1, 3)
