# SPDX-License-Identifier: GPL-3.0-or-later
"""The operators ``das.*`` that are done at once, and the registering of all of them."""

from __future__ import annotations

import os
import random

import bpy

from .. import compat, local_server
from ..errors import DasError
from ..jobs.scripting import add_to_sequencer
from ..jobs.sources import first_frame_file, owner_of
from ..scene.appearance import recent_shading_digest
from ..scene.colours import keep_look, pixel_changes
from ..scene.edits import last_edit
from ..scene.layers import render_layer
from ..shot.open_pictures import holds_more, strokes_on
from ..shot.pictures import (
    first_frame_path,
    first_frame_state,
    painted_elsewhere,
    picture_as_of,
    read_record,
)
from ..shot.settings import MAX_SEED, resolve_settings
from ..shot.shot_folder import shot_folder
from ..take import recent
from . import job_operators
from .images import show_image
from .job_operators import redraw
from .words import register_classes, said, translated, unregister_classes

# ── The shot and its take ───────────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_randomise_seed(bpy.types.Operator):
    bl_idname = "das.randomise_seed"
    bl_label = "Randomise Seed"
    bl_description = "Take another seed by chance"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        context.scene.das.seed = random.SystemRandom().randint(0, MAX_SEED)
        return {"FINISHED"}


class DAS_OT_open_first_frame(bpy.types.Operator):
    bl_idname = "das.open_first_frame"
    bl_label = "Open First Frame"
    bl_description = (
        "Open the first frame in an Image Editor, to look at it or to paint over it (save the image when done)"
    )
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if not first_frame_file(context.scene).is_file():
            cls.poll_message_set(said("There is no first frame yet: use Render First Frame, or choose an image"))
            return False
        return True

    def execute(self, context):
        path = first_frame_file(context.scene)
        image = bpy.data.images.load(os.fspath(path), check_existing=True)
        if not holds_more(image):  # strokes that were not saved or that are packed stay
            image.reload()
        elif image.packed_file is not None:
            words = said("{image} is packed; takes get its file, which is another picture: unpack it", image=image.name)
            self.report({"WARNING"}, words)
        show_image(image)
        return {"FINISHED"}


class DAS_OT_keep_look(bpy.types.Operator):
    bl_idname = "das.keep_look"
    bl_label = "Keep Look"
    bl_description = (
        "Put the scene's look (view transform, look, exposure, gamma) into the first frame, and let the scene show "
        "the take exactly as made: Standard, without dithering"
    )
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if not pixel_changes(context.scene):
            cls.poll_message_set(said("The take is shown exactly as made already"))
            return False
        return True

    def execute(self, context):
        try:
            keep_look(context.scene)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        return {"FINISHED"}


class DAS_OT_add_to_sequencer(bpy.types.Operator):
    bl_idname = "das.add_to_sequencer"
    bl_label = "Add to Sequencer"
    bl_description = "Put the last take into the sequencer of the edit scene, with its seed and prompt on the strip"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if recent.last_take(context.scene) is None:
            cls.poll_message_set(
                said(
                    "There is no take of this scene in this session yet: use Render Take (one on disk comes back at "
                    "once)"
                )
            )
            return False
        return True

    def execute(self, context):
        try:
            strip = add_to_sequencer(recent.last_take(context.scene), context.scene)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        edit = context.scene.das.edit_scene or strip.id_data
        compat.show_in_sequencer(context, edit)
        self.report({"INFO"}, said("{strip} is in the sequencer of {scene}", strip=strip.name, scene=edit.name))
        redraw()
        return {"FINISHED"}


def first_frame_words(scene) -> str:
    """What a panel says of the first frame that is there, "" for nothing."""
    chosen = resolve_settings(scene)
    if not chosen.first_frame_image and strokes_on(first_frame_file(scene)) is not None:
        return "It has strokes that are not saved: a take gets them, and saving the image keeps them"
    if chosen.first_frame_path:
        return ""
    folder, frame = shot_folder(scene, chosen.cache_folder), chosen.frames[0]
    owner = owner_of(scene, folder)
    state = first_frame_state(folder, frame, owner=owner)
    if state == "user":
        return said("Painted for frame {frame}: Render First Frame keeps it under another name", frame=frame)
    if state == "rendered":
        shading = read_record(first_frame_path(folder, frame, owner=owner)).get("shading", "")
        if shading and shading != recent_shading_digest(scene, render_layer(scene)):
            return "Stale: materials, lights, world or settings changed; a take renders it anew"
        if last_edit(scene) > picture_as_of(first_frame_path(folder, frame, owner=owner)):
            return "May be stale: geometry or cameras were edited since; a take renders it anew where it does not fit"
    if state == "missing" and painted_elsewhere(folder, frame, owner=owner):
        return said("One was painted for another frame; frame {frame} gets its own", frame=frame)
    return ""


# ── The server on this machine ───────────────────────────────────────────────────────────────────────────────────────


class DAS_OT_start_local_server(bpy.types.Operator):
    bl_idname = "das.start_local_server"
    bl_label = "Start Local Server"
    bl_description = (
        "Start das-server on this machine; it is stopped together with Blender. "
        "One that another Blender has started is used instead"
    )
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        server = local_server.current()
        if server is not None and server.is_running:
            cls.poll_message_set(said("It is running at {address}", address=server.address))
            return False
        reason = local_server.can_start()
        if reason:
            cls.poll_message_set(translated(reason.rstrip(".")))
        return not reason

    def execute(self, context):
        try:
            server = local_server.start()
            if bpy.app.background:
                server.wait_until_listening()
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        if not bpy.app.background:
            bpy.app.timers.register(_watch_local_server, first_interval=0.5, persistent=True)
        if server.is_own:
            self.report({"INFO"}, said("The local server starts at {address}", address=server.address))
        else:
            words = said("The local server of another Blender at {address} is used", address=server.address)
            self.report({"INFO"}, words)
        return {"FINISHED"}


def _watch_local_server() -> float | None:
    """Look now and then whether the server still runs, so that the preferences show it and its log."""
    server = local_server.current()
    redraw()
    return 1.0 if server is not None and server.is_running else None


class DAS_OT_stop_local_server(bpy.types.Operator):
    bl_idname = "das.stop_local_server"
    bl_label = "Stop Local Server"
    bl_description = "Stop the das-server that was started from here"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        server = local_server.current()
        if server is None or not server.is_running:
            cls.poll_message_set(said("No local server was started from here"))
            return False
        if not server.is_own:
            cls.poll_message_set(said("Another Blender has started it, and stops it"))
            return False
        return True

    def execute(self, context):
        local_server.stop()
        return {"FINISHED"}


CLASSES = (
    *job_operators.CLASSES,
    DAS_OT_randomise_seed,
    DAS_OT_open_first_frame,
    DAS_OT_keep_look,
    DAS_OT_add_to_sequencer,
    DAS_OT_start_local_server,
    DAS_OT_stop_local_server,
)


def register():
    """Register the operators."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
