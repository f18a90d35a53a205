# SPDX-License-Identifier: GPL-3.0-or-later
"""File › Export › Training Clip: the shot becomes a clip of a dataset, while its user goes on working."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty

from .. import compat
from ..errors import DasError, SettingsError
from ..jobs.training_clip import clip_request, default_name, export_clip
from ..scene.camera import render_size
from ..shot.settings import resolve_settings
from .job_operators import JobOperator, no_camera
from .words import register_classes, said, unregister_classes


class DAS_OT_export_dataset(JobOperator, bpy.types.Operator):
    bl_idname = "das.export_dataset"
    bl_label = "Export Training Clip"
    bl_description = (
        "Render the shot with the engine of the first frame, and add it with its exact tracking video and a caption to "
        "a folder of training clips"
    )
    bl_options = set()

    directory: StringProperty(
        name="Folder", description="Folder of the training clips; made when it is not there", subtype="DIR_PATH"
    )
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    clip_name: StringProperty(
        name="Name", description="Name of the clip; empty for one of file, scene and frames", options={"SKIP_SAVE"}
    )
    caption: StringProperty(
        name="Caption", description="What the clip shows, in one line; empty takes the prompt", options={"SKIP_SAVE"}
    )
    lossless: BoolProperty(
        name="Lossless",
        description="Keep the frames as PNG files, exact to the last bit, instead of H.264 videos",
        default=False,
    )

    _asked = False

    @classmethod
    def why_not(cls, context):
        if not bpy.app.background and context.scene.render.engine != compat.ENGINE:
            return "Choose the render engine Diffusion as Shader: its panel shows how far the export is"
        return no_camera(context.scene)

    def invoke(self, context, event):
        """Ask for the folder first."""
        if bpy.app.background:
            return self.execute(context)
        try:
            settings = resolve_settings(context.scene)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        self.clip_name = self.clip_name or default_name(context.scene, settings.frames)
        self.caption = self.caption or settings.prompt
        self._asked = True
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        """Start the job when the folder was asked for in the window, else block until it is done."""
        if self._asked:
            return super().invoke(context, None)
        return super().execute(context)

    def draw(self, context):
        """Beside the list of folders: what can be chosen, and what will be rendered."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        for name in ("clip_name", "caption", "lossless"):
            layout.prop(self, name)
        column = layout.box().column(align=True)
        try:
            settings = resolve_settings(context.scene)
        except DasError as error:
            column.label(text=error.message, icon="ERROR")
            return
        width, height = settings.size or render_size(context.scene)
        frames = settings.frames
        first, last = frames[0], frames[-1]
        column.label(text=said("{count} frames ({first} to {last})", count=len(frames), first=first, last=last))
        column.label(text=said("{width}×{height} pixels (Model Size)", width=width, height=height))
        column.label(text=said("{engine} (First Frame)", engine=settings.first_frame_engine.title()))

    def make_recipe(self, scene):
        if not self.directory:
            raise SettingsError("No folder was chosen for the clip; give one as directory.", field="directory")
        request = clip_request(
            scene,
            resolve_settings(scene),
            bpy.path.abspath(self.directory),
            name=self.clip_name,
            caption=self.caption,
            lossless=self.lossless,
        )
        return export_clip(scene, request)

    @classmethod
    def finished(cls, scene, clip):
        """It is on the disk, and nothing in Blender shows it."""

    @classmethod
    def words(cls, clip):
        count, folder = len(clip.frames), clip.folder
        return said("Clip {name} of {count} frames in {folder}", name=clip.name, count=count, folder=folder)


def draw_entry(menu, _context) -> None:
    """The entry in File › Export."""
    menu.layout.operator(DAS_OT_export_dataset.bl_idname, text="Training Clip (Diffusion as Shader)")


def register():
    """Register the operator and its entry in File › Export."""
    register_classes([DAS_OT_export_dataset])
    bpy.types.TOPBAR_MT_file_export.append(draw_entry)


def unregister():
    """Undo `register`."""
    bpy.types.TOPBAR_MT_file_export.remove(draw_entry)
    unregister_classes([DAS_OT_export_dataset])
