# SPDX-License-Identifier: GPL-3.0-or-later
"""Handles in the camera's view of a picture without depth: horizon, floor, walls and ceiling are dragged in the picture
itself, and the room's surfaces are made anew when the button is let go.
"""

from __future__ import annotations

import bpy
import numpy as np
from bpy.props import EnumProperty, FloatVectorProperty
from bpy_extras.view3d_utils import location_3d_to_region_2d, region_2d_to_vector_3d
from mathutils import Matrix, Vector

from ..errors import DasError
from ..footage.plane import Room, room_of
from ..footage.plate import focal_px
from ..footage.room_grips import NAMES, Grips
from .room_handles import put_room
from .words import CONTEXT, register_classes, unregister_classes

LABELS = {
    "horizon": "Horizon",
    "eye_height": "Floor",
    "wall": "Wall",
    "left": "Left Wall",
    "right": "Right Wall",
    "ceiling": "Ceiling",
}
AT_PLACE = 1e-4
"""How far the camera may be from where the picture was taken, for its handles to lie on what it shows."""
GRIP_PX, REACH_PX, LINE_PX = 6.0, 11.0, 1.6
"""Radius of a handle, how near the mouse grasps it, and how wide a line is: pixels before the interface's scale."""
COLOUR, GRASPED, ABSENT = (1.0, 0.72, 0.2), (1.0, 1.0, 1.0), 0.45
"""Of handles and lines; under the mouse; how opaque those of walls are that are not there."""

_dragged: dict[int, Room] = {}
"""Scene, by what it keeps through undo → its room as it is dragged."""


class RoomView:
    """The room of ``scene`` in the ``region`` of a 3D viewport; ``view``: its `RegionView3D`."""

    def __init__(self, scene, region, view):
        kept = scene.das_room
        self._region, self._view = region, view
        self._pose = Matrix(np.array(kept.pose, dtype=np.float64).reshape(4, 4).tolist())
        self._focal = focal_px(kept.lens, tuple(kept.picture.size)) / np.array(kept.picture.size, dtype=np.float64)
        self.grips = Grips(_dragged.get(scene.session_uid) or room_of(kept), kept.lens, tuple(kept.picture.size))

    def pixel(self, place: tuple[float, float]) -> Vector | None:
        """Where the region shows ``place`` (u, v) of the picture, or None."""
        u, v = place
        ray = Vector(((u - 0.5) / self._focal[0], (0.5 - v) / self._focal[1], -1.0))
        return location_3d_to_region_2d(self._region, self._view, self._pose @ ray)

    def place(self, pixel: tuple[float, float]) -> tuple[float, float] | None:
        """What ``pixel`` of the region shows of the picture (u, v), or None where that is behind the camera."""
        ray = self._pose.to_3x3().inverted() @ region_2d_to_vector_3d(self._region, self._view, pixel)
        if ray.z >= 0.0:
            return None
        return 0.5 - self._focal[0] * ray.x / ray.z, 0.5 + self._focal[1] * ray.y / ray.z


def is_shown(context) -> bool:
    """Whether the view of ``context`` is that of a room's camera, where the picture was taken."""
    scene, space = context.scene, context.space_data
    kept, camera = scene.das_room, scene.camera
    if kept.surface is None or not _has_picture(kept) or not kept.show_handles or camera is None:
        return False
    if space is None or space.type != "VIEW_3D" or space.region_3d.view_perspective != "CAMERA":
        return False
    pose = np.array(kept.pose).reshape(4, 4)
    is_there = np.allclose(np.array(camera.matrix_world), pose, atol=AT_PLACE) and camera.data.type == "PERSP"
    return is_there and space.camera == camera and kept.surface.mode == "OBJECT"


def _has_picture(kept) -> bool:
    return kept.picture is not None and min(kept.picture.size) > 0


class DAS_OT_drag_room(bpy.types.Operator):
    bl_idname = "das.drag_room"
    bl_label = "Drag Room"
    bl_description = "Move the horizon, the floor or a wall of the picture; out of the picture for no wall"
    bl_options = {"UNDO", "INTERNAL", "BLOCKING"}

    grip: EnumProperty(items=tuple((name, LABELS[name], "", number) for number, name in enumerate(NAMES)))
    to: FloatVectorProperty(name="Place", description="In the picture, 0 to 1 from its left and top", size=2)

    @classmethod
    def description(cls, _context, properties):
        return bpy.app.translations.pgettext_tip(LABELS[properties.grip], CONTEXT)

    @classmethod
    def poll(cls, context):
        return context.scene is not None and context.scene.das_room.surface is not None

    def execute(self, context):
        """Put the handle there."""
        scene, kept = context.scene, context.scene.das_room
        try:
            grips = Grips(room_of(kept), kept.lens, tuple(kept.picture.size)) if _has_picture(kept) else None
            put_room(scene, grips.dragged(self.grip, tuple(self.to)) if grips else room_of(kept))
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        return {"FINISHED"}

    def invoke(self, context, event):
        """Follow the mouse until its button is let go; Escape and the right button leave all as it was."""
        if not is_shown(context):
            return {"CANCELLED"}
        self._seen = RoomView(context.scene, context.region, context.region_data)
        grip, mouse = self._seen.grips.places()[self.grip], self._mouse(event)
        self.to, self._off = grip, np.zeros(2) if mouse is None else np.subtract(grip, mouse)
        self._is_moved = False
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context, event):
        """One event of the drag."""
        if event.type in ("ESC", "RIGHTMOUSE") and event.value == "PRESS":
            self._leave(context)
            return {"CANCELLED"}
        if event.type == "MOUSEMOVE":
            self._follow(context, event)
        elif (event.type, event.value) in (("LEFTMOUSE", "RELEASE"), ("RET", "PRESS")):
            self._leave(context)
            return self.execute(context) if self._is_moved else {"CANCELLED"}
        return {"RUNNING_MODAL"}

    def cancel(self, context):
        """Blender ends the drag, with its window or file."""
        self._leave(context)

    def _mouse(self, event):
        return self._seen.place((event.mouse_region_x, event.mouse_region_y))

    def _follow(self, context, event) -> None:
        mouse = self._mouse(event)
        if mouse is None:
            return
        self._is_moved, self.to = True, np.add(mouse, self._off)
        room = self._seen.grips.dragged(self.grip, tuple(self.to))
        _dragged[context.scene.session_uid] = room
        context.area.header_text_set(_words(self.grip, room, context.scene))
        context.area.tag_redraw()

    def _leave(self, context) -> None:
        _dragged.pop(context.scene.session_uid, None)
        if context.area is not None:
            context.area.header_text_set(None)
            context.area.tag_redraw()


