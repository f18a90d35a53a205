# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two importers of footage have in common: in a window a job makes the plate while its user goes on working,
and the scene appears at its end, in one step of undo.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy

from ..jobs.main_thread import is_scene_held
from ..shot.server_consent import check_server
from ..staging.beside import beside_blender
from ..staging.entry import prepare_plate
from ..staging.stage import Stage
from ..take.drive import Recipe
from .job_operators import JobOperator
from .words import said

DIALOG_PX = 420
"""Width of what asks about a file that was dropped."""


@dataclass
class Importing:
    """``finish`` makes the scene; ``stage``: once it has."""

    finish: Callable[[], Stage]
    stage: Stage | None = None


class DroppedIntoView:
    """What the handlers of dropped files have in common: files of their endings go into a 3D viewport."""

    @classmethod
    def poll_drop(cls, context):
        """Blender offers it beside its own handlers of pictures (empty, background)."""
        return context.area is not None and context.area.type == "VIEW_3D"


class ImportOperator(JobOperator):
    """Asks for a file; `wanted` says what `staging.entry.prepare_plate` is given."""

    bl_options = {"REGISTER"}
    keeps_shot_id = False
    _asked = False

    def invoke(self, context, event):
        """Ask for the file first."""
        if bpy.app.background:
            return self.execute(context)
        self._asked = True
        if self.filepath:  # dropped into the window: only the rest is asked for
            return context.window_manager.invoke_props_dialog(self, width=DIALOG_PX)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        """Start the job when the file was asked for in the window, else block until the scene is there."""
        if self._asked:
            return super().invoke(context, None)
        return super().execute(context)

    def make_recipe(self, scene) -> Recipe:
        wanted = self.wanted(scene)
        if wanted["server"]:  # which gets the picture
            check_server(scene, wanted["server"])
        return _importing(self.filepath, wanted)

    @classmethod
    def finished(cls, scene, result: Importing):
        """Make the scene and show it where the old one was shown."""
        result.stage = result.finish()
        for window in bpy.context.window_manager.windows:
            if window.scene == scene:
                window.scene = result.stage.scene
        bpy.ops.ed.undo_push(message=cls.bl_label)

    @classmethod
    def words(cls, result: Importing):
        if result.stage is None:
            return said("Nothing was made: the scene that it began in is gone")
        name = result.stage.scene.name
        return " ".join((said("{name} is a scene now", name=name) + ".", *result.stage.notes))


def _importing(path: str, wanted: dict) -> Recipe:
    def work(should_stop):
        return prepare_plate(path, should_stop=should_stop, **wanted)

    finish = yield from beside_blender(work, lambda: bpy.app.background or not is_scene_held())
    return Importing(finish)
