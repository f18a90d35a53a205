# SPDX-License-Identifier: GPL-3.0-or-later
"""What every family asks of a request, and the first frame at a clip's size."""

from __future__ import annotations

import numpy as np
from PIL import Image

from das_blender_addon.errors import JobRejected


def clip_shape(tracking_video: np.ndarray, image: Image.Image) -> tuple[int, int, int]:
    """(T, H, W) of a request's inputs.  Raises `JobRejected` for what is no video u8 [T,H,W,3] and no picture."""
    if not isinstance(tracking_video, np.ndarray) or tracking_video.dtype != np.uint8 or tracking_video.ndim != 4:
        raise JobRejected("The tracking video must be a uint8 array [T,H,W,3].", field="tracking_video")
    num_frames, height, width, channels = tracking_video.shape
    if channels != 3:
        raise JobRejected(f"The tracking video has {channels} channels instead of 3.", field="tracking_video")
    if not isinstance(image, Image.Image):
        raise JobRejected(f"The first frame must be a PIL image, not {type(image).__name__}.", field="image")
    return num_frames, height, width


def check_like(video: np.ndarray, tracking_video: np.ndarray, field: str) -> None:
    """Raise `JobRejected` for a video that is not u8 and of the tracking video's shape."""
    name = field.replace("_", " ")
    if not isinstance(video, np.ndarray) or video.dtype != np.uint8:
        raise JobRejected(f"The {name} must be a uint8 array [T,H,W,3].", field=field)
    if video.shape != tracking_video.shape:
        raise JobRejected(
            f"The {name} is {list(video.shape)} and the tracking video {list(tracking_video.shape)}.", field=field
        )


def check_texts(prompt: str, negative_prompt: str | None) -> None:
    """Raise `JobRejected` for a text that is none, or that no file or message could carry."""
    for field, text in (("prompt", prompt), ("negative_prompt", negative_prompt or "")):
        if not isinstance(text, str):
            raise JobRejected(f"{field} is {text!r}: use one text.", field=field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise JobRejected(f"{field} holds half a character ({error.reason}).", field=field) from error


def image_to_frame(image: Image.Image, width: int, height: int) -> np.ndarray:
    """A picture of any size and mode → u8 [1,H,W,3]: Lanczos to the size, ignoring aspect, then RGB (as published).

    Palettes, bitmaps and deep greys become 8-bit colours first: Pillow would not filter the ones and clip the others.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("1", "P", "PA"):
        image = image.convert("RGB")
    return np.asarray(image.resize((width, height), resample=Image.Resampling.LANCZOS).convert("RGB"))[None]
