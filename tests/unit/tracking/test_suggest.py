# SPDX-License-Identifier: GPL-3.0-or-later
"""Suggested key frames: as few as needed, the first among them, and the promised share of unseen picture."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SettingsError
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.suggest import small_cameras, suggest_key_frames
from tests.support.geometry import box, camera_path, ground, look_at, sequence, sphere

#: Pixels are counted at another size than they are suggested at.
COUNTING = 0.01


def orbit(degrees, frames=25):
    turns = np.radians(degrees) * np.linspace(0, 1, frames)
    matrices = [look_at((6 * np.sin(turn), -6 * np.cos(turn), 2.0), (0, 0, 0.6)) for turn in turns]
    cameras = camera_path(matrices, width=96, height=64, focal_px=80.0)
    return sequence([sphere((0, 0, 1), 1.0), box((1.5, 0.5, 0.5)), ground(60.0)], cameras)


def unseen(geometry, keys):
    frames = correspondences(geometry, keys, background=True)
    return np.array([1 - frame.visible.any(axis=0).mean() for frame in frames])


def test_still_shot_needs_the_first_frame_only():
    suggestion = suggest_key_frames(orbit(0.0))

    assert suggestion.key_indices == (0,)
    assert suggestion.unseen_before.max() == suggestion.unseen_after.max() == 0.0


@pytest.mark.parametrize("degrees", [40, 90, 180])
def test_every_frame_is_seen_as_far_as_asked(degrees):
    geometry = orbit(degrees)

    suggestion = suggest_key_frames(geometry, most_unseen=0.05)

    assert suggestion.key_indices[0] == 0 and len(suggestion.key_indices) > 1
    assert suggestion.frame_indices == tuple(range(25))
    np.testing.assert_allclose(suggestion.unseen_before, unseen(geometry, [0]), atol=COUNTING)
    np.testing.assert_allclose(suggestion.unseen_after, unseen(geometry, suggestion.key_indices), atol=COUNTING)
    assert suggestion.unseen_after.max() <= 0.05


def test_none_of_the_suggested_can_be_left_out():
    geometry = orbit(120)
    suggestion = suggest_key_frames(geometry)

    for key in suggestion.key_indices[1:]:
        rest = [index for index in suggestion.key_indices if index != key]
        assert unseen(geometry, rest).max() > 0.05 - COUNTING


def test_wanted_frames_stay_and_the_number_can_be_limited():
    geometry = orbit(90)

    assert 7 in suggest_key_frames(geometry, wanted=[7]).key_indices
    assert len(suggest_key_frames(geometry, most_keys=2).key_indices) == 2
    assert suggest_key_frames(geometry, most_unseen=1.0).key_indices == (0,)


def test_what_shows_only_for_a_moment_gets_its_own_key():
    """A wall stands before the camera in one frame that is no candidate at first."""
    points, faces = box((0, 2, 0), (9, 0.1, 9))
    moved = np.stack([points if t == 11 else points + (0, -50, 0) for t in range(25)])
    cameras = camera_path([look_at((0, 0, 0), (0, 1, 0))] * 25)
    geometry = sequence([(moved, faces), (np.array([(-9, 5, -9), (9, 5, -9), (0, 5, 9)], float), [(0, 1, 2)])], cameras)

    assert 11 in suggest_key_frames(geometry).key_indices


def test_long_shot_is_looked_at_in_steps():
    suggestion = suggest_key_frames(orbit(90, frames=120))

    assert len(suggestion.frame_indices) == 49 and suggestion.frame_indices[-1] == 119
    assert suggestion.unseen_after.max() <= 0.05


def test_same_shot_gives_the_same_suggestion():
    first, second = suggest_key_frames(orbit(90)), suggest_key_frames(orbit(90))

    assert first.key_indices == second.key_indices
    assert first.unseen_after.tobytes() == second.unseen_after.tobytes()


def test_shot_with_one_frame_and_frame_with_nothing_in_view():
    empty = sequence([box((0, -5, 0))], camera_path([look_at((0, 0, 0), (0, 1, 0))]))

    suggestion = suggest_key_frames(empty)

    assert suggestion.key_indices == (0,) and suggestion.unseen_after.tolist() == [0.0]


def test_small_cameras_see_the_same():
    cameras = orbit(10).cameras
    small = small_cameras(cameras, 24)

    assert (small.width, small.height) == (24, 16)
    np.testing.assert_allclose(small.focal_px * 4, cameras.focal_px)
    assert small_cameras(cameras, 500).width == 96


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"wanted": [25]}, "no frame 25"), ({"most_unseen": 1.5}, "1.5"), ({"most_keys": 0}, "at least 1")],
)
def test_values_that_make_no_sense_are_named(asked, words):
    with pytest.raises(SettingsError, match=words):
        suggest_key_frames(orbit(10), **asked)


def test_cancelling_stops_the_search():
    with pytest.raises(JobCancelled):
        suggest_key_frames(replace(orbit(10)), should_stop=lambda: True)
