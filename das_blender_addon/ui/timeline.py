# SPDX-License-Identifier: GPL-3.0-or-later
"""The key pictures in the timeline: a small diamond at each of their frames, at the lower edge."""

from __future__ import annotations

import logging

import bpy

from .. import compat
from ..errors import DasError
from ..shot.settings import resolve_settings

LOGGER = logging.getLogger(__name__)
COLOUR = (0.96, 0.63, 0.24, 1.0)
RADIUS_PX, ABOVE_EDGE_PX = 5.0, 9.0

_handle = None


def key_frames(scene) -> list[int]:
    """The frames that are marked: those of the list, and the first frame."""
    try:
        settings = resolve_settings(scene)
    except DasError:
        return []
    return [settings.frames[0], *(choice.frame for choice in settings.key_pictures or ())]


def diamonds(places: list[float], scale: float) -> tuple[list[tuple[float, float]], list[tuple[int, int, int]]]:
    """(points in pixels of the region, triangles) of a diamond at each of ``places`` (pixels from the left)."""
    radius, middle = RADIUS_PX * scale, ABOVE_EDGE_PX * scale
    points, triangles = [], []
    for place in places:
        first = len(points)
        points += [(place - radius, middle), (place, middle + radius)]
        points += [(place + radius, middle), (place, middle - radius)]
        triangles += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    return points, triangles


def draw() -> None:
    """Draw them into the region at hand; never raises, or the editor would not be drawn."""
    context = bpy.context
    if context.scene.render.engine != compat.ENGINE:
        return
    try:
        import gpu
        from gpu_extras.batch import batch_for_shader

        view = context.region.view2d
        places = [view.view_to_region(frame, 0.0, clip=False)[0] for frame in key_frames(context.scene)]
        points, triangles = diamonds(places, context.preferences.system.ui_scale)
        shader = gpu.shader.from_builtin("UNIFORM_COLOR")
        batch = batch_for_shader(shader, "TRIS", {"pos": points}, indices=triangles)
        shader.bind()
        shader.uniform_float("color", COLOUR)
        batch.draw(shader)
    except Exception:
        LOGGER.exception("the key pictures cannot be drawn into the timeline")


def register():
    """From now on they are drawn, where there is a window."""
    global _handle
    if not bpy.app.background:
        _handle = bpy.types.SpaceDopeSheetEditor.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL")


def unregister():
    """Undo `register`."""
    global _handle
    if _handle is not None:
        bpy.types.SpaceDopeSheetEditor.draw_handler_remove(_handle, "WINDOW")
        _handle = None
