# SPDX-License-Identifier: GPL-3.0-or-later
"""The panels in the Render properties, and the page in the preferences.  They show what is known and never ask the
network.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import bpy

from . import compat, job_operators, jobs, local_server, operators, recipes, sequencer
from .colours import colour_warning, pixel_changes
from .errors import DasError
from .properties import resolve_settings

THUMBNAIL_SCALE = 7.0
LOG_LINES_SHOWN = 12
MIN_LINE, CHARACTER_PX, MARGIN_PX = 30, 7, 70
"""A label does not wrap by itself: fewest characters of a line, width of one and of what is beside them, unscaled
pixels.
"""

_thumbnails: bpy.utils.previews.ImagePreviewCollection | None = None
_thumbnail_names: dict[str, str] = {}


class _RenderPanel:
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "render"
    COMPAT_ENGINES = {compat.ENGINE}

    @classmethod
    def poll(cls, context):
        return context.engine in cls.COMPAT_ENGINES


class DAS_PT_shot(_RenderPanel, bpy.types.Panel):
    """Server, prompt and model of the shot."""

    bl_label = "Diffusion as Shader"
    bl_options = {"HIDE_HEADER"}

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.das
        model = planned_model(context.scene)

        _draw_server_line(layout, context)
        column = layout.column()
        column.active = model is None or model.uses_prompt
        column.prop(settings, "prompt")
        column.prop(settings, "negative_prompt")
        if model is not None and not model.uses_prompt:
            _say(layout, f"The model {model.name} ignores the prompt", "INFO")
        row = layout.row(align=True)
        row.prop(settings, "seed")
        row.operator("das.randomise_seed", text="", icon="FILE_REFRESH")
        column = layout.column(align=True)
        column.prop(settings, "steps", text=_with_default("Steps", settings.steps, model and model.default_steps))
        column.prop(
            settings, "guidance", text=_with_default("Guidance", settings.guidance, model and model.default_guidance)
        )
        layout.prop(settings, "model", **compat.placeholder(model.name if model else "server's default"))


class DAS_PT_first_frame(_RenderPanel, bpy.types.Panel):
    """The first frame as a visible slot."""

    bl_label = "First Frame"
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        settings = context.scene.das
        try:
            icon = thumbnail(operators.first_frame_file(context.scene))
        except DasError as error:
            _alert(layout, error.message)
            return
        if icon is not None:
            layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)
        else:
            _say(layout, "None yet: a take renders it when it needs it", "INFO")
        layout.prop(settings, "first_frame_path", text="Image")
        column = layout.column(align=True)
        column.active = not settings.first_frame_path
        column.prop(settings, "first_frame_engine")
        if settings.first_frame_engine != "WORKBENCH":
            column.prop(settings, "first_frame_samples")
        if settings.first_frame_view:
            column = layout.column(align=True)
            column.active = not settings.first_frame_path
            for name in ("first_frame_view", "first_frame_look", "first_frame_exposure", "first_frame_gamma"):
                column.prop(settings, name)
        row = layout.row(align=True)
        row.operator("das.render_first_frame", icon="RENDER_STILL")
        row.operator("das.open_first_frame", text="Open", icon="BRUSH_DATA")


class DAS_PT_window(_RenderPanel, bpy.types.Panel):
    """What will be sent: frames, window and size."""

    bl_label = "Shot"
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
        layout.prop(settings, "compose")
        box = layout.box().column(align=True)
        box.scale_y = 0.85
        try:
            lines = shot_summary(context.scene)
        except DasError as error:
            _alert(box, error.message)
            return
        for line in lines:
            _say(box, line)


class DAS_PT_take(_RenderPanel, bpy.types.Panel):
    """Preview, render, cancel, and what came of it."""

    bl_label = "Take"
    bl_parent_id = "DAS_PT_shot"

    def draw(self, context):
        layout = self.layout
        session = context.window_manager.das
        for words in scene_warnings(context.scene):
            _alert(layout, words)
        if pixel_changes(context.scene):
            layout.operator("das.keep_look", icon="COLOR")

        column = layout.column(align=True)
        column.operator("das.preview_tracking", icon="MOD_UVPROJECT")
        row = column.row(align=True)
        row.scale_y = 1.5
        row.operator("das.render_take", icon="RENDER_ANIMATION")
        if session.job_state == "RUNNING":
            row = layout.row(align=True)
            row.progress(factor=session.progress, text=session.job_line)
            row.operator("das.cancel", text="", icon="CANCEL")
            icon = thumbnail(jobs.preview_path())
            if icon is not None:
                layout.template_icon(icon_value=icon, scale=THUMBNAIL_SCALE)
        elif session.job_state == "FAILED":
            _alert(layout, session.job_line)
        elif session.job_line:
            _say(layout, session.job_line, "CHECKMARK" if session.job_state == "DONE" else "INFO")
        reason = job_operators.no_camera(context.scene)
        if reason:
            _say(layout, reason, "INFO")
        layout.prop(context.scene.das, "edit_scene", text="Strips In")
        layout.operator("das.add_to_sequencer", icon="SEQUENCE")


class DAS_PT_machine(_RenderPanel, bpy.types.Panel):
    """Overrides of the preferences for this scene."""

    bl_label = "Server and Cache"
    bl_parent_id = "DAS_PT_shot"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.prop(context.scene.das, "server")
        layout.prop(context.scene.das, "cache_folder")


def planned_model(scene):
    """What the server said of the model that the shot would use, or None; no network."""
    try:
        settings = resolve_settings(scene)
    except DasError:
        return None
    capabilities = jobs.known_capabilities(settings.server)
    if capabilities is None:
        return None
    name = settings.model or capabilities.default_model
    return next((model for model in capabilities.models if model.name == name), None)


def shot_summary(scene) -> list[str]:
    """What will be sent, in sentences; raises what a render would raise."""
    settings = resolve_settings(scene)
    capabilities = jobs.known_capabilities(settings.server)
    if capabilities is None:
        return [
            f"{len(settings.frames)} frames ({settings.frames[0]} to {settings.frames[-1]}).",
            "The model's window and size are known once the server was asked.",
        ]
    return list(recipes.plan_shot(scene, settings, capabilities).notes)


def scene_warnings(scene) -> list[str]:
    """What in the scene would surprise: strips that keep the engine from being called, colours that are changed."""
    warnings = []
    if sequencer.hides_engine(scene):
        warnings.append(
            "This scene has strips: Blender renders them instead of the shot. Turn off Post Processing › Sequencer"
        )
    if colour_warning(scene):
        warnings.append(colour_warning(scene))
    return warnings


def draw_preferences(chosen, context) -> None:
    """The add-on's page in the preferences."""
    layout = chosen.layout
    layout.use_property_split = True
    layout.use_property_decorate = False
    layout.prop(chosen, "server")
    _draw_server_line(layout, context)
    layout.prop(chosen, "timeout_s")
    layout.prop(chosen, "cache_folder")

    box = layout.box()
    box.label(text="Server on This Machine")
    column = box.column()
    server = local_server.current()
    is_running = server is not None and server.is_running
    column.enabled = not is_running
    column.prop(chosen, "server_executable")
    column.prop(chosen, "server_model")
    column.prop(chosen, "server_port")
    row = box.row()
    if is_running:
        row.label(text=f"Running at {server.address}", icon="CHECKMARK")
        row.operator("das.stop_local_server", icon="X")
    else:
        row.operator("das.start_local_server", icon="PLAY")
        if server is not None:
            _alert(box, f"It ended with status {server.process.returncode}: {server.last_words()}")
        else:
            reason = local_server.can_start()
            if reason:
                _say(box, reason, "INFO")
    if server is not None:
        box.prop(chosen, "show_server_log")
        if chosen.show_server_log:
            lines = box.column(align=True)
            lines.scale_y = 0.8
            for line in server.log_tail[-LOG_LINES_SHOWN:]:
                lines.label(text=line)


