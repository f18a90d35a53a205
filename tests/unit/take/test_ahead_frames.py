# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames that wait for the model's come out of their little memory as they were put in."""

from dataclasses import fields

import numpy as np
import pytest

from das_blender_addon.take import ahead_frames
from das_blender_addon.take.ahead_frames import AHEAD_PIXEL_BYTES, AheadFrames, Shown
from das_blender_addon.tracking.composition import Gathered

SHAPE = (37, 51)
"""Neither a multiple of eight."""
OUTLINES = 0.02
"""Share of the pixels that are at an outline: in the demo scene's frames it is less."""


def gathered(seed=0, hole=False) -> Gathered:
    rng = np.random.default_rng(seed)
    outline = np.flatnonzero(rng.random(SHAPE) < OUTLINES)
    return Gathered(
        picture=rng.random((*SHAPE, 3)).astype(np.float32),
        known=rng.random(SHAPE) < 0.9,
        inverse_depth=rng.random(SHAPE).astype(np.float32),
        outline=outline,
        mixed=outline[::2],
        own=None,
        dtype=np.dtype(np.uint8),
        hole=rng.random(SHAPE) < 0.1 if hole else None,
    )


@pytest.mark.parametrize("hole", [False, True])
def test_frame_comes_out_as_it_was_put_in(hole):
    ahead, made = AheadFrames(), gathered(hole=hole)
    ahead.keep(Shown(4, made))
    ahead.keep(Shown(4, gathered(1)))  # the first one stays
    assert 4 in ahead and len(ahead) == 1
    found = ahead.pop(4)
    assert found.index == 4 and 4 not in ahead
    for field in fields(Gathered):
        before, after = getattr(made, field.name), getattr(found.gathered, field.name)
        if isinstance(before, np.ndarray):
            assert after.dtype == before.dtype
            np.testing.assert_array_equal(after, before)
        else:
            assert after == before
    filled = (one.filled().picture for one in (made, found.gathered))
    np.testing.assert_array_equal(*filled)


def test_frame_takes_no_more_memory_than_is_counted_for_it(monkeypatch):
    ahead, pixels = AheadFrames(), SHAPE[0] * SHAPE[1]
    monkeypatch.setattr(ahead_frames, "AHEAD_BYTES", 3 * pixels * AHEAD_PIXEL_BYTES + 1)
    assert ahead.room(pixels) == 3 and ahead.room(3 * pixels) == 1 and ahead.room(4 * pixels) == 0
    for index in range(4):
        ahead.keep(Shown(index, gathered(index)))
        small, packed = ahead._held[index]
        arrays = [value for value in vars(small).values() if isinstance(value, np.ndarray)]
        assert packed.nbytes + sum(array.nbytes for array in arrays) <= pixels * AHEAD_PIXEL_BYTES
    assert ahead.room(pixels) == 0
