# SPDX-License-Identifier: GPL-3.0-or-later
"""What depth estimators share: pictures as a network reads them, and its answer as the arrays of the kind."""

from __future__ import annotations

import math

import numpy as np

from das_blender_addon.errors import ModelError

MEANINGS = ("metric", "relative", "inverse")
"""As `client.estimates.DEPTH_MEANINGS`."""
SENSOR_MM = 36.0
"""Along the longer side, as everywhere else."""


def network_size(height: int, width: int, *, shorter: int, multiple: int) -> tuple[int, int]:
    """(height, width), multiples of ``multiple``, of about the picture's shape with ``shorter`` on its shorter side."""
    scale = shorter / min(height, width)
    return tuple(max(multiple, round(side * scale / multiple) * multiple) for side in (height, width))


def normalised(picture: np.ndarray, size: tuple[int, int], mean, std) -> np.ndarray:
    """f32 [3,h,w] of ``picture`` u8 [H,W,3] at the ``size`` (height, width)."""
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(picture)).resize(size[::-1], Image.Resampling.BICUBIC)
    values = (np.asarray(small, np.float32) / 255.0 - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def resized(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """f32 [H,W] of ``values`` [h,w], bilinear."""
    import cv2

    return cv2.resize(values.astype(np.float32), shape[::-1], interpolation=cv2.INTER_LINEAR)


def lens_of_fov(fov_x_degrees: float, height: int, width: int) -> float:
    """mm of a sensor of `SENSOR_MM` along the longer side; 0 for an angle that none has."""
    if not 1.0 <= fov_x_degrees <= 175.0:
        return 0.0
    return 0.5 * width / math.tan(math.radians(fov_x_degrees) / 2) * SENSOR_MM / max(height, width)


def fov_of_lens(lens_mm: float, height: int, width: int) -> float:
    """Degrees across the picture's width."""
    return math.degrees(2 * math.atan(0.5 * width / (lens_mm / SENSOR_MM * max(height, width))))


def depth_arrays(values: list[np.ndarray], meaning: str, lenses: list[float], source: str) -> dict[str, np.ndarray]:
    """The arrays of the kind from one [H,W] for each frame, where what is no distance (or 0) is not valid.

    Raises `ModelError` where a network has given nothing that can be used.
    """
    depth = np.stack(values).astype(np.float32)
    valid = np.isfinite(depth) & (depth > 0.0)
    if not valid.any(axis=(1, 2)).all():
        raise ModelError(
            f"{source} found no distance in the picture; use another estimator, or a depth file.", field="model"
        )
    return {
        "depth": np.where(valid, depth, np.float32(0.0)),
        "valid": valid,
        "lens_mm": np.array(lenses, np.float32),
        "meaning": np.array(MEANINGS.index(meaning), np.int32),
    }
