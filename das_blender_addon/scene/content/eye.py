# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one frame is seen from: what ribbons and discs turn towards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...tracking.geometry import CameraPath

VERY_FAR = 1e5
"""Blender units, from where lines of sight are parallel; small enough for float32."""


@dataclass(frozen=True)
class Eye:
    """``place`` [3] f64 world; ``up``, ``back`` [3] f64: unit axes of the picture in the world; ``focal_px``: the
    larger of the camera's two.  ``is_parallel``: the camera is orthographic; its eye is very far behind it.
    """

    place: np.ndarray
    up: np.ndarray
    back: np.ndarray
    focal_px: float
    is_parallel: bool = False

    @classmethod
    def of(cls, cameras: CameraPath) -> Eye:
        """The last camera of ``cameras``."""
        camera_from_world = cameras.camera_from_world[-1]
        axes = camera_from_world[:3, :3]
        place = -axes.T @ camera_from_world[:3, 3]
        is_parallel = cameras.virtual_distance is not None and cameras.virtual_distance[-1] > 0.0
        if is_parallel:
            place = place + VERY_FAR * axes[2]
        return cls(place, axes[1], axes[2], float(cameras.focal_px[-1].max()), bool(is_parallel))

    def within(self, world_from_local: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """(place, up) [3] f32 each, in the local space of what stands at ``world_from_local`` [3,4]; None where that is
        flat.
        """
        linear = world_from_local[:, :3].astype(np.float64)
        try:
            local_from_world = np.linalg.inv(linear)
        except np.linalg.LinAlgError:
            return None
        place = local_from_world @ (self.place - world_from_local[:, 3])
        return place.astype(np.float32), (local_from_world @ self.up).astype(np.float32)

    def pixels_per_unit(self, points: np.ndarray) -> np.ndarray:
        """[P] f32: how many pixels a Blender unit has at the world ``points`` [P,3] f32; inf beside the camera."""
        if self.is_parallel:
            return np.full(len(points), self.focal_px, np.float32)
        depth = np.abs((self.place.astype(np.float32) - points) @ self.back.astype(np.float32))
        with np.errstate(divide="ignore"):
            return np.float32(self.focal_px) / depth
