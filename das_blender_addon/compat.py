# SPDX-License-Identifier: GPL-3.0-or-later
"""Every difference between the Blender versions that the extension supports (4.2 to 5.2), found by asking for
features.
"""

from __future__ import annotations

import bpy

ENGINE = "DAS"
PACKAGE = __package__
"""The name that Blender knows the extension by."""

_NEW_TIMES = {"start": "content_start", "left": "left_handle", "right": "right_handle", "duration": "duration"}
_OLD_TIMES = {
    "start": "frame_start",
    "left": "frame_final_start",
    "right": "frame_final_end",
    "duration": "frame_final_duration",
}
_EEVEE_IDENTIFIERS = {"BLENDER_EEVEE", "BLENDER_EEVEE_NEXT"}
_SHADING_CONTEXTS = ("material", "world", "data")
_FOREIGN_PANELS = ("FREESTYLE", "GPENCIL", "GREASE")

_shown_panels: list[type] = []
"""Blender's panels that `show_shared_panels` changed."""


# ── Render engines and panels ───────────────────────────────────────────────────────────────────────────────────────


def engine_identifier(name: str) -> str:
    """Blender's identifier of "CYCLES", "EEVEE" or "WORKBENCH"; EEVEE is BLENDER_EEVEE_NEXT in Blender 4.2 to 4.5."""
    if name == "EEVEE":
        known = {item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items}
        return "BLENDER_EEVEE_NEXT" if "BLENDER_EEVEE_NEXT" in known else "BLENDER_EEVEE"
    return {"CYCLES": "CYCLES", "WORKBENCH": "BLENDER_WORKBENCH"}[name]


def shared_panels() -> list[type]:
    """Blender's own panels that serve any engine, and EEVEE's for materials, lights and the world, which the first
    frame needs.
    """
    shared = []
    for panel in bpy.types.Panel.__subclasses__():
        engines = getattr(panel, "COMPAT_ENGINES", ())
        wanted = "BLENDER_RENDER" in engines
        if getattr(panel, "bl_context", "") in _SHADING_CONTEXTS:
            wanted = not _EEVEE_IDENTIFIERS.isdisjoint(engines)
        if wanted and not any(word in panel.__name__.upper() for word in _FOREIGN_PANELS):
            shared.append(panel)
    return shared


def show_shared_panels() -> None:
    """Show Blender's own output, dimensions and world panels for the engine (they ask for their engine's name)."""
    for panel in shared_panels():
        if ENGINE not in panel.COMPAT_ENGINES:
            panel.COMPAT_ENGINES.add(ENGINE)
            _shown_panels.append(panel)


def hide_shared_panels() -> None:
    """Undo `show_shared_panels`; panels that were made for the engine, the extension's own among them, keep it."""
    for panel in _shown_panels:
        panel.COMPAT_ENGINES.discard(ENGINE)
    _shown_panels.clear()


def relative_path_options() -> set[str]:
    """What a path property needs so that Blender 4.5 and newer do not warn of "//"; older ones do not know the
    option.
    """
    return {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()


# ── Sequencer: `sequences` until 4.3, both in 4.4, only `strips` since 5.0 ──────────────────────────────────────────


def sequence_editor(scene):
    """The scene's sequence editor, created if there is none."""
    return scene.sequence_editor or scene.sequence_editor_create()


def strips(scene):
    """The scene's top-level strips."""
    editor = sequence_editor(scene)
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def all_strips(scene) -> list:
    """The strips of the scene, also those in meta strips; [] without a sequence editor."""
    editor = scene.sequence_editor
    if editor is None:
        return []
    return list(editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all)


def strips_that_render(scene) -> list:
    """The strips for which Blender renders the sequencer instead of the scene: top-level ones that are no sound.

    Since Blender 4.4 muted ones, by themselves or with their channel, do not count; before, they hide the scene behind
    black.
    """
    editor = scene.sequence_editor
    if editor is None:
        return []
    shown = [strip for strip in strips(scene) if strip.type != "SOUND"]
    if not hasattr(editor, "strips"):  # up to Blender 4.3
        return shown
    return [strip for strip in shown if not strip.mute and not editor.channels[strip.channel].mute]


def _time_property(strip, key: str) -> str:
    new = _NEW_TIMES[key]
    return new if new in strip.bl_rna.properties else _OLD_TIMES[key]


def strip_time(strip, key: str) -> int:
    """The strip's "start", "left", "right" (one past its last frame) or "duration", frames."""
    return int(getattr(strip, _time_property(strip, key)))


def set_strip_time(strip, key: str, value: int) -> None:
    """Set what `strip_time` gives."""
    setattr(strip, _time_property(strip, key), value)


def forget_strip_pixels(strip) -> None:
    """Make a strip read its files again; Blender 5.0 and newer keep the old pixels otherwise."""
    if not hasattr(strip, "invalidate_cache"):
        return
    for kind in ("RAW", "PREPROCESSED", "COMPOSITE"):
        try:
            strip.invalidate_cache(kind)
        except TypeError:  # not every version knows every kind
            continue


def sequencer_scene(context):
    """The scene whose strips the sequencer shows: the workspace's in 5.0 and newer, else the active one."""
    return getattr(context.workspace, "sequencer_scene", None) or context.scene


def show_in_sequencer(context, scene) -> None:
    """Let the sequencers of the workspace show ``scene`` (Blender 5.0 and newer; older ones show the window's
    scene).
    """
    workspace = getattr(context, "workspace", None)
    if workspace is not None and hasattr(workspace, "sequencer_scene"):
        workspace.sequencer_scene = scene


# ── Colours ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def working_space() -> str:
    """Name of the open file's scene-linear space; "" up to Blender 4.5, where files do not choose it."""
    colours = getattr(bpy.data, "colorspace", None)
    return colours.working_space if colours is not None else ""


# ── Output ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def set_image_output(scene, file_format: str = "PNG") -> None:
    """8-bit RGB image files; 5.0 and newer ask for the media type first."""
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = file_format
    settings.color_mode = "RGB"
    if file_format == "PNG":
        settings.color_depth = "8"


def set_video_output(scene) -> None:
    """An H.264 movie in an MP4 file, perceptually lossless."""
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "VIDEO"
    settings.file_format = "FFMPEG"
    settings.color_mode = "RGB"
    movie = scene.render.ffmpeg
    movie.format, movie.codec = "MPEG4", "H264"
    movie.constant_rate_factor, movie.ffmpeg_preset = "PERC_LOSSLESS", "GOOD"
    movie.gopsize = 12


def placeholder(text: str) -> dict[str, str]:
    """Arguments for `UILayout.prop` that show ``text`` in an empty field, where Blender can (4.2 and newer can)."""
    known = bpy.types.UILayout.bl_rna.functions["prop"].parameters
    return {"placeholder": text} if "placeholder" in known else {}
