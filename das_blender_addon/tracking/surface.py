# SPDX-License-Identifier: GPL-3.0-or-later
"""The surface point behind every visible pixel, and any per-vertex attribute interpolated there.

A pixel's ray is cut with the plane of its triangle in 3D, so the interpolation is perspective-correct however large the
triangle is and wherever it was clipped (Möller and Trumbore, "Fast, Minimum Storage Ray/Triangle Intersection", 1997).
"""

from __future__ import annotations

import numpy as np

from .projection import Pinhole

_PIXELS_PER_CHUNK = 1 << 14
# Numbers that are in range all are taken with the mode "wrap": numpy does so in two thirds of the time.


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
    places = np.empty(len(triangles), np.int32)
    for start in range(0, len(pixels), _PIXELS_PER_CHUNK):
        piece = slice(start, start + _PIXELS_PER_CHUNK)
        numbers, which = _distinct(triangle_index[piece], places)
        corners = triangles.take(numbers, axis=0).T
        weight_b, weight_c = _weights(corners, which, points, pixels[piece], camera)
        # Axes first and contiguous: several times faster than [P,3] rows in everything that follows.
        a, b, c = (np.ascontiguousarray(attribute.take(corner, axis=0).T) for corner in corners)
        for value, own, way_b, way_c in zip(values[:, piece], a, b - a, c - a, strict=True):
            np.multiply(weight_b, way_b.take(which, mode="wrap"), out=value)
            value += own.take(which, mode="wrap")
            part = way_c.take(which, mode="wrap")
            part *= weight_c
            value += part
    return values.T


def corner_weights(
    pixels: np.ndarray, triangle_index: np.ndarray, triangles: np.ndarray, points: np.ndarray, camera: Pinhole
) -> np.ndarray:
    """[3,P] f64: how much each corner counts at the surface points of `interpolate_on_surface`, with its arguments."""
    values = np.empty((3, len(pixels)))
    places = np.empty(len(triangles), np.int32)
    for start in range(0, len(pixels), _PIXELS_PER_CHUNK):
        piece = slice(start, start + _PIXELS_PER_CHUNK)
        numbers, which = _distinct(triangle_index[piece], places)
        corners = triangles.take(numbers, axis=0).T
        values[1, piece], values[2, piece] = _weights(corners, which, points, pixels[piece], camera)
    values[0] = 1.0 - values[1] - values[2]
    return values


def _distinct(triangle_index: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The triangles [K] among ``triangle_index`` [P], each once, and which of them each pixel [P] sees.

    ``places`` [M] i32: room for a number per triangle, whatever is in it.
    """
    count = np.arange(len(triangle_index), dtype=np.int32)
    places[triangle_index] = count
    last = places.take(triangle_index)  # the last pixel that sees the same triangle
    is_last = last == count
    return triangle_index[is_last], (np.cumsum(is_last) - 1).take(last)


def _weights(corners, which: np.ndarray, points: np.ndarray, pixels: np.ndarray, camera: Pinhole):
    """Barycentric weights [P] of the second and the third corner where the rays through ``pixels`` [P] meet triangles.

    ``corners`` [3,K]: those of the triangles; ``which`` [P]: the triangle of each pixel.  Snapping may give a pixel to
    a triangle whose exact outline passes up to 1/1024 pixel beside its centre: the weights are kept inside the
    triangle, so that nothing is extrapolated along a plane seen edge-on.
    """
    row = pixels // camera.width
    x = ((pixels - row * camera.width) + (0.5 - camera.principal_px[0])) / camera.focal_px[0]
    y = (row + (0.5 - camera.principal_px[1])) / camera.focal_px[1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        below, above_b, above_c = _ray_factors(*(points.take(corner, axis=0).T for corner in corners), camera)
        per_determinant = 1.0 / _along(below, which, x, y)
        weight_b = _along(above_b, which, x, y) * per_determinant
        weight_c = _along(above_c, which, x, y) * per_determinant
        lost = np.flatnonzero(~np.isfinite(weight_b + weight_c))
    if lost.size:
        weight_b[lost] = weight_c[lost] = 1.0 / 3.0
    np.clip(weight_b, 0.0, 1.0, out=weight_b)
    np.clip(weight_c, 0.0, 1.0, out=weight_c)
    total = weight_b + weight_c
    beyond = np.flatnonzero(total > 1.0)
    weight_b[beyond] /= total[beyond]
    weight_c[beyond] /= total[beyond]
    return weight_b, weight_c


def _ray_factors(a, b, c, camera: Pinhole) -> tuple[tuple, tuple, tuple]:
    """For corners [3,K] each: three triples of [K], the determinant and the numerators of both weights, as factors of a
    ray's (x, y, 1).  All are linear in the ray: ``ray · (c−a)×(b−a)``, ``ray · a×(c−a)`` and ``ray · (b−a)×a``.
    """
    ax, ay, az = a
    bx, by, bz = b - a
    cx, cy, cz = c - a
    if camera.is_orthographic:  # the ray begins beside the axis, at (x, y, 0), and goes along it
        nothing = np.zeros_like(ax)
        return (
            (nothing, nothing, cx * by - cy * bx),
            (-cy, cx, ax * cy - ay * cx),
            (by, -bx, ay * bx - ax * by),
        )
    return (
        (cy * bz - cz * by, cz * bx - cx * bz, cx * by - cy * bx),
        (ay * cz - az * cy, az * cx - ax * cz, ax * cy - ay * cx),
        (az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by),
    )


def _along(factors, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[P]: ``factors`` (three of [K]) of the triangles ``which`` [P], for rays (x, y, 1)."""
    found = factors[0].take(which, mode="wrap")
    found *= x
    other = factors[1].take(which, mode="wrap")
    other *= y
    found += other
    found += factors[2].take(which, mode="wrap")
    return found
