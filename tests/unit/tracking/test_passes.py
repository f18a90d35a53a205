# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth, normals, motion and objects of pixels, in words: what is where, and what is not known."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.tracking.passes import surface_passes
from das_blender_addon.tracking.spool import SpoolWriter
from tests.support.geometry import camera_path, look_at, sequence

FRONT = look_at((0, -5, 0), (0, 0, 0))
WIDTH, HEIGHT, FOCAL_PX = 97, 63, 80.0
CLOSE_PX = 1e-3
SQUARE = np.array([(-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1)], float)
FACES = [(0, 1, 2), (0, 2, 3)]


def cameras(*matrices, **values):
    return camera_path(matrices, width=WIDTH, height=HEIGHT, focal_px=FOCAL_PX, **values)


def shot(squares, cameras, names=("square",)):
    """``squares``: for each frame its corners [4,3]."""
    made = sequence([(np.stack(squares), FACES)], cameras)
    return replace(made, objects=np.zeros(2, np.int32), names=names)


def test_a_square_that_comes_nearer_and_goes_aside():
    way = np.array((0.25, 0.0, 0.5))
    geometry = shot([SQUARE - way, SQUARE, SQUARE * (1, 1, 1) + (0, -1, 0)], cameras(FRONT, FRONT, FRONT))
    found = surface_passes(geometry, 1, before=0, after=2)
    there = found.objects == 0
    assert 32 * 32 - 64 <= there.sum() <= 33 * 33 and found.names == ("square",)
    np.testing.assert_allclose(found.depth[there], 5.0, rtol=1e-6)
    assert np.isinf(found.depth[~there]).all() and (found.normal[~there] == 0).all()
    np.testing.assert_allclose(found.normal[there], np.tile((0, -1, 0), (there.sum(), 1)), atol=1e-6)
    aside_px = FOCAL_PX * way / 5.0
    expected = np.tile((-aside_px[0], aside_px[2]), (there.sum(), 1))
    np.testing.assert_allclose(found.before[there], expected, atol=CLOSE_PX)
    y, x = np.nonzero(there)
    from_centre = np.stack([x + 0.5 - WIDTH / 2, y + 0.5 - HEIGHT / 2], axis=1)
    np.testing.assert_allclose(found.after[there], from_centre * (5.0 / 4.0 - 1.0), atol=CLOSE_PX)
    assert (found.before[~there] == 0).all() and found.object_index is None


def test_motion_is_not_asked_for():
    found = surface_passes(shot([SQUARE], cameras(FRONT)), 0)
    assert found.before is None and found.after is None and found.depth.dtype == np.float32


def test_a_camera_that_turns_moves_what_is_infinitely_far_away():
    turned = look_at((3, -5, 0), (3.1, 0, 0))  # its place does not matter
    found = surface_passes(shot([SQUARE, SQUARE], cameras(FRONT, turned)), 0, after=1)
    middle_px = found.after[HEIGHT // 2, 2]
    angle = np.arctan(0.1 / 5.0)
    before = np.arctan((2.5 - WIDTH / 2) / FOCAL_PX)
    np.testing.assert_allclose(middle_px, (FOCAL_PX * np.tan(before - angle) + WIDTH / 2 - 2.5, 0.0), atol=1e-2)
    assert (found.objects[HEIGHT // 2, 2], found.objects[HEIGHT // 2, WIDTH // 2]) == (-1, 0)


@pytest.mark.parametrize("where", ["gone", "behind"])
def test_what_is_gone_or_behind_the_camera_has_no_motion(where):
    other = np.full_like(SQUARE, np.nan) if where == "gone" else SQUARE + (0, -20, 0)
    found = surface_passes(shot([other, SQUARE], cameras(FRONT, FRONT)), 1, before=0)
    there = found.objects == 0
    assert there.any() and np.isnan(found.before[there]).all() and np.isfinite(found.before[~there]).all()
    nothing = surface_passes(shot([other, SQUARE], cameras(FRONT, FRONT)), 0, before=1)
    assert (nothing.objects == -1).all() and np.isinf(nothing.depth).all()


def test_depth_of_an_orthographic_camera_counts_from_the_camera():
    path = replace(cameras(FRONT, FRONT, FRONT), virtual_distance=np.full(3, 7.0), focal_px=np.full((3, 2), 20.0))
    turned = look_at((0, -5, 0), (0.1, 0, 0))
    path.camera_from_world[2] = turned
    found = surface_passes(shot([SQUARE] * 3, path), 0, before=1, after=2)
    there = found.objects == 0
    assert 38 * 38 < there.sum() < 42 * 42
    np.testing.assert_allclose(found.depth[there], 5.0, rtol=1e-6)
    assert abs(found.before).max() < CLOSE_PX
    np.testing.assert_array_equal(np.isnan(found.after).all(axis=2), ~there)


def test_objects_are_spooled(tmp_path):
    whole = shot([SQUARE, SQUARE + 1], cameras(FRONT, FRONT), names=("Würfel.001", "b"))
    writer = SpoolWriter(tmp_path)
    for vertices in whole.vertices:
        writer.add(vertices)
    order = np.arange(4)
    read = writer.finish(
        whole.triangles, order, whole.cameras, whole.frames, objects=np.array([1, 0], np.int32), names=whole.names
    )
    assert read.names == ("Würfel.001", "b") and read.objects.tolist() == [1, 0]
    found = surface_passes(read, 0)
    assert set(np.unique(found.objects)) == {-1, 0, 1}
