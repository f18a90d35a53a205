# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles side by side on a sheet: nothing overlaps, and what is linear on a triangle is on its rectangle."""

import numpy as np
import pytest

pytest.importorskip("bpy")

from das_blender_addon.scene.content import sheets
from das_blender_addon.scene.content.sheets import lay_out


def some_sides(count, seed=1, size=9.0):
    random = np.random.default_rng(seed)
    corners = random.uniform(0.0, size, (count, 3, 2))
    return np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=2).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 97])
def test_rectangles_do_not_overlap_and_triangles_lie_inside(count):
    laid = lay_out(some_sides(count))
    owner = np.full(laid.size[::-1], -1)
    for number, rectangle in enumerate(laid.rectangles):
        low, high = rectangle.min(axis=0), rectangle.max(axis=0)
        np.testing.assert_array_equal(low, np.rint(low))
        columns, rows = (slice(int(low[axis]), int(high[axis])) for axis in (0, 1))
        assert (owner[rows, columns] == -1).all()
        owner[rows, columns] = number
        inside = laid.corners[number]
        assert (inside >= low + 1.0).all() and (inside <= high - 1.0 + 1e-9).all(), "a texel around is its own"
    assert (laid.rectangles.max(axis=(0, 1)) <= laid.size).all()


def test_triangles_keep_their_shape_and_what_is_linear_goes_on():
    sides = some_sides(50)
    laid = lay_out(sides)
    found = np.linalg.norm(np.roll(laid.corners, -1, axis=1) - laid.corners, axis=2)
    is_wide = (laid.corners.max(axis=1) - laid.corners.min(axis=1)).min(axis=1) > 1.0
    assert is_wide.sum() > 30
    np.testing.assert_allclose(found[is_wide], sheets.TEXELS * sides[is_wide], rtol=1e-4)
    np.testing.assert_allclose(laid.shares @ laid.corners, laid.rectangles, atol=1e-9)


def test_triangles_that_are_nothing_or_long_have_a_texel():
    laid = lay_out(np.array([[0.0, 0.0, 0.0], [5.0, 2.0, 3.0], [5.0, 5.0, 0.0], [0.0, 3.0, 3.0]], np.float32))
    extent = laid.corners.max(axis=1) - laid.corners.min(axis=1)
    assert np.isfinite(laid.shares).all() and (extent >= 1.0).all()
    np.testing.assert_allclose(laid.shares @ laid.corners, laid.rectangles, atol=1e-9)


def test_too_large_ones_are_coarser_and_too_many_are_none(monkeypatch):
    monkeypatch.setattr(sheets, "MOST_TEXELS", 5000)
    laid = lay_out(some_sides(50))
    assert laid.size[0] * laid.size[1] <= 5000
    assert lay_out(some_sides(800)) is None
