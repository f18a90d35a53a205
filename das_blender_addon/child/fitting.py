# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of any format and size that Blender reads, or one that it holds with strokes that were never saved, as the
first frame that a model takes: 8-bit sRGB at the model's size, what is transparent over black.

It is a finished picture: its values are those that its colour space says, shown by the plain view *Standard*, as
Blender's Image Editor shows it.  The scene's view transform belongs to what Blender renders; of a scene-linear picture
(OpenEXR, Radiance HDR) that is said.

A picture of the model's shape becomes the model's picture.  Any other, and one of exactly the shot's size, is taken for
the shot's own: it goes where the shot lies in the model's picture (scaled to cover that, and cut evenly at its longer
side), and its outermost pixels fill what the model sees beyond; other key pictures than the first leave that to those
that show it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence

import bpy
import imbuf
import numpy as np

from .. import compat
from ..errors import FirstFrameError
from ..scene.colours import is_srgb, plain_view, rec709_from_working, show_plain
from ..scene.named import image_named
from ..shot.picture_bytes import bytes_of_picture, places_left
from ..tracking.resampling import resize_lanczos
from .opening import file_of_frame, first_layer, opened, size_of_exr, size_of_exr_file, unreadable

SAME_SHAPE = 0.01
"""Pictures whose width divided by height differs by less than this share have one shape."""
MAX_PIXELS = 1 << 27
_LINEAR_FORMATS = ("OPEN_EXR", "OPEN_EXR_MULTILAYER", "HDR")
_LINEAR_SPACES = ("Linear", "ACEScg", "ACES2065", "scene_linear", "Utility - Linear")


