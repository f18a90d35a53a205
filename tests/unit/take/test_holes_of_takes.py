# SPDX-License-Identifier: GPL-3.0-or-later
"""Holes in the frames of a take: black whatever the model painted, and no surface."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.take.detail import Detail, KeyPicture
from das_blender_addon.tracking.coverage import coverage
from das_blender_addon.tracking.geometry import HOLE, TRACKED
from tests.support.shots import wall
from tests.unit.take.test_detail import planned

RIM_PX = 3
"""Pixels at the end of a hole are softened, as others at outlines."""


@pytest.mark.parametrize("keep", ["all", "fine"])
def test_holes_are_black_whatever_the_model_painted_and_cover_nothing(keep):
    """Half of the wall is one."""
    made = planned(3, (192, 128), **({"keep_detail": "fine"} if keep == "fine" else {}))
    assert made.fine_only is (keep == "fine") and made.keeps_detail
    geometry = wall(made.render_size, made.frames, step=0.0)
    half = replace(geometry, roles=np.array([TRACKED, HOLE], np.uint8))
    picture, white = np.full((128, 192, 3), 120, np.uint8), np.full((64, 96, 3), 255, np.uint8)
    detail, found = Detail(half, made, [KeyPicture(0, picture, b"")]), {}
    detail.compose(range(3), lambda _: white, lambda index, *frame: found.update({index: frame}))
    surface = coverage(half, 1, smooth=False) > 0
    size = 2 * RIM_PX + 1
    near = np.lib.stride_tricks.sliding_window_view(np.pad(surface, RIM_PX), (size, size)).any(axis=(2, 3))
    assert 0.1 < surface.mean() < 0.9 and (~near).mean() > 0.1
    for index in (1, 2):
        frame, covered = found[index]
        np.testing.assert_array_equal(covered, surface)
        assert not frame[~near].any() and frame[surface].mean() > 100
