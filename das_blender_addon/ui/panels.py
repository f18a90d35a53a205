# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels in the Render properties, and the page in the preferences.  They show what is known and never ask the
network.
"""

from __future__ import annotations

import bpy

from .. import compat
from ..client import known_servers
from ..errors import DasError
from ..jobs import of_scene
from ..scene import sequencer
from ..scene.colours import colour_warning, pixel_changes
from ..scene.drivers import untrusted_driver
from ..shot.plan import frame_rate
from ..shot.prompts import prompts_at_markers
from ..shot.scene_shot import frames_per_second
from ..shot.settings import resolve_settings
from ..shot.windows import frames_every
from . import job_operators, operators
from .drawing import alert, draw_server_line, say, thumbnail
from .panel import RenderPanel
from .presets import DAS_PT_presets, DAS_PT_word_presets
from .server_answers import draw_question, draw_refusal
from .step_preview import preview_path
from .words import register_classes, said, unregister_classes

THUMBNAIL_SCALE = 7.0


class DAS_PT_shot(RenderPanel, bpy.types.Panel):
    """Server, prompt and model of the shot."""

    bl_label = "Diffusion as Shader"
    bl_options = {"HIDE_HEADER"}  # Blender puts it before all others then, those of the first frame's engine, too

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.das
        model = planned_model(context.scene)

        if not draw_question(layout, context.scene):
            draw_server_line(layout, context)
        column = layout.column()
        column.active = model is None or model.uses_prompt
        row = column.row()
        row.active = settings.prompt_text is None
        row.prop(settings, "prompt")
        column.prop(settings, "prompt_text")
        column.prop(settings, "negative_prompt")
        _draw_marked_prompts(column, context.scene)
        if model is not None and not model.uses_prompt:
            say(layout, said("The model {model} ignores the prompt", model=model.name), "INFO")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("das.randomise_seed", text="", icon="FILE_REFRESH")
        column = layout.column(align=True)
        column.prop(settings, "steps", text=_with_default("Steps", settings.steps, model and model.default_steps))
        column.prop(
            settings, "guidance", text=_with_default("Guidance", settings.guidance, model and model.default_guidance)
        )
        every = model and automatic_every(context.scene, model)
        words = _with_default("Model Frames Every", settings.model_frames_every, every)
        column.prop(settings, "model_frames_every", text=words)
        row = layout.row(align=True)
        row.prop(settings, "model", **compat.placeholder(model.name if model else "server's default"))
        row.menu("DAS_MT_models", text="", icon="DOWNARROW_HLT")
        row = layout.row(align=True)
        DAS_PT_presets.draw_menu(row, "Presets")
        DAS_PT_word_presets.draw_menu(row, "Prompts and Styles")


def _draw_marked_prompts(layout, scene) -> None:
    """At which frames markers change the prompt."""
    try:
        changes = prompts_at_markers(scene)
    except DasError as error:
        alert(layout, error.message)
        return
    if changes:
        frames = ", ".join(str(frame) for frame, _ in changes)
        say(layout, said("Markers change the prompt at {frames}, for windows that begin there or later", frames=frames))


class DAS_PT_first_frame(RenderPanel, bpy.types.Panel):
    """The first frame as a visible slot."""

    bl_label = "First Frame"
    bl_order = 1
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.das
        try:
            icon = thumbnail(operators.first_frame_file(context.scene))
            words = operators.first_frame_words(context.scene)
        except DasError as error:
            alert(layout, error.message)
            return
        if icon is not None:
            layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)
        elif settings.first_frame_path or settings.first_frame_image is not None:
            say(layout, "Your own picture; a take fits it to the shot", "INFO")
        else:
            say(layout, "None yet: a take renders it when it needs it", "INFO")
        if words:
            say(layout, words, "INFO")
        layout.prop(settings, "first_frame_path", text="Image")
        if not settings.first_frame_path:
            layout.template_ID(settings, "first_frame_image", open="image.open", text="In This File")
        column = layout.column(align=True)
        column.active = not settings.first_frame_path and settings.first_frame_image is None
        column.prop(settings, "first_frame_engine")
        if settings.first_frame_engine != "WORKBENCH":
            column.prop(settings, "first_frame_samples")
        if settings.first_frame_engine == "CYCLES" and hasattr(context.scene, "cycles"):
            column.prop(context.scene.cycles, "device")
        if settings.first_frame_view:
            column = layout.column(align=True)
            column.active = not settings.first_frame_path and settings.first_frame_image is None
            for name in ("first_frame_view", "first_frame_look", "first_frame_exposure", "first_frame_gamma"):
                column.prop(settings, name)
        row = layout.row(align=True)
        row.operator("das.render_first_frame", icon="RENDER_STILL")
        row.operator("das.open_first_frame", text="Open", icon="BRUSH_DATA")


class DAS_PT_window(RenderPanel, bpy.types.Panel):
    """What will be sent: frames, window and size."""

    bl_label = "Shot"
    bl_order = 3
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.das
        layout.prop(settings, "use_shot_range")
        if settings.use_shot_range:
            column = layout.column(align=True)
            column.prop(settings, "shot_start")
            column.prop(settings, "shot_end")
        layout.prop(settings, "size")
        layout.prop(settings, "tracking_range")
        layout.prop(settings, "background")
        if context.scene.render.use_multiview:
            layout.prop(settings, "stereo_view")
        layout.prop(settings, "speed")
        layout.prop(settings, "loras")
        layout.prop(settings, "compose")
        box = layout.box().column(align=True)
        box.scale_y = 0.85
        try:
            lines = shot_summary(context.scene)
        except DasError as error:
            alert(box, error.message)
            return
        for line in lines:
            say(box, line)


class DAS_PT_take(RenderPanel, bpy.types.Panel):
    """Preview, render, cancel, and what came of it."""

    bl_label = "Take"
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout = self.layout
        session = context.window_manager.das
        for words in scene_warnings(context.scene):
            alert(layout, words)
        if pixel_changes(context.scene):
            layout.operator("das.keep_look", icon="COLOR")

        column = layout.column(align=True)
        column.operator("das.preview_tracking", icon="MOD_UVPROJECT")
        row = column.row(align=True)
        row.scale_y = 1.5
        row.operator("das.render_take", icon="RENDER_ANIMATION")
        row.operator("das.render_take", text="", icon="FILE_REFRESH").anew = True
        if session.job_state == "RUNNING":
            row = layout.row(align=True)
            row.progress(factor=session.progress, text=session.job_line)
            row.operator("das.cancel", text="", icon="CANCEL")
            icon = thumbnail(preview_path())
            if icon is not None:
                layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)
        elif session.job_state == "FAILED":
            alert(layout, session.job_line)
        elif session.job_line:
            say(layout, session.job_line, "CHECKMARK" if session.job_state == "DONE" else "INFO")
        reason = job_operators.no_camera(context.scene)
        if reason:
            say(layout, reason, "INFO")
        layout.prop(context.scene.das, "edit_scene", text="Strips In")
        layout.operator("das.add_to_sequencer", icon="SEQUENCE")


class DAS_PT_machine(RenderPanel, bpy.types.Panel):
    """Overrides of the preferences for this scene."""

    bl_label = "Server and Cache"
    bl_order = 4
    bl_parent_id = "DAS_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(context.scene.das, "server")
        draw_refusal(layout, context.scene)
        layout.prop(context.scene.das, "cache_folder")


def planned_model(scene):
    """What the server said of the model that the shot would use, or None; no network."""
    try:
        settings = resolve_settings(scene)
    except DasError:
        return None
    capabilities = known_servers.known_capabilities(settings.server)
    if capabilities is None:
        return None
    name = settings.model or capabilities.default_model
    return next((model for model in capabilities.models if model.name == name), None)


def automatic_every(scene, model) -> int:
    """Every how many frames of the shot ``model`` makes one where nobody says; raises what `resolve_settings` does."""
    rate = frame_rate(resolve_settings(scene).frames, frames_per_second(scene))
    return frames_every(rate, model.frames_per_second)


def shot_summary(scene) -> list[str]:
    """What will be sent, in sentences; raises what a render would raise."""
    settings = resolve_settings(scene)
    capabilities = known_servers.known_capabilities(settings.server)
    if capabilities is None:
        frames = settings.frames
        return [
            said("{count} frames ({first} to {last}).", count=len(frames), first=frames[0], last=frames[-1]),
            said("The model's window and size are known once the server was asked."),
        ]
    return list(of_scene.plan_shot(scene, settings, capabilities).notes)


def scene_warnings(scene) -> list[str]:
    """What in the scene would surprise: scripts that do not run, strips that keep the engine from being called, colours
    that are changed.
    """
    warnings = []
    driver = untrusted_driver()
    if driver:
        warnings.append(
            said(
                "The Python driver of {driver} does not run, because the scripts of the file are not trusted: a take "
                "is refused",
                driver=driver,
            )
        )
    if sequencer.hides_engine(scene):
        warnings.append(
            "This scene has strips: Blender renders them instead of the shot. Turn off Post Processing › Sequencer"
        )
    if colour_warning(scene):
        warnings.append(colour_warning(scene))
    return warnings


def _with_default(name: str, value: float, default: float | None) -> str:
    if value or default is None:
        return said(name)
    return said("{name} (0 = {default:g})", name=said(name), default=default)


def first_frame_engine() -> str:
    """The engine of the first frame of the scene that is shown: its panels show with ours."""
    return bpy.context.scene.das.first_frame_engine


def _draw_samples_note(panel, context) -> None:
    """Under the samples of the first frame's engine, which do not count."""
    if context.engine == compat.ENGINE:
        say(panel.layout, "The samples that count are those under First Frame", "INFO")


CLASSES = (DAS_PT_shot, DAS_PT_take, DAS_PT_first_frame, DAS_PT_window, DAS_PT_machine)
"""In the order of the panel, top to bottom."""


def register():
    """Register the panels."""
    register_classes(CLASSES)
    for panel in compat.sampling_panels():
        panel.append(_draw_samples_note)


def unregister():
    """Undo `register`."""
    for panel in compat.sampling_panels():
        panel.remove(_draw_samples_note)
    unregister_classes(CLASSES)
