# SPDX-License-Identifier: GPL-3.0-or-later
"""The sky in the tracking video: far away, turned by the camera's turns alone, and beside surfaces that stay as they
are without it.
"""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import SceneError
from das_blender_addon.tracking.geometry import BACKGROUND, SILHOUETTE
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.sky import sky_places
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, look_at, sequence, sphere

WIDTH, HEIGHT, FOCAL_PX = 97, 61, 80.0
AHEAD = (0.0, 1.0, 0.0)
SPHERE_RADIUS = 1e7
#: Pixels that a sphere of so many units is off where the camera has moved by a few, and its facets.
FAR_ERROR_PX = 0.02


def turned(degrees, place=(0.0, 0.0, 0.0)):
    """A camera at ``place`` that is turned to the right by ``degrees``, and up by a third of that."""
    angle = np.radians(degrees)
    target = np.asarray(place) + (np.sin(angle), np.cos(angle), np.tan(angle / 3))
    return look_at(place, target)


def shot(matrices, **camera):
    parts = [box((0.5, 5, 0.3), (1, 1, 1)), sphere((-1.5, 6, -1), 0.8)]
    return sequence(parts, camera_path(matrices, width=WIDTH, height=HEIGHT, focal_px=FOCAL_PX, **camera))


def test_sky_is_what_a_sphere_at_the_end_of_the_world_would_be():
    """Its places in the first frame, whether the camera turns, moves, zooms or all of it; its colours but for blue."""
    matrices = [turned(0), turned(11, (0.3, -0.4, 0.2)), turned(-14, (-0.2, 0.1, 0.0))]
    ours = shot(matrices, principal_px=(44.0, 33.0))
    ours = replace(ours, cameras=replace(ours.cameras, focal_px=ours.cameras.focal_px * [[1.0], [1.2], [0.8]]))
    far, faces = sphere((0, 0, 0), SPHERE_RADIUS, segments=96, rings=48)
    theirs = replace(
        ours,
        vertices=np.concatenate([ours.vertices, np.repeat(far[None], 3, 0).astype(np.float32)], axis=1),
        triangles=np.concatenate([ours.triangles, faces.astype(np.int32) + ours.vertices.shape[1]]),
    )
    made = render_tracking_video(ours, sky=True)
    truth = render_tracking_video(theirs, inverse_depth_range=made.inverse_depth_range)
    sky = ~made.coverage
    assert truth.coverage.all() and 0.5 < sky.mean() < 0.95
    error = np.abs(made.first_frame_xy - truth.first_frame_xy)[sky]
    assert error.max() < FAR_ERROR_PX
    differs = np.abs(made.video.astype(int) - truth.video)[sky]
    assert differs.max() <= 1 or (differs > 1).any(axis=1).mean() < 0.01, "at the first frame's border"
    same = made.first_frame_visible == truth.first_frame_visible
    assert same[sky].mean() > 0.98, "at the outlines of what hides it"


def test_surfaces_and_coverage_are_as_without_it_and_black_stays_black():
    geometry = shot([turned(0), turned(8)])
    with_sky, without = render_tracking_video(geometry, sky=True), render_tracking_video(geometry)
    np.testing.assert_array_equal(with_sky.coverage, without.coverage)
    covered = without.coverage
    assert with_sky.inverse_depth_range == without.inverse_depth_range
    np.testing.assert_array_equal(with_sky.video[covered], without.video[covered])
    np.testing.assert_array_equal(with_sky.first_frame_xy[covered], without.first_frame_xy[covered])
    np.testing.assert_array_equal(with_sky.first_frame_visible[covered], without.first_frame_visible[covered])
    assert not without.video[~covered].any() and np.isnan(without.first_frame_xy[~covered]).all()
    np.testing.assert_array_equal(render_tracking_video(geometry, sky=True, colours_only=True).video, with_sky.video)


def test_sky_has_its_own_place_in_the_first_frame_and_no_nearness():
    made = render_tracking_video(shot([turned(0)]), sky=True)
    rows, columns = np.nonzero(~made.coverage[0])
    np.testing.assert_array_equal(made.video[0, rows, columns, 0], np.rint(255 * (columns + 0.5) / WIDTH))
    np.testing.assert_array_equal(made.video[0, rows, columns, 1], np.rint(255 * (rows + 0.5) / HEIGHT))
    assert not made.video[0, rows, columns, 2].any() and made.first_frame_visible[0, rows, columns].all()


def test_a_camera_that_only_moves_leaves_the_sky_where_it_is():
    made = render_tracking_video(shot([turned(0), turned(0, (0.7, -2.0, 0.4))]), sky=True)
    both = ~made.coverage[0] & ~made.coverage[1]
    np.testing.assert_array_equal(made.video[1][both], made.video[0][both])


def test_what_was_outside_the_first_frame_or_behind_it_is_black():
    made = render_tracking_video(shot([turned(0), turned(25), turned(180)]), sky=True)
    sky = ~made.coverage
    outside = made.first_frame_xy[1, ..., 0] > WIDTH
    assert outside[sky[1]].mean() > 0.3 and not made.video[1][outside & sky[1]].any()
    assert sky[2].all() and np.isnan(made.first_frame_xy[2]).all() and not made.video[2].any()


