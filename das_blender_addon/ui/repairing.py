# SPDX-License-Identifier: GPL-3.0-or-later
"""*Repair Frame*: a frame of a take becomes a key picture, to be painted."""

from __future__ import annotations

import os

import bpy

from ..errors import DasError
from .images import show_image
from .job_operators import redraw
from .key_buttons import FrameOfTake, key_from_take
from .key_list import add_key, keys_of_take
from .take_shelf import chosen_take
from .words import register_classes, said, unregister_classes


class DAS_OT_repair_frame(FrameOfTake, bpy.types.Operator):
    bl_idname = "das.repair_frame"
    bl_label = "Repair Frame"
    bl_description = (
        "Make the current frame of the chosen take a key picture and open it: paint what is wrong, save, and render "
        "the take again; the take's other key pictures stay"
    )
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context):
        scene, entry = context.scene, chosen_take(context)
        counted = scene.das.key_mode == "LIST"
        try:
            path = key_from_take(scene, entry)
            keep_keys(scene, entry, counted)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        show_image(bpy.data.images.load(os.fspath(path), check_existing=True))
        redraw()
        self.report({"INFO"}, said("Paint the frame, save the image, and use Render Take"))
        return {"FINISHED"}


def keep_keys(scene, entry, counted: bool) -> None:
    """Let the list have the key pictures that the take ``entry`` was made of, where the shot has their frames.

    ``counted``: the list counted before; else what was left in it does not come back to life.
    """
    settings, now, made_of = scene.das, scene.frame_current, keys_of_take(scene, entry)
    if not counted:
        for place, key in reversed(list(enumerate(settings.key_pictures))):
            if key.frame not in (*made_of, now):
                settings.key_pictures.remove(place)
    for frame in made_of:
        if frame != now:
            add_key(scene, frame)
    places = [key.frame for key in settings.key_pictures]
    settings.key_index = places.index(now) if now in places else 0


CLASSES = (DAS_OT_repair_frame,)


def register():
    """Register the button."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
