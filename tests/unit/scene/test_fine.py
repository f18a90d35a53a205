# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles that are cut into smaller ones: the same surface, without cracks, with short edges."""

import numpy as np
import pytest

from das_blender_addon.scene import fine
from das_blender_addon.tracking.changes import combined
from tests.support.geometry import box, sphere, triangle_soup


def edges_of(triangles):
    return np.sort(np.concatenate([triangles[:, (0, 1)], triangles[:, (1, 2)], triangles[:, (2, 0)]]), axis=1)


def area(points, triangles):
    a, b, c = (points[corner].astype(float) for corner in triangles.T)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


@pytest.mark.parametrize("longest", [0.9, 0.31, 0.07])
def test_cut_surface_is_the_same_without_cracks(longest):
    points, triangles = box(size=(1.0, 0.4, 2.0))
    cut = fine.cut(points.astype(np.float32), triangles, longest)
    places = combined(points.astype(np.float32), cut.corners, cut.weights)
    edges = edges_of(cut.triangles)
    assert np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1).max() <= longest + 1e-6
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed: each edge has two triangles
    assert area(places, cut.triangles) == pytest.approx(area(points, triangles), rel=1e-5)
    np.testing.assert_array_equal(places[: len(points)], points.astype(np.float32))
    normals = np.cross(*(places[cut.triangles[:, corner]] - places[cut.triangles[:, 0]] for corner in (1, 2)))
    middles = places[cut.triangles].mean(axis=1)
    assert (np.einsum("pk,pk->p", normals, middles) > 0).all()  # none was turned around


def test_fine_surfaces_are_left_alone():
    points, triangles = sphere()
    assert fine.cut(points.astype(np.float32), triangles, 1.0) is None


def test_cutting_ends_where_there_would_be_too_many(monkeypatch):
    monkeypatch.setattr(fine, "MOST_TRIANGLES", 2000)
    points, triangles = triangle_soup(np.random.default_rng(4), 50)
    assert 50 < len(fine.cut(points.astype(np.float32), triangles, 1e-3).triangles) <= 2000
