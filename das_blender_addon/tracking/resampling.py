# SPDX-License-Identifier: GPL-3.0-or-later
"""Lanczos-3 resampling of a rectangle with fractional borders.

Equal to Pillow's ``resize(size, LANCZOS, box)`` bit by bit where the box is exact in float32, as which Pillow keeps it.

Separable, on the stored 8-bit values (no linear light): columns first, rounded to 8 bits, then rows.  The kernel is
``sinc(x)·sinc(x/3)`` on |x| < 3, widened by the reduction factor when the picture shrinks; weights beyond the picture's
border are left out and the rest normalised.  Weights are fixed-point numbers with 22 fractional bits, as in Pillow's
8-bit path.
"""

from __future__ import annotations

import math

import numpy as np

_SUPPORT = 3.0
_WEIGHT_BITS = 22
_VALUES_PER_BLOCK = 1 << 16


def resize_lanczos(frame: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Resample the rectangle ``box`` (left, top, right, bottom; pixels, fractions allowed) of a frame.

    ``frame`` [H,W,C] u8; ``size`` (width, height).  Returns [height,width,C] u8.
    """
    left, top, right, bottom = box
    if (left, right, size[0]) != (0, frame.shape[1], frame.shape[1]):
        columns, weights = _taps(frame.shape[1], left, right, size[0])
        frame = np.ascontiguousarray(_weighted_rows(frame.transpose(1, 0, 2), columns, weights).transpose(1, 0, 2))
    if (top, bottom, size[1]) != (0, frame.shape[0], frame.shape[0]):
        rows, weights = _taps(frame.shape[0], top, bottom, size[1])
        frame = _weighted_rows(frame, rows, weights)
    return frame


def _taps(length: int, begin: float, end: float, new_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Source indices and fixed-point weights [K,new_length] of every new sample along one axis."""
    scale = (end - begin) / new_length
    widening = max(scale, 1.0)
    reach = _SUPPORT * widening
    centre = begin + (np.arange(new_length) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), length)
    index = first[None, :] + np.arange(math.ceil(reach) * 2 + 1)[:, None]
    weights = np.where(index < last, _lanczos((index - centre + 0.5) / widening), 0.0)
    weights /= weights.sum(axis=0)
    fixed = np.trunc(weights * (1 << _WEIGHT_BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return np.minimum(index, length - 1), fixed


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < _SUPPORT, np.sinc(x) * np.sinc(x / _SUPPORT), 0.0)


def _weighted_rows(frame: np.ndarray, index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of ``weights`` [K,L] times the rows ``index`` [K,L] of ``frame`` [H,W,C] u8 → [L,W,C] u8."""
    wide = frame.astype(np.int32, order="C").reshape(len(frame), -1)
    resized = np.empty((index.shape[1], wide.shape[1]), dtype=np.uint8)
    step = max(1, _VALUES_PER_BLOCK // wide.shape[1])
    for start in range(0, len(resized), step):
        block = slice(start, start + step)
        total = np.full(resized[block].shape, 1 << (_WEIGHT_BITS - 1), dtype=np.int32)
        for taps, weight in zip(index[:, block], weights[:, block], strict=True):
            if weight.any():
                term = wide[taps]
                term *= weight[:, None]
                total += term
        total >>= _WEIGHT_BITS
        resized[block] = np.clip(total, 0, 255, out=total)
    return resized.reshape((-1,) + frame.shape[1:])
