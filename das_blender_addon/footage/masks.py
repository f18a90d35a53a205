# SPDX-License-Identifier: GPL-3.0-or-later
"""Which pixels of a picture are a thing: a file that says so, or a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import SettingsError
from ..protocol.png import decode_png_with_alpha
from .unreadable import UNREADABLE

BOX = "box:"
SALIENT = "salient"
ASKED = ("point:", "cut:", "lasso:")
"""Beginnings of masks that a server finds, as it does what is `SALIENT`: see `estimated`."""


def is_file(words: str) -> bool:
    """Whether a mask is a file's name and no words of its own."""
    return words != SALIENT and not words.startswith((BOX, *ASKED))


def read_mask(words: str | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bool [H,W] for a picture of ``shape`` (H, W): ``words`` is ``box:x,y,width,height`` in pixels, or a file: a PNG
    (where it is opaque, else where it is brighter than half) or an NPY (where it is not 0), or the mask itself.

    Raises `SettingsError`: what cannot be read, another size, an empty mask, the whole picture.
    """
    if isinstance(words, np.ndarray):
        mask, words = words, "of the server"
    else:
        mask = _box(words, shape) if words.startswith(BOX) else _file(Path(words))
    if mask.shape != shape:
        has = "×".join(str(side) for side in mask.shape[::-1])
        raise SettingsError(
            f"The mask {words} has {has} pixels and the picture {shape[1]}×{shape[0]}; they must be equal.",
            field="mask",
        )
    if not mask.any():
        raise SettingsError(f"The mask {words} is empty: it shows no pixel of the picture to move.", field="mask")
    if mask.all():
        raise SettingsError(
            f"The mask {words} is the whole picture, and nothing is left to stand still; move the camera instead.",
            field="mask",
        )
    return mask


def _box(words: str, shape: tuple[int, int]) -> np.ndarray:
    try:
        x, y, width, height = (int(number) for number in words[len(BOX) :].split(","))
    except ValueError as error:
        raise SettingsError(
            f"The mask {words} cannot be read; write box:x,y,width,height in pixels from the top left.", field="mask"
        ) from error
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > shape[1] or y + height > shape[0]:
        raise SettingsError(
            f"The mask {words} is not inside the picture of {shape[1]}×{shape[0]} pixels.", field="mask"
        )
    mask = np.zeros(shape, bool)
    mask[y : y + height, x : x + width] = True
    return mask


def _file(path: Path) -> np.ndarray:
    if not path.is_file():
        raise SettingsError(f"There is no mask file {path}.", field="mask")
    try:
        if path.suffix.lower() == ".npy":
            return np.squeeze(np.load(path)) != 0
        if path.suffix.lower() == ".png":
            pixels = decode_png_with_alpha(path.read_bytes(), name=f"The mask {path}", error=SettingsError)
            return pixels[..., 3] > 127 if pixels.shape[2] == 4 else pixels[..., :3].mean(axis=2) > 127.0
    except UNREADABLE as error:
        raise SettingsError(f"The mask {path} cannot be read ({error}).", field="mask") from error
    raise SettingsError(f"The mask {path} is of no kind that can be read; give a .png or a .npy.", field="mask")
