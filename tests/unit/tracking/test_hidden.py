# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rasteriser leaves out early changes nothing: triangles that are hidden, or beside the picture."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.tracking.hidden import Hidden
from das_blender_addon.tracking.projection import Pinhole
from das_blender_addon.tracking.rasteriser import NO_TRIANGLE, draw, rasterise
from das_blender_addon.tracking.snapping import in_view, snapped

CAMERA = Pinhole(np.eye(4), (90.0, 90.0), (61.3, 40.2), 0.1, 123, 77)
FEW = 1_500
"""So few triangles are drawn without looking for hidden ones."""


def soup(count, size, seed, spread=6.0):
    """Points [3·count,3] and triangles of random slivers and plates, some of them behind the camera."""
    random = np.random.default_rng(seed)
    middle = random.uniform(-1.0, 1.0, (count, 1, 3)) * (spread, spread, 4.0) + (0.0, 0.0, 4.5)
    sizes = size * random.uniform(0.02, 1.0, (count, 1, 1))
    points = (middle + sizes * random.normal(size=(count, 3, 3))).reshape(-1, 3)
    return points, np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


@pytest.mark.parametrize("size, seed", [(0.5, 1), (0.2, 2), (0.1, 3)])
@pytest.mark.parametrize("distance", [0.0, 7.0])
def test_hidden_triangles_are_left_out_and_nothing_else(size, seed, distance):
    camera = replace(CAMERA, virtual_distance=distance, focal_px=(40.0, 40.0) if distance else CAMERA.focal_px)
    points, triangles = soup(70_000, size, seed, spread=1.5)
    points[3:6] = np.nan
    whole = rasterise(points, triangles, camera)
    keys = np.zeros(camera.width * camera.height, np.uint64)
    for start in range(0, len(triangles), FEW):
        draw(keys, points, triangles, camera, which=np.arange(start, min(start + FEW, len(triangles))))
    again = np.zeros_like(keys)
    draw(again, points, triangles, camera)
    np.testing.assert_array_equal(again, keys)
    covered = whole != NO_TRIANGLE
    assert covered.mean() > 0.5 and len(np.unique(whole)) > 10


def test_tiles_know_their_farthest_pixel_to_the_picture_s_edge():
    width, height = 85, 37
    nearness = np.random.default_rng(4).uniform(0.5, 1.0, (height, width)).astype(np.float32)
    nearness[36, 84] = 0.25
    hidden = Hidden(nearness.reshape(-1).view(np.uint32).astype(np.uint64) << np.uint64(32), width, height, 1)
    box = tuple(np.array([side], np.int32) for side in (80, 84, 33, 36))
    assert hidden.seen(*box, np.array([0.3])) is None
    hidden.drawn(1)
    for near, is_seen in ((0.3, True), (0.2, False)):
        assert hidden.seen(*box, np.array([near])).tolist() == [is_seen]
    elsewhere = tuple(np.array([side], np.int32) for side in (0, 7, 0, 7))
    assert hidden.seen(*elsewhere, np.array([0.3])).tolist() == [False]
    large = tuple(np.array([side], np.int32) for side in (0, 84, 0, 36))
    assert hidden.seen(*large, np.array([0.1])).tolist() == [True], "no tiles so large are known"


def test_what_hides_a_box_is_all_of_its_tiles_and_no_others():
    width, height = 83, 51
    random = np.random.default_rng(6)
    nearness = random.uniform(0.5, 1.0, (height, width)).astype(np.float32)
    nearness[random.random((height, width)) < 0.001] = 0.0
    hidden = Hidden(nearness.reshape(-1).view(np.uint32).astype(np.uint64) << np.uint64(32), width, height, 1)
    hidden.drawn(1)
    left, top = random.integers(0, width, 4000), random.integers(0, height, 4000)
    right = np.minimum(left + random.integers(0, 50, 4000), width - 1)
    bottom = np.minimum(top + random.integers(0, 50, 4000), height - 1)
    nearest = random.uniform(0.4, 0.7, 4000)
    box = (side.astype(np.int32) for side in (left, right, top, bottom))
    rows, columns = ((low // 4 * 4, high // 4 * 4 + 4) for low, high in ((top, bottom), (left, right)))
    expected = [
        nearest[one] >= nearness[rows[0][one] : rows[1][one], columns[0][one] : columns[1][one]].min()
        for one in range(4000)
    ]
    assert hidden.seen(*box, nearest).tolist() == expected and 0.2 < np.mean(expected) < 0.8


@pytest.mark.parametrize("distance", [0.0, 7.0])
def test_triangles_beside_the_picture_are_left_out_and_nothing_else(distance):
    """The same triangles in a picture that has room for them."""
    camera = replace(CAMERA, virtual_distance=distance, focal_px=(9.0, 9.0) if distance else (64.0, 64.0))
    camera = replace(camera, principal_px=(61.0, 40.0))
    points, triangles = soup(3_000, 0.4, 5, spread=30.0)
    found = snapped(points, camera)
    assert found.outside is not None
    kept = in_view(found.outside, triangles.T)
    assert 20 < len(kept) < 0.6 * len(triangles)
    room = 64
    larger = replace(
        camera, width=camera.width + 2 * room, height=camera.height + 2 * room, principal_px=(61.0 + room, 40.0 + room)
    )
    part = rasterise(points, triangles, camera)
    whole = rasterise(points, triangles, larger)[room:-room, room:-room]
    np.testing.assert_array_equal(part, whole)
    assert set(np.unique(part)) <= {NO_TRIANGLE, *kept.tolist()} and (part != NO_TRIANGLE).any()
