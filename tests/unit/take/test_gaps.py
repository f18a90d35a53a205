# SPDX-License-Identifier: GPL-3.0-or-later
"""Where nobody chose the key pictures, none is far from the next."""

import numpy as np
import pytest

from das_blender_addon.take.recipes import MOST_GAP, without_gaps


@pytest.mark.parametrize(
    ("keys", "count", "filled"),
    [
        ((0,), 1, [0]),
        ((0,), MOST_GAP // 2 + 1, [0]),
        ((0,), MOST_GAP // 2 + 2, [0, MOST_GAP // 2 + 1]),
        ((0,), MOST_GAP + 1, [0, MOST_GAP]),
        ((0,), 2 * MOST_GAP + 1, [0, MOST_GAP, 2 * MOST_GAP]),
        ((0, 10), 11, [0, 10]),
        ((0, MOST_GAP + 2), MOST_GAP + 3, [0, MOST_GAP // 2 + 1, MOST_GAP + 2]),
    ],
)
def test_gaps_are_filled_evenly(keys, count, filled):
    assert without_gaps(keys, count) == filled


def test_no_gap_is_left_and_every_key_stays():
    rng = np.random.default_rng(5)
    for count in range(1, 300):
        keys = sorted({0, *rng.integers(0, count, rng.integers(0, 6)).tolist()})
        filled = without_gaps(keys, count)
        assert set(keys) <= set(filled) and filled == sorted(set(filled)) and filled[-1] < count
        assert max(np.diff(filled), default=0) <= MOST_GAP
        assert count - 1 - filled[-1] <= MOST_GAP // 2
        assert filled == keys or len(filled) <= len(keys) + 2 + count // (MOST_GAP // 2)
