# SPDX-License-Identifier: GPL-3.0-or-later
"""The pixels of a take's frame as a render result wants them: linear, bottom-up, cut to the render border.

No Blender in here.
"""

from __future__ import annotations

import numpy as np

from ..errors import DasError, StorageError
from ..protocol.png import decode_png
from .finished import FinishedTake

_codes = np.arange(256, dtype=np.float64) / 255.0
SRGB_TO_LINEAR = np.where(_codes <= 0.04045, _codes / 12.92, ((_codes + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""[256] f32: linear Rec.709 of each sRGB byte (IEC 61966-2-1); the Standard view gives back the same byte."""


def linear_from_srgb(picture: np.ndarray) -> np.ndarray:
    """sRGB bytes u8 → linear Rec.709 f32, same shape."""
    return SRGB_TO_LINEAR[picture]


def bottom_up(values: np.ndarray) -> np.ndarray:
    """Top-down rows [H,W,…] → Blender's bottom-up floats, flat f32."""
    return np.ascontiguousarray(values[::-1], dtype=np.float32).reshape(-1)


def border(render, width: int, height: int, result_width: int, result_height: int) -> tuple[slice, slice]:
    """Rows and columns (top-down) of the picture that a result of a render border holds.

    Blender cuts off fractions of the border's left and lower edge in single precision (``RE_InitState``).
    """
    if (result_width, result_height) == (width, height):
        return slice(0, height), slice(0, width)
    left = int(np.float32(render.border_min_x) * np.float32(width))
    bottom = int(np.float32(render.border_min_y) * np.float32(height))
    top = height - bottom - result_height
    return slice(top, top + result_height), slice(left, left + result_width)


def read_frame(take: FinishedTake, frame: int, size: tuple[int, int]) -> np.ndarray:
    """The picture [H,W,3] u8 of the Blender frame ``frame``, which must have ``size`` (width, height).

    Raises `StorageError`.
    """
    path = take.path(frame)
    try:
        picture = decode_png(path.read_bytes())
    except (OSError, DasError) as error:
        raise StorageError(
            f"The frame {path} of the take cannot be read; delete its folder to render it again."
        ) from error
    if (picture.shape[1], picture.shape[0]) != size:
        raise StorageError(
            f"The frame {path} has {picture.shape[1]}×{picture.shape[0]} pixels and the render {size[0]}×{size[1]}; "
            "delete its folder to render it again."
        )
    return picture
