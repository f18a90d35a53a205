# SPDX-License-Identifier: GPL-3.0-or-later
"""Dense optical flow by OpenCV's DIS, for pictures of any size."""

from __future__ import annotations

import numpy as np

SMALLEST = 64
"""Pixels of a side; DIS ends the process with pictures that are much smaller, which are continued by their edges."""


class Flow:
    """``is_fast``: for small pictures whose flow need not be exact; ``is_exact``: down to whole pixels, and slower."""

    def __init__(self, *, is_fast: bool = False, is_exact: bool = False):
        import cv2

        preset = cv2.DISOPTICAL_FLOW_PRESET_FAST if is_fast else cv2.DISOPTICAL_FLOW_PRESET_MEDIUM
        self._flow = cv2.DISOpticalFlow_create(preset)
        if is_exact:
            self._flow.setFinestScale(0)
            self._flow.setPatchStride(4)

    def between(self, one: np.ndarray, other: np.ndarray, shift: tuple[float, float] | None = None) -> np.ndarray:
        """f32 [H,W,2] px: where each pixel of the grey picture ``one`` u8 [H,W] is in ``other``, less where it was.
        ``shift``: (x, y) to begin with."""
        height, width = one.shape
        more = (0, max(0, SMALLEST - height)), (0, max(0, SMALLEST - width))
        one, other = (np.ascontiguousarray(np.pad(part, more, mode="edge")) for part in (one, other))
        start = None if shift is None else np.broadcast_to(np.float32(shift), (*one.shape, 2)).copy()
        return np.ascontiguousarray(self._flow.calc(one, other, start)[:height, :width])
