# SPDX-License-Identifier: GPL-3.0-or-later
"""One frame's camera: world points → optical space → pixels, and back to the ray of a pixel.

Optical space is camera space turned so that all three axes follow the picture: +X right, +Y *down*, +Z forward, so that
Z is the depth (positive in front) and ``pixel = principal + focal · (X, Y) / Z`` needs no sign.

The rays of an orthographic camera are parallel, ``pixel = principal + focal · (X, Y)``.  Its depths count from a point
behind it, at a virtual distance from where a normal lens would see as much, so that 1 / depth means the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import CameraPath

#: A camera's near plane is never closer than this, Blender units: keeps 1 / depth finite in float32.
SMALLEST_CLIP_START = 1e-9

#: Depths from here on are those of backgrounds: no other vertex is so far away, and no far plane cuts them.
BEYOND = 1e16
_PUSH = 1e20
_PUSH_STEP = 1e10
_POINTS_PER_PIECE = 1 << 14
"""Larger products are shared out over all cores by numpy's library, whose threads then spin while they wait."""

_OPTICAL_FROM_CAMERA = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Pinhole:
    """One pinhole camera, or an orthographic one.

    ``optical_from_world`` [4,4] f64; ``focal_px`` and ``principal_px`` (x, y) pixels; ``clip_start`` and ``clip_end``
    Blender units of depth; ``width``, ``height`` pixels.  ``virtual_distance``: 0 for a pinhole; else the rays are
    parallel, ``focal_px`` is pixels per Blender unit, and depths count from so many units behind the camera.
    """

    optical_from_world: np.ndarray
    focal_px: tuple[float, float]
    principal_px: tuple[float, float]
    clip_start: float
    width: int
    height: int
    clip_end: float = np.inf
    virtual_distance: float = 0.0

    @property
    def is_orthographic(self) -> bool:
        return self.virtual_distance > 0.0

    def optical_points(self, points: np.ndarray) -> np.ndarray:
        """World ``points`` [N,3] f32/f64 → optical space [N,3] f64.  Non-finite points stay non-finite."""
        turn, shift = self.optical_from_world[:3, :3].T, self.optical_from_world[:3, 3]
        found = np.empty((len(points), 3))
        with np.errstate(invalid="ignore", over="ignore"):
            for start in range(0, len(points), _POINTS_PER_PIECE):
                piece = slice(start, start + _POINTS_PER_PIECE)
                np.matmul(points[piece].astype(np.float64), turn, out=found[piece])
                found[piece] += shift
        return found

    def pushed_away(self, points: np.ndarray) -> np.ndarray:
        """Optical ``points`` [N,3] f64 where the camera sees the same, `BEYOND` everything, in their order of depth."""
        if not self.is_orthographic:
            return points * _PUSH
        return points * (1.0, 1.0, _PUSH_STEP) + (0.0, 0.0, _PUSH)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Optical ``points`` [P,3] f64 → pixels [P,2] f64 (x, y); NaN for points that do not lie in front."""
        xy = np.empty((2, len(points)))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            depth = points[:, 2]
            scale = 1.0 if self.is_orthographic else 1.0 / depth
            scale = np.where(depth > self.virtual_distance, scale, np.nan)
            for axis in (0, 1):
                xy[axis] = self.principal_px[axis] + self.focal_px[axis] * points[:, axis] * scale
        return xy.T


def pinhole_at(cameras: CameraPath, index: int) -> Pinhole:
    """The camera of frame ``index`` (0-based, not a Blender frame number) of a path."""
    distance = 0.0 if cameras.virtual_distance is None else float(cameras.virtual_distance[index])
    optical_from_world = _OPTICAL_FROM_CAMERA @ np.asarray(cameras.camera_from_world[index], dtype=np.float64)
    optical_from_world[2, 3] += distance
    return Pinhole(
        optical_from_world=optical_from_world,
        focal_px=(float(cameras.focal_px[index, 0]), float(cameras.focal_px[index, 1])),
        principal_px=(float(cameras.principal_px[index, 0]), float(cameras.principal_px[index, 1])),
        clip_start=max(float(cameras.clip_start[index]), SMALLEST_CLIP_START) + distance,
        width=int(cameras.width),
        height=int(cameras.height),
        clip_end=float(cameras.clip_end[index]) + distance,
        virtual_distance=distance,
    )
