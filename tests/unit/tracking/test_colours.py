# SPDX-License-Identifier: GPL-3.0-or-later
"""First-frame positions become colours as the formulas say."""

import numpy as np

from das_blender_addon.tracking.colours import inverse_depth_range, tracking_colours


def test_tracking_colours_follow_x_y_and_nearness():
    xy = np.array([[0.0, 0.0], [100.0, 50.0], [50.0, 25.0], [20.0, 10.0]])
    depth = np.array([1.0, 4.0, 2.0, 0.5])

    colours = tracking_colours(xy, depth, 100, 50, (0.25, 1.0))

    np.testing.assert_array_equal(colours, [[0, 0, 255], [255, 255, 0], [128, 128, 85], [51, 51, 255]])
    assert colours.dtype == np.uint8


def test_tracking_colours_are_black_outside_the_first_frame():
    xy = np.array([[-0.01, 5], [100.01, 5], [5, -0.01], [5, 50.01], [np.nan, np.nan]])

    colours = tracking_colours(xy, np.array([1.0, 1.0, 1.0, 1.0, -1.0]), 100, 50, (0.1, 2.0))

    np.testing.assert_array_equal(colours, 0)


def test_tracking_colours_of_a_flat_wall_are_finite():
    colours = tracking_colours(np.full((2, 2), 10.0), np.array([2.0, 2.1]), 100, 50, (0.5, 0.5))

    np.testing.assert_array_equal(colours[:, 2], [255, 0])


def test_inverse_depth_range_ignores_a_few_extremes():
    depth = np.concatenate([np.full(1, 1e-3), 1.0 / np.linspace(0.2, 0.4, 998), np.full(1, 1e6)])

    low, high = inverse_depth_range(depth)

    assert 0.2 < low < 0.21 and 0.39 < high < 0.4
