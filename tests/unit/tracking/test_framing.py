# SPDX-License-Identifier: GPL-3.0-or-later
"""Overscan and crop: nothing is squashed, and cropping undoes the overscan."""

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.tracking.framing import crop_and_resize, fit_framing
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import camera_path, look_at, sequence

#: Lanczos of an 8-bit ramp: one rounding in the ramp, one in each pass.
RAMP_LEVELS = 1.5


def test_fit_framing_puts_a_wide_shot_between_bars():
    framing = fit_framing((1920, 1080), (720, 480))

    assert framing.crop == (0.0, 37.5, 720.0, 442.5)
    assert framing.overscan_scale == (1.0, 480 / 405)
    assert not framing.is_exact


def test_fit_framing_puts_a_tall_shot_between_pillars():
    framing = fit_framing((1080, 1920), (720, 480))

    assert framing.crop == (225.0, 0.0, 495.0, 480.0)
    assert framing.overscan_scale == (720 / 270, 1.0)


@pytest.mark.parametrize("size", [(720, 480), (1440, 960), (360, 240), (1080, 720)])
def test_fit_framing_uses_the_whole_picture_for_the_same_aspect(size):
    framing = fit_framing(size, (720, 480))

    assert framing.crop == (0.0, 0.0, 720.0, 480.0) and framing.overscan_scale == (1.0, 1.0)
    assert framing.is_exact == (size == (720, 480))


def test_fit_framing_keeps_the_shape_of_wide_pixels():
    framing = fit_framing((720, 576), (720, 480), pixel_aspect=1.4)
    left, top, right, bottom = framing.crop

    assert (right - left) / (bottom - top) == pytest.approx(720 * 1.4 / 576)
    assert max(framing.overscan_scale) >= 1.0 and min(framing.overscan_scale) == 1.0


@pytest.mark.parametrize("arguments", [((0, 10), (72, 48)), ((10, 10), (72, -1)), ((10, 10, 3), (72, 48))])
def test_fit_framing_rejects_sizes_that_are_none(arguments):
    with pytest.raises(SettingsError):
        fit_framing(*arguments)


@pytest.mark.parametrize("aspect", [0.0, -1.0, float("nan")])
def test_fit_framing_rejects_a_pixel_aspect_that_is_none(aspect):
    with pytest.raises(SettingsError):
        fit_framing((10, 10), (72, 48), pixel_aspect=aspect)


@pytest.mark.parametrize("render_size", [(160, 90), (90, 160), (96, 64), (64, 64)])
def test_overscan_shows_every_point_at_its_place_inside_the_crop(render_size):
    width, height = render_size
    cameras = camera_path(
        [look_at((0, -5, t), (0, 0, 0)) for t in range(3)],
        width=width,
        height=height,
        focal_px=[70, 80, 90],
        principal_px=(width / 2 + 3.3, height / 2 - 1.7),
    )
    framing = fit_framing(render_size, (96, 64))
    points = np.random.default_rng(0).uniform(-2, 2, (50, 3))

    overscanned = framing.overscan(cameras)

    left, top, right, bottom = framing.crop
    for index in range(3):
        before, after = pinhole_at(cameras, index), pinhole_at(overscanned, index)
        xy = before.project(before.optical_points(points)) / render_size
        expected = (left, top) + xy * (right - left, bottom - top)
        np.testing.assert_allclose(after.project(after.optical_points(points)), expected, atol=1e-9)
    assert (overscanned.width, overscanned.height) == (96, 64)
    np.testing.assert_allclose(overscanned.focal_px[:, 0], overscanned.focal_px[:, 1])


def test_overscan_gives_square_pixels_to_a_shot_with_wide_pixels():
    cameras = camera_path([np.eye(4)], width=100, height=100, focal_px=50.0)
    wide = type(cameras)(**{**vars(cameras), "focal_px": np.array([[50.0, 100.0]])})

    overscanned = fit_framing((100, 100), (96, 64), pixel_aspect=2.0).overscan(wide)

    assert overscanned.focal_px[0, 0] == pytest.approx(overscanned.focal_px[0, 1])


def test_overscan_rejects_cameras_of_another_size():
    with pytest.raises(SettingsError, match="96×64"):
        fit_framing((100, 50), (72, 48)).overscan(camera_path([np.eye(4)], width=96, height=64))


@pytest.mark.parametrize("render_size", [(320, 180), (90, 160), (123, 77)])
def test_crop_and_resize_undoes_the_overscan(render_size):
    # The tracking video of a wall is a ramp over the model's picture: cropped back it must be a ramp over the shot.
    framing = fit_framing(render_size, (96, 64))
    cameras = framing.overscan(
        camera_path([look_at((0, 0, 0), (0, 1, 0))], width=render_size[0], height=render_size[1])
    )
    wall = np.array([(-90, 4, -90), (90, 4, -90), (90, 4, 90), (-90, 4, 90)], dtype=float)
    video = render_tracking_video(sequence([(wall, [(0, 1, 2), (0, 2, 3)])], cameras)).video

    frame = crop_and_resize(video, framing)[0].astype(float)

    width, height = render_size
    left, top, right, bottom = framing.crop
    x = left + (np.arange(width) + 0.5) / width * (right - left)
    y = top + (np.arange(height) + 0.5) / height * (bottom - top)
    # The picture's own border bends the ramp by the missing half of the kernel: look at the inside.
    inner_x, inner_y = (x > 4) & (x < 92), (y > 4) & (y < 60)
    red, green = frame[..., 0][np.ix_(inner_y, inner_x)], frame[..., 1][np.ix_(inner_y, inner_x)]
    assert np.abs(red - (255 * x / 96)[inner_x]).max() < RAMP_LEVELS
    assert np.abs(green - (255 * y / 64)[inner_y][:, None]).max() < RAMP_LEVELS


def test_crop_and_resize_returns_the_same_frames_where_nothing_changes():
    frames = np.random.default_rng(0).integers(0, 256, (2, 48, 72, 3), dtype=np.uint8)

    np.testing.assert_array_equal(crop_and_resize(frames, fit_framing((72, 48), (72, 48))), frames)


def test_crop_and_resize_keeps_a_flat_colour_and_takes_another_size():
    frames = np.full((2, 48, 72, 3), (7, 130, 255), dtype=np.uint8)

    resized = crop_and_resize(frames, fit_framing((160, 90), (72, 48)), size=(33, 20))

    assert resized.shape == (2, 20, 33, 3)
    np.testing.assert_array_equal(resized, np.broadcast_to([7, 130, 255], resized.shape))


@pytest.mark.parametrize(
    "frames",
    [np.zeros((1, 47, 72, 3), np.uint8), np.zeros((48, 72, 3), np.uint8), np.zeros((1, 48, 72, 3), np.float32)],
)
def test_crop_and_resize_rejects_frames_that_are_not_the_models(frames):
    with pytest.raises(SettingsError):
        crop_and_resize(frames, fit_framing((160, 90), (72, 48)))
