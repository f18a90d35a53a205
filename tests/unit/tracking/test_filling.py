# SPDX-License-Identifier: GPL-3.0-or-later
"""Filling of holes: what is worked out in the cells that are read is what it would be everywhere."""

import numpy as np
import pytest

from das_blender_addon.tracking import filling


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (2, 2), (7, 4), (13, 30)], ids=str)
def test_cells_that_are_read_have_what_all_cells_would_have(shape):
    rng = np.random.default_rng(sum(shape))
    weight = rng.random((1, 17, *shape), np.float32) * (rng.random((1, 17, *shape)) < 0.3)
    sums = np.concatenate([rng.random((3, 17, *shape), np.float32) * weight, weight]).astype(np.float32)
    everywhere = filling._pull_push(sums).reshape(3, -1)
    cells = np.flatnonzero(rng.random(everywhere.shape[1]) < 0.5)
    assert filling._pull_push(sums, cells).tobytes() == everywhere[:, cells].tobytes()


@pytest.mark.parametrize("size", [(1, 9), (37, 51), (300, 90)], ids=str)
def test_holes_are_filled_with_what_large_parts_show(size):
    """Both collect the same known pixels; what is filled differs only at the rims, which are continued."""
    rng = np.random.default_rng(5)
    inverse = (0.2 + 0.6 * rng.random(size)).astype(np.float32)
    picture, known = rng.integers(0, 256, (*size, 3)).astype(np.float32), rng.random(size) < 0.7
    known[:, :2] = False
    shown = filling.large_parts(picture, known, inverse, 0)
    filled = picture.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "_RIM_PX", 0)
        filling.fill_holes(filled, known, inverse)
    assert filled[~known].tobytes() == shown[~known].tobytes()
    assert filled[known].tobytes() == picture[known].tobytes()


@pytest.mark.parametrize("has_painting", [True, False])
def test_sky_that_leaves_the_view_takes_its_tone_along_gradually(has_painting):
    """Of the sky ever less is known, at the left border, and nothing at last; of the ground all."""
    height, width, horizon = 64, 96, 32
    inverse = np.full((height, width), 0.2, np.float32)
    inverse[:horizon] = 0.0
    picture = np.full((height, width, 3), 60.0, np.float32)
    picture[:horizon] = 200.0
    painting = np.full((height, width, 3), 90.0, np.float32) if has_painting else None
    tones = []
    for columns, rows in [(16, 32), (12, 32), (8, 32), (4, 32), (4, 24), (4, 16), (4, 8), (4, 4), (0, 0)]:
        known = np.ones((height, width), bool)
        known[:horizon] = False
        known[:rows, :columns] = True
        filled = picture.copy()
        filling.fill_holes(filled, known, inverse, painting)
        tones.append(float(filled[8, -8:].mean()))
    assert tones[0] == pytest.approx(200.0, abs=0.5) and tones[-1] < 100.0
    steps = -np.diff(tones)
    assert (steps >= -0.5).all() and steps.max() < 0.5 * (tones[0] - tones[-1])
