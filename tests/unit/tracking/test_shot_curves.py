# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot at a glance: what is covered, what is new, how far things move."""

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled
from das_blender_addon.tracking.shot_curves import shot_curves
from tests.support.geometry import camera_path, look_at, sequence


def panel(count: int, *, width: float, step: float, size=(96, 64)):
    """A panel at a distance of 8 units, ``width`` of the picture wide, that moves by ``step`` of its height a frame."""
    cameras = camera_path([look_at((0, -8, 0), (0, 0, 0))] * count, width=size[0], height=size[1], focal_px=96.0)
    tall, half = 64 / 96 * 8.0, 0.5 * width * 8.0
    corners = np.array([[-half, 0, -9], [half, 0, -9], [half, 0, 9], [-half, 0, 9]], float)
    moved = corners[None] + np.arange(count)[:, None, None] * np.array([step * tall, 0, 0])
    return sequence([(moved, [[0, 1, 2], [0, 2, 3]])], cameras)


def test_still_picture_is_covered_and_never_new():
    curves = shot_curves(panel(4, width=3.0, step=0.0))
    assert curves.frame_indices == (0, 1, 2, 3)
    np.testing.assert_array_equal(curves.covered, 1.0)
    np.testing.assert_array_equal(curves.unseen, 0.0)
    np.testing.assert_allclose(curves.motion, 0.0, atol=1e-6)
    assert curves.path < 1e-6 and curves.depth == pytest.approx((8.0, 8.0, 8.0))


def test_motion_is_a_share_of_the_height():
    curves = shot_curves(panel(5, width=0.25, step=0.04))
    np.testing.assert_allclose(curves.motion, 0.04, atol=1e-4)
    assert curves.path == pytest.approx(0.16, abs=1e-4)
    assert curves.covered[0] == pytest.approx(0.25, abs=0.02)


def test_what_no_key_picture_shows_is_new():
    geometry = panel(5, width=1.0, step=-0.15)
    alone, both = shot_curves(geometry), shot_curves(geometry, (0, 4))
    assert alone.unseen[0] == 0.0 and alone.unseen[-1] > 0.0 or alone.covered[-1] < 1.0
    assert both.unseen[-1] == 0.0 and (both.unseen <= alone.unseen).all()


def test_one_frame_and_nothing_in_view():
    assert shot_curves(panel(1, width=0.5, step=0.0)).motion.tolist() == [0.0]
    nothing = panel(3, width=0.5, step=0.0)
    nothing.vertices[:] = np.nan
    curves = shot_curves(nothing)
    assert curves.depth is None and not curves.covered.any() and curves.path == 0.0


def test_long_shot_is_looked_at_here_and_there():
    curves = shot_curves(panel(120, width=0.5, step=0.0))
    assert len(curves.frame_indices) <= 50 and curves.frame_indices[-1] == 119


def test_look_stops_when_asked():
    with pytest.raises(JobCancelled):
        shot_curves(panel(3, width=0.5, step=0.0), should_stop=lambda: True)
