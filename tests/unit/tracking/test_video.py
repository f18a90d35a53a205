# SPDX-License-Identifier: GPL-3.0-or-later
"""What `render_tracking_video` promises beyond accuracy: gradients, carried colours, errors, progress, cancelling."""

import dataclasses

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SceneError
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, ground, look_at, sequence, sphere

#: Half a level of rounding, and what float32 coordinates add.
ROUNDING_LEVELS = 0.51


def _wall(depth=4.0):
    """Two triangles that fill the view of a camera at the origin which looks along +y."""
    points = np.array([(-90, depth, -90), (90, depth, -90), (90, depth, 90), (-90, depth, 90)], dtype=float)
    return points, np.array([(0, 1, 2), (0, 2, 3)])


def _still(parts, frames=1, **camera):
    return sequence(parts, camera_path([look_at((0, 0, 0), (0, 1, 0))] * frames, **camera))


def test_first_frame_shows_every_pixel_its_own_place_even_on_two_triangles():
    geometry = _still([_wall()], width=96, height=64)

    video = render_tracking_video(geometry)

    y, x = np.mgrid[0:64, 0:96] + 0.5
    np.testing.assert_allclose(video.first_frame_xy[0], np.stack([x, y], axis=-1), atol=1e-4)
    assert np.abs(video.video[0, ..., 0] - 255 * x / 96).max() < ROUNDING_LEVELS
    assert np.abs(video.video[0, ..., 1] - 255 * y / 64).max() < ROUNDING_LEVELS
    assert video.coverage.all() and video.first_frame_visible.all()
    assert video.frames == (1,)


def test_two_triangles_and_a_fine_mesh_give_the_same_video():
    matrices = [look_at((0, -4, 1.5), (0, 4, 0)), look_at((2, -3, 0.7), (0, 5, 0))]
    coarse = render_tracking_video(sequence([ground(40.0, cells=1)], camera_path(matrices)))
    fine = render_tracking_video(sequence([ground(40.0, cells=40)], camera_path(matrices)))

    np.testing.assert_array_equal(coarse.coverage, fine.coverage)
    assert np.abs(coarse.video.astype(int) - fine.video).max() <= 1


def test_colours_ride_with_a_moving_surface():
    points, faces = box((0, 5, 0), (1, 1, 1))
    moved = np.stack([points, points + (0.625, 0, 0)])
    # The front face lies at depth 4.5: 0.625 units are 10 pixels at focal length 72.
    geometry = sequence([(moved, faces)], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 2, focal_px=72.0))

    video = render_tracking_video(geometry)

    np.testing.assert_array_equal(video.video[1, 25:39, 51:65], video.video[0, 25:39, 41:55])
    assert video.video[1, 32, 58].any()


def test_surfaces_from_outside_the_first_frame_are_black_and_keep_their_place():
    # The camera turns away by 52°: it now sees wall that lay outside of the first frame.
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((0, 0, 0), (np.sin(0.9), np.cos(0.9), 0))]
    video = render_tracking_video(sequence([_wall()], camera_path(matrices)))

    assert video.coverage[1].all()
    outside = video.first_frame_xy[1, ..., 0] > 96
    assert outside.mean() > 0.5
    assert not video.video[1][outside].any() and not video.first_frame_visible[1][outside].any()


def test_surfaces_from_behind_the_first_camera_are_black_without_a_place():
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((0, 0, 0), (0, -1, 0))]
    behind = box((0, -5, 0), (3, 1, 3))
    video = render_tracking_video(sequence([_wall(), behind], camera_path(matrices)))

    assert video.coverage[1].any()
    assert not video.video[1].any()
    assert np.isnan(video.first_frame_xy[1]).all() and not video.first_frame_visible[1].any()


