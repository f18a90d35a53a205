# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of pixels cut to the exact span between a triangle's edges."""

from __future__ import annotations

import numpy as np

FLOAT_CORNERS = 1 << 24
"""1/1024 pixels.  Of corners nearer than it to the picture's origin, edge functions stay below 2**53: as f64 they are
exact, and so is the rounded-down quotient of two, as what is no whole number is farther from one than its rounding.
"""


def cut_span(begin, end, value, step) -> None:
    """Narrow the columns ``begin``…``end`` [R] to those where ``value + step · column ≥ 0``, all int64, exactly."""
    magnitude = np.abs(step)
    level = step == 0
    magnitude += level
    # Floor division by way of float64, which is several times faster, corrected by at most one.
    quotient = np.floor(value / magnitude).astype(np.int64)
    remainder = value - quotient * magnitude
    quotient -= remainder < 0
    quotient += remainder >= magnitude
    np.maximum(begin, -quotient, out=begin, where=step > 0)
    np.minimum(end, quotient, out=end, where=step < 0)
    if level.any():
        end[level & (value < 0)] = -1


def depth_along_spans(row_depth, gradient, begin, lengths, low, high) -> tuple[np.ndarray, np.ndarray]:
    """1/depth at the first column of every span [R] and its step per column.

    Both ends are kept between the triangle's farthest and nearest corner, ``low`` and ``high`` [R]: the plane of a
    needle-thin triangle is steep enough for rounding to show.
    """
    first = row_depth + gradient * begin
    last = row_depth + gradient * (begin + lengths - 1)
    for value in (first, last):
        np.maximum(value, low, out=value)
        np.minimum(value, high, out=value)
    return first, (last - first) / np.maximum(lengths - 1, 1)


def pieces(counts: np.ndarray, limit: int):
    """Ranges of consecutive items whose ``counts`` [K] sum to about ``limit`` (one item may exceed it)."""
    total = np.cumsum(counts)
    first = 0
    while first < len(counts):
        used = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, used + limit, side="right")))
        yield first, last
        first = last


def expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Item number and position within the item, for ``counts`` [K] repetitions of every item."""
    item = np.repeat(np.arange(len(counts)), counts)
    position = np.arange(len(item)) - np.repeat(np.cumsum(counts) - counts, counts)
    return item, position


def cut_span_in_floats(begin, end, value, away) -> None:
    """`cut_span`, all f64 that are whole numbers below 2**53; ``away`` [R]: −step, −0.0 for 0."""
    is_left = np.signbit(away)
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.divide(value, away, out=value)  # of level edges before or behind all columns, or no number
    np.fmax(begin, np.where(is_left, np.ceil(place), -np.inf), out=begin)
    np.fmin(end, np.where(is_left, np.inf, np.floor(place)), out=end)
