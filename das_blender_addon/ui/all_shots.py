# SPDX-License-Identifier: GPL-3.0-or-later
"""*Render All Shots…*: a take of what each camera that is bound to a marker sees, of each camera, or of each scene."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty

from ..errors import DasError, SettingsError
from ..jobs.noted import TAKE, noted_takes
from ..jobs.shots import CAMERAS, MARKERS, SceneShot, scenes_with_engine, shots_of, shots_of_scenes
from ..shot.shot_folder import ensure_shot_id
from ..take import drive
from ..take.last_reports import keeping
from . import session
from .job_operators import DAS_OT_render_take, JobOperator, begin
from .words import register_classes, said, unregister_classes


class DAS_OT_render_all_shots(bpy.types.Operator):
    bl_idname = "das.render_all_shots"
    bl_label = "Render All Shots…"
    bl_description = (
        "Render a take of every shot: of what each camera that is bound to a marker sees until the next one, or of all "
        "frames by every camera; of this scene or of all scenes. They wait in the queue"
    )
    bl_options = {"REGISTER"}
    waits = True
    why_not = DAS_OT_render_take.why_not
    by: EnumProperty(
        name="Shots",
        items=(
            (MARKERS, "Markers", "From each marker with a camera to the next one", 0),
            (CAMERAS, "Cameras", "All frames by every camera of the scene", 1),
        ),
    )
    all_scenes: BoolProperty(name="All Scenes", description="Of every scene of the file that uses this engine")

    @classmethod
    def poll(cls, context):
        return JobOperator.poll.__func__(cls, context)

    def invoke(self, context, _event):
        """Ask which."""
        return context.window_manager.invoke_props_dialog(self)

    def execute(self, context):
        made = 0
        try:
            shots = self.shots(context.scene)
            for shot in shots:
                self.make(bpy.data.scenes[shot.scene], shot)
                made += 1
        except DasError as error:
            told = said("{shot}: {words}", shot=shots[made].name, words=error.message) if made else error.message
            self.report({"ERROR"}, told)
            return {"FINISHED"} if made else {"CANCELLED"}
        self.report({"INFO"}, said("{count} shots", count=made))
        return {"FINISHED"}

    def shots(self, scene) -> list[SceneShot]:
        """What is rendered."""
        return shots_of_scenes(scenes_with_engine(), self.by) if self.all_scenes else shots_of(scene, self.by)

    def make(self, scene, shot: SceneShot) -> None:
        """Add the take of ``shot`` to the queue; without a window, make it now."""
        full = session.no_room()
        if full:
            raise SettingsError(f"{full}.")
        if not bpy.app.background:
            ensure_shot_id(scene)
        recipe, note = noted_takes(scene, TAKE, [shot.settings], on_report=keeping(scene))
        if bpy.app.background:
            DAS_OT_render_take.finished(scene, drive.finish(recipe, on_status=drive.log_status))
        else:
            begin(DAS_OT_render_take, scene, recipe, note, shot.name)


CLASSES = (DAS_OT_render_all_shots,)


def register():
    """Register the button."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