def _words(name: str, room: Room, scene) -> str:
    label = bpy.app.translations.pgettext_iface(LABELS[name], CONTEXT)
    value = getattr(room, name)
    if name == "horizon":
        return f"{label}: {value:.3f}"
    if not value:
        return f"{label}: –"
    unit = scene.unit_settings
    return f"{label}: {bpy.utils.units.to_string(unit.system, 'LENGTH', value * unit.scale_length, precision=4)}"


class DAS_GT_room_grip(bpy.types.Gizmo):
    """A disc on one of the room's edges; the first of them draws the edges, too."""

    bl_idname = "DAS_GT_room_grip"
    __slots__ = ("draws_lines", "grip")

    def setup(self):
        """Made, not yet told which it is."""
        self.grip, self.draws_lines = "", False

    def draw(self, context):
        """In the region's pixels."""
        seen = RoomView(context.scene, context.region, context.region_data)
        if self.draws_lines:
            _draw_lines(seen)
        centre = seen.pixel(seen.grips.places()[self.grip])
        if centre is not None:
            is_there = self.grip == "horizon" or getattr(seen.grips.room, self.grip) > 0.0
            _draw_disc(centre, GRASPED if self.is_highlight or self.is_modal else COLOUR, is_there)

    def test_select(self, context, location):
        """0 where the mouse grasps it, else -1."""
        seen = RoomView(context.scene, context.region, context.region_data)
        centre = seen.pixel(seen.grips.places()[self.grip])
        reach = REACH_PX * context.preferences.system.ui_scale
        return 0 if centre is not None and (centre - Vector(location)).length <= reach else -1


class DAS_GGT_room(bpy.types.GizmoGroup):
    bl_idname = "DAS_GGT_room"
    bl_label = "Room of the Picture"
    bl_space_type = "VIEW_3D"
    bl_region_type = "WINDOW"
    bl_options = {"PERSISTENT", "SHOW_MODAL_ALL"}

    @classmethod
    def poll(cls, context):
        return is_shown(context)

    def setup(self, _context):
        """A handle for each value of the room."""
        for name in NAMES:
            grip = self.gizmos.new(DAS_GT_room_grip.bl_idname)
            grip.grip, grip.draws_lines, grip.use_draw_modal = name, name == NAMES[0], True
            grip.target_set_operator(DAS_OT_drag_room.bl_idname).grip = name


def _draw_lines(seen: RoomView) -> None:
    ends = [seen.pixel(tuple(place)) for line in seen.grips.lines() for place in line]
    pairs = [pair for pair in zip(ends[::2], ends[1::2], strict=True) if None not in pair]
    _draw("LINES", [point for pair in pairs for point in pair], (*COLOUR, 0.8))


def _draw_disc(centre: Vector, colour, is_there: bool) -> None:
    radius = GRIP_PX * bpy.context.preferences.system.ui_scale
    turns = np.linspace(0.0, 2.0 * np.pi, 25)
    for size, shade in ((1.25, (0.0, 0.0, 0.0)), (1.0, colour)):
        rim = [centre + size * radius * Vector((np.cos(turn), np.sin(turn))) for turn in turns]
        _draw("TRI_FAN", [centre, *rim], (*shade, 1.0 if is_there else ABSENT))


def _draw(kind: str, points: list[Vector], colour: tuple[float, ...]) -> None:
    import gpu
    from gpu_extras.batch import batch_for_shader

    is_line = kind == "LINES"
    shader = gpu.shader.from_builtin("POLYLINE_UNIFORM_COLOR" if is_line else "UNIFORM_COLOR")
    batch = batch_for_shader(shader, kind, {"pos": [(point.x, point.y, 0.0) for point in points]})
    gpu.state.blend_set("ALPHA")
    shader.bind()
    shader.uniform_float("color", colour)
    if is_line:
        shader.uniform_float("lineWidth", LINE_PX * bpy.context.preferences.system.ui_scale)
        shader.uniform_float("viewportSize", gpu.state.viewport_get()[2:])
    batch.draw(shader)
    gpu.state.blend_set("NONE")


CLASSES = (DAS_OT_drag_room, DAS_GT_room_grip, DAS_GGT_room)


def register():
    """Register the handles and what drags them."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    _dragged.clear()
    unregister_classes(CLASSES)
