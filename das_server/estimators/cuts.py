# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip → where it is cut: the frame before cannot be moved into the place of the frame after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .flow import Flow

LONG_SIDE = 160
"""Pixels to which frames are made smaller: flow at this size follows any motion that a camera makes in a frame."""
SURE = 18.0
"""Levels of difference that remain after the flow, above which a frame may be the first after a cut."""
BEYOND = 3.0
"""It must be so many times those of the frames round it, too: a clip of flicker or of fast motion has no cuts."""
AROUND = 4


def load(spec: EstimatorSpec, folder: Path, device: str) -> Cuts:
    """Nothing to load."""
    return Cuts()


class Cuts:
    """Hard cuts; a dissolve is none."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``cuts`` i32 [K]: the first frames after each cut, from 0.  ``difference`` f32 [T]: mean levels that each
        frame differs from the one before it, moved into its place; 0 for the first."""
        import cv2

        clip = asked.clip
        num_frames, height, width = clip.shape[:3]
        scale = min(1.0, LONG_SIDE / max(height, width))
        size = (max(16, round(width * scale)), max(16, round(height * scale)))
        flow = Flow(is_fast=True)
        window = cv2.createHanningWindow(size, cv2.CV_32F)
        difference, before = np.zeros(num_frames, np.float32), None
        for frame in range(num_frames):
            now = cv2.resize(clip[frame], size, interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(now, cv2.COLOR_RGB2GRAY)
            if before is not None:
                difference[frame] = min(_left_over(flow, before, (now, grey), one) for one in (None, window))
            before = now, grey
            if frame % 16 == 0:
                asked.step(frame, num_frames)
        return {"cuts": cuts_in(difference), "difference": difference}


def _left_over(flow: Flow, before, now, window: np.ndarray | None) -> float:
    """Mean levels by which ``now`` differs from ``before``, each (picture, grey), moved into its place by the flow;
    with a ``window`` [H,W] by one that begins with the shift of the whole picture."""
    import cv2

    (picture, grey), (picture_now, grey_now) = before, now
    shift = None
    if window is not None:
        shift, _ = cv2.phaseCorrelate(grey_now.astype(np.float32), grey.astype(np.float32), window)
    back = flow.between(grey_now, grey, shift)
    x, y = np.meshgrid(np.arange(grey.shape[1], dtype=np.float32), np.arange(grey.shape[0], dtype=np.float32))
    places = (x + back[..., 0], y + back[..., 1])
    moved = cv2.remap(picture, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return float(np.abs(moved.astype(np.float32) - picture_now).mean())


def cuts_in(difference: np.ndarray) -> np.ndarray:
    """i32 [K]: the frames of ``difference`` f32 [T] that stand out from those round them."""
    found = []
    for frame in range(1, len(difference)):
        around = np.r_[difference[max(1, frame - AROUND) : frame], difference[frame + 1 : frame + 1 + AROUND]]
        usual = float(np.median(around)) if len(around) else 0.0
        if difference[frame] > max(SURE, BEYOND * usual):
            found.append(frame)
    return np.array(found, np.int32)
