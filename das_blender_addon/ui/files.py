# SPDX-License-Identifier: GPL-3.0-or-later
"""What another file that is opened, or the extension switched off, means for what is going on.

A running job goes on: it is about a copy.  What the panels know of the scenes is of the old file's.
"""

from __future__ import annotations

import bpy
from bpy.app.handlers import persistent

from ..child.warm import end_child
from ..scene.drivers import forget_wish
from ..take import recent
from ..take.drive import leave, stay, wait_for_threads
from . import session


@persistent
def forget_takes_of_file(*_):
    """Another file is about to be opened: its scenes are other scenes."""
    recent.forget_takes()
    session.note_opened_file()


@persistent
def forget_session_of_file(*_):
    """Another file was opened: what it may hold of its own session is not ours."""
    if session.running_job() is None:
        session.show_idle(bpy.context.window_manager.das)


def register():
    """From now on an opened file is noticed."""
    stay()
    bpy.app.handlers.load_pre.append(forget_takes_of_file)
    bpy.app.handlers.load_pre.append(forget_wish)
    bpy.app.handlers.load_post.append(forget_session_of_file)


def unregister():
    """Undo `register`, let go of what is running, and end the child Blender that is kept ready.

    A job that a server has goes on there; the same take is found when it is asked for again.
    """
    leave()
    session.queue.clear()
    session.stop_job()
    wait_for_threads()
    end_child()
    bpy.app.handlers.load_post.remove(forget_session_of_file)
    bpy.app.handlers.load_pre.remove(forget_wish)
    bpy.app.handlers.load_pre.remove(forget_takes_of_file)
