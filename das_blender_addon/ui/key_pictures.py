# SPDX-License-Identifier: GPL-3.0-or-later
"""The key pictures of a shot, in the panel: their list, and the buttons below it."""

from __future__ import annotations

from pathlib import Path

import bpy

<<<<<<< HEAD
from ..errors import DasError
=======
from ..errors import DasError, SettingsError, StorageError
from ..jobs import of_scene
from ..jobs.sources import owner_of
from ..scene.named import image_named
from ..shot.carried_pictures import put_in_place
from ..shot.scene_keys import KeyState, key_states
from ..shot.settings import resolve_settings
from ..shot.shot_folder import ensure_shot_id, shot_folder
>>>>>>> 1c6ea5b (A linked image and one of the file's own that have one name are told apart)
from .drawing import alert, say, thumbnail
from .key_buttons import BUTTONS
from .key_list import active_key, state_at, states_of
from .key_plot import plot_path
from .panel import RenderPanel
from .words import register_classes, said, unregister_classes

ORIGINS = {"rendered": "Rendered", "painted": "Painted", "carried": "Carried", "own": "Own Picture"}
STATES = {"missing": "missing", "fresh": "fresh", "stale": "stale", "unsaved": "unsaved strokes"}
ICONS = {"missing": "BLANK1", "fresh": "CHECKMARK", "stale": "FILE_REFRESH", "unsaved": "BRUSH_DATA"}
THUMBNAIL_SCALE, PLOT_SCALE = 6.0, 5.0


<<<<<<< HEAD
=======
def states_of(scene) -> list[KeyState]:
    """The first frame and the others.  Raises what `resolve_settings` raises."""
    settings = resolve_settings(scene)
    return key_states(scene, settings, owner_of(scene, shot_folder(scene, settings.cache_folder)))


def state_at(scene, frame: int) -> KeyState | None:
    """The key picture at ``frame``; None where there is none."""
    return next((state for state in states_of(scene) if state.frame == frame), None)


def active_key(scene):
    """The chosen line of the list; None where it is empty."""
    keys = scene.das.key_pictures
    return keys[scene.das.key_index] if 0 <= scene.das.key_index < len(keys) else None


def add_key(scene, frame: int) -> bool:
    """Let the list have a line for ``frame``, in its order; whether it was added.  The list counts from now on."""
    settings = scene.das
    settings.key_mode = "LIST"
    frames = [key.frame for key in settings.key_pictures]
    if frame in frames or frame == resolve_settings(scene).frames[0]:
        settings.key_index = frames.index(frame) if frame in frames else settings.key_index
        return False
    key = settings.key_pictures.add()
    key.frame = frame
    place = sum(other < frame for other in frames)
    settings.key_pictures.move(len(settings.key_pictures) - 1, place)
    settings.key_index = place
    return True


# ── Done at once ────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_add_key_picture(bpy.types.Operator):
    bl_idname = "das.add_key_picture"
    bl_label = "Add Here"
    bl_description = "Make the current frame a key picture"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        scene = context.scene
        try:
            frames = resolve_settings(scene).frames
            if scene.frame_current not in frames:
                words = said("The frame {frame} is not in the shot; go to one of its frames", frame=scene.frame_current)
                self.report({"ERROR"}, words)
                return {"CANCELLED"}
            if not add_key(scene, scene.frame_current):
                self.report({"INFO"}, said("Frame {frame} is a key picture already", frame=scene.frame_current))
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        redraw()
        return {"FINISHED"}


class DAS_OT_remove_key_picture(bpy.types.Operator):
    bl_idname = "das.remove_key_picture"
    bl_label = "Remove"
    bl_description = "Take the chosen key picture out of the list; its file stays"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        return active_key(context.scene) is not None

    def execute(self, context):
        settings = context.scene.das
        settings.key_pictures.remove(settings.key_index)
        settings.key_index = max(0, min(settings.key_index, len(settings.key_pictures) - 1))
        redraw()
        return {"FINISHED"}


class DAS_OT_open_key_picture(bpy.types.Operator):
    bl_idname = "das.open_key_picture"
    bl_label = "Open"
    bl_description = "Open the chosen key picture in an Image Editor, to look at it or to paint over it (then save it)"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        key = active_key(context.scene)
        try:
            state = None if key is None else state_at(context.scene, key.frame)
        except DasError:
            state = None
        if state is None or state.state == "missing":
            cls.poll_message_set(said("The chosen key picture is not there yet: render it, or choose a picture"))
            return False
        return True

    def execute(self, context):
        state = state_at(context.scene, active_key(context.scene).frame)
        if state.image:
            image = image_named(state.image)
        else:
            image = bpy.data.images.load(os.fspath(state.path), check_existing=True)
            if not image.is_dirty:  # strokes that were not saved yet stay
                image.reload()
        show_image(image)
        return {"FINISHED"}


class DAS_OT_key_picture_from_take(bpy.types.Operator):
    bl_idname = "das.key_picture_from_take"
    bl_label = "Use Frame of Take"
    bl_description = (
        "Make the current frame of the chosen take a key picture, to repair it by hand; what was painted there is kept "
        "under another name"
    )
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if chosen_take(context) is None:
            cls.poll_message_set(said("The shot has no take yet: use Render Take"))
            return False
        return True

    def execute(self, context):
        try:
            key_from_take(context.scene, chosen_take(context).take)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        redraw()
        return {"FINISHED"}


def key_from_take(scene, take) -> Path:
    """Make the current frame of ``take`` a key picture of ``scene``; what was painted there is put aside.  Returns its
    file.  Raises `SettingsError` where the take has no such frame, `StorageError`.
    """
    frame, settings = scene.frame_current, resolve_settings(scene)
    if frame not in take.frame_numbers or frame not in settings.frames:
        raise SettingsError(said("The take has no frame {frame}; go to one of its frames", frame=frame), field="take")
    ensure_shot_id(scene)
    folder = shot_folder(scene, settings.cache_folder)
    try:
        png = take.frames[take.frame_numbers.index(frame)].read_bytes()
    except OSError as error:
        reason = error.strerror
        raise StorageError(said("The frame of the take cannot be read: {reason}", reason=reason)) from error
    path = put_in_place(folder, frame, png, owner_of(scene, folder))
    add_key(scene, frame)
    return path


# ── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_render_key_pictures(JobOperator, bpy.types.Operator):
    bl_idname = "das.render_key_pictures"
    bl_label = "Render Missing"
    bl_description = "Render the key pictures that are missing or stale, with the engine of the first frame"
    chosen: bpy.props.BoolProperty(
        name="This One",
        description="Render the chosen one anew whatever is there; a painted one is kept under another name",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene) or server_question(context.scene)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        key = active_key(scene) if self.chosen else None
        if key is not None and (key.path or key.image is not None):
            raise SettingsError(
                f"The key picture at frame {key.frame} is a picture of your own: clear its path to render one.",
                field="key_pictures",
            )
        return of_scene.rendered_keys(scene, settings, again=() if key is None else (key.frame,))

    @classmethod
    def finished(cls, scene, pictures):
        """The list finds the files in their places."""

    @classmethod
    def words(cls, pictures):
        return said("{count} key pictures are there", count=len(pictures))


class DAS_OT_suggest_key_pictures(JobOperator, bpy.types.Operator):
    bl_idname = "das.suggest_key_pictures"
    bl_label = "Suggest"
    bl_description = (
        "Look at the whole shot and add the fewest key pictures such that in every frame hardly anything is seen by "
        "none of them"
    )

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene)

    def make_recipe(self, scene):
        return of_scene.suggested_keys(scene, resolve_settings(scene))

    @classmethod
    def finished(cls, scene, found):
        for frame in found.frames:
            add_key(scene, frame)
        keep_plot(found, scene.das.key_most_unseen / 100.0)

    @classmethod
    def words(cls, found):
        return said(
            "Key pictures at {frames}: of the worst frame they leave {after:.0%} unseen, before it was {before:.0%}",
            frames=", ".join(map(str, found.frames)),
            after=float(found.unseen_after.max()),
            before=float(found.unseen_before.max()),
        )


class DAS_OT_carry_key_picture(JobOperator, bpy.types.Operator):
    bl_idname = "das.carry_key_picture"
    bl_label = "Carry Here"
    bl_description = (
        "Make a key picture of the current frame by carrying the others to it, transparent where none of them shows "
        "it, and open it: paint the holes and save"
    )

    @classmethod
    def why_not(cls, context):
        return no_camera(context.scene) or server_question(context.scene)

    def make_recipe(self, scene):
        return of_scene.carried_key(scene, resolve_settings(scene), scene.frame_current)

    @classmethod
    def finished(cls, scene, path):
        add_key(scene, int(path.stem))
        if not bpy.app.background:
            image = bpy.data.images.load(os.fspath(path), check_existing=True)
            image.reload()
            show_image(image)

    @classmethod
    def words(cls, path):
        return said("Frame {frame} is carried: paint what is transparent, and save", frame=int(path.stem))


# ── What is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


>>>>>>> 1c6ea5b (A linked image and one of the file's own that have one name are told apart)
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
    try:
        first = states_of(scene)[0]
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