def test_occluded_surfaces_keep_their_colour_and_are_marked_hidden():
    # A box hides part of the wall in the first frame and is gone in the second.
    points, faces = box((0, 2, 0), (0.6, 0.2, 0.6))
    moved = np.stack([points, points + (0, 0, 50)])
    geometry = sequence([_wall(), (moved, faces)], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 2))

    video = render_tracking_video(geometry)

    # Front face at depth 1.9: half its width is 0.3 · 80 / 1.9 = 12.6 pixels.
    y, x = np.mgrid[0:64, 0:96] + 0.5
    hidden = (np.abs(x - 48) < 12.632) & (np.abs(y - 32) < 12.632)
    np.testing.assert_array_equal(video.first_frame_visible[1], ~hidden)
    assert video.video[1][hidden][:, :2].all()
    assert video.first_frame_visible[0].all()


def test_back_of_a_turned_object_is_marked_hidden():
    points, faces = sphere((0, 5, 0), 1.0, 48, 24)
    turned = (points - (0, 5, 0)) * (-1, -1, 1) + (0, 5, 0)
    geometry = sequence([(np.stack([points, turned]), faces)], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 2))

    video = render_tracking_video(geometry)

    assert video.first_frame_visible[0][video.coverage[0]].mean() == 1.0
    assert video.first_frame_visible[1][video.coverage[1]].mean() < 0.02


def test_plane_seen_edge_on_is_visible_up_to_its_horizon():
    matrices = [look_at((0, -5, 0.05), (0, 60, 0.0)), look_at((0, -5, 6.0), (0, 60, 0.0))]
    video = render_tracking_video(sequence([ground(3000.0)], camera_path(matrices)))

    inside = video.coverage[1] & (video.video[1].any(axis=-1))
    assert inside.sum() > 500
    assert video.first_frame_visible[1][inside].all()


def test_inverse_depth_range_comes_from_visible_pixels_only():
    hidden = box((0, 40, 0), (2, 2, 2))
    alone = render_tracking_video(_still([_wall(4.0)]))
    with_hidden = render_tracking_video(_still([_wall(4.0), hidden]))

    np.testing.assert_allclose(alone.inverse_depth_range, (0.25, 0.25))
    assert with_hidden.inverse_depth_range == alone.inverse_depth_range


def test_inverse_depth_range_can_be_given():
    video = render_tracking_video(_still([_wall(4.0)]), inverse_depth_range=(0.2, 0.45))

    assert video.inverse_depth_range == (0.2, 0.45)
    np.testing.assert_array_equal(video.video[0, ..., 2], 51)


def test_arrays_have_the_promised_types():
    video = render_tracking_video(_still([_wall()], frames=2, width=20, height=10))

    assert video.video.shape == (2, 10, 20, 3) and video.video.dtype == np.uint8
    assert video.coverage.shape == (2, 10, 20) and video.coverage.dtype == bool
    assert video.first_frame_xy.shape == (2, 10, 20, 2) and video.first_frame_xy.dtype == np.float32
    assert video.first_frame_visible.shape == (2, 10, 20) and video.first_frame_visible.dtype == bool


def test_rendering_twice_gives_the_same_bytes():
    geometry = sequence([sphere(), ground(9.0, -1.0)], camera_path([look_at((0, -5, t), (0, 0, 0)) for t in (1, 2)]))

    first, second = render_tracking_video(geometry), render_tracking_video(geometry)

    assert first.video.tobytes() == second.video.tobytes()
    assert first.first_frame_xy.tobytes() == second.first_frame_xy.tobytes()


@pytest.mark.filterwarnings("error")
def test_non_finite_vertices_do_not_harm_the_rest():
    points, faces = sphere((0, 5, 0))
    points[7] = np.nan
    video = render_tracking_video(_still([(points, faces), _wall(9.0)], frames=2))

    assert video.coverage.all()


@pytest.mark.filterwarnings("error")
def test_vertices_that_are_non_finite_in_the_first_frame_only_have_no_place():
    points, faces = _wall()
    moved = np.stack([points, points])
    moved[0, 2] = np.nan
    backdrop = np.array([(-90, 9, -90), (90, 9, -90), (0, 9, 90)], dtype=float)
    geometry = sequence(
        [(moved, faces), (backdrop, np.array([(0, 1, 2)]))], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 2)
    )

    video = render_tracking_video(geometry)

    assert video.coverage[1].all()
    assert np.isnan(video.first_frame_xy[1]).all() and not video.video[1].any()


