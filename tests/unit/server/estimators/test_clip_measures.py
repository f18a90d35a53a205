# SPDX-License-Identifier: GPL-3.0-or-later
"""What the suite's measures of camera and motion are worth: clips whose camera and motion are off by what is known."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence
from tests.support.clip_measures import camera_error, motion_error
from tests.support.measured_takes import _textured
from tests.support.shots import DEPTH, wall

SIZE, FRAMES = (240, 160), 3


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return _textured(np.random.default_rng(3), max(SIZE))[: SIZE[1], : SIZE[0]]


@pytest.fixture
def still() -> GeometrySequence:
    """A wall that leans, so that its depths tell a turn from a step, and a camera that stands."""
    geometry = wall(SIZE, range(1, FRAMES + 1), step=0.0)
    vertices = np.array(geometry.vertices)
    vertices[..., 2] += 0.35 * vertices[..., 0]
    return replace(geometry, vertices=vertices)


def seen_from(picture: np.ndarray, turn=(0.0, 0.0, 0.0), step=(0.0, 0.0, 0.0)) -> np.ndarray:
    """``picture``, which the camera sees of the leaning wall, as one sees it that turns (degrees) and moves."""
    width, height = SIZE
    lens = np.array([[width, 0, width / 2 - 0.5], [0, width, height / 2 - 0.5], [0, 0, 1.0]])
    rotation = cv2.Rodrigues(np.radians(np.float64(turn)))[0]
    plane = np.array([0.35, 0.0, 1.0]) / DEPTH  # n · X = 1 on the wall, in optical coordinates
    warp = lens @ (rotation @ (np.eye(3) - np.outer(step, plane))) @ np.linalg.inv(lens)
    return cv2.warpPerspective(picture, warp, SIZE, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def clip(frames) -> np.ndarray:
    return np.stack(list(frames))


@pytest.mark.parametrize(
    ("turn", "step"),
    [((0, 0, 0), (0, 0, 0)), ((0, 1, 0), (0, 0, 0)), ((0.5, 0, 2), (0, 0, 0)), ((0, 0, 0), (0.2, 0, 0)),
     ((0, 0, 0), (0, 0, 0.4)), ((0, -0.8, 0), (0.15, 0.1, 0))],
)  # fmt: skip
def test_camera_that_is_off_by_what_is_known_is_told(still, picture, turn, step):
    true = clip([picture] * FRAMES)
    made = clip([picture, *[seen_from(picture, turn, step)] * (FRAMES - 1)])
    error = camera_error(made, true, still)
    assert error.frames == (FRAMES, FRAMES) and error.path == error.turn_deg == 0.0
    assert error.rotation_deg[0] < 0.02 and error.translation[0] < 0.005
    np.testing.assert_allclose(error.rotation_deg[1:], np.linalg.norm(turn), atol=0.08)
    np.testing.assert_allclose(error.translation[1:], np.linalg.norm(step), atol=0.03)


def test_what_moves_says_nothing_of_the_camera_and_nothing_at_all_is_not_told(still, picture):
    moving = wall(SIZE, range(1, FRAMES + 1), step=0.5)
    assert camera_error(clip([picture] * FRAMES), clip([picture] * FRAMES), moving).frames == (0, FRAMES)
    flat = np.full_like(picture, 90)
    error = camera_error(clip([picture, flat, flat]), clip([picture] * FRAMES), still)
    assert error.frames[0] <= FRAMES and error.rotation_deg[0] < 0.02


def test_way_of_the_true_camera_is_told(still, picture):
    cameras = still.cameras
    moved = np.array(cameras.camera_from_world)
    for index in range(FRAMES):
        moved[index] = np.linalg.inv(np.block([
            [cv2.Rodrigues(np.array([0.0, np.radians(3.0 * index), 0.0]))[0], np.array([[0.5 * index], [0], [0]])],
            [np.zeros((1, 3)), np.ones((1, 1))],
        ]))  # fmt: skip
    path: CameraPath = replace(cameras, camera_from_world=moved)
    error = camera_error(clip([picture] * FRAMES), clip([picture] * FRAMES), replace(still, cameras=path))
    assert error.path == pytest.approx(0.5 * (FRAMES - 1)) and error.turn_deg == pytest.approx(3.0 * (FRAMES - 1))


@pytest.mark.parametrize("late", [0, 1, 3])
def test_motion_that_is_late_is_told_in_pixels(picture, late):
    step = 4
    geometry = wall(SIZE, range(1, FRAMES + 1), step=step * DEPTH / SIZE[0])
    true = clip(np.roll(picture, step * index, axis=1) for index in range(FRAMES))
    made = clip(np.roll(picture, (step - late) * index, axis=1) for index in range(FRAMES))
    error = motion_error(made, true, geometry, keys=(0,))
    assert error.way_px == pytest.approx(step, abs=0.01)
    assert error.epe_px == pytest.approx(late, abs=0.35)
    assert (error.psnr_db == float("inf")) == (late == 0)


def test_frames_that_are_given_do_not_count_for_the_likeness(picture):
    geometry = wall(SIZE, range(1, FRAMES + 1), step=0.0)
    made = clip([picture, picture ^ 1, 255 - picture])
    error = motion_error(made, clip([picture] * FRAMES), geometry, keys=(0, 2))
    assert error.psnr_db == pytest.approx(10.0 * np.log10(255.0**2), abs=0.01)
