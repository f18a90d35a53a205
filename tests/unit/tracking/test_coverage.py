# SPDX-License-Identifier: GPL-3.0-or-later
"""How much of each pixel shows a surface, and colours without the black behind it."""

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled
from das_blender_addon.tracking.coverage import SAMPLES, coverage, straight_colours
from tests.support.geometry import camera_path, look_at, sequence

SIZE = (48, 32)


def triangle(shift: float):
    """One that covers what lies left of the middle, moved by ``shift`` pixels, and far beyond the picture else."""
    cameras = camera_path([look_at((0, 0, 0), (0, 1, 0))], width=SIZE[0], height=SIZE[1], focal_px=48.0)
    x = shift / 48.0
    corners = np.array([[x, 1.0, -50.0], [x, 1.0, 50.0], [-90.0, 1.0, 0.0]])
    return sequence([(corners, np.array([[0, 1, 2]]))], cameras)


@pytest.mark.parametrize("shift, eighths", [(0.25, 2), (0.5, 4), (0.75, 6)])
def test_pixel_that_is_covered_in_part_counts_in_eighths(shift, eighths):
    found = coverage(triangle(shift), 0, smooth=True)
    assert found.shape == (32, 48) and found.dtype == np.uint8
    assert (found[:, :24] == 255).all() and (found[:, 25:] == 0).all()
    assert (found[:, 24] == round(255 * eighths / 8)).all()


def test_centre_alone_counts_where_nothing_is_smoothed():
    assert set(np.unique(coverage(triangle(0.25), 0, smooth=False))) == {0, 255}
    assert (coverage(triangle(0.75), 0, smooth=False)[:, 24] == 255).all()


@pytest.mark.parametrize("shift, level", [(-500.0, 0), (500.0, 255)])
def test_picture_without_an_edge(shift, level):
    assert (coverage(triangle(shift), 0, smooth=True) == level).all()


def test_samples_share_no_row_and_no_column():
    assert len(set(SAMPLES[:, 0])) == len(set(SAMPLES[:, 1])) == len(SAMPLES)
    assert np.abs(SAMPLES).max() < 0.5 and np.allclose(SAMPLES.mean(axis=0), 0.0, atol=0.07)


def test_coverage_stops_when_asked():
    with pytest.raises(JobCancelled):
        coverage(triangle(0.5), 0, smooth=True, should_stop=lambda: True)


def test_edges_over_black_get_the_colour_of_what_they_are_the_edge_of():
    alpha = np.zeros((8, 12), np.uint8)
    alpha[:, :6], alpha[:, 6] = 255, 128
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:, :6] = (200, 100, 50)
    picture[:, 5] = (150, 75, 40)  # mixed with the black behind it
    picture[:, 6] = (100, 50, 25)
    colours = straight_colours(picture, alpha)
    assert (colours[:, :7] == (200, 100, 50)).all() and (colours[:, 7:] == 0).all()


def test_light_rim_and_thin_things_stay():
    alpha = np.zeros((8, 12), np.uint8)
    alpha[:, :6], alpha[:, 6], alpha[3, 10] = 255, 64, 128
    picture = np.full((8, 12, 3), 90, np.uint8)
    picture[:, 5] = 240
    colours = straight_colours(picture, alpha)
    assert (colours[:, 5] == 240).all() and (colours[:, 6] == 90).all()
    assert (colours[3, 10] == 90).all() and (colours[0, 10] == 0).all()


def test_nothing_covered_in_part_leaves_colours_alone():
    alpha = np.where(np.arange(12) < 6, 255, 0).astype(np.uint8)[None].repeat(8, axis=0)
    picture = np.random.default_rng(1).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(straight_colours(picture, alpha), picture * (alpha > 0)[..., None])
