# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of a picture, read once and checked.  No Blender in here."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import FirstFrameError
from ..protocol.png import decode_png
from .pictures import FirstFrame


def read_first_frame(path: Path, model_size: tuple[int, int]) -> bytes:
    """The bytes of a first frame, checked.  Raises `FirstFrameError` when it is no PNG of ``model_size`` (width,
    height).
    """
    return check_first_frame(bytes_of_picture(path), path, model_size)


def bytes_of_picture(path: Path, name: str = "first frame") -> bytes:
    """What the file of a picture, a ``name``, holds.  Raises `FirstFrameError` when it cannot be read."""
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise FirstFrameError(f"The {name} {path} is no file; choose another.")
        return Path(path).read_bytes()
    except OSError as error:
        raise FirstFrameError(f"The {name} {path} cannot be read: {error.strerror}; choose another.") from error


def check_first_frame(png: bytes, path: Path, model_size: tuple[int, int]) -> bytes:
    """``png`` when it is a PNG of ``model_size``; ``path`` is where it came from.  Raises `FirstFrameError`."""
    pixels = decode_png(png, name=f"The first frame {path}", error=FirstFrameError)
    height, width = pixels.shape[:2]
    if (width, height) != tuple(model_size):
        raise FirstFrameError(
            f"The first frame {path} has {width}×{height} pixels and the model needs {model_size[0]}×{model_size[1]}; "
            "resize it, or remove it and render it again."
        )
    return png


def places_left(name: str, alpha: np.ndarray) -> str:
    """What is said of a key picture that leaves places to others, by its ``alpha`` [H,W] and its ``name`` at the begin
    of a sentence.
    """
    if alpha.any():
        return f"{name} has transparent parts; they are taken from the other key pictures."
    return f"{name} is transparent everywhere and shows nothing: paint it, or remove it."


def checked(picture: FirstFrame, model_size: tuple[int, int], *notes: str) -> FirstFrame:
    """``picture`` when it fits the model, with ``notes`` before its own.  Raises `FirstFrameError`."""
    check_first_frame(picture.png, picture.path, model_size)
    return replace(picture, notes=(*filter(None, notes), *picture.notes))
