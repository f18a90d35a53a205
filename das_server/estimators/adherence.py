# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model made, and what exact tracking predicts of it → how far apart, point by point: residual optical flow.

A point is *counted* where the prediction was seen by a key picture (``seen``) and both pictures have texture there: in
the window round it the weaker direction of the gradient is at least `TEXTURE` levels a pixel.  Nobody can say where a
point of a flat or a blurred area is, so it is neither right nor wrong.  A point that has texture in both and is not
found again, because the flow there and back does not come home, is *lost*.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .flow import Flow

TEXTURE = 1.5
"""Levels per pixel (root mean square, weaker direction), below which the place of a point is not to be told."""
WINDOW_PX, SMOOTH_PX = 3.0, 0.8
"""Sigmas: of the window in which gradients are looked at, and of what pictures are smoothed by first."""
RIM_PX = 2
"""Points so near to what no key picture shows are not counted: the filling there is a guess."""
ROUND_TRIP_PX, ROUND_TRIP_SHARE = 1.0, 0.1
"""A point whose way there and back ends farther away than this, and this share of its length, is lost."""
BAND_PX = 25
"""Sharpness is the energy of gradients as a share of all, of what is finer than a box of this side."""
SOFTER_PX, HALVINGS = (0.5, 1.0, 2.0, 4.0, 8.0), 5
"""The sharper one of two pictures is blurred until it is as soft as the other: the first of these sigmas that does it,
and finer between that and the one before."""


def load(spec: EstimatorSpec, folder: Path, device: str) -> Adherence:
    """Nothing to load."""
    return Adherence()


class Adherence:
    """Dense flow (OpenCV's DIS), both ways, from the prediction of each frame to the frame."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``error`` f16 [T,H,W] px: how far each point of the prediction is from where the clip shows it; NaN where it
        is not counted, infinite where it is lost."""
        clip, prediction, seen = asked.clip, asked.arrays["prediction"], asked.arrays["seen"]
        flow = Flow(is_exact=True)
        error = np.full(clip.shape[:3], np.nan, np.float16)
        for frame in range(len(clip)):
            asked.step(frame, len(clip))
            if seen[frame].any():
                pair = _equally_sharp(_grey(prediction[frame]), _grey(clip[frame]), seen[frame])
                error[frame] = _apart(flow, *pair, seen[frame])
        return {"error": error}


def _grey(picture: np.ndarray) -> np.ndarray:
    """u8 [H,W]: its light."""
    import cv2

    return _blurred(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), SMOOTH_PX)


def _blurred(grey: np.ndarray, sigma: float) -> np.ndarray:
    import cv2

    return cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey


def _equally_sharp(one: np.ndarray, other: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both u8 [H,W], the sharper one blurred: else flow between a picture and a blurred one finds motion in it."""
    sharpness = [_sharpness(grey, seen) for grey in (one, other)]
    sharper = int(sharpness[1] > sharpness[0])
    soft, pair = sharpness[1 - sharper], [one, other]

    def is_softer(sigma: float) -> bool:
        return _sharpness(_blurred(pair[sharper], sigma), seen) <= soft

    low = high = 0.0
    for sigma in SOFTER_PX:  # from the least on: of what is blurred beyond all texture, the measure tells nothing
        low, high = high, sigma
        if is_softer(sigma):
            break
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_softer(middle) else (middle, high)
    pair[sharper] = _blurred(pair[sharper], low)
    return pair[0], pair[1]


def _sharpness(grey: np.ndarray, seen: np.ndarray) -> float:
    """Where it is ``seen``; contrast and light count for nothing, and it falls the more a picture is blurred."""
    import cv2

    mask = seen.view(np.uint8)
    fine = cv2.subtract(grey, cv2.blur(grey, (BAND_PX, BAND_PX)), dtype=cv2.CV_32F)
    along = [cv2.Sobel(fine, cv2.CV_32F, *axes, scale=0.125) for axes in ((1, 0), (0, 1))]
    squares = [cv2.norm(part, cv2.NORM_L2SQR, mask) for part in (*along, fine)]
    return (squares[0] + squares[1]) / max(squares[2], 1.0)


def _apart(flow: Flow, expected: np.ndarray, found: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """f32 [H,W], see `Adherence`."""
    import cv2

    there, back = flow.between(expected, found), flow.between(found, expected)
    height, width = seen.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + there[..., 0], y + there[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    home = there + cv2.remap(back, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    length = np.linalg.norm(there, axis=2)
    is_lost = np.linalg.norm(home, axis=2) > ROUND_TRIP_PX + ROUND_TRIP_SHARE * length
    there_too = cv2.remap(_texture(found), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rim = np.ones((2 * RIM_PX + 1,) * 2, np.uint8)
    known = cv2.erode(seen.astype(np.uint8), rim, borderType=cv2.BORDER_REPLICATE) > 0
    counted = known & inside & (_texture(expected) >= TEXTURE) & (there_too >= TEXTURE)
    return np.where(counted, np.where(is_lost, np.inf, length), np.nan)


def _texture(grey: np.ndarray) -> np.ndarray:
    """f32 [H,W]: levels per pixel, root mean square in the window round each, along the direction in which they are
    the least."""
    import cv2

    along = [cv2.Sobel(grey, cv2.CV_32F, *axes, scale=0.125) for axes in ((1, 0), (0, 1))]
    xx, yy, xy = (
        cv2.GaussianBlur(one * other, (0, 0), WINDOW_PX)
        for one, other in ((along[0], along[0]), (along[1], along[1]), (along[0], along[1]))
    )
    least = 0.5 * (xx + yy - np.sqrt((xx - yy) ** 2 + 4.0 * xy**2))
    return np.sqrt(np.maximum(least, 0.0))
