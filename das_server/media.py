# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames ⇄ image files with Pillow: the first frame in, small JPEG previews out.  (Result frames: `protocol.png`.)"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from das_blender_addon.errors import FirstFrameError

PREVIEW_QUALITY = 80
PREVIEW_LONG_SIDE = 480
PREVIEW_TILES = 4
"""A preview shows up to this many frames, evenly spaced, in two columns."""


def read_first_frame(content: bytes, width: int, height: int) -> Image.Image:
    """A PNG as an RGB image of exactly ``width`` × ``height`` pixels; raises `FirstFrameError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            if image.size != (width, height):
                raise FirstFrameError(
                    f"The first frame has {image.width}×{image.height} pixels but the job says {width}×{height}; "
                    "render it at that size.",
                    field="first_frame",
                )
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise FirstFrameError(f"The first frame cannot be read as a PNG: {error}.", field="first_frame") from error


def preview_jpeg(frames: np.ndarray) -> bytes:
    """u8 ``[T,H,W,3]`` → one small JPEG: evenly spaced frames in two columns, or one frame alone."""
    count = min(PREVIEW_TILES, len(frames))
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    columns = 1 if count == 1 else 2
    height, width = frames.shape[1:3]
    scale = min(1.0, PREVIEW_LONG_SIDE / (columns * max(width, height)))
    tile = (max(1, round(width * scale)), max(1, round(height * scale)))
    sheet = Image.new("RGB", (tile[0] * columns, tile[1] * -(-count // columns)))
    for i, frame in enumerate(chosen):
        image = Image.fromarray(frame).resize(tile, Image.Resampling.BOX)
        sheet.paste(image, ((i % columns) * tile[0], (i // columns) * tile[1]))
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=PREVIEW_QUALITY)
    return file.getvalue()
