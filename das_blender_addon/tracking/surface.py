# SPDX-License-Identifier: GPL-3.0-or-later
"""The surface point behind every visible pixel, and any per-vertex attribute interpolated there.

A pixel's ray is cut with the plane of its triangle in 3D, so the interpolation is perspective-correct however large the
triangle is and wherever it was clipped (Möller and Trumbore, "Fast, Minimum Storage Ray/Triangle Intersection", 1997).
"""

from __future__ import annotations

import numpy as np

from .projection import Pinhole

_PIXELS_PER_CHUNK = 1 << 14


def interpolate_on_surface(
    pixels: np.ndarray,
    triangle_index: np.ndarray,
    triangles: np.ndarray,
    points: np.ndarray,
    attribute: np.ndarray,
    camera: Pinhole,
) -> np.ndarray:
    """Interpolate a per-vertex attribute at the surface point that each pixel's centre sees.

    ``pixels`` [P]: flat pixel numbers (row · width + column); ``triangle_index`` [P]: the triangles they see, indices
    into ``triangles`` [M,3]; ``points`` [N,3] f64: the vertices in the optical space of ``camera``; ``attribute`` [N,C]
    f64.  Returns [P,C] f64 (stored column by column).
    """
    values = np.empty((attribute.shape[1], len(pixels)))
    for start in range(0, len(pixels), _PIXELS_PER_CHUNK):
        piece = slice(start, start + _PIXELS_PER_CHUNK)
        corners = triangles.take(triangle_index[piece], axis=0).T
        row, column = np.divmod(pixels[piece], camera.width)
        # Axes first and contiguous: several times faster than [P,3] rows in everything that follows.
        a, b, c = (np.ascontiguousarray(points.take(corner, axis=0).T) for corner in corners)
        weight_b, weight_c = _weights(a, b - a, c - a, column + 0.5, row + 0.5, camera)
        a, b, c = (np.ascontiguousarray(attribute.take(corner, axis=0).T) for corner in corners)
        values[:, piece] = a + weight_b * (b - a) + weight_c * (c - a)
    return values.T


def corner_weights(
    pixels: np.ndarray, triangle_index: np.ndarray, triangles: np.ndarray, points: np.ndarray, camera: Pinhole
) -> np.ndarray:
    """[3,P] f64: how much each corner counts at the surface points of `interpolate_on_surface`, with its arguments."""
    values = np.empty((3, len(pixels)))
    for start in range(0, len(pixels), _PIXELS_PER_CHUNK):
        piece = slice(start, start + _PIXELS_PER_CHUNK)
        corners = triangles.take(triangle_index[piece], axis=0).T
        row, column = np.divmod(pixels[piece], camera.width)
        a, b, c = (np.ascontiguousarray(points.take(corner, axis=0).T) for corner in corners)
        values[1, piece], values[2, piece] = _weights(a, b - a, c - a, column + 0.5, row + 0.5, camera)
    values[0] = 1.0 - values[1] - values[2]
    return values


def _weights(a, b, c, x, y, camera: Pinhole) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights of two corners where the rays through the pixels (x, y) [P] meet the triangles.

    ``a`` [3,P]: the third corner; ``b``, ``c`` [3,P]: the way from there to the two.  Snapping may give a pixel to a
    triangle whose exact outline passes up to 1/1024 pixel beside its centre: the weights are kept inside the triangle,
    so that nothing is extrapolated along a plane seen edge-on.
    """
    ray_x = (x - camera.principal_px[0]) / camera.focal_px[0]
    ray_y = (y - camera.principal_px[1]) / camera.focal_px[1]
    ax, ay, az = a
    if camera.is_orthographic:
        # The ray begins beside the axis and goes along it.
        ax, ay = ax - ray_x, ay - ray_y
        ray_x = ray_y = np.zeros_like(ray_x)
    bx, by, bz = b
    cx, cy, cz = c
    # ray = (ray_x, ray_y, 1); p = ray × c
    px = ray_y * cz - cy
    py = cx - ray_x * cz
    pz = ray_x * cy - ray_y * cx
    # q = −a × b
    qx = az * by - ay * bz
    qy = ax * bz - az * bx
    qz = ay * bx - ax * by
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        per_determinant = 1.0 / (bx * px + by * py + bz * pz)
        weight_b = -(ax * px + ay * py + az * pz) * per_determinant
        weight_c = (ray_x * qx + ray_y * qy + qz) * per_determinant
    lost = ~np.isfinite(weight_b) | ~np.isfinite(weight_c)
    weight_b[lost] = weight_c[lost] = 1.0 / 3.0
    weight_b = np.clip(weight_b, 0.0, 1.0)
    weight_c = np.clip(weight_c, 0.0, 1.0)
    excess = np.maximum(weight_b + weight_c, 1.0)
    return weight_b / excess, weight_c / excess
