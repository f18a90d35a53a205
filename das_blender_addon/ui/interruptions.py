# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes between a running job and its end: another file, undo, saving, the extension switched off."""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from ..scene.stepping import is_stepping
from ..scene.stepping_note import set_back_noted
from ..take import drive, recent
from . import session


@persistent
def stop_before_load(*_):
    """Another file is about to be opened: the running job belongs to the old one."""
    session.stop_job()
    recent.forget_takes()


@persistent
def stop_export_before_undo(*_):
    """Undo or redo comes while a job has the scene's frame and visibility changed: they are set back first."""
    if is_stepping():
        session.stop_job("Stopped: the scene was undone or redone while it was exported. Press the button again.")


@persistent
def stop_export_before_save(*_):
    """The file is saved while a job has the scene's frame and visibility changed: they are set back first."""
    if is_stepping():
        session.stop_job("Stopped: the file was saved while its scene was exported. Press the button again.")


@persistent
def set_back_after_undo(*_):
    """Undo or redo brought back a state that Blender may have kept while a job had the scene changed."""
    if not is_stepping():
        set_back_noted()


@persistent
def forget_session_of_file(*_):
    """Another file was opened: what it may hold of its own session is not ours."""
    set_back_noted()
    if session.running_job() is None:
        session.show_idle(bpy.context.window_manager.das)


def _handlers():
    """(Blender's list of handlers, ours)."""
    lists = bpy.app.handlers
    return (
        (lists.load_pre, stop_before_load),
        (lists.load_post, forget_session_of_file),
        (lists.undo_pre, stop_export_before_undo),
        (lists.redo_pre, stop_export_before_undo),
        (lists.undo_post, set_back_after_undo),
        (lists.redo_post, set_back_after_undo),
        (lists.save_pre, stop_export_before_save),
    )


def register():
    """From now on a running job ends before another file is opened, an export before undo and saving."""
    for handlers, handler in _handlers():
        handlers.append(handler)


def unregister():
    """Undo `register`, and stop what is running."""
    session.stop_job()
    drive.wait_for_threads()
    for handlers, handler in _handlers():
        handlers.remove(handler)
