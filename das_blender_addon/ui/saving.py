# SPDX-License-Identifier: GPL-3.0-or-later
"""What saving a file in a window does for its shots: they get their ids and the time of their last edit, and what was
made of them comes along when the file gets another name; also what a job makes that runs meanwhile.
"""

from __future__ import annotations

import logging
from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from .. import compat
from ..errors import DasError, StorageError
from ..scene import edits
from ..shot.settings import resolve_settings
from ..shot.shot_folder import ensure_shot_id, files_in, follow, follow_late, forget_ids, shot_folder, this_file
from . import session

LOGGER = logging.getLogger(__name__)

_before: dict[str, tuple[str, Path]] = {}
"""Scene → (the file that it had before it was saved, its shot's folder there)."""

_late: list[tuple[Path, Path, str, str, set[Path]]] = []
"""Moves while a job runs, which may write into the old folder: folders and files, old and new; what was there then."""


def begin_saving() -> None:
    """The scenes that use the engine get their ids; where they are now is remembered."""
    _before.clear()
    for scene in bpy.data.scenes:
        if scene.render.engine == compat.ENGINE or scene.das.shot_id:
            ensure_shot_id(scene)
            edits.store(scene)
            folder = _folder(scene)
            if folder is not None:
                _before[scene.name] = (this_file(), folder)


def end_saving() -> None:
    """The file may have another name now, and with it another cache: pictures and takes follow."""
    for name, (file, folder) in _before.items():
        scene = bpy.data.scenes.get(name)
        now = _folder(scene) if scene is not None else None
        if now is None or (file, folder) == (this_file(), now):
            continue
        session.follow_notes(folder, now)
        if session.running_job() is not None:
            _late.append((folder, now, file, this_file(), files_in(folder)))
        try:
            follow(folder, now, file, this_file())
        except StorageError as error:  # the file is saved; its pictures are where they were
            LOGGER.warning("%s", error.message)
    _before.clear()


def bring_late() -> None:
    """The job is over: what it made for a file that got another name meanwhile comes along."""
    try:
        for move in _late:
            follow_late(*move)
    except StorageError as error:  # it is where it was made
        LOGGER.warning("%s", error.message)
    _late.clear()


def _folder(scene) -> Path | None:
    try:
        return shot_folder(scene, resolve_settings(scene).cache_folder)
    except DasError:
        return None


@persistent
def _before_saving(path, *_):
    """In a window only; a startup file (no ``path``) would give its id to every new file."""
    if path and not bpy.app.background:
        begin_saving()


@persistent
def _after_saving(*_):
    end_saving()


@persistent
def _before_loading(*_):
    forget_ids()


def register():
    """From now on ids are given on saving in a window."""
    bpy.app.handlers.save_pre.append(_before_saving)
    bpy.app.handlers.save_post.append(_after_saving)
    bpy.app.handlers.load_pre.append(_before_loading)


def unregister():
    """Undo `register`."""
    bpy.app.handlers.load_pre.remove(_before_loading)
    bpy.app.handlers.save_post.remove(_after_saving)
    bpy.app.handlers.save_pre.remove(_before_saving)
