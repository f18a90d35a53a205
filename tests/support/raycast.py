# SPDX-License-Identifier: GPL-3.0-or-later
"""An independent reference for the tracking video: brute-force rays against triangles, straight from the definitions.

It shares no code with the rasteriser: rays start at the camera in world space, every ray is tested against every
triangle (Möller and Trumbore, 1997), and colours follow the formulas in words.  Slow and simple on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence

_EVERY_RAY_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class Hits:
    """First hits of P rays: ``triangle`` [P] (−1 = none), ``distance`` [P] along the ray, weights ``u``, ``v`` [P]."""

    triangle: np.ndarray
    distance: np.ndarray
    u: np.ndarray
    v: np.ndarray


def camera_rays(cameras: CameraPath, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origin [3] and directions [P,3] of the world rays through pixels (x, y) [P]; a step of 1 is a depth of 1."""
    world_from_camera = np.linalg.inv(cameras.camera_from_world[index])
    directions = np.stack(
        [
            (x - cameras.principal_px[index, 0]) / cameras.focal_px[index, 0],
            -(y - cameras.principal_px[index, 1]) / cameras.focal_px[index, 1],
            -np.ones_like(x),
        ],
        axis=-1,
    )
    return world_from_camera[:3, 3], directions @ world_from_camera[:3, :3].T


def cast(origin: np.ndarray, directions: np.ndarray, corners: np.ndarray, nearest: float) -> Hits:
    """Cast rays [P,3] from one origin against ``corners`` [M,3,3] f64; hits nearer than ``nearest`` do not count."""
    hits = Hits(
        np.full(len(directions), -1),
        np.full(len(directions), np.inf),
        np.zeros(len(directions)),
        np.zeros(len(directions)),
    )
    edge_u, edge_v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = origin - corners[:, 0]
    q = np.cross(offset, edge_u)
    step = max(1, _EVERY_RAY_AT_ONCE // max(len(corners), 1))
    for start in range(0, len(directions), step):
        rays = directions[start : start + step]
        with np.errstate(divide="ignore", invalid="ignore"):
            # det = (ray × edge_v) · edge_u = ray · (edge_v × edge_u)
            determinant = rays @ np.cross(edge_v, edge_u).T
            u = rays @ np.cross(edge_v, offset).T / determinant
            v = rays @ q.T / determinant
            distance = np.einsum("mk,mk->m", q, edge_v)[None] / determinant
            good = (u >= 0) & (v >= 0) & (u + v <= 1) & (distance >= nearest)
        distance = np.where(good, distance, np.inf)
        if not distance.shape[1]:
            continue
        best = distance.argmin(axis=1)
        rows = np.arange(len(rays))
        found = np.isfinite(distance[rows, best])
        piece = slice(start, start + step)
        hits.triangle[piece] = np.where(found, best, -1)
        hits.distance[piece] = distance[rows, best]
        hits.u[piece] = np.where(found, u[rows, best], 0.0)
        hits.v[piece] = np.where(found, v[rows, best], 0.0)
    return hits


@dataclass(frozen=True)
class ReferenceVideo:
    """What `ray_cast_tracking_video` finds: as `TrackingVideo`, with colours in f64 0…255."""

    colours: np.ndarray
    coverage: np.ndarray
    first_frame_xy: np.ndarray
    first_frame_visible: np.ndarray
    inverse_depth_range: tuple[float, float]


def ray_cast_tracking_video(
    geometry: GeometrySequence, inverse_depth_range: tuple[float, float] | None = None
) -> ReferenceVideo:
    """The tracking video of ``geometry`` by rays through every pixel centre."""
    cameras = geometry.cameras
    width, height, num_frames = cameras.width, cameras.height, geometry.num_frames
    y, x = (axis.reshape(-1) + 0.5 for axis in np.mgrid[0:height, 0:width].astype(np.float64))
    first_corners = geometry.vertices[0].astype(np.float64)[geometry.triangles]
    pixels = height * width
    colours, xy = np.zeros((num_frames, pixels, 3)), np.full((num_frames, pixels, 2), np.nan)
    coverage, visible = np.zeros((num_frames, pixels), bool), np.zeros((num_frames, pixels), bool)
    for index in range(num_frames):
        corners = geometry.vertices[index].astype(np.float64)[geometry.triangles]
        hits = cast(*camera_rays(cameras, index, x, y), corners, cameras.clip_start[index])
        hit = np.flatnonzero(hits.triangle >= 0)
        u, v, triangle = hits.u[hit, None], hits.v[hit, None], hits.triangle[hit]
        a, b, c = (first_corners[triangle, corner] for corner in range(3))
        place = (1 - u - v) * a + u * b + v * c
        in_camera = place @ cameras.camera_from_world[0, :3, :3].T + cameras.camera_from_world[0, :3, 3]
        depth = -in_camera[:, 2]
        if index == 0 and inverse_depth_range is None:
            inverse_depth_range = tuple(np.percentile(1.0 / hits.distance[hit], [2, 98]))
        with np.errstate(divide="ignore", invalid="ignore"):
            seen_x = cameras.principal_px[0, 0] + cameras.focal_px[0, 0] * in_camera[:, 0] / depth
            seen_y = cameras.principal_px[0, 1] - cameras.focal_px[0, 1] * in_camera[:, 1] / depth
            low, high = inverse_depth_range
            blue = np.clip((1.0 / depth - low) / (high - low), 0, 1)
        front = depth > 0
        inside = front & (seen_x >= 0) & (seen_x <= width) & (seen_y >= 0) & (seen_y <= height)
        coverage[index, hit] = True
        xy[index, hit[front]] = np.stack([seen_x, seen_y], axis=-1)[front]
        colour = 255.0 * np.stack([seen_x / width, seen_y / height, blue], axis=-1)
        colours[index, hit[inside]] = colour[inside]
        # Visible: a ray to the point meets nothing clearly in front of it.
        asked = np.flatnonzero(inside & (depth >= cameras.clip_start[0]))
        to_point = cast(
            *camera_rays(cameras, 0, seen_x[asked], seen_y[asked]), first_corners, float(cameras.clip_start[0])
        )
        visible[index, hit[asked]] = to_point.distance >= depth[asked] * (1 - 1e-5)
    picture = (num_frames, height, width)
    return ReferenceVideo(
        colours.reshape(*picture, 3),
        coverage.reshape(picture),
        xy.reshape(*picture, 2),
        visible.reshape(picture),
        inverse_depth_range,
    )
