# SPDX-License-Identifier: GPL-3.0-or-later
"""The buttons below the list of key pictures."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import bpy

from ..errors import DasError, SettingsError, StorageError
from ..jobs import of_scene
from ..jobs.as_made import check_own_camera
from ..jobs.sources import owner_of
from ..scene.named import image_named
from ..shot.carried_pictures import put_in_place
from ..shot.open_pictures import keep_strokes, read_again
from ..shot.settings import chosen_keys, resolve_settings
from ..shot.shot_folder import ensure_shot_id, shot_folder
from ..take.library import TakeEntry
from .images import show_image
from .job_operators import JobOperator, no_camera, redraw, server_question
from .key_list import active_key, add_key, automatic_keys, painted_picture, state_at, why_not_replace
from .key_plot import keep_plot
from .replacing import ReplacingJob, asked_to_replace
from .take_shelf import chosen_take
from .words import said, translated

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
            for frame in automatic_keys(context):
                add_key(scene, frame)
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


class FrameOfTake:
    """What the operators have in common that make a frame of the chosen take a key picture."""

    @classmethod
    def poll(cls, context):
        if chosen_take(context) is None:
            cls.poll_message_set(said("The shot has no take yet: use Render Take"))
            return False
        reason = why_not_replace(context.scene, context.scene.frame_current)
        if reason:
            cls.poll_message_set(translated(reason))
        return not reason

    def invoke(self, context, event):
        """Ask before a painted one is replaced, in a window."""
        painted = "" if bpy.app.background else painted_picture(context.scene, context.scene.frame_current)
        if not painted:
            return self.execute(context)
        return asked_to_replace(self, context, event, painted, said("Use Frame"))


class DAS_OT_key_picture_from_take(FrameOfTake, bpy.types.Operator):
    bl_idname = "das.key_picture_from_take"
    bl_label = "Use Frame of Take"
    bl_description = (
        "Make the current frame of the chosen take a key picture, to repair it by hand; what was painted there is kept "
        "under another name"
    )
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        scene = context.scene
        try:
            automatic = automatic_keys(context)
            key_from_take(scene, chosen_take(context))
            for frame in automatic:
                add_key(scene, frame)
            add_key(scene, scene.frame_current)  # the chosen line
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        redraw()
        return {"FINISHED"}


def key_from_take(scene, entry: TakeEntry) -> Path:
    """Make the current frame of the take ``entry`` a key picture of ``scene``; what was painted there is put aside.
    Returns its file.  Raises `SettingsError` where the take has no such frame, or another camera has seen it,
    `StorageError`.
    """
    take, frame, settings = entry.take, scene.frame_current, resolve_settings(scene)
    if frame not in take.frame_numbers or frame not in settings.frames:
        raise SettingsError(said("The take has no frame {frame}; go to one of its frames", frame=frame), field="take")
    check_own_camera(scene, entry, frame)
    ensure_shot_id(scene)
    folder = shot_folder(scene, settings.cache_folder)
    try:
        png = take.frames[take.frame_numbers.index(frame)].read_bytes()
    except OSError as error:
        reason = error.strerror
        raise StorageError(said("The frame of the take cannot be read: {reason}", reason=reason)) from error
    path = put_in_place(folder, frame, png, owner_of(scene, folder))
    read_again(path)
    add_key(scene, frame)
    return path


# ── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_render_key_pictures(ReplacingJob, JobOperator, bpy.types.Operator):
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

    def replaced_picture(self, scene):
        key = active_key(scene) if self.chosen else None
        return "" if key is None else painted_picture(scene, key.frame)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        key = active_key(scene) if self.chosen else None
        reason = "" if key is None else why_not_replace(scene, key.frame)
        if reason:
            raise SettingsError(f"{reason}.", field="key_pictures")
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


class DAS_OT_carry_key_picture(ReplacingJob, JobOperator, bpy.types.Operator):
    bl_idname = "das.carry_key_picture"
    bl_label = "Carry Here"
    bl_description = (
        "Make a key picture of the current frame by carrying the others to it, transparent where none of them shows "
        "it, and open it: paint the holes and save"
    )
    confirm_text = "Carry"

    @classmethod
    def why_not(cls, context):
        scene = context.scene
        return no_camera(scene) or why_not_replace(scene, scene.frame_current) or server_question(scene)

    def replaced_picture(self, scene):
        return painted_picture(scene, scene.frame_current)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        if settings.key_pictures is None:
            others = chosen_keys(automatic_keys(bpy.context), scene.das, settings.frames)
            settings = replace(settings, key_pictures=others)
        return of_scene.carried_key(scene, settings, scene.frame_current)

    @classmethod
    def finished(cls, scene, path):
        for frame in automatic_keys(bpy.context) if bpy.context.scene == scene else ():
            add_key(scene, frame)
        add_key(scene, int(path.stem))
        keep_strokes(path)  # what was painted while it was carried
        read_again(path)
        if not bpy.app.background:
            show_image(bpy.data.images.load(os.fspath(path), check_existing=True))

    @classmethod
    def words(cls, path):
        return said("Frame {frame} is carried: paint what is transparent, and save", frame=int(path.stem))


BUTTONS = (
    DAS_OT_add_key_picture,
    DAS_OT_remove_key_picture,
    DAS_OT_open_key_picture,
    DAS_OT_key_picture_from_take,
    DAS_OT_render_key_pictures,
    DAS_OT_suggest_key_pictures,
    DAS_OT_carry_key_picture,
)
