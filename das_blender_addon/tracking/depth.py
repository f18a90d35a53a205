# SPDX-License-Identifier: GPL-3.0-or-later
"""How far away the surface is that each pixel of a frame sees."""

from __future__ import annotations

import numpy as np

from .drawn import DrawnSurfaces
from .geometry import GeometrySequence
from .projection import pinhole_at
from .seen import seen_surfaces
from .surface import interpolate_on_surface


def depth(geometry: GeometrySequence, index: int) -> np.ndarray:
    """[H,W] f32, rows top-down: Blender units along the camera's axis in the frame ``index`` (0-based), inf where it
    sees no surface.
    """
    camera = pinhole_at(geometry.cameras, index)
    surfaces = DrawnSurfaces(geometry)
    surface = surfaces.at(index)
    points = surfaces.optical(surface, index, camera)
    pixels, seen = seen_surfaces(points, surface.triangles, camera, cut=surface.cut)
    found = np.full(camera.height * camera.width, np.inf, np.float32)
    found[pixels] = interpolate_on_surface(pixels, seen, surface.triangles, points, points[:, 2:], camera)[:, 0]
    return found.reshape(camera.height, camera.width)