def _draw_server_line(layout, context) -> None:
    session = context.window_manager.das
    icon, words = "QUESTION", ""
    if session.server_state == "RUNNING":
        icon, words = "SORTTIME", session.server_line
    else:
        try:
            server = resolve_settings(context.scene).server
        except DasError as error:
            _alert(layout, error.message)
            return
        welcome = jobs.known_server(server)
        if session.server_state == "FAILED":
            _alert(layout, session.server_line)
        icon = "CHECKMARK" if welcome is not None else "QUESTION"
        words = jobs.words_of_server(welcome) if welcome is not None else f"{server}, not asked yet"
    row = layout.split(factor=0.6)
    row.label(text=words, icon=icon)
    row.operator("das.test_connection", icon="LINKED")


def _with_default(name: str, value: float, default: float | None) -> str:
    return f"{name} (0 = {default:g})" if not value and default is not None else name


def _say(layout, words: str, icon: str = "NONE") -> None:
    for index, line in enumerate(_wrapped(words)):
        layout.label(text=line, icon=icon if index == 0 else "BLANK1" if icon != "NONE" else "NONE")


def _alert(layout, words: str) -> None:
    column = layout.column(align=True)
    column.alert = True
    _say(column, words, "ERROR")


def _wrapped(words: str) -> list[str]:
    """The lines that ``words`` take in the region that is drawn now."""
    region = bpy.context.region
    scale = bpy.context.preferences.system.ui_scale
    width = max(MIN_LINE, int(region.width / scale - MARGIN_PX) // CHARACTER_PX) if region is not None else MIN_LINE
    return textwrap.wrap(words, width) or [""]


# ── Thumbnails ──────────────────────────────────────────────────────────────────────────────────────────────────────


def thumbnail(path: Path | None) -> int | None:
    """Icon number of the image at ``path`` (0 without a window), None when there is none.

    A file that changed is read again.
    """
    if path is None or _thumbnails is None:
        return None
    try:
        stat = os.stat(path)
    except OSError:
        return None
    slot, name = os.fspath(path), f"{path}@{stat.st_mtime_ns}"
    if _thumbnail_names.get(slot) != name:
        _thumbnails.pop(_thumbnail_names.get(slot, ""), None)
        _thumbnails.load(name, slot, "IMAGE")
        _thumbnail_names[slot] = name
    return _thumbnails[name].icon_id


CLASSES = (DAS_PT_shot, DAS_PT_take, DAS_PT_first_frame, DAS_PT_window, DAS_PT_machine)
"""In the order of the panel, top to bottom."""


def register():
    """Register the panels and the thumbnails."""
    global _thumbnails
    import bpy.utils.previews

    _thumbnails = bpy.utils.previews.new()
    for cls in CLASSES:
        bpy.utils.register_class(cls)


def unregister():
    """Undo `register`."""
    global _thumbnails
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
    _thumbnail_names.clear()
    if _thumbnails is not None:
        bpy.utils.previews.remove(_thumbnails)
        _thumbnails = None
