# SPDX-License-Identifier: GPL-3.0-or-later
"""Interpolation on the visible surface is perspective-correct and never leaves the triangle."""

import numpy as np

from das_blender_addon.tracking import surface
from das_blender_addon.tracking.projection import Pinhole
from das_blender_addon.tracking.surface import interpolate_on_surface

CAMERA = Pinhole(np.eye(4), (50.0, 40.0), (31.0, 17.0), 0.1, 64, 48)
POINTS = np.array([[-9.0, -4.0, 3.0], [8.0, -6.0, 12.0], [1.0, 9.0, -2.0]])
TRIANGLES = np.array([[0, 1, 2]])


def _pixels_that_hit():
    y, x = np.mgrid[0:48, 0:64] + 0.5
    rays = np.stack([(x - 31) / 50, (y - 17) / 40, np.ones_like(x)], axis=-1).reshape(-1, 3)
    a, b, c = POINTS
    weights = np.linalg.solve(np.stack([a, b, c], axis=1), rays.T).T
    return np.flatnonzero((weights > 0).all(axis=1)), weights, rays


def test_interpolate_on_surface_finds_the_point_on_the_ray():
    pixels, weights, rays = _pixels_that_hit()
    assert len(pixels) > 500

    places = interpolate_on_surface(pixels, np.zeros(len(pixels), int), TRIANGLES, POINTS, POINTS, CAMERA)

    np.testing.assert_allclose(places, rays[pixels] / weights[pixels].sum(axis=1, keepdims=True), rtol=1e-9)


def test_interpolate_on_surface_stays_inside_the_triangle_for_pixels_beside_it():
    attribute = np.eye(3)
    every_pixel = np.arange(64 * 48)

    weights = interpolate_on_surface(every_pixel, np.zeros(64 * 48, int), TRIANGLES, POINTS, attribute, CAMERA)

    assert weights.min() >= 0.0 and weights.max() <= 1.0
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)


def test_interpolate_on_surface_survives_a_triangle_seen_edge_on():
    edge_on = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])

    values = interpolate_on_surface(np.array([17 * 64 + 31]), np.zeros(1, int), TRIANGLES, edge_on, edge_on, CAMERA)

    assert np.isfinite(values).all() and 1.0 <= values[0, 2] <= 3.0


def test_interpolate_on_surface_does_not_depend_on_chunk_size(monkeypatch):
    pixels, _, _ = _pixels_that_hit()
    arguments = (pixels, np.zeros(len(pixels), int), TRIANGLES, POINTS, POINTS, CAMERA)
    whole = interpolate_on_surface(*arguments)

    monkeypatch.setattr(surface, "_PIXELS_PER_CHUNK", 100)

    np.testing.assert_array_equal(interpolate_on_surface(*arguments), whole)
