# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracking video against rays cast at the same triangles."""

import functools

import numpy as np
import pytest

from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, ground, look_at, sequence, sphere, triangle_soup
from tests.support.raycast import ray_cast_tracking_video

#: Rounding to 8 bits alone gives 0.25 levels on average; one level is what the encoder downstream cannot tell apart.
MEAN_COLOUR_ERROR_LEVELS = 1.0
#: Only pixel centres within 1/1024 px of an outline may differ.
LEAST_COVERAGE_IOU = 0.995
#: Median error of a correspondence, pixels: float32 storage of coordinates up to some hundred pixels.
MEDIAN_XY_ERROR_PX = 1e-4
#: Visibility is decided on the first frame's pixel grid: outlines are sharp to about half a pixel of 96×64.
LEAST_VISIBLE_AGREEMENT = 0.98


def _moving_shot():
    """A ball that rolls, a box that passes in front, a ground of two triangles; the camera moves and zooms."""
    matrices = [look_at((6 * np.sin(t * 0.3), -6 * np.cos(t * 0.3), 2.0), (0, 0, 0.6)) for t in range(4)]
    cameras = camera_path(matrices, focal_px=[80, 90, 100, 110])
    points, faces = sphere((0, 0, 1), 1.0)
    turned = np.stack([points @ _turn(0.4 * t).T + (0.4 * t, 0, 0) for t in range(4)])
    block, block_faces = box((0, -2.0, 0.7), (0.8, 0.3, 1.4))
    passing = np.stack([block + (1.2 * t - 2.0, 0, 0) for t in range(4)])
    return sequence([(turned, faces), (passing, block_faces), ground(60.0)], cameras)


def _turn(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _grazing_plane():
    """A camera a hand's breadth above two huge triangles, which it also flies along."""
    matrices = [look_at((0.3 * t, -5 + t, 0.1), (0, 60, 0.0)) for t in range(3)]
    return sequence([ground(2000.0)], camera_path(matrices))


def _near_clipping():
    """Inside a box, with triangles that reach behind the camera, and a near plane that cuts a ball open."""
    matrices = [look_at((0.1 * t, -1.5 + 0.2 * t, 0.2), (0.3, 2, 0)) for t in range(3)]
    cameras = camera_path(matrices, focal_px=50.0, clip_start=0.9)
    return sequence([box((0, 0, 0), (6, 7, 5)), sphere((0, -0.3, 0), 0.7)], cameras)


def _soup(seed, count, size):
    rng = np.random.default_rng(seed)
    points, faces = triangle_soup(rng, count, size=size)
    moved = np.stack([points, points + rng.normal(0, 0.2, points.shape), points * 0.8])
    matrices = [look_at((1 + t, -7, 1), (0, 0, 0)) for t in range(3)]
    return sequence([(moved, faces)], camera_path(matrices))


def _inside_a_soup():
    """Random triangles all around the camera: near, far, behind and across the near plane."""
    rng = np.random.default_rng(5)
    points, faces = triangle_soup(rng, 300, spread=4.0, size=2.0)
    matrices = [look_at((0, 0, 0), (1, 1 + t, 0.2)) for t in range(3)]
    return sequence([(points, faces)], camera_path(matrices, focal_px=40.0, clip_start=0.05))


def _shifted_wide_pixels():
    """An off-centre principal point."""
    matrices = [look_at((0, -5, 1 + 0.3 * t), (0, 0, 0)) for t in range(2)]
    return sequence([sphere(), ground(4.0, -1.0, 3)], camera_path(matrices, principal_px=(70.3, 11.9)))


SHOTS = {
    "moving shot": _moving_shot,
    "grazing plane": _grazing_plane,
    "near clipping": _near_clipping,
    "coarse soup": lambda: _soup(1, 120, 1.0),
    "fine soup": lambda: _soup(2, 1500, 0.08),
    "inside a soup": _inside_a_soup,
    "shifted camera": _shifted_wide_pixels,
}


@functools.cache
def _both(name):
    """Our video and the reference of one shot."""
    geometry = SHOTS[name]()
    return render_tracking_video(geometry), ray_cast_tracking_video(geometry)


@pytest.mark.parametrize("name", SHOTS)
def test_tracking_video_equals_ray_cast(name):
    video, reference = _both(name)

    both = video.coverage & reference.coverage
    assert both.sum() / (video.coverage | reference.coverage).sum() > LEAST_COVERAGE_IOU
    for index in range(len(video.video)):
        error = np.abs(video.video[index][both[index]] - reference.colours[index][both[index]])
        assert error.mean() < MEAN_COLOUR_ERROR_LEVELS
    np.testing.assert_allclose(video.inverse_depth_range, reference.inverse_depth_range, rtol=1e-3)
    assert not video.video[~video.coverage].any()


@pytest.mark.parametrize("name", SHOTS)
def test_first_frame_xy_equals_ray_cast(name):
    video, reference = _both(name)

    ours, theirs = np.isfinite(video.first_frame_xy[..., 0]), np.isfinite(reference.first_frame_xy[..., 0])
    assert (ours & theirs).sum() / (ours | theirs).sum() > LEAST_COVERAGE_IOU
    difference = np.abs(video.first_frame_xy - reference.first_frame_xy)[ours & theirs].max(axis=-1)
    assert np.median(difference) < MEDIAN_XY_ERROR_PX
    assert not np.isfinite(video.first_frame_xy[~video.coverage]).any()


@pytest.mark.parametrize("name", [name for name in SHOTS if "soup" not in name])
def test_first_frame_visible_equals_ray_cast(name):
    video, reference = _both(name)

    both = video.coverage & reference.coverage
    agreement = (video.first_frame_visible == reference.first_frame_visible)[both].mean()
    assert agreement > LEAST_VISIBLE_AGREEMENT
    assert video.first_frame_visible[0][video.coverage[0]].all()
