# SPDX-License-Identifier: GPL-3.0-or-later
"""A wall that is meshed anew during the shot looks like one that is not where it is linked; what is new is black."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.shot.tracked import first_frame_digest, geometry_digest, part_of
from das_blender_addon.tracking import changes as at
from das_blender_addon.tracking.changes import COLUMNS, NONE, Changes, combined
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.coverage import coverage
from das_blender_addon.tracking.drawn import DrawnSurfaces
from das_blender_addon.tracking.shot_curves import shot_curves
from das_blender_addon.tracking.spool import SpoolWriter
from das_blender_addon.tracking.suggest import suggest_key_frames
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, ground, look_at, sequence

#: Pixels: the same wall, interpolated over other triangles in float32.
XY_ERROR_PX = 2e-3
FRAMES = 6
COARSE, FINE = 2, 5
LIVES = {COARSE: (0, 2), FINE: (3, 5)}
"""0-based frames in which the wall has so many cells a side."""


def wall(cells, index):
    """The wall as it stands in a frame, a turn and a stretch later, and its triangles."""
    points, triangles = ground(2.0, cells=cells)
    points = points[:, (0, 2, 1)] * (1.0 + 0.05 * index, 1.0, 1.0) + (0.15 * index, 0.0, 0.1 * index)
    return points, triangles


def cells_under(cells, other):
    """The corners and weights over a wall of ``other`` cells of all vertices of one of ``cells``."""
    points, _ = ground(2.0, cells=cells)
    vertices, triangles = ground(2.0, cells=other)
    corners, weights = [], []
    for x, y in points[:, :2]:
        for triangle in triangles:
            a, b, c = vertices[triangle][:, :2]
            second, third = np.linalg.solve(np.stack([b - a, c - a], axis=1), (x, y) - a)
            if min(second, third, 1 - second - third) > -1e-9:
                corners.append(triangle)
                weights.append((1 - second - third, second, third))
                break
    return np.array(corners, np.int32), np.array(weights, np.float32)


def changing_shot(*, new=()):
    """A box before a wall that is meshed anew in the middle of the shot; ``new``: vertices that the old wall had not.
    And the same shot with one mesh.
    """
    path = camera_path([look_at((0.3 * index, -7, 0.5), (0, 0, 0)) for index in range(FRAMES)])
    coarse, fine = (np.full((FRAMES, (cells + 1) ** 2, 3), np.nan) for cells in LIVES)
    for walls, (cells, (first, last)) in zip((coarse, fine), LIVES.items(), strict=True):
        for index in range(first, last + 1):
            walls[index] = wall(cells, index)[0]
    block = box((0.5, -1.5, 0.2), (0.8, 0.8, 0.8))
    parts = [(coarse, wall(COARSE, 0)[1]), block, (fine, wall(FINE, 0)[1])]
    geometry = sequence(parts, path)
    back, forth = cells_under(FINE, COARSE), cells_under(COARSE, FINE)
    back[1][list(new)] = np.nan
    table = np.full((2, COLUMNS), NONE, np.int64)
    table[:, at.START] = 0, 9 + 8
    table[:, at.COUNT] = 9, 36
    table[:, at.TRIANGLES] = 0, 8 + 12
    table[:, at.NUM_TRIANGLES] = 8, 50
    table[:, at.FIRST], table[:, at.LAST] = (-99, 4), (3, 99)
    table[0, at.AFTER], table[0, at.LINK_AFTER] = 1, 2
    table[1, at.BEFORE], table[1, at.LINK_BEFORE] = 0, 0
    constant = np.stack([wall(COARSE, index)[0] for index in range(FRAMES)])
    whole = sequence([(constant, wall(COARSE, 0)[1]), block], path)
    return replace(geometry, changes=Changes(table, (*back, *forth))), whole


def spooled(geometry, folder):
    """As an export writes it: a frame has the vertices only that are there."""
    spool = SpoolWriter(folder)
    for array in geometry.changes.arrays:
        spool.keep(array)
    for index, vertices in enumerate(geometry.vertices):
        spans = np.array([(0, 17)] if index <= LIVES[COARSE][1] else [(9, 17), (17, 53)])
        spool.add(np.concatenate([vertices[first:last] for first, last in spans]), spans)
    order = np.arange(geometry.vertices.shape[1])
    return spool.finish(
        geometry.triangles, order, geometry.cameras, geometry.frames, epochs=geometry.changes.epochs
    )


@pytest.fixture(params=["in memory", "on disk"])
def shot(request, tmp_path):
    geometry, whole = changing_shot()
    return (geometry if request.param == "in memory" else spooled(geometry, tmp_path)), whole


def test_tracking_video_is_that_of_one_mesh(shot):
    geometry, whole = shot
    video, expected = render_tracking_video(geometry), render_tracking_video(whole)
    np.testing.assert_array_equal(video.coverage, expected.coverage)
    np.testing.assert_allclose(video.first_frame_xy, expected.first_frame_xy, atol=XY_ERROR_PX)
    assert (video.first_frame_visible == expected.first_frame_visible).mean() > 0.995
    assert np.abs(video.video.astype(int) - expected.video).max() <= 1


def test_correspondences_lead_over_the_change_in_both_directions(shot):
    geometry, whole = shot
    for frame, other in zip(correspondences(geometry, [0, 2, 5]), correspondences(whole, [0, 2, 5]), strict=True):
        np.testing.assert_allclose(frame.xy, other.xy, atol=XY_ERROR_PX)
        assert (frame.visible == other.visible).mean() > 0.995


def test_other_looks_at_a_shot_follow_the_change(shot):
    geometry, whole = shot
    for index in (0, 4):
        np.testing.assert_array_equal(*(coverage(one, index, smooth=True) for one in (geometry, whole)))
    ours, theirs = (suggest_key_frames(one, most_keys=1) for one in (geometry, whole))
    np.testing.assert_allclose(ours.unseen_before, theirs.unseen_before, atol=0.01)
    ours, theirs = (shot_curves(one) for one in (geometry, whole))
    np.testing.assert_allclose(ours.motion, theirs.motion, atol=1e-3)
    np.testing.assert_allclose(ours.covered, theirs.covered)


def test_part_of_a_changing_shot_goes_on_as_the_whole(shot):
    geometry, whole = shot
    chosen = (1, 4)
    video, expected = (render_tracking_video(part_of(one, chosen)) for one in (geometry, whole))
    np.testing.assert_allclose(video.first_frame_xy, expected.first_frame_xy, atol=XY_ERROR_PX)


def test_new_points_have_no_place_and_are_black():
    geometry, _ = changing_shot(new=range(0, 18))  # the lower half
    video = render_tracking_video(geometry)
    lost = video.coverage & np.isnan(video.first_frame_xy).any(axis=-1)
    assert not lost[:3].any() and 0.2 < lost[3].mean() < 0.8
    assert not video.video[lost].any() and not video.first_frame_visible[lost].any()
    last = list(correspondences(geometry, [0, 5], frame_indices=[4]))[0]
    assert np.isnan(last.xy[0][lost[4]]).any(axis=-1).all() and np.isfinite(last.xy[1][lost[4]]).all()


def test_what_is_new_grows_by_no_triangle_with_each_link():
    points = np.array([(0.0, 0, 0), (1.0, 0, 0), (np.nan,) * 3], np.float32)
    corners = np.array([(0, 1, 2)] * 3, np.int32)
    weights = np.array([(0.5, 0.25, 0.25), (0.25, 0.15, 0.6), (0.5, 0.5, 0.0)], np.float32)
    found = combined(points, corners, weights)
    np.testing.assert_allclose(found[[0, 2], 0], [1 / 3, 0.5], rtol=1e-6)
    assert np.isnan(found[1]).all()


def test_digests_tell_links_apart_and_first_frames_not():
    geometry, _ = changing_shot()
    other, _ = changing_shot(new=(3,))
    assert geometry_digest(geometry) != geometry_digest(other) == geometry_digest(changing_shot(new=(3,))[0])
    alone = replace(part_of(geometry, [0]), changes=None)
    assert first_frame_digest(geometry) == first_frame_digest(alone)


def test_frames_that_draw_the_same_share_a_surface():
    surfaces = DrawnSurfaces(changing_shot()[0])
    first = surfaces.at(0)
    assert surfaces.at(2) is first and len(first.triangles) == 8 + 12
    assert len(surfaces.at(3).triangles) == 12 + 50
