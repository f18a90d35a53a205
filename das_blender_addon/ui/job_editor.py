# SPDX-License-Identifier: GPL-3.0-or-later
"""*Follow Job Here*: an Image Editor of the user's choice shows the running job, as large as it fits, with stage, step,
time left and queue; its own image is there again when nothing runs.

Drawn over the editor by a handler: neither its image nor any other datablock is touched.
"""

from __future__ import annotations

import logging

import bpy
from bpy.app.handlers import persistent

from .. import compat
from .job_overlay import also_shown, fitted, followed, write_lines
from .take_overlay import draw_texture, texture_of
from .words import register_classes, said, unregister_classes

LOGGER = logging.getLogger(__name__)
BACKDROP = (0.05, 0.05, 0.05, 1.0)
EDITOR = "IMAGE_EDITOR"

_chosen: set[int] = set()
"""Areas (`as_pointer`) that follow."""
_handle = None


def follows(area) -> bool:
    """Whether the user has chosen the Image Editor ``area``, and it still is one."""
    return area is not None and area.type == EDITOR and area.as_pointer() in _chosen


def choose(area, is_chosen: bool) -> None:
    """Let the Image Editor ``area`` follow jobs, or no more."""
    if is_chosen:
        _chosen.add(area.as_pointer())
    else:
        _chosen.discard(area.as_pointer())


def is_followed() -> bool:
    """Whether any Image Editor follows."""
    return bool(_chosen)


def draw() -> None:
    """Draw into the Image Editor at hand; never raises, or it would not be drawn."""
    context = bpy.context
    if not follows(context.area):
        return
    try:
        picture, lines = followed(context.window_manager.das, always=True)
        if not lines:
            return
        region = (0.0, 0.0, float(context.region.width), float(context.region.height))
        _fill(region)
        if picture is not None:
            texture = texture_of(picture)
            draw_texture(texture, fitted(region, (texture.width, texture.height)))
        write_lines(region, lines)
    except Exception:
        LOGGER.exception("the job cannot be drawn in the Image Editor")


def _fill(rectangle: tuple[float, float, float, float]) -> None:
    import gpu
    from gpu_extras.batch import batch_for_shader

    left, bottom, right, top = rectangle
    corners = ((left, bottom), (right, bottom), (right, top), (left, top))
    shader = gpu.shader.from_builtin("UNIFORM_COLOR")
    batch = batch_for_shader(shader, "TRI_FAN", {"pos": corners})
    shader.bind()
    shader.uniform_float("color", BACKDROP)
    batch.draw(shader)


class DAS_OT_follow_job_here(bpy.types.Operator):
    bl_idname = "das.follow_job_here"
    bl_label = "Follow Job Here"
    bl_description = (
        "Let this Image Editor show the running job, as large as it fits, with its stage, step, time left and queue; "
        "its own image is there again when the job is over"
    )
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if context.area is None or context.area.ui_type != EDITOR:
            cls.poll_message_set(said("Only an Image Editor can follow a job"))
            return False
        return True

    def execute(self, context):
        choose(context.area, not follows(context.area))
        context.area.tag_redraw()
        return {"FINISHED"}


def draw_entry(menu, context) -> None:
    """The entry in an Image Editor's menu *View*, with a tick where it follows."""
    if context.scene.render.engine == compat.ENGINE and context.area.ui_type == EDITOR:
        icon = "CHECKBOX_HLT" if follows(context.area) else "CHECKBOX_DEHLT"
        menu.layout.separator()
        menu.layout.operator("das.follow_job_here", icon=icon)


@persistent
def _forget(*_) -> None:
    """Another file is opened: its editors are others."""
    _chosen.clear()


CLASSES = (DAS_OT_follow_job_here,)


def register():
    """Register the button; where there is a window, from now on it is drawn."""
    global _handle
    register_classes(CLASSES)
    bpy.types.IMAGE_MT_view.append(draw_entry)
    bpy.app.handlers.load_post.append(_forget)
    also_shown.append(is_followed)
    if not bpy.app.background:
        _handle = bpy.types.SpaceImageEditor.draw_handler_add(draw, (), "WINDOW", "POST_PIXEL")


def unregister():
    """Undo `register`."""
    global _handle
    if _handle is not None:
        bpy.types.SpaceImageEditor.draw_handler_remove(_handle, "WINDOW")
        _handle = None
    _forget()
    also_shown.remove(is_followed)
    bpy.app.handlers.load_post.remove(_forget)
    bpy.types.IMAGE_MT_view.remove(draw_entry)
    unregister_classes(CLASSES)
