# SPDX-License-Identifier: GPL-3.0-or-later
"""Where one frame is seen from: what ribbons and discs turn towards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...tracking.geometry import CameraPath


@dataclass(frozen=True)
class Eye:
    """``place`` [3] f32 world; ``right``, ``up``, ``back`` [3] f32: unit axes of the picture in the world;
    ``focal_px``: the larger of the camera's two.
    """

    place: np.ndarray
    right: np.ndarray
    up: np.ndarray
    back: np.ndarray
    focal_px: float

    @classmethod
    def of(cls, cameras: CameraPath) -> Eye:
        """The last camera of ``cameras``."""
        camera_from_world = cameras.camera_from_world[-1]
        axes = camera_from_world[:3, :3]
        place = -axes.T @ camera_from_world[:3, 3]
        right, up, back = axes.astype(np.float32)
        return cls(place.astype(np.float32), right, up, back, float(cameras.focal_px[-1].max()))

    def from_points(self, points: np.ndarray) -> np.ndarray:
        """[P,3] f32: the way from each of the world ``points`` [P,3] f32 to the camera, Blender units."""
        return self.place - points

    def pixels_per_unit(self, points: np.ndarray) -> np.ndarray:
        """[P] f32: how many pixels a Blender unit has at the world ``points`` [P,3] f32; inf beside the camera."""
        depth = np.abs((self.place - points) @ self.back)
        with np.errstate(divide="ignore"):
            return np.float32(self.focal_px) / depth