def test_wall_of_one_depth_leaves_the_sky_without_nearness():
    """Both ends of the blue channel are equal there."""
    wall = np.array([(-1, 4, -1), (1, 4, -1), (1, 4, 1), (-1, 4, 1)], float), [(0, 1, 2), (0, 2, 3)]
    made = render_tracking_video(sequence([wall], camera_path([look_at((0, 0, 0), AHEAD)])), sky=True)
    assert (made.video[0][made.coverage[0], 2] == 255).all() and not made.video[0][~made.coverage[0], 2].any()


def test_silhouette_stays_black_before_the_sky_and_a_backdrop_hides_it():
    geometry = shot([turned(0)] * 2)
    roles = np.zeros(len(geometry.triangles), np.uint8)
    roles[:12] = SILHOUETTE
    made = render_tracking_video(replace(geometry, roles=roles), sky=True)
    plain = render_tracking_video(geometry, sky=True)
    np.testing.assert_array_equal(made.coverage, plain.coverage)
    gone = made.coverage[1] & ~made.video[1].any(axis=-1)
    assert gone.sum() > 100 and plain.video[1][gone].any(axis=-1).all()
    backdrop = np.array([(-90, 9, -90), (90, 9, -90), (0, 9, 200)], float), [(0, 1, 2)]
    behind = sequence([box((0.5, 5, 0.3)), backdrop], geometry.cameras)
    roles = np.array([0] * 12 + [BACKGROUND], np.uint8)
    assert render_tracking_video(replace(behind, roles=roles), sky=True).coverage.all()


def test_sky_alone_is_no_shot():
    geometry = shot([turned(90), turned(0)])
    with pytest.raises(SceneError, match="No surface is in view in the first frame"):
        render_tracking_video(geometry, sky=True)
    made = render_tracking_video(geometry, sky=True, inverse_depth_range=(0.1, 0.2))
    assert not made.coverage[0].any() and made.video[0].any(axis=-1).all()


@pytest.mark.parametrize(("direction", "is_known"), [(AHEAD, True), ((0.3, 1.0, 0.0), False)])
def test_parallel_rays_see_one_direction_of_the_sky(direction, is_known):
    """All pixels of an orthographic camera: each keeps its place while the camera moves; one that turns sees another
    part of the sky.
    """
    place = np.array((0.6, -1.0, 0.2))
    matrices = [look_at((0, 0, 0), AHEAD), look_at(place, place + direction)]
    cameras = camera_path(matrices, width=WIDTH, height=HEIGHT, focal_px=14.0)
    cameras = replace(cameras, virtual_distance=np.full(2, 9.0))
    made = render_tracking_video(sequence([box((0, 5, 0))], cameras), sky=True)
    sky = ~made.coverage[1]
    rows, columns = np.nonzero(sky)
    found = made.first_frame_xy[1][sky]
    if is_known:
        np.testing.assert_array_equal(found, np.stack([columns + 0.5, rows + 0.5], axis=1))
        assert made.video[1][sky].any(axis=-1).mean() > 0.99
    else:
        assert np.isnan(found).all() and not made.video[1][sky].any()


@pytest.mark.parametrize("yaw", range(0, 360, 7))
def test_parallel_rays_of_a_camera_of_single_precision_see_what_they_see_themselves(yaw):
    """Blender's matrices are no exact rotations."""
    angles = np.radians([yaw, yaw, yaw + 0.02])
    places = [(0, 0, 0), (0.3, -1, 2), (0, 0, 0)]
    matrices = [
        np.float32(look_at(place, np.add(place, (np.sin(angle), np.cos(angle), 0.3))))
        for place, angle in zip(places, angles, strict=True)
    ]
    cameras = camera_path(matrices, width=WIDTH, height=HEIGHT, focal_px=14.0)
    cameras = replace(cameras, virtual_distance=np.full(3, 9.0))
    first, moved, turned_away = (pinhole_at(cameras, index) for index in range(3))
    pixels = np.arange(WIDTH * HEIGHT)
    for one, other in ((first, first), (first, moved), (moved, first)):
        assert np.isfinite(sky_places(pixels, one, other)).all()
    assert np.isnan(sky_places(pixels, first, turned_away)).all()


def test_orthographic_frame_of_a_pinholes_shot_has_one_place_in_its_sky():
    """And a pinhole's frame of an orthographic shot has none."""
    matrices = [look_at((0, 0, 0), AHEAD), turned(6)]
    cameras = camera_path(matrices, width=WIDTH, height=HEIGHT, focal_px=FOCAL_PX)
    mixed = replace(cameras, virtual_distance=np.array([0.0, 9.0]), focal_px=np.array([[80.0] * 2, [14.0] * 2]))
    made = render_tracking_video(sequence([box((1, 5, 0))], mixed), sky=True)
    places = made.first_frame_xy[1][~made.coverage[1]]
    assert np.ptp(places, axis=0).max() < 1e-4
    np.testing.assert_allclose(places[0, 0], WIDTH / 2 + FOCAL_PX * np.tan(np.radians(6)), atol=1e-3)
    other = replace(mixed, virtual_distance=np.array([9.0, 0.0]), focal_px=mixed.focal_px[::-1])
    made = render_tracking_video(sequence([box((1, 5, 0))], other), sky=True)
    assert not made.video[1][~made.coverage[1]].any()
