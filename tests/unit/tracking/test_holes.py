# SPDX-License-Identifier: GPL-3.0-or-later
"""Holes: black, no surface and no sky; what is behind them is hidden, and what is beside them stays as it is."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import SceneError
from das_blender_addon.tracking.composition import Composer
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.coverage import coverage
from das_blender_addon.tracking.geometry import HOLE, SILHOUETTE, TRACKED
from das_blender_addon.tracking.moments import moments
from das_blender_addon.tracking.passes import surface_passes
from das_blender_addon.tracking.shot_curves import shot_curves
from das_blender_addon.tracking.suggest import suggest_key_frames
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, look_at, sequence

WIDTH, HEIGHT = 97, 61
PLACES = ((0.0, 0.0, 0.0), (0.6, 0.0, 0.1), (-0.5, 0.0, 0.0))
SIDE = 12
"""Triangles of a box."""


def two_boxes(role=TRACKED):
    """A box with the ``role`` that covers a part of a larger one, and sky beside both; the camera moves."""
    cameras = camera_path([look_at(place, np.add(place, (0, 1, 0))) for place in PLACES], width=WIDTH, height=HEIGHT)
    geometry = sequence([box((0.4, 4.0, 0.2), (1.0, 0.5, 0.8)), box((0.9, 7.0, 0.3), (2.6, 1.0, 2.0))], cameras)
    roles = np.array([role] * SIDE + [TRACKED] * SIDE, np.uint8)
    return replace(geometry, roles=roles if role else None, objects=np.repeat([0, 1], SIDE), names=("Near", "Far"))


def near_box():
    """[T,H,W] bool: where the near box is seen."""
    geometry = two_boxes()
    return np.stack([surface_passes(geometry, index).objects == 0 for index in range(len(PLACES))])


@pytest.mark.parametrize("sky", [False, True], ids=["black", "sky"])
def test_hole_is_black_and_no_surface_and_hides_what_is_behind_it(sky):
    plain, hole = (render_tracking_video(two_boxes(role), sky=sky) for role in (TRACKED, HOLE))
    silhouette, there = render_tracking_video(two_boxes(SILHOUETTE), sky=sky), near_box()
    assert there.sum(axis=(1, 2)).min() > 200
    assert not hole.video[there].any() and not hole.coverage[there].any()
    assert np.isnan(hole.first_frame_xy[there]).all() and not hole.first_frame_visible[there].any()
    np.testing.assert_array_equal(hole.coverage[~there], plain.coverage[~there])
    np.testing.assert_array_equal(hole.first_frame_xy[~there], plain.first_frame_xy[~there])
    # What it hides in the first frame, the box behind it or the sky, is hidden.
    np.testing.assert_array_equal(hole.first_frame_visible[~there], plain.first_frame_visible[~there])
    hidden = ~there & np.isfinite(hole.first_frame_xy).all(axis=-1) & ~hole.first_frame_visible
    assert hidden[1:].sum() > 20
    np.testing.assert_array_equal(hole.video, silhouette.video)


def test_hole_in_a_mesh_leaves_the_triangles_that_share_its_corners():
    """A face of a box is a hole, and the corners are those of its other faces."""
    cameras = camera_path([look_at((1.5, -2.0, 1.0), (0, 0, 0)), look_at((1.7, -2.0, 1.0), (0, 0, 0))])
    geometry = sequence([box()], cameras)
    whole = render_tracking_video(geometry)
    seen = surface_passes(replace(geometry, objects=np.arange(SIDE)), 1).objects
    front = np.bincount(seen[seen >= 0]).argmax()
    roles = np.zeros(SIDE, np.uint8)
    roles[front] = HOLE
    made = render_tracking_video(replace(geometry, roles=roles), inverse_depth_range=whole.inverse_depth_range)
    rest = whole.coverage[1] & (seen != front)
    assert rest.sum() > 100 and (seen == front).sum() > 100
    np.testing.assert_array_equal(made.video[1][rest], whole.video[1][rest])
    assert not made.coverage[1][seen == front].any()


def test_hole_alone_is_no_shot():
    geometry = two_boxes(HOLE)
    with pytest.raises(SceneError, match="No surface is in view in the first frame"):
        render_tracking_video(replace(geometry, roles=np.full(2 * SIDE, HOLE, np.uint8)), sky=True)


@pytest.mark.parametrize("smooth", [False, True])
def test_hole_is_transparent_in_the_film(smooth):
    plain, hole = (coverage(two_boxes(role), 0, smooth=smooth) for role in (TRACKED, HOLE))
    there = near_box()[0]
    inside = there & np.roll(there, 1, 0) & np.roll(there, -1, 0) & np.roll(there, 1, 1) & np.roll(there, -1, 1)
    assert not hole[inside].any() and (plain[inside] == 255).all()
    assert (hole <= plain).all()


def test_passes_show_nothing_in_a_hole_as_in_the_sky():
    found, there = surface_passes(two_boxes(HOLE), 1, before=0, after=2), near_box()[1]
    assert np.isinf(found.depth[there]).all() and not found.normal[there].any()
    assert (found.objects[there] == -1).all()
    for motion in (found.before, found.after):
        assert np.isnan(motion[there]).all() and np.isfinite(motion[~there]).any()


@pytest.mark.parametrize("beside_only", [False, True])
def test_frames_are_composed_with_black_in_holes_and_do_not_spread_it(beside_only):
    """The key pictures are grey but for their hole: all else is as if that were a black surface."""
    there, painting = near_box(), np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    keys = [np.where(there[key][..., None], np.uint8(0), np.full((HEIGHT, WIDTH, 3), np.uint8(140))) for key in (0, 2)]
    frame, plain = (
        list(correspondences(two_boxes(role), [0, 2], background=True, beside_only=beside_only))[1]
        for role in (HOLE, TRACKED)
    )
    np.testing.assert_array_equal(frame.hole, there[1])
    assert not (frame.coverage & frame.hole).any() and not frame.visible[:, frame.hole].any()
    assert np.isnan(frame.xy[:, frame.hole]).all()
    made, other = (Composer(keys).compose(one, fill=painting) for one in (frame, plain))
    inside, beyond = (_around(mask, 1) for mask in (~there[1], there[1]))
    assert not made.picture[~inside].any() and made.known[there[1]].all() and (~inside).sum() > 100
    np.testing.assert_array_equal(made.picture[~beyond], other.picture[~beyond])


def test_hole_has_no_place_in_a_key_picture_that_is_followed_later():
    frame = list(correspondences(two_boxes(HOLE), [0, 1], background=True, beside_only=True))[2]
    assert not frame.visible[0].any()
    frame.follow(0, np.ones((HEIGHT, WIDTH), bool))
    assert frame.visible[0].any() and not frame.visible[0][frame.hole].any()
    assert np.isnan(frame.xy[0][frame.hole]).all() and np.isfinite(frame.xy[0][~frame.hole]).all()


def test_holes_are_black_in_what_no_key_picture_shows_and_in_the_keys_own_frames():
    """Nothing is painted, and the model's frame has no place there."""
    nothing, painting = np.zeros((HEIGHT, WIDTH, 4), np.uint8), np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for frame, there in zip(correspondences(two_boxes(HOLE), [0], background=True), near_box(), strict=True):
        made = Composer([nothing]).compose(frame, fill=painting)
        inside = ~_around(~there, 1)
        assert not made.picture[inside].any() and made.known[there].all() and not made.known[~there].any()
        assert (made.picture[~_around(there, 1)] == 255).all()