def test_empty_first_frame_is_a_scene_error_that_names_the_frame():
    geometry = dataclasses.replace(_still([box((0, -5, 0))]), frames=(17,))

    with pytest.raises(SceneError, match="frame 17"):
        render_tracking_video(geometry)


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": (1, 2)},
        {"triangles": np.array([[0, 1, 4]], dtype=np.int32)},
        {"triangles": np.array([[0, 1, -1]], dtype=np.int32)},
        {"triangles": np.zeros((2, 4), dtype=np.int32)},
        {"vertices": np.zeros((4, 3), dtype=np.float32)},
    ],
)
def test_arrays_that_do_not_fit_are_a_scene_error(changes):
    geometry = dataclasses.replace(_still([_wall()]), **changes)

    with pytest.raises(SceneError):
        render_tracking_video(geometry)


def test_progress_counts_frames():
    told = []

    render_tracking_video(_still([_wall()], frames=3), progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_should_stop_ends_the_work_between_frames():
    done = []

    with pytest.raises(JobCancelled):
        render_tracking_video(
            _still([_wall()], frames=3),
            progress=lambda count, total: done.append(count),
            should_stop=lambda: len(done) == 1,
        )

    assert done == [1]


# ── The far plane ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_surface_beyond_the_far_plane_is_not_drawn_and_hides_nothing():
    """A wall that fills the left half, and one far behind it that fills the view."""
    near, far = _wall(4.0), _wall(9.0)
    near[0][:, 0] = np.where(near[0][:, 0] > 0, 0.0, near[0][:, 0])
    whole = render_tracking_video(_still([near, far]))
    cut = render_tracking_video(_still([near, far], clip_end=5.0))
    np.testing.assert_array_equal(cut.coverage[0], np.arange(96)[None] < np.full((64, 1), 48))
    assert whole.coverage.all() and not cut.video[~cut.coverage].any()
    assert np.isnan(cut.first_frame_xy[~cut.coverage]).all() and not cut.first_frame_visible[~cut.coverage].any()


def test_far_plane_cuts_a_surface_at_its_depth_pixel_by_pixel():
    """The floor 1 below a level camera lies at depth focal / rows below the horizon: 80 / 8 = 10."""
    floor = np.array([(-500, 0.5, -1), (500, 0.5, -1), (500, 500, -1), (-500, 500, -1)])
    geometry = _still([(floor, [(0, 1, 2), (0, 2, 3)])], clip_end=10.0)
    rows = np.flatnonzero(render_tracking_video(geometry).coverage[0].any(axis=1))
    assert rows.min() == 32 + 8 and rows.max() == 63


def test_far_plane_is_that_of_each_frame():
    matrices = [look_at((0, 0, 0), (0, 1, 0))] * 3
    cameras = dataclasses.replace(camera_path(matrices), clip_end=np.array([5.0, 3.0, 5.0]))
    geometry = sequence([_wall(4.0)], cameras)
    assert render_tracking_video(geometry).coverage.reshape(3, -1).all(axis=1).tolist() == [True, False, True]
    assert render_tracking_video(geometry).coverage[1].sum() == 0


def test_depth_range_does_not_count_what_lies_beyond_the_far_plane():
    near, far = _wall(4.0), _wall(1000.0)
    near[0][:, 0] = np.where(near[0][:, 0] > 0, 0.0, near[0][:, 0])
    alone = render_tracking_video(_still([near]))
    cut = render_tracking_video(_still([near, far], clip_end=50.0))
    assert cut.inverse_depth_range == alone.inverse_depth_range


def test_shot_whose_surfaces_all_lie_beyond_the_far_plane_says_that_none_is_in_view():
    with pytest.raises(SceneError, match="No surface is in view"):
        render_tracking_video(_still([_wall(9.0)], clip_end=5.0))
