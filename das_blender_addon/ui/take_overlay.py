# SPDX-License-Identifier: GPL-3.0-or-later
"""*Show Take*: the chosen take over the camera's view in the viewport, at the scene's current frame.

While a job runs its previews go first, where *Follow Job* is on.  Drawn by a handler from textures of its own:
no image of the file is touched, and scrubbing plays it in step.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path

import bpy

from .. import compat
from .frame_reader import FrameReader
from .job_overlay import fitted, followed, pixels_of, tag_viewports, write_lines
from .take_shelf import chosen_take

LOGGER = logging.getLogger(__name__)
CACHE_BYTES = 256 << 20
"""Of textures that stay on the graphics card: frames that were shown last."""

_textures: OrderedDict[tuple[Path, int], tuple[object, int]] = OrderedDict()
_handle = None
_reader = FrameReader()
WAIT_S = 0.02
"""Between two looks whether a frame is read."""


def camera_rectangle(context) -> tuple[float, float, float, float] | None:
    """(left, bottom, right, top) of the camera's picture in the region, pixels; None where it is not seen whole."""
    from bpy_extras.view3d_utils import location_3d_to_region_2d

    scene, region, view = context.scene, context.region, context.region_data
    if scene.camera is None or view is None or view.view_perspective != "CAMERA":
        return None
    corners = scene.camera.data.view_frame(scene=scene)
    matrix = scene.camera.matrix_world.normalized()
    places = [location_3d_to_region_2d(region, view, matrix @ corner) for corner in corners]
    if any(place is None for place in places):
        return None
    across, up = [place[0] for place in places], [place[1] for place in places]
    return min(across), min(up), max(across), max(up)


def shown_frame(take, frame: int) -> Path | None:
    """The picture of the Blender frame ``frame`` of ``take``, None where it has none."""
    return take.frames[take.frame_numbers.index(frame)] if frame in take.frame_numbers else None


def part_after_wipe(rectangle: tuple[float, float, float, float], wipe: float):
    """(corners, texture places) of what is drawn of ``rectangle`` right of the share ``wipe`` of its width."""
    left, bottom, right, top = rectangle
    cut = left + wipe * (right - left)
    corners = ((cut, bottom), (right, bottom), (right, top), (cut, top))
    return corners, ((wipe, 0.0), (1.0, 0.0), (1.0, 1.0), (wipe, 1.0))


def draw() -> None:
    """Draw into the viewport at hand; never raises, or it would not be drawn."""
    context = bpy.context
    shown = context.window_manager.das
    if not shown.show_take or context.scene.render.engine != compat.ENGINE:
        return
    try:
        rectangle = camera_rectangle(context)
        if rectangle is None:
            return
        preview, lines = followed(shown)
        if preview is not None:
            texture = texture_of(preview)
            place = fitted(rectangle, (texture.width, texture.height))
            draw_texture(texture, place, shown.take_opacity, shown.take_wipe)
        else:
            entry = chosen_take(context)
            frame = context.scene.frame_current
            path = None if entry is None else shown_frame(entry.take, frame)
            path = path if path is not None and path.is_file() else None  # deleted meanwhile
            texture = None if path is None else _texture_soon(path, shown_frame(entry.take, frame + 1))
            if texture is not None:
                draw_texture(texture, rectangle, shown.take_opacity, shown.take_wipe)
        if lines:
            write_lines(rectangle, lines)
    except Exception:
        LOGGER.exception("the take cannot be drawn over the viewport")


def draw_texture(texture, rectangle, opacity: float = 1.0, wipe: float = 0.0) -> None:
    """Draw ``texture`` into ``rectangle`` (left, bottom, right, top), pixels of the region, right of the share ``wipe``
    of it; inside of a draw handler only.
    """
    import gpu
    from gpu_extras.batch import batch_for_shader

    corners, places = part_after_wipe(rectangle, wipe)
    shader = gpu.shader.from_builtin("IMAGE_COLOR")
    batch = batch_for_shader(shader, "TRI_FAN", {"pos": corners, "texCoord": places})
    gpu.state.blend_set("ALPHA")
    shader.bind()
    shader.uniform_sampler("image", texture)
    shader.uniform_float("color", (1.0, 1.0, 1.0, opacity))
    batch.draw(shader)
    gpu.state.blend_set("NONE")


def _texture_soon(path: Path, following: Path | None):
    """The frame ``path`` on the graphics card; while a thread reads it, the one that was shown before, and None where
    there is none.  ``following`` is read ahead, for playback.
    """
    name = path, path.stat().st_mtime_ns
    if name not in _textures:
        pixels = _reader.take(name)
        if pixels is None:
            if not bpy.app.timers.is_registered(_wait):
                bpy.app.timers.register(_wait, first_interval=WAIT_S)
            return next(reversed(_textures.values()), (None,))[0]
        _kept(name, pixels)
    if following is not None and following.exists():
        ahead = following, following.stat().st_mtime_ns
        if ahead not in _textures:
            _reader.ask(ahead)
    return texture_of(path)


def _wait() -> float | None:
    """A frame is being read: the viewports are drawn once it is there."""
    if _reader.is_busy:
        return WAIT_S
    tag_viewports()
    return None


def texture_of(path: Path):
    """The frame ``path`` on the graphics card; one that has changed is read again."""
    name = path, path.stat().st_mtime_ns
    if name in _textures:
        _textures.move_to_end(name)
        return _textures[name][0]
    return _kept(name, pixels_of(path))


def _kept(name: tuple[Path, int], pixels):
    """A texture of ``pixels`` [H,W,4] f32, which is called ``name``."""
    import gpu

    height, width = pixels.shape[:2]
    buffer = gpu.types.Buffer("FLOAT", pixels.size, pixels.reshape(-1))
    texture = gpu.types.GPUTexture((width, height), format="RGBA16F", data=buffer)
    _textures[name] = texture, pixels.nbytes // 2
    while len(_textures) > 1 and sum(size for _, size in _textures.values()) > CACHE_BYTES:
        _textures.popitem(last=False)
    return texture


def register():
    """From now on it can be shown, where there is a window."""
    global _handle
    if not bpy.app.background:
        _handle = bpy.types.SpaceView3D.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL")


def unregister():
    """Undo `register`."""
    global _handle
    _textures.clear()
    _reader.close()
    if _handle is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_handle, "WINDOW")
        _handle = None
