# SPDX-License-Identifier: GPL-3.0-or-later
"""Clipping keeps exactly the part of a triangle inside the planes."""

import numpy as np

from das_blender_addon.tracking.clipping import clip_triangles

PLANES = np.array([[0.0, 0.0, 1.0, -0.5], [1.0, 0.3, 0.0, 0.2]])

#: Areas are sums of float64 cross products.
AREA_RTOL = 1e-12


def _areas(corners):
    return 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)


def test_clip_triangles_leaves_inside_triangles_bit_by_bit():
    corners = np.random.default_rng(0).uniform(1, 2, (20, 3, 3))

    kept, owners = clip_triangles(corners, np.arange(20), PLANES)

    np.testing.assert_array_equal(kept, corners)
    np.testing.assert_array_equal(owners, np.arange(20))


def test_clip_triangles_drops_outside_triangles():
    corners = np.random.default_rng(0).uniform(-2, -1, (20, 3, 3))

    kept, owners = clip_triangles(corners, np.arange(20), PLANES)

    assert kept.shape == (0, 3, 3) and owners.shape == (0,)


def test_clip_triangles_splits_the_area_between_both_sides_of_a_plane():
    corners = np.random.default_rng(1).normal(0, 1, (500, 3, 3))

    front, front_owners = clip_triangles(corners, np.arange(500), PLANES[:1])
    back, back_owners = clip_triangles(corners, np.arange(500), -PLANES[:1])

    total = np.bincount(front_owners, _areas(front), 500) + np.bincount(back_owners, _areas(back), 500)
    np.testing.assert_allclose(total, _areas(corners), rtol=AREA_RTOL)
    assert (front[..., 2] >= 0.5 - 1e-12).all()


def test_clip_triangles_keeps_the_orientation():
    corners = np.random.default_rng(2).normal(0, 1, (500, 3, 3))

    kept, owners = clip_triangles(corners, np.arange(500), PLANES)

    def normals(c):
        return np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0])

    assert len(kept)
    assert (np.einsum("kc,kc->k", normals(kept), normals(corners)[owners]) >= -1e-12).all()


def test_clip_triangles_cuts_a_shared_edge_at_the_same_bits():
    rng = np.random.default_rng(3)
    for _ in range(50):
        a, b, c, d = rng.uniform((-3, -3, 0.6), (3, 3, 4), (4, 3)) - ((0, 0, 4), (0, 0, 0), (0, 0, 0), (0, 0, 0))
        left, _ = clip_triangles(np.array([[a, b, c]]), np.arange(1), PLANES[:1])
        right, _ = clip_triangles(np.array([[d, b, a]]), np.arange(1), PLANES[:1])

        shared = {tuple(p) for p in left.reshape(-1, 3)} & {tuple(p) for p in right.reshape(-1, 3)}

        assert tuple(b) in shared and len(shared) == 2
