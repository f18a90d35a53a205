# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that stand for something that is no mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Faces:
    """What stays the same over time.  ``corners`` [C] i32: vertex of each face corner.  ``triangles`` [M,3] i32."""

    num_vertices: int
    num_faces: int
    corners: np.ndarray
    triangles: np.ndarray


@dataclass(frozen=True)
class Shape:
    """``positions`` [N,3] f32: world space, of one frame and seen by its camera.  ``faces``: which they span."""

    positions: np.ndarray
    faces: Faces


def placed(points: np.ndarray, world_from_local: np.ndarray) -> np.ndarray:
    """Local ``points`` [P,3] f32 in the world."""
    return points @ world_from_local[:, :3].T + world_from_local[:, 3]
