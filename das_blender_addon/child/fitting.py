# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of any format and size that Blender reads, or one that it holds with strokes that were never saved, as the
first frame that a model takes: 8-bit sRGB at the model's size, what is transparent over black.

A picture of the model's shape becomes the model's picture.  Any other is taken for the shot's own: it goes where the
shot lies in the model's picture (scaled to cover that, and cut evenly at its longer side), and its outermost pixels
fill what the model sees beyond.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import bpy
import imbuf
import numpy as np

from ..errors import FirstFrameError
from ..scene.colours import rec709_from_working
from ..scene.named import image_named
from ..shot.picture_bytes import bytes_of_picture
from ..tracking.resampling import resize_lanczos
from .opening import file_of_frame, first_layer, opened, size_of_exr, size_of_exr_file, unreadable

SAME_SHAPE = 0.01
"""Pictures whose width divided by height differs by less than this share have one shape."""
MAX_PIXELS = 1 << 27


def fitted_picture(request: dict) -> tuple[np.ndarray, list[str]]:
    """(picture [H,W,3 or 4] u8 of ``request["size"]``, what was done to it in sentences).

    ``request``: ``"image"`` the name of a data block or "", ``"path"``, ``"frame"`` (of a sequence), ``"size"`` (width,
    height), ``"crop"`` (left, top, right, bottom) of the shot in it, pixels, and ``"keep_alpha"``: what is transparent
    stays so.  Raises `FirstFrameError`.
    """
    image, name, notes = opened(request)
    layered = None if all(image.size) else size_of_exr(image)
    if layered is not None:
        check_size(*layered, name)
        image, words = first_layer(image, name, layered)
        notes.append(words)
    pixels = pixels_of(image, name)
    width, height = request["size"]
    is_transparent, keeps_alpha = bool((pixels[..., 3] < 1.0).any()), bool(request.get("keep_alpha"))
    if is_transparent:
        words = "are taken from the other key pictures" if keeps_alpha else "are black in the first frame"
        notes.append(f"{name} has transparent parts; they {words}.")
    pixels[..., :3] *= pixels[..., 3:]
    covered = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    source = (covered.shape[1], covered.shape[0])
    picture = _fit(covered if is_transparent and keeps_alpha else covered[..., :3], (width, height), request["crop"])
    if picture.shape[2] == 4:
        opacity = np.maximum(picture[..., 3:], 1).astype(np.float32) / 255.0
        picture[..., :3] = np.rint(np.clip(picture[..., :3] / opacity, 0.0, 255.0)).astype(np.uint8)
    if source != (width, height):
        notes.append(f"{name} has {source[0]}×{source[1]} pixels and was fitted to the model's {width}×{height}.")
    return picture, notes


def check_picture(path: str | os.PathLike[str], image: str = "", frame: int = 0) -> None:
    """Raise `FirstFrameError` where Blender cannot read the file ``path``, else the data block ``image``, of a sequence
    at ``frame``.

    A look before any work begins; nothing of the open file changes.
    """
    if path:
        bytes_of_picture(path)
        _check_file(path, f"The first frame {path}")
    elif image:
        name = f"The image {image!r}"
        found = image_named(image)
        if found is not None and found.source == "SEQUENCE":
            return _check_file(file_of_frame(found, frame), name)
        found, name, _ = opened({"image": image})
        if not all(found.size) and size_of_exr(found) is None:
            raise unreadable(name)
    return None


<<<<<<< HEAD
def _check_file(path: str | os.PathLike[str], name: str) -> None:
=======
def _unreadable(name: str) -> FirstFrameError:
    return FirstFrameError(f"{name} cannot be read as a picture; choose another.")


def _image(request: dict):
    if request["image"]:
        image = image_named(request["image"])
        if image is None:
            raise FirstFrameError(f"There is no image {request['image']!r} in the file; choose another.")
        return image, f"The image {request['image']!r}"
    path = request["path"]
>>>>>>> 1c6ea5b (A linked image and one of the file's own that have one name are told apart)
    try:
        imbuf.load(os.fspath(path)).free()
    except (OSError, ValueError) as error:
        is_movie = os.path.splitext(path)[1].lower() in bpy.path.extensions_movie  # of those the first picture counts
        if not is_movie and size_of_exr_file(path) is None:
            raise unreadable(name) from error


def check_size(width: int, height: int, name: str) -> None:
    """Raise `FirstFrameError` where a picture of that size is too large to be read; ``name`` begins it."""
    if width * height > MAX_PIXELS:
        raise FirstFrameError(f"{name} has {width}×{height} pixels; make it smaller.")


def pixels_of(image, name: str) -> np.ndarray:
    """The image data block as [H,W,4] f32, top-down, straight alpha, sRGB values (0 to 1); ``name`` begins what is said
    of it.  Raises `FirstFrameError`.
    """
    width, height = image.size
    if not width or not height:
        raise unreadable(name)
    check_size(width, height, name)
    flat = np.empty(width * height * image.channels, np.float32)
    image.pixels.foreach_get(flat)
    values = flat.reshape(height, width, image.channels)[::-1]
    pixels = np.ones((height, width, 4), np.float32)
    if image.channels == 1:
        pixels[..., :3] = values
    else:
        pixels[..., : image.channels] = values[..., :4]
    pixels = np.nan_to_num(pixels, nan=0.0, posinf=1.0, neginf=0.0)
    if image.is_float:  # linear light, premultiplied
        alpha = np.where(pixels[..., 3:] > 0.0, pixels[..., 3:], 1.0)
        linear = pixels[..., :3] / alpha
        if not image.colorspace_settings.is_data:  # which Blender has brought into the file's working space
            linear = rec709_from_working(linear)
        pixels[..., :3] = _srgb(linear)
    return np.clip(pixels, 0.0, 1.0)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light → sRGB values (IEC 61966-2-1)."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def _fit(rgb: np.ndarray, size: tuple[int, int], crop: Sequence[float]) -> np.ndarray:
    """``rgb`` [H,W,C] u8, of ``size`` (width, height)."""
    height, width = rgb.shape[:2]
    if abs(width * size[1] / (height * size[0]) - 1.0) < SAME_SHAPE:
        return resize_lanczos(rgb, (0, 0, width, height), size)
    left, top = (int(round(side)) for side in crop[:2])
    right, bottom = max(int(round(crop[2])), left + 1), max(int(round(crop[3])), top + 1)
    inner = (right - left, bottom - top)
    scale = min(width / inner[0], height / inner[1])
    cut_x, cut_y = (width - inner[0] * scale) / 2.0, (height - inner[1] * scale) / 2.0
    placed = resize_lanczos(rgb, (cut_x, cut_y, width - cut_x, height - cut_y), inner)
    return np.pad(placed, ((top, size[1] - bottom), (left, size[0] - right), (0, 0)), mode="edge")
