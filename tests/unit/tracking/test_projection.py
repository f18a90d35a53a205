# SPDX-License-Identifier: GPL-3.0-or-later
"""Pinhole cameras follow the conventions: looks along −Z, +Y up, pixels y down."""

import numpy as np

from das_blender_addon.tracking.projection import SMALLEST_CLIP_START, pinhole_at
from tests.support.geometry import camera_path, look_at


def test_project_puts_up_at_the_top_and_right_at_the_right():
    cameras = camera_path([np.eye(4)], width=100, height=60, focal_px=50.0)
    camera = pinhole_at(cameras, 0)

    xy = camera.project(camera.optical_points(np.array([[0, 0, -2.0], [1, 0, -2.0], [0, 1, -2.0]])))

    np.testing.assert_allclose(xy, [[50, 30], [75, 30], [50, 5]])


def test_optical_points_have_depth_as_z():
    camera = pinhole_at(camera_path([look_at((0, -5, 0), (0, 0, 0))]), 0)

    points = camera.optical_points(np.array([[0, 0, 0], [0, 2, 0], [1, 0, 1]], dtype=np.float32))

    np.testing.assert_allclose(points, [[0, 0, 5], [0, 0, 7], [1, -1, 5]], atol=1e-12)


def test_project_gives_nan_for_points_not_in_front():
    camera = pinhole_at(camera_path([np.eye(4)]), 0)

    xy = camera.project(np.array([[1, 1, 0.0], [1, 1, -3.0], [np.nan, 0, 1.0], [0, 0, 1.0]]))

    assert np.isnan(xy[:2]).all() and np.isnan(xy[2, 0]) and np.isfinite(xy[3]).all()


def test_pinhole_at_never_has_a_near_plane_at_zero():
    assert pinhole_at(camera_path([np.eye(4)], clip_start=0.0), 0).clip_start == SMALLEST_CLIP_START
