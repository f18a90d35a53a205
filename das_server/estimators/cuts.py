# SPDX-License-Identifier: GPL-3.0-or-later
"""Clip → where it is cut: the frame before cannot be moved into the place of the frame after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked

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
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
        difference, before = np.zeros(num_frames, np.float32), None
        for frame in range(num_frames):
            now = cv2.resize(clip[frame], size, interpolation=cv2.INTER_AREA)
            grey = cv2.cvtColor(now, cv2.COLOR_RGB2GRAY)
            if before is not None:
                back = flow.calc(grey, before[1], None)
                moved = cv2.remap(
                    before[0], x + back[..., 0], y + back[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                )
                difference[frame] = np.abs(moved.astype(np.float32) - now).mean()
            before = now, grey
            if frame % 16 == 0:
                asked.step(frame, num_frames)
        return {"cuts": cuts_in(difference), "difference": difference}


def cuts_in(difference: np.ndarray) -> np.ndarray:
    """i32 [K]: the frames of ``difference`` f32 [T] that stand out from those round them."""
    found = []
    for frame in range(1, len(difference)):
        around = np.r_[difference[max(1, frame - AROUND) : frame], difference[frame + 1 : frame + 1 + AROUND]]
        usual = float(np.median(around)) if len(around) else 0.0
        if difference[frame] > max(SURE, BEYOND * usual):
            found.append(frame)
    return np.array(found, np.int32)
