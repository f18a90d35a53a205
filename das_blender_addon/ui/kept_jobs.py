# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that a Blender began and left, found again when the file is opened: what became of each, *Fetch*, *Forget*."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import bpy
from bpy.app.handlers import persistent
from bpy.props import StringProperty

from .. import compat
from ..errors import DasError, SettingsError
from ..jobs import noted
from ..scene.layers import render_layer
from ..shot.machine import check_online_access
from ..shot.server_consent import question
from ..shot.settings import resolve_settings
from ..shot.shot_folder import shot_folder
from ..take.fates import FINISHED, NOT_ASKED, Left, left_takes
from ..take.last_reports import keeping
from ..take.pending import forget_pending
from . import session
from .drawing import alert, say
from .job_operators import DAS_OT_render_take, JobOperator, redraw
from .variations import DAS_OT_variations
from .words import register_classes, said, unregister_classes

FIRST_S, WAIT_S, FRESH_S = 0.5, 0.2, 30.0
"""Seconds after a file was opened, between two looks at the thread that asks, and until it is asked again."""
OPERATORS = {noted.TAKE: DAS_OT_render_take, noted.VARIATIONS: DAS_OT_variations}
"""Kind of a note → the operator whose result it is."""


def operator_of(kind: str) -> type:
    """The operator that makes takes of ``kind``.  Raises `SettingsError` for one of another release."""
    if kind not in OPERATORS:
        raise SettingsError(f"Takes of the kind {kind!r} are of another release of the extension; forget them.")
    return OPERATORS[kind]


class KeptJobs:
    """What was left of the shot that is shown, as it was when a thread last looked."""

    def __init__(self):
        self.left: list[Left] = []
        self._folder: Path | None = None
        self._at = 0.0
        self._thread: threading.Thread | None = None

    def look(self, scene, *, wait: bool = False) -> list[Left]:
        """What is known; a thread looks where that is old, or of another shot.  ``wait``: for it."""
        try:
            settings = resolve_settings(scene)
            folder = shot_folder(scene, settings.cache_folder, render_layer(scene).name)
        except DasError:  # told elsewhere
            return []
        if folder != self._folder:
            self._folder, self.left, self._at = folder, [], 0.0
        is_busy = self._thread is not None and self._thread.is_alive()
        if not is_busy and (self._at == 0.0 or time.monotonic() - self._at > FRESH_S):
            self._at = time.monotonic()
            refused = why_not_asked(scene, settings.server)
            self._thread = threading.Thread(
                target=self._work, args=(folder, settings.server, refused), name="das left", daemon=True
            )
            self._thread.start()
            if not wait and not bpy.app.background and not bpy.app.timers.is_registered(self._wait):
                bpy.app.timers.register(self._wait, first_interval=WAIT_S)
        if wait and self._thread is not None:
            self._thread.join()
        return self.left

    def forget(self) -> None:
        """Look again at the next time."""
        self._at = 0.0

    def find(self, key: str) -> Left:
        """The one with the note ``key``.  Raises `SettingsError`."""
        for one in self.left:
            if one.note.key == key:
                return one
        raise SettingsError("That take was fetched, forgotten or is being made; look at the list of takes.")

    def _work(self, folder: Path, server: str, refused: str) -> None:
        left = left_takes(folder, lambda other: refused if other == server else f"The shot's server is {server}.")
        if folder == self._folder:
            self.left = left

    def _wait(self) -> float | None:
        if self._thread is not None and self._thread.is_alive():
            return WAIT_S
        redraw()
        return None


kept = KeptJobs()


def why_not_asked(scene, server: str) -> str:
    """Why ``server`` is not asked by itself, "" where it is: nothing is sent without leave."""
    try:
        check_online_access(server)
    except DasError as error:
        return error.message
    return question(scene)


def draw_kept_jobs(layout, scene) -> None:
    """Those of the shot that is shown; nothing where nothing was left."""
    left = kept.look(scene)
    if not left:
        return
    done = sum(one.fate == FINISHED for one in left)
    if done:
        words = said("{count} takes finished while you were away", count=done)
        say(layout, said("A take finished while you were away") if done == 1 else words, "CHECKMARK")
    box = layout.box().column(align=True)
    for one in left:
        say(box, one.words)
        if one.why and one.fate == NOT_ASKED:
            alert(box, one.why)
        row = box.row(align=True)
        row.operator("das.fetch_left_take", icon="IMPORT").key = one.note.key
        row.operator("das.forget_left_take", icon="X").key = one.note.key


class DAS_OT_fetch_left_take(JobOperator, bpy.types.Operator):
    bl_idname = "das.fetch_left_take"
    bl_label = "Fetch"
    bl_description = (
        "Go on with the take that was begun, with the settings of that time: its job on the server is the same, and "
        "is not made twice. Refused where the scene has changed since, so that it would be another take"
    )
    waits = True
    key: StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    def make_recipe(self, scene):
        note = kept.find(self.key).note
        operator_of(note.kind)
        recipe, self.note = noted.found_takes(scene, note, on_report=keeping(scene))
        kept.forget()
        return recipe

    @classmethod
    def finished(cls, scene, made):
        _operator_for(made).finished(scene, made)
        kept.forget()

    @classmethod
    def words(cls, made):
        return _operator_for(made).words(made)


def _operator_for(made) -> type:
    return DAS_OT_variations if isinstance(made, list) else DAS_OT_render_take


class DAS_OT_forget_left_take(bpy.types.Operator):
    bl_idname = "das.forget_left_take"
    bl_label = "Forget"
    bl_description = "List the take that was begun no more; what its server made stays there"
    bl_options = {"REGISTER"}
    key: StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    def execute(self, context):
        try:
            forget_pending([kept.find(self.key).note])
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        kept.left = [one for one in kept.left if one.note.key != self.key]
        redraw()
        return {"FINISHED"}


@persistent
def _look_soon(*_) -> None:
    """A file was opened: look for what was left of it, as soon as the window has time."""
    kept.left, kept._folder = [], None
    kept.forget()
    if not bpy.app.background and not bpy.app.timers.is_registered(_look):
        bpy.app.timers.register(_look, first_interval=FIRST_S)


def _look() -> None:
    scene = bpy.context.scene
    if scene is not None and scene.render.engine == compat.ENGINE and session.running_job() is None:
        kept.look(scene)


CLASSES = (DAS_OT_fetch_left_take, DAS_OT_forget_left_take)


def register():
    """Register the buttons, and look when a file is opened."""
    register_classes(CLASSES)
    bpy.app.handlers.load_post.append(_look_soon)


def unregister():
    """Undo `register`."""
    bpy.app.handlers.load_post.remove(_look_soon)
    unregister_classes(CLASSES)
