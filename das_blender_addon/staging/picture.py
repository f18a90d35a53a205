# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of a plate, of any format that Blender reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..child.fitting import pixels_of
from ..errors import FirstFrameError, SettingsError
from ..footage.exr import depth_of_exr
from ..footage.plate import check_colours
from ..footage.tags import tags_of, upright
from ..protocol.png import MAX_PIXELS, decode_png, has_transparency
from ..shot.picture_bytes import bytes_of_picture
from .beside import in_blender

EXR = ".exr"
_WITH_ALPHA = (4, 6)
"""Types of a PNG's pixels."""
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class SourcePicture:
    """``pixels`` u8 [H,W,3], sRGB-coded, rows top-down.  ``lens_mm``: as its file says it, 0 where it does not.
    ``notes``: what was done to it, one sentence each; none where the pixels are the file's own.
    """

    pixels: np.ndarray
    lens_mm: float
    notes: tuple[str, ...]


def read_picture(path: Path, *, may_be_plain: bool = False) -> SourcePicture:
    """The picture of the file ``path``, upright.  ``may_be_plain``: one colour everywhere is one, too.  Raises
    `FirstFrameError` where there is none that can be used.
    """
    if not path.is_file():
        raise FirstFrameError(f"There is no picture {path}.")
    data = bytes_of_picture(path)
    tags, name, notes = tags_of(data), f"The picture {path}", []
    if tags.is_print:
        raise FirstFrameError(f"{name} has the four colours of print (CMYK); save it as RGB.")
    if data.startswith(_PNG) and data[24:25] == b"\x08" and data[28:29] == b"\x00":
        pixels = decode_png(data, name=name, error=FirstFrameError)
        if _may_be_transparent(data) and has_transparency(data):
            notes.append(f"{name} has transparent parts; they are laid over black.")
    else:
        pixels = in_blender(lambda: _read_by_blender(path, name, notes))
    if pixels.shape[0] * pixels.shape[1] > MAX_PIXELS:
        raise FirstFrameError(f"{name} has {pixels.shape[1]}×{pixels.shape[0]} pixels; make it smaller.")
    if tags.orientation != 1:
        pixels = upright(pixels, tags.orientation)
        notes.append(f"{name} was turned upright, as its camera says, to {pixels.shape[1]}×{pixels.shape[0]} pixels.")
    if not may_be_plain:
        if not pixels.any() and any("transparent" in note for note in notes):
            raise FirstFrameError(f"{name} shows nothing: it is transparent, or black, everywhere; choose another.")
        check_colours(pixels, name)
    return SourcePicture(pixels, tags.lens_mm, tuple(notes))


def _may_be_transparent(png: bytes) -> bool:
    """What its head says: a channel for it, or a chunk before the pixels."""
    return png[25] in _WITH_ALPHA or b"tRNS" in png[: png.find(b"IDAT")]


def values_of_exr(path: Path) -> np.ndarray:
    """[H,W] f64, rows top-down: the depth in the OpenEXR file ``path``, as it is: a channel of that name, or the first
    one of a picture.  Raises `SettingsError`.
    """
    name = f"The depth file {path}"
    if not path.is_file():
        raise SettingsError(f"There is no depth file {path}.", field="depth")
    try:
        depth = depth_of_exr(path.read_bytes(), name)
    except OSError as error:
        raise SettingsError(f"{name} cannot be read ({error.strerror}).", field="depth") from error
    return in_blender(lambda: _values_by_blender(path, name)) if depth is None else depth


def _values_by_blender(path: Path, name: str) -> np.ndarray:
    try:
        image = bpy.data.images.load(os.fspath(path), check_existing=False)
    except RuntimeError as error:
        raise SettingsError(f"{name} cannot be read.", field="depth") from error
    try:
        image.colorspace_settings.is_data = True
        (width, height), channels = image.size, image.channels
        values = np.empty(width * height * channels, np.float32)
        image.pixels.foreach_get(values)
    except RuntimeError as error:
        raise SettingsError(f"{name} cannot be read.", field="depth") from error
    finally:
        bpy.data.images.remove(image)
    if not values.size:
        raise SettingsError(f"{name} cannot be read.", field="depth")
    return values.reshape(height, width, channels)[::-1, :, 0].astype(np.float64)


def _read_by_blender(path: Path, name: str, notes: list[str]) -> np.ndarray:
    try:
        image = bpy.data.images.load(os.fspath(path), check_existing=False)
    except RuntimeError as error:
        raise FirstFrameError(f"{name} cannot be read as a picture; choose another.") from error
    try:
        if image.source != "FILE":
            raise FirstFrameError(
                f"{name} is a clip; save the frame that is meant as a picture, or import it as a clip."
            )
        values = pixels_of(image, name)
        is_float = image.is_float
    finally:
        bpy.data.images.remove(image)
    if (values[..., 3] < 1.0).any():
        notes.append(f"{name} has transparent parts; they are laid over black.")
    if is_float:
        notes.append(f"{name} has more than 8 bits per colour; it was rounded to 8.")
    return np.rint(values[..., :3] * values[..., 3:] * 255.0).astype(np.uint8)
