# SPDX-License-Identifier: GPL-3.0-or-later
"""Triangles side by side on a sheet: nothing overlaps, and what is linear on a triangle is on its rectangle."""

import numpy as np
import pytest

pytest.importorskip("bpy")

from das_blender_addon.scene.content import sheets
from das_blender_addon.scene.content.sheet_files import read_rendered, write_rendered
from das_blender_addon.scene.content.sheets import Sheet, lay_out, lay_out_most


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


def of_count(count, seed=1):
    nothing = np.zeros(0, np.int64)
    return Sheet(nothing, nothing, ["Lace"], np.zeros(count, np.int32), {}, "", None, some_sides(count, seed))


@pytest.mark.parametrize(
    ("counts", "chosen"),
    [((3, 40, 5), [0, 1, 2]), ((3, 800, 5), [0, 2]), ((700, 3, 800), [1]), ((800, 900), []), ((), [])],
)
def test_only_the_largest_sheets_have_no_room(monkeypatch, counts, chosen):
    monkeypatch.setattr(sheets, "MOST_TEXELS", 5000)
    found, laid = lay_out_most([of_count(count) for count in counts])
    assert found == chosen and (laid is None) == (not chosen)
    assert not chosen or len(laid.corners) == sum(counts[number] for number in chosen)


def test_rendered_sheets_come_back_from_their_file_with_those_that_have_no_room(tmp_path):
    places = [np.full((2, 3, 2), 0.5, np.float32), None, np.zeros((1, 3, 2), np.float32), None]
    write_rendered(tmp_path / "alpha.npz", (np.arange(6, dtype=np.uint16).reshape(2, 3), places))
    levels, found = read_rendered(tmp_path / "alpha.npz")
    assert levels.tolist() == [[0, 1, 2], [3, 4, 5]] and [one is None for one in found] == [False, True, False, True]
    np.testing.assert_array_equal(found[0], places[0])
    write_rendered(tmp_path / "alpha.npz", None)
    assert read_rendered(tmp_path / "alpha.npz") is None
