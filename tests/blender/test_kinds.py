# SPDX-License-Identifier: GPL-3.0-or-later
"""Every kind of content in a tracking video, pixel by pixel against an independent truth (`tests.support.kinds`)."""

import numpy as np
import pytest

from tests.support import kinds
from tests.support.kinds import KINDS, MEAN_LEVELS, P99_LEVELS

SIZE = (120, 80)
FACING = (1.0, 4.0)
"""Levels of hair: Cycles, too, turns it to the camera in every frame, so that its sides have no place of their own."""
OUTLINES = 0.002
"""Twice the aim: so small a picture has many outlines, and things that no pixel's centre sees."""


@pytest.mark.any_blender
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_tracking_video_is_the_truth(blank_scene, tmp_path, kind):
    blank_scene.render.resolution_x, blank_scene.render.resolution_y = SIZE
    found = kinds.measure(kind, blank_scene, tmp_path)
    mean, p99 = FACING if "hair" in kind.name else (MEAN_LEVELS, P99_LEVELS)
    assert found.mean <= mean and found.p99 <= p99 and found.coverage >= kind.coverage and found.first == 0
    assert (found.occlusion is None) == (kind.truth == "cycles")
    assert found.occlusion is None or found.occlusion <= OUTLINES
    assert found.published is None or found.published > 10.0 * found.mean


def test_truth_of_the_bench_sees_what_is_wrong(blank_scene):
    """A picture that is one pixel aside is no truth."""
    blank_scene.render.resolution_x, blank_scene.render.resolution_y = SIZE
    kind = KINDS[0]
    kind.make(blank_scene)
    truth = kinds.by_rays(blank_scene, (1, 3))
    aside = kinds.Truth(*(np.roll(values, 1, axis=2) for values in vars(truth).values()))

    class Video:
        video, coverage, first_frame_visible = np.rint(truth.colours), truth.coverage, truth.visible

    right, wrong = kinds.compare(Video, truth), kinds.compare(Video, aside)
    assert right.missed(kind) == [] and right.mean < 0.3
    assert {"mean", "p99", "coverage", "occlusion"} <= set(wrong.missed(kind))
