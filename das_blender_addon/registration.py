# SPDX-License-Identifier: GPL-3.0-or-later
"""Registering every class, handler and command of the extension with Blender, and taking all of it away again."""

from __future__ import annotations

import logging
import threading

import bpy

from . import commands, compat, engine, local_server
from .child.scratch import sweep
from .jobs import unchanged
from .scene import edits
from .ui import (
    adherence,
    all_shots,
    beside,
    cache_page,
    clip_import,
    clip_operator,
    comparing,
    drawing,
    files,
    job_editor,
    job_overlay,
    job_report,
    kept_jobs,
    key_pictures,
    model_menu,
    operators,
    pairing,
    panels,
    pass_panel,
    picture_import,
    preferences,
    presets,
    properties,
    queue_panel,
    region,
    repairing,
    room_gizmos,
    room_handles,
    saving,
    server_answers,
    shot_check,
    take_overlay,
    takes,
    timeline,
    tracking_choices,
    variations,
)

MODULES = (
    preferences,
    properties,
    tracking_choices,
    local_server,
    unchanged,
    edits,
    engine,
    job_report,
    operators,
    pairing,
    cache_page,
    clip_operator,
    clip_import,
    picture_import,
    room_handles,
    room_gizmos,
    files,
    saving,
    server_answers,
    drawing,
    presets,
    model_menu,
    panels,
    pass_panel,
    key_pictures,
    shot_check,
    takes,
    comparing,
    beside,
    take_overlay,
    job_overlay,
    job_editor,
    variations,
    adherence,
    repairing,
    region,
    all_shots,
    kept_jobs,
    queue_panel,
    timeline,
    commands,
)
"""Everything with a `register` and an `unregister`, in the order of registering."""


_log_handler: logging.Handler | None = None


def register():
    """Register all of it; when a part fails, what was registered before it is undone."""
    done = []
    try:
        for module in MODULES:
            module.register()
            done.append(module)
        compat.show_panels(panels.first_frame_engine)
        _show_log(True)
        # What killed Blenders left may be large, and the next job far away.
        threading.Thread(target=sweep, name="das sweep", daemon=True).start()
    except BaseException:
        for module in reversed(done):
            module.unregister()
        raise


def unregister():
    """Undo `register`."""
    _show_log(False)
    compat.hide_panels()
    for module in reversed(MODULES):
        module.unregister()


def _show_log(shown: bool) -> None:
    """In ``blender -b`` the log is all that people see of a running job: it goes to stderr, from INFO on.

    Where Blender is a module, logging belongs to the program that uses it.
    """
    global _log_handler
    logger = logging.getLogger(__package__)
    if shown and bpy.app.background and bpy.app.binary_path:
        _log_handler = logging.StreamHandler()
        _log_handler.setFormatter(logging.Formatter("das | %(message)s"))
        logger.addHandler(_log_handler)
        logger.setLevel(logging.INFO)
    elif not shown and _log_handler is not None:
        logger.removeHandler(_log_handler)
        _log_handler = None
