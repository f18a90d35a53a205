# SPDX-License-Identifier: GPL-3.0-or-later
"""Spans are cut exactly, in whole numbers and in floats: where an edge is met exactly, at level edges, far away."""

import numpy as np
import pytest

from das_blender_addon.tracking.spans import cut_span, cut_span_in_floats

COLUMNS = 60


def rows(largest, seed):
    """Values and steps of edges [R], among them exact multiples of each other, 0, and what is just beside them."""
    random = np.random.default_rng(seed)
    step = np.concatenate([random.integers(-largest, largest, 3000), np.arange(-500, 500), np.zeros(9, np.int64)])
    value = step * random.integers(-COLUMNS, COLUMNS, len(step)) + random.integers(-1, 2, len(step))
    value[-9:] = [-5, -1, 0, 0, 1, 2**50, -(2**50), 7, -7]
    return value, step


@pytest.mark.parametrize("largest, seed", [(3, 1), (2**20, 2), (2**44, 3)])
def test_spans_are_where_the_edge_function_is_not_negative(largest, seed):
    value, step = rows(largest, seed)
    column = np.arange(COLUMNS)
    inside = value[:, None] + step[:, None] * column >= 0
    for cut, convert in ((cut_span, np.int64), (cut_span_in_floats, np.float64)):
        begin, end = np.zeros(len(value), convert), np.full(len(value), COLUMNS - 1, convert)
        way = step.astype(convert)
        cut(begin, end, value.astype(convert), -way if convert is np.float64 else way)
        np.testing.assert_array_equal((column >= begin[:, None]) & (column <= end[:, None]), inside)
