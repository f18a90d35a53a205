# SPDX-License-Identifier: GPL-3.0-or-later
"""Picture and mask → the picture without the thing, without weights: inpainting by Telea."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .masks import checked

RADIUS = 5.0


def load(spec: EstimatorSpec, folder: Path, device: str) -> Background:
    """Nothing to load."""
    return Background()


class Background:
    """What is round the thing, continued into its place: small things well, large ones softly."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``picture`` u8 [H,W,3]; outside of the mask as it was.  Raises `JobRejected` for a mask without a border."""
        import cv2

        mask = checked(asked.arrays["mask"] != 0)
        picture = np.ascontiguousarray(asked.picture)
        radius = float(asked.options.get("radius", RADIUS))
        filled = cv2.inpaint(picture, mask.astype(np.uint8), radius, cv2.INPAINT_TELEA)
        return {"picture": np.where(mask[..., None], filled, picture)}