def _around(mask, reach):
    """[H,W] bool: within ``reach`` pixels of ``mask``."""
    size = 2 * reach + 1
    return np.lib.stride_tricks.sliding_window_view(np.pad(mask, reach), (size, size)).any(axis=(2, 3))


def test_no_key_picture_is_asked_for_because_of_a_hole():
    cameras = two_boxes().cameras
    wall = box((0.0, 9.0, 0.0), (40.0, 0.1, 40.0))
    walled = replace(
        sequence([box((3.4, 4.0, 0.2), (6.0, 0.5, 9.0)), wall], cameras),
        roles=np.array([HOLE] * SIDE + [TRACKED] * SIDE, np.uint8),
    )
    both = (walled, replace(walled, roles=None))
    found, plain = (suggest_key_frames(one, width=48, most_unseen=1.0).unseen_before for one in both)
    assert found[1] == 0.0 and plain[1] > 0.1, "the near box comes into the picture there"
    assert found[2] > 0.05, "and uncovers what it hid at first"


def test_curves_of_the_report_and_moments_leave_holes_out():
    plain, hole = (shot_curves(two_boxes(role), width=WIDTH) for role in (TRACKED, HOLE))
    share = near_box().mean(axis=(1, 2))
    np.testing.assert_allclose(plain.covered - hole.covered, share, atol=1e-6)
    assert hole.depth[0] > plain.depth[0]
    ways = (moments(two_boxes(role), [0, 1, 2]) for role in (HOLE, TRACKED))
    for moment, other, there in zip(*ways, near_box(), strict=True):
        assert (moment.objects[there] == -1).all() and not moment.visible_before[there].any()
        np.testing.assert_array_equal(moment.objects[~there], other.objects[~there])
        np.testing.assert_array_equal(moment.visible_before[~there], other.visible_before[~there])