def fitted_picture(request: dict, scene) -> tuple[np.ndarray, list[str]]:
    """(picture [H,W,3 or 4] u8 of ``request["size"]``, what was done to it in sentences).

    ``request``: ``"image"`` the name of a data block or "", ``"path"``, ``"frame"`` (of a sequence), ``"name"`` of a
    file in sentences, ``"size"`` (width, height), ``"crop"`` (left, top, right, bottom) of the shot in it, pixels,
    ``"keep_alpha"``: what is transparent stays so, and ``"view_transform"`` of the first frame, "" for that of
    ``scene``.  Raises `FirstFrameError`.
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
    if is_transparent and keeps_alpha:
        notes.append(places_left(name, pixels[..., 3]))
    elif is_transparent:
        notes.append(f"{name} has transparent parts; they are black in the first frame.")
    shown_by = request.get("view_transform") or scene.view_settings.view_transform
    if _is_scene_linear(image) and shown_by != plain_view(scene):
        notes.append(
            f"{name} is scene-linear: it is shown by the view {plain_view(scene)}, without the scene's {shown_by}; "
            "save it as a PNG file with that view to have it so."
        )
    pixels[..., :3] *= pixels[..., 3:]
    covered = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    source = (covered.shape[1], covered.shape[0])
    covered = covered if is_transparent and keeps_alpha else covered[..., :3]
    picture = fit(covered, (width, height), request["crop"], leaves_rest=keeps_alpha)
    if picture.shape[2] == 4:
        opacity = np.where(picture[..., 3:] > 0, picture[..., 3:], 255).astype(np.float32) / 255.0
        picture[..., :3] = np.rint(np.clip(picture[..., :3] / opacity, 0.0, 255.0)).astype(np.uint8)
    if source != (width, height):
        notes.append(f"{name} has {source[0]}×{source[1]} pixels and was fitted to the model's {width}×{height}.")
    return picture, notes


def check_picture(
    path: str | os.PathLike[str], image: str = "", frame: int = 0, name: str = "first frame"
) -> None:
    """Raise `FirstFrameError` where Blender cannot read the file ``path``, else the data block ``image``, of a sequence
    at ``frame``; ``name``: what to call the picture.

    A look before any work begins; nothing of the open file changes.
    """
    if path:
        bytes_of_picture(path, name)
        _check_file(path, f"The {name} {path}")
    elif image:
        named = f"The image {image!r}"
        found = image_named(image)
        if found is not None and found.source == "SEQUENCE":
            return _check_file(file_of_frame(found, frame), named)
        found, named, _ = opened({"image": image})
        if not all(found.size) and size_of_exr(found) is None:
            raise unreadable(named)
    return None


def _check_file(path: str | os.PathLike[str], name: str) -> None:
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
    if image.is_float:  # linear light in the file's working space, premultiplied
        alpha = np.where(pixels[..., 3:] > 0.0, pixels[..., 3:], 1.0)
        pixels[..., :3] = _srgb(rec709_from_working(pixels[..., :3] / alpha))
    elif image.colorspace_settings.is_data:  # a render takes such bytes for linear light
        pixels[..., :3] = _srgb(rec709_from_working(pixels[..., :3]))
    elif not is_srgb(image):
        pixels[..., :3] = _shown_plain(pixels[..., :3], image.colorspace_settings.name)
    return np.clip(pixels, 0.0, 1.0)


def _shown_plain(colours: np.ndarray, space: str) -> np.ndarray:
    """``colours`` [H,W,3] f32, top-down, of 8-bit pictures in the colour space ``space``, as Blender's own conversion
    shows them by the plain view.
    """
    height, width = colours.shape[:2]
    scene = bpy.data.scenes.new("Colours")
    images = [bpy.data.images.new("Colours", width, height, alpha=True)]
    try:
        images[0].colorspace_settings.name = space
        images[0].pixels.foreach_set(np.dstack((colours, np.ones_like(colours[..., :1])))[::-1].reshape(-1))
        show_plain(scene)
        compat.set_image_output(scene)
        scene.render.image_settings.color_depth = "16"
        with tempfile.TemporaryDirectory(prefix="das-") as folder:
            file = os.path.join(folder, "colours.png")
            images[0].save_render(file, scene=scene)
            images.append(bpy.data.images.load(file, check_existing=False))
            images[1].colorspace_settings.is_data = True
            shown = np.empty(width * height * images[1].channels, np.float32)
            images[1].pixels.foreach_get(shown)
        return shown.reshape(height, width, -1)[::-1, :, :3]
    finally:
        for image in images:
            bpy.data.images.remove(image)
        bpy.data.scenes.remove(scene)


def _is_scene_linear(image) -> bool:
    """Whether its file holds linear light, or numbers (Non-Color), which a render takes for that."""
    space = image.colorspace_settings
    is_linear = image.file_format in _LINEAR_FORMATS or space.name.startswith(_LINEAR_SPACES)
    return space.is_data or (image.is_float and is_linear)


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light → sRGB values (IEC 61966-2-1)."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def fit(rgb: np.ndarray, size: tuple[int, int], crop: Sequence[float], *, leaves_rest: bool = False) -> np.ndarray:
    """``rgb`` [H,W,C] u8, of ``size`` (width, height); ``crop`` (left, top, right, bottom) of the shot in it, pixels.

    ``leaves_rest``: what lies beyond the shot has alpha 0, or the picture no alpha where that is nothing.
    """
    height, width = rgb.shape[:2]
    left, top = (int(round(side)) for side in crop[:2])
    right, bottom = max(int(round(crop[2])), left + 1), max(int(round(crop[3])), top + 1)
    inner = (right - left, bottom - top)
    if abs(width * size[1] / (height * size[0]) - 1.0) < SAME_SHAPE and (width, height) != inner:
        return resize_lanczos(rgb, (0, 0, width, height), size)
    scale = min(width / inner[0], height / inner[1])
    cut_x, cut_y = (width - inner[0] * scale) / 2.0, (height - inner[1] * scale) / 2.0
    placed = resize_lanczos(rgb, (cut_x, cut_y, width - cut_x, height - cut_y), inner)
    beyond = ((top, size[1] - bottom), (left, size[0] - right))
    picture = np.pad(placed, (*beyond, (0, 0)), mode="edge")
    if not leaves_rest or inner == tuple(size):
        return picture
    alpha = placed[..., 3] if placed.shape[2] == 4 else np.full(placed.shape[:2], 255, np.uint8)
    return np.dstack([picture[..., :3], np.pad(alpha, beyond)])
