# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of the user's own as an image data block with pixels.

Blender gives no pixels of two kinds that it shows: of the layers of an OpenEXR file, which only its compositor reads,
and of a sequence, whose picture depends on the frame.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import bpy

from .. import compat
from ..errors import FirstFrameError
from ..scene.named import image_named, render_scene
from .scratch import Scratch

_EXR = b"\x76\x2f\x31\x01"
_HEAD_BYTES = 1 << 20
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")


def unreadable(name: str) -> FirstFrameError:
    """What is raised of a picture that Blender cannot read; ``name`` begins it."""
    return FirstFrameError(f"{name} cannot be read as a picture; choose another.")


def opened(request: dict):
    """(data block, what to call it, what was chosen of it in sentences) of ``request["image"]``, a name, else of the
    file ``["path"]``; of a sequence the picture that Blender shows at ``["frame"]``.

    Raises `FirstFrameError`.
    """
    if request["image"]:
        image = image_named(request["image"])
        if image is None:
            raise FirstFrameError(f"There is no image {request['image']!r} in the file; choose another.")
        name = f"The image {request['image']!r}"
        if image.source != "SEQUENCE":
            return image, name, []
        path = file_of_frame(image, request["frame"])
        words = [f"{name} is a sequence; {path.name} of it was taken, which it shows at frame {request['frame']}."]
        single = _loaded(path, name)
        single.colorspace_settings.name, single.alpha_mode = image.colorspace_settings.name, image.alpha_mode
        return single, name, words
    name = f"The {request.get('name', 'first frame')} {request['path']}"
    return _loaded(request["path"], name), name, []


def _loaded(path: str | os.PathLike[str], name: str):
    try:
        return bpy.data.images.load(os.fspath(path), check_existing=False)
    except RuntimeError as error:
        raise unreadable(name) from error


def file_of_frame(image, frame: int) -> Path:
    """The file that the sequence ``image`` shows at ``frame``: the one with its number.  Raises `FirstFrameError`."""
    first = Path(bpy.path.abspath(image.filepath, library=image.library))
    parts = _NUMBERED.fullmatch(first.stem)
    number = f"{frame:0{len(parts[2])}d}" if parts else ""
    path = first.with_name(f"{parts[1]}{number}{parts[3]}{first.suffix}") if parts else first
    if not path.is_file():
        raise FirstFrameError(
            f"The image {image.name!r} is a sequence and has no picture of frame {frame}, {path}; choose another."
        )
    return path


def size_of_exr(image) -> tuple[int, int] | None:
    """`size_of_exr_file` of a data block, packed or not."""
    if image.packed_file is not None:
        return _size_or_none(image.packed_file.data[:_HEAD_BYTES])
    return size_of_exr_file(bpy.path.abspath(image.filepath, library=image.library))


def size_of_exr_file(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """(width, height) of an OpenEXR file, as its head says; None for what is none."""
    try:
        with open(path, "rb") as file:
            return _size_or_none(file.read(_HEAD_BYTES))
    except OSError:
        return None


def _size_or_none(head: bytes) -> tuple[int, int] | None:
    try:
        return _size_in(head) if head[:4] == _EXR else None
    except (ValueError, struct.error, IndexError):  # cut off
        return None


def _size_in(head: bytes) -> tuple[int, int] | None:
    place = 8
    while head[place]:
        end = head.index(0, place)
        name, place = head[place:end], end + 1
        end = head.index(0, place)
        (size,) = struct.unpack_from("<I", head, end + 1)
        place = end + 5
        if name == b"displayWindow":
            left, top, right, bottom = struct.unpack_from("<4i", head, place)
            return right - left + 1, bottom - top + 1
        place += size
    return None


def first_layer(image, name: str, size: tuple[int, int]):
    """(data block, sentence) of the first RGBA pass, *Combined* of what Blender writes, of the first layer of a
    multilayer OpenEXR ``image`` of ``size`` (width, height); ``name`` begins what is said.  Raises `FirstFrameError`.
    """
    scene, folder = bpy.data.scenes.new("Layer"), Scratch("child")
    tree, output = compat.new_compositing(scene)
    try:
        node = tree.nodes.new("CompositorNodeImage")
        node.image = image
        layer = next((socket for socket in node.outputs if socket.enabled and socket.type == "RGBA"), None)
        if layer is None or image.type != "MULTILAYER":
            raise unreadable(name)
        words = f"{name} has layers; {layer.name} of {node.layer} was taken."
        tree.links.new(layer, output)
        render = scene.render
        render.engine, render.use_sequencer = "BLENDER_WORKBENCH", False
        render.resolution_x, render.resolution_y = size
        render.resolution_percentage = 100
        compat.set_image_output(scene, "OPEN_EXR")
        render.image_settings.color_mode, render.image_settings.color_depth = "RGBA", "32"
        render.use_file_extension = False
        render.filepath = os.path.join(folder.name, "layer.exr")
        render_scene(scene, write_still=True)
        single = _loaded(render.filepath, name)
        single.pixels[0]  # read while the file is there
        return single, words
    finally:
        bpy.data.scenes.remove(scene)
        folder.cleanup()
