# SPDX-License-Identifier: GPL-3.0-or-later
"""`Scene.das_room`, and its panel beside the 3D viewport: horizon, floor and walls of a picture without depth, whose
surfaces follow while the values are dragged.  In the picture itself they are dragged by `room_gizmos`.
"""

from __future__ import annotations

import textwrap

import bpy
from bpy.app.handlers import persistent
from bpy.props import (
    BoolProperty,
    CollectionProperty,
    FloatProperty,
    FloatVectorProperty,
    IntProperty,
    PointerProperty,
    StringProperty,
)

from ..errors import DasError
from ..footage.plane import WALL_DISTANCE, Room, room_of
from ..footage.plate import EYE_HEIGHT
from ..jobs.main_thread import is_scene_held
from ..staging.room import VALUES, change_room, words_of
from .words import register_classes, unregister_classes

DELAY_S, AGAIN_S = 0.05, 0.1
LINE = 38
"""Characters that have room in a line of the panel."""
_waiting: set[int] = set()
"""Scenes, by what they keep through undo, whose surfaces are to be made anew."""
_is_put = False
"""Whether several values are changed at once."""


def _changed(room, _context) -> None:
    if room.surface is None or _is_put:
        return
    if bpy.app.background:
        _rebuild(room.id_data)
    else:
        _wait(room.id_data)


def _wait(scene) -> None:
    """While a value is dragged there are many of them: the next one begins when the last one was shown."""
    _waiting.add(scene.session_uid)
    if not bpy.app.timers.is_registered(_later):
        bpy.app.timers.register(_later, first_interval=DELAY_S)


def _later() -> float | None:
    if is_scene_held():
        return AGAIN_S
    for scene in bpy.data.scenes:
        if scene.session_uid in _waiting and scene.das_room.surface is not None:
            _rebuild(scene)
    _waiting.clear()
    return None


def _rebuild(scene) -> None:
    room = scene.das_room
    try:
        change_room(scene)
        room.problem = ""
    except DasError as error:
        room.problem = error.message


def put_room(scene, room: Room) -> None:
    """Make the surfaces of ``scene`` anew for ``room``.  Raises as `staging.room.change_room`; nothing is changed then.
    """
    before = room_of(scene.das_room)
    _set_values(scene.das_room, room)
    try:
        change_room(scene)
    except DasError:
        _set_values(scene.das_room, before)
        raise
    scene.das_room.problem = ""


def _set_values(kept, room: Room) -> None:
    global _is_put
    _is_put = True
    try:
        for name in VALUES:
            setattr(kept, name, getattr(room, name))
    finally:
        _is_put = False


@persistent
def _follow_undo(*_) -> None:
    """An undo step may hold a value without the surfaces that were made of it a moment later."""
    for scene in bpy.data.scenes:
        room = scene.das_room
        if room.surface is not None and not room.problem and room.built != words_of(room):
            _changed(room, None)


def _distance(name: str, description: str, default: float = 0.0):
    return FloatProperty(
        name=name, description=f"{description}; 0 for none", default=default, min=0.0, subtype="DISTANCE",
        options=set(), update=_changed,
    )  # fmt: skip


class DAS_PG_room_thing(bpy.types.PropertyGroup):
    """A masked thing that stands in a room: ``name``, its object, its mask, and where its own origin was put."""

    shape: PointerProperty(type=bpy.types.Object, options={"HIDDEN"})
    mask: PointerProperty(type=bpy.types.Image, options={"HIDDEN"})
    origin: FloatVectorProperty(size=3, options={"HIDDEN"})
    num_vertices: IntProperty(options={"HIDDEN"})


class DAS_PG_room(bpy.types.PropertyGroup):
    """The room that a picture without depth is taken for, and what its surfaces are made from."""

    horizon: FloatProperty(
        name="Horizon",
        description="Its height in the picture, 0 at the top, 1 at the bottom",
        default=0.5,
        soft_min=0.0,
        soft_max=1.0,
        step=1,
        options=set(),
        update=_changed,
    )
    eye_height: FloatProperty(
        name="Eye Height",
        description="Height of the camera above the floor",
        default=EYE_HEIGHT,
        min=0.001,
        subtype="DISTANCE",
        options=set(),
        update=_changed,
    )
    wall: _distance("Wall", "Distance of the wall that faces the camera", WALL_DISTANCE)
    left: _distance("Left", "Distance of a wall on the left")
    right: _distance("Right", "Distance of a wall on the right")
    ceiling: _distance("Ceiling", "Height of a ceiling above the floor")
    show_handles: BoolProperty(
        name="Handles in the Picture",
        description="Horizon, floor and walls can be dragged in the view of the camera, where it stands at its first "
        "place",
        default=True,
        options=set(),
    )
    surface: PointerProperty(type=bpy.types.Object, options={"HIDDEN"})
    sky: PointerProperty(type=bpy.types.Object, options={"HIDDEN"})
    picture: PointerProperty(type=bpy.types.Image, options={"HIDDEN"})
    things: CollectionProperty(type=DAS_PG_room_thing, options={"HIDDEN"})
    lens: FloatProperty(options={"HIDDEN"})
    every: IntProperty(default=1, options={"HIDDEN"})
    pose: FloatVectorProperty(size=16, options={"HIDDEN"})
    num_vertices: IntProperty(options={"HIDDEN"})
    built: StringProperty(options={"HIDDEN"})
    problem: StringProperty(options={"HIDDEN", "SKIP_SAVE"})


class DAS_PT_room(bpy.types.Panel):
    """Beside the view of a picture that was imported without depth."""

    bl_label = "Room of the Picture"
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Footage"

    @classmethod
    def poll(cls, context):
        return context.scene.das_room.surface is not None

    def draw(self, context):
        layout, room = self.layout, context.scene.das_room
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in VALUES:
            layout.prop(room, name)
        layout.prop(room, "show_handles")
        column = layout.column(align=True)
        column.alert = True
        for line in textwrap.wrap(room.problem, LINE):
            column.label(text=line, translate=False)


CLASSES = (DAS_PG_room_thing, DAS_PG_room, DAS_PT_room)


def register():
    """Give every scene its `das_room`, and the viewport its panel."""
    register_classes(CLASSES)
    bpy.types.Scene.das_room = PointerProperty(type=DAS_PG_room)
    for handlers in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post):
        handlers.append(_follow_undo)


def unregister():
    """Undo `register`."""
    for handlers in (bpy.app.handlers.undo_post, bpy.app.handlers.redo_post):
        handlers.remove(_follow_undo)
    if bpy.app.timers.is_registered(_later):
        bpy.app.timers.unregister(_later)
    del bpy.types.Scene.das_room
    unregister_classes(CLASSES)
