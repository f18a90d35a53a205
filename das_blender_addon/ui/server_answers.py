# SPDX-License-Identifier: GPL-3.0-or-later
"""A file that chooses a server is asked about once: the two answers as buttons, and what saving does with them."""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from ..shot.server_consent import (
    USE_FILES,
    USE_MINE,
    answer,
    follow_file,
    forget_unsaved,
    own_server,
    question,
    remember_answer,
)
from ..shot.shot_folder import this_file
from .drawing import alert, say
from .job_operators import redraw
from .words import register_classes, said, unregister_classes


class _Answer:
    """Remembers an answer for the open file and the address that it holds."""

    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context):
        if not context.scene.das.server:
            cls.poll_message_set(said("This file chooses no server"))
            return False
        return True

    def execute(self, context):
        remember_answer(context.scene.das.server, self.said)
        redraw()
        return {"FINISHED"}


class DAS_OT_use_files_server(_Answer, bpy.types.Operator):
    bl_idname = "das.use_files_server"
    bl_label = "Use This File's Server"
    bl_description = "Send what is made of this file to the server that it chooses; remembered for file and server"
    said = USE_FILES


class DAS_OT_use_own_server(_Answer, bpy.types.Operator):
    bl_idname = "das.use_own_server"
    bl_label = "Use Mine"
    bl_description = "Ignore the server that this file chooses, and use your own; remembered for file and server"
    said = USE_MINE


def draw_question(layout, scene) -> bool:
    """Ask, where it was not answered yet; returns whether it was asked."""
    words = question(scene, in_window=True)
    if not words:
        return False
    alert(layout, words)
    row = layout.row(align=True)
    row.operator("das.use_files_server")
    row.operator("das.use_own_server")
    return True


def draw_refusal(layout, scene) -> None:
    """Below the file's own server: that it is not used, and how it would be."""
    if scene.das.server and answer(scene.das.server) == USE_MINE:
        say(layout, said("Not used: you chose your own, {server}", server=own_server()), "INFO")
        layout.operator("das.use_files_server")


_file_before_saving = ""


@persistent
def note_file(*_):
    """The file is about to be saved, maybe under another name."""
    global _file_before_saving
    _file_before_saving = this_file()


@persistent
def follow_saved_file(*_):
    """The file was saved; a name that is new takes the answers of the old one."""
    if this_file() != _file_before_saving:
        follow_file(_file_before_saving)


@persistent
def forget_unsaved_file(*_):
    """Another file is about to be opened."""
    forget_unsaved()


_HANDLERS = (("save_pre", note_file), ("save_post", follow_saved_file), ("load_pre", forget_unsaved_file))
CLASSES = (DAS_OT_use_files_server, DAS_OT_use_own_server)


def register():
    """Register the buttons, and notice saving and opening."""
    register_classes(CLASSES)
    for name, handler in _HANDLERS:
        getattr(bpy.app.handlers, name).append(handler)


def unregister():
    """Undo `register`."""
    for name, handler in reversed(_HANDLERS):
        getattr(bpy.app.handlers, name).remove(handler)
    unregister_classes(CLASSES)
