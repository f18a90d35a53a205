# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the keys beside a frame end, others join in: no line is seen; stretched slivers continue their surface."""

import numpy as np
import pytest

from das_blender_addon.tracking.blending import joined
from das_blender_addon.tracking.composition import Composer
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.filling import mend_slivers
from das_blender_addon.tracking.rims import bands_of
from tests.support.geometry import camera_path, look_at, sequence

WIDTH, HEIGHT, FRAMES = 240, 120, 9
KEYS = [0, 4, 8]
#: Of the 100 levels between the two lights, which a line would be: they pass over within 8 pixels, a thirtieth of the
#: width.
MOST_STEP = 40


def hidden_at_the_last_keys():
    """A wall, of which a board hides the right half in all frames from the second key on but the one that is looked at.
    """
    wall = np.array([(-90, 4, -90), (90, 4, -90), (90, 4, 90), (-90, 4, 90)], dtype=float)
    board = np.array([(0, 2, -90), (90, 2, -90), (90, 2, 90), (0, 2, 90)], dtype=float)
    away = board + (0.0, 0.0, 500.0)
    moved = np.stack([board if index in (4, 8) else away for index in range(FRAMES)])
    faces = np.array([(0, 1, 2), (0, 2, 3)])
    cameras = camera_path([look_at((0, 0, 0), (0, 1, 0))] * FRAMES, width=WIDTH, height=HEIGHT, focal_px=200.0)
    return sequence([(wall, faces), (moved, faces)], cameras)


def flat(level):
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)


def test_other_light_beyond_a_rim_passes_over_and_draws_no_line():
    """The two keys beside the frame show the left half of the wall, dark; the first key all of it, bright."""
    frame = list(correspondences(hidden_at_the_last_keys(), KEYS))[6]
    assert frame.visible[0].all() and not frame.visible[1:, :, 125:].any() and frame.visible[1:, :, :115].all()

    row = Composer([flat(200), flat(100), flat(100)]).compose(frame).picture[60, :, 0].astype(int)

    assert abs(row[20] - 100) <= 1 and abs(row[-20] - 200) <= 1
    assert np.abs(np.diff(row)).max() <= MOST_STEP


def test_other_light_beyond_what_is_painted_passes_over_too():
    """The two keys beside the frame are painted on their left half only."""
    points = np.array([(-90, 4, -90), (90, 4, -90), (90, 4, 90), (-90, 4, 90)], dtype=float)
    cameras = camera_path([look_at((0, 0, 0), (0, 1, 0))] * FRAMES, width=WIDTH, height=HEIGHT, focal_px=200.0)
    frame = list(correspondences(sequence([(points, np.array([(0, 1, 2), (0, 2, 3)]))], cameras), KEYS))[6]
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    whole = np.concatenate([flat(200), alpha], axis=2)
    alpha[:, WIDTH // 2 :] = 0
    half = np.concatenate([flat(100), alpha], axis=2)

    row = Composer([whole, half, half]).compose(frame).picture[60, :, 0].astype(int)

    assert abs(row[20] - 100) <= 1 and abs(row[-20] - 200) <= 1
    assert np.abs(np.diff(row)).max() <= MOST_STEP


@pytest.mark.parametrize("keys", [(0, 4, 8), (3,), (2, 5)])
def test_others_join_in_gradually_and_not_at_all_at_a_key(keys):
    shares = [joined(index, keys) for index in range(40)]

    assert all(shares[key] == 0.0 for key in keys)
    assert shares[39] == 1.0 and min(shares) == 0.0 and max(shares) == 1.0
    assert np.abs(np.diff(shares[keys[-1] :])).max() == 0.125  # beyond the last key within eight frames
    assert np.abs(np.diff([joined(index, (0, 40)) for index in range(41)])).max() == pytest.approx(0.1)
    assert joined(2, (0, 40)) < joined(5, (0, 40)) < joined(10, (0, 40)) == joined(20, (0, 40)) == 1.0


def test_band_is_whole_inside_little_at_the_rim_and_nothing_beyond():
    visible = np.zeros((60, 300), bool)
    visible[:, 100:] = True

    band = bands_of(visible)

    assert not band[:, :100].any() and (0 < band[:, 100]).all() and (band[:, 100] < 40).all()
    assert (band[:, 115:] == 255).all()  # the picture's own border is no rim
    assert (np.diff(band[30, 100:].astype(int)) >= 0).all()


def test_single_pixels_that_a_key_does_not_show_make_no_rim():
    visible = np.ones((60, 300), bool)
    visible[6::12, 6::12] = False

    assert (bands_of(visible)[visible] == 255).all()


def test_doubtful_sliver_continues_its_own_surface_and_not_what_is_behind():
    """A near surface, its outermost three pixels doubtful, before a far one."""
    inverse = np.full((20, 40), 0.1, np.float32)
    inverse[:, 20:] = 0.5
    picture = np.where(inverse[..., None] > 0.3, np.float32(200.0), np.float32(50.0)) * np.ones(3, np.float32)
    doubtful = np.zeros(inverse.shape, bool)
    doubtful[:, 20:23] = True
    picture[doubtful] = 0.0
    outline = np.zeros(inverse.shape, bool)
    outline[:, 19:21] = True

    mend_slivers(picture, doubtful, np.ones(inverse.shape, bool), outline, inverse)

    assert np.abs(picture[:, 20:23] - 200.0).max() <= 20.0  # a twentieth of what it was is left after each pixel
    np.testing.assert_array_equal(picture[:, :18], 50.0)


def test_doubtful_pixels_that_nothing_sure_reaches_stay():
    inverse = np.full((20, 40), 0.5, np.float32)
    picture = np.random.default_rng(1).random((20, 40, 3)).astype(np.float32)
    before = picture.copy()

    mend_slivers(picture, np.ones(inverse.shape, bool), np.ones(inverse.shape, bool), inverse > 1.0, inverse)

    np.testing.assert_array_equal(picture, before)
