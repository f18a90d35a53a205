# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures made smaller for the model, and larger from it: colours, alpha and borders."""

import numpy as np
import pytest

from das_blender_addon.take.detail import enlarge, shrink
from das_blender_addon.tracking.resampling import resize_lanczos
from tests.support.shots import pattern
from tests.unit.take.test_detail import GREY_ALPHA, assert_close


def test_shrinking_keeps_colours_beside_transparent_places():
    picture = np.zeros((64, 96, 4), np.uint8)
    picture[:, 48:] = (200, 120, 40, 255)
    small = shrink(picture, (0, 0, 96, 64), (24, 16))
    assert small.shape == (16, 24, 4)
    painted = small[..., 3] >= 128
    assert painted.sum() == 16 * 12
    assert np.abs(small[painted][:, :3].astype(int) - (200, 120, 40)).max() <= GREY_ALPHA


def test_shrinking_keeps_the_colours_of_what_is_transparent():
    picture = np.full((64, 96, 4), (30, 60, 90, 0), np.uint8)
    picture[:, 48:] = (200, 120, 40, 255)
    small = shrink(picture, (0, 0, 96, 64), (24, 16))
    np.testing.assert_array_equal(small[:, :8], np.broadcast_to((30, 60, 90, 0), (16, 8, 4)))


def test_shrinking_an_opaque_picture_is_lanczos():
    picture, whole = pattern((96, 64)), (0, 0, 96, 64)
    np.testing.assert_array_equal(shrink(picture, whole, (48, 32)), resize_lanczos(picture, whole, (48, 32)))
    opaque = pattern((96, 64), channels=4)
    again = shrink(opaque, (3.5, 0, 90.25, 60), (48, 32))
    np.testing.assert_array_equal(again[..., :3], shrink(picture, (3.5, 0, 90.25, 60), (48, 32)))
    assert (again[..., 3] == 255).all()


@pytest.mark.parametrize("box", [(-0.4, -0.7, 96.4, 64.7), (0.0, -3.2, 96.0, 67.2), (-5.0, 0.0, 101.0, 64.0)])
def test_enlarging_repeats_the_border(box):
    flat = np.full((64, 96, 3), 99, np.uint8)
    assert (enlarge(flat, box, (201, 139)) == 99).all()
    picture = pattern((96, 64))
    padded = np.pad(picture, ((8, 8), (8, 8), (0, 0)), mode="edge")
    expected = resize_lanczos(padded, tuple(side + 8 for side in box), (201, 139))
    inner = np.s_[20:-20, 20:-20]
    assert_close(enlarge(picture, box, (201, 139))[inner], expected[inner])
