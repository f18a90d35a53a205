# SPDX-License-Identifier: GPL-3.0-or-later
"""The key pictures of a shot, in the panel: their list, and the buttons below it."""

from __future__ import annotations

from pathlib import Path

import bpy

from ..errors import DasError
from .drawing import alert, say, thumbnail
from .key_buttons import BUTTONS
from .key_list import active_key, state_at, states_of
from .key_plot import plot_path
from .panel import RenderPanel
from .words import register_classes, said, unregister_classes

ORIGINS = {"rendered": "Rendered", "painted": "Painted", "carried": "Carried", "own": "Own Picture"}
STATES = {
    "missing": "missing", "fresh": "fresh", "stale": "stale", "edited": "edited since", "unsaved": "unsaved strokes"
}  # fmt: skip
ICONS = {
    "missing": "BLANK1", "fresh": "CHECKMARK", "stale": "FILE_REFRESH", "edited": "QUESTION", "unsaved": "BRUSH_DATA"
}  # fmt: skip
THUMBNAIL_SCALE, PLOT_SCALE = 6.0, 5.0


class DAS_UL_key_pictures(bpy.types.UIList):
    """One line for each key picture besides the first frame."""

    def draw_item(self, context, layout, _data, item, _icon, _active, _property, _index=0):
        row = layout.row(align=True)
        row.prop(item, "frame", text="", emboss=False)
        draw_state(row, context.scene, item.frame)


def draw_state(row, scene, frame: int) -> None:
    """Thumbnail, origin and state of the key picture at ``frame``."""
    try:
        state = state_at(scene, frame)
    except DasError:
        state = None
    if state is None:
        row.label(text=said("not in the shot"), icon="ERROR")
        return
    icon = thumbnail(state.path if state.path != Path() else None)
    if icon:
        row.label(text="", icon_value=icon)
    row.label(text="" if state.state == "missing" else said(ORIGINS[state.origin]))
    row.label(text=said(STATES[state.state]), icon=ICONS[state.state])


class DAS_PT_key_pictures(RenderPanel, bpy.types.Panel):
    """The pictures that the frames between are made from."""

    bl_label = "Key Pictures"
    bl_order = 2
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout, scene = self.layout, context.scene
        settings = scene.das
        row = layout.row()
        row.use_property_split, row.use_property_decorate = True, False
        row.prop(settings, "key_mode", text="How Many")
        if settings.key_mode == "AUTO":
            say(layout, "As many as are needed, if the model reads them; Suggest and Add Here make a list", "INFO")
        elif settings.key_mode == "LIST":
            _draw_list(layout, scene, settings)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.operator("das.add_key_picture", icon="ADD")
        row.operator("das.suggest_key_pictures", icon="LIGHT")
        row = column.row(align=True)
        row.operator("das.carry_key_picture", icon="MOD_UVPROJECT")
        row.operator("das.key_picture_from_take", icon="RENDER_STILL")
        plot = thumbnail(plot_path())
        if plot is not None and settings.key_mode == "LIST":
            layout.template_icon(icon_value=plot, scale=PLOT_SCALE)
            say(layout, "Share of each frame that no key picture shows: before in grey, now in orange", "NONE")


def _draw_list(layout, scene, settings) -> None:
    states = []
    try:
        states = states_of(scene)
        first = states[0]
    except DasError as error:
        alert(layout, error.message)
    else:
        row = layout.row(align=True)
        row.label(text=said("{frame}, first frame", frame=first.frame))
        draw_state(row, scene, first.frame)
    row = layout.row()
    row.template_list(
        "DAS_UL_key_pictures", "", settings, "key_pictures", settings, "key_index", rows=3, maxrows=8
    )
    column = row.column(align=True)
    column.operator("das.remove_key_picture", text="", icon="REMOVE")
    column.operator("das.open_key_picture", text="", icon="BRUSH_DATA")
    key = active_key(scene)
    if key is not None:
        column = layout.column()
        column.use_property_split, column.use_property_decorate = True, False
        column.prop(key, "path", text="Replace By")
        if not key.path:
            column.template_ID(key, "image", open="image.open", text="In This File")
    row = layout.row(align=True)
    row.operator("das.render_key_pictures", icon="RENDER_STILL")
    row.operator("das.render_key_pictures", text="This One", icon="FILE_REFRESH").chosen = True
    if any(state.state == "edited" for state in states):
        say(layout, "Edited since: may be stale. A take, or Render, renders those anew that no longer fit", "QUESTION")
    column = layout.column()
    column.use_property_split, column.use_property_decorate = True, False
    column.prop(settings, "key_most_unseen")


CLASSES = (
    *BUTTONS,
    DAS_UL_key_pictures,
    DAS_PT_key_pictures,
)


def register():
    """Register list, buttons and panel."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
