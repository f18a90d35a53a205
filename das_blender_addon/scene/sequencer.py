# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes become image strips, in an edit scene of their own.

Strips in the rendered scene would keep Blender from calling any render engine, so a take goes to another scene
unless the user names one.  A strip remembers its take: key, seed, prompt, model and job are custom properties on
it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import bpy

from .. import compat
from ..errors import SettingsError, StorageError
from .colours import NO_LOOK, plain_view, read_as_srgb

TAKE_PROPERTY = "das_take"
MAX_CHANNEL = 128


def hides_engine(scene) -> bool:
    """The scene's own strips would be rendered instead of the engine's frames."""
    return bool(scene.render.use_sequencer and compat.strips_that_render(scene))


def edit_scene_for(scene):
    """The scene that takes the strips of ``scene``: the one that its settings name, else a new one that they name
    from now on.
    """
    if scene.das.edit_scene is not None:
        return scene.das.edit_scene
    edit = bpy.data.scenes.new(f"DAS Edit {scene.name}")
    _copy_picture_settings(scene, edit)
    scene.das.edit_scene = edit
    return edit


def add_strip(edit, name: str, frames: Sequence[Path], frame_start: int, properties: dict):
    """Put a take's frames into the sequencer of the scene ``edit`` as one image strip, above whatever lies there
    already.

    ``frames``: PNG files in play order, all in one folder.  ``properties``: written on the strip; the key
    `TAKE_PROPERTY` tells takes apart: a take that is there already is read again from disk instead of added twice.
    Returns the strip. Raises `StorageError` when a file is missing and `SettingsError` when no channel is free.
    """
    frames = [Path(frame) for frame in frames]
    if not frames:
        raise StorageError("The take has no frames, so there is nothing to put into the sequencer.")
    for frame in frames:
        if not frame.is_file() or frame.stat().st_size == 0:
            raise StorageError(f"The frame {frame} is missing or empty; render the take again.")
    strip = find_strip(edit, properties.get(TAKE_PROPERTY))
    if strip is None:
        strip = add_image_strip(edit, name, frames, frame_start)
    for key, value in properties.items():
        strip[key] = value
    compat.forget_strip_pixels(strip)
    return strip


def add_sound_strip(edit, name: str, file: str, frame_start: int):
    """Add the sound of ``file`` as a strip on the first channel above what lies there."""
    channel = channel_above(edit, frame_start, frame_start + 1)
    return compat.strips(edit).new_sound(name, file, channel, frame_start)


def add_image_strip(edit, name: str, frames: Sequence[Path], frame_start: int):
    """Add ``frames`` (image files in play order, all in one folder) as one strip on the first channel above what
    lies there.
    """
    frames = [Path(frame) for frame in frames]
    channel = channel_above(edit, frame_start, frame_start + len(frames))
    strip = compat.strips(edit).new_image(
        name=name, filepath=os.fspath(frames[0]), channel=channel, frame_start=frame_start, fit_method="ORIGINAL"
    )
    for frame in frames[1:]:
        strip.elements.append(frame.name)
    if compat.strip_time(strip, "duration") != len(frames):
        compat.set_strip_time(strip, "duration", len(frames))
    if bpy.data.filepath and _beside_the_file(frames[0]):
        strip.directory = bpy.path.relpath(os.fspath(frames[0].parent))
    read_as_srgb(strip)
    return strip


def find_strip(edit, take_key: str | None):
    """The strip of ``edit`` that shows the take, or None."""
    if not take_key:
        return None
    return next((strip for strip in compat.all_strips(edit) if strip.get(TAKE_PROPERTY) == take_key), None)


def add_take(take, scene, *, edit_scene=None):
    """Put ``take`` (a finished take of ``scene``) into the sequencer and return its strip.

    ``edit_scene``: where to; None takes `edit_scene_for`.  Raises as `add_strip`, and `SettingsError` when it is
    the rendered scene.
    """
    edit, report = other_scene(scene, edit_scene), take.report
    properties = {
        TAKE_PROPERTY: take.key,
        "das_seed": int(report.get("seed", scene.das.seed)),
        "das_prompt": str(report.get("prompt", scene.das.prompt)),
        "das_model": str(report.get("model", scene.das.model)),
        "das_job": str(take.job_id),
        "das_scene": scene.name,
    }
    start = int((report.get("frame_numbers") or [scene.frame_start])[0])
    strip = add_strip(edit, f"{scene.name} seed {properties['das_seed']}", take.frames, start, properties)
    fit_frame_range(edit)
    return strip


def other_scene(scene, edit_scene=None):
    """``edit_scene``, or `edit_scene_for` where that is None.  Raises `SettingsError` when it is ``scene`` itself."""
    edit = edit_scene or edit_scene_for(scene)
    if edit == scene:
        raise SettingsError(
            f"The strips would go into the rendered scene {scene.name!r} and keep its engine from being called; "
            "choose another edit scene.",
            field="edit_scene",
        )
    return edit


def _beside_the_file(path: Path) -> bool:
    return Path(bpy.data.filepath).resolve().parent in path.resolve().parents


def channel_above(edit, start: int, end: int) -> int:
    """The first channel above what lies at the frames [start, end).  Raises `SettingsError` when none is free."""
    taken = [
        strip.channel
        for strip in compat.strips(edit)
        if compat.strip_time(strip, "right") > start and compat.strip_time(strip, "left") < end
    ]
    channel = max(taken, default=0) + 1
    if channel > MAX_CHANNEL:
        raise SettingsError(
            f"All {MAX_CHANNEL} channels of {edit.name!r} are taken at frame {start}; remove old takes.",
            field="edit_scene",
        )
    return channel


def _copy_picture_settings(scene, edit) -> None:
    """Same pictures per second and size; and a view that shows a PNG's bytes unchanged (AgX and dithering would
    not).
    """
    source, target = scene.render, edit.render
    percentage = source.resolution_percentage
    target.resolution_x = source.resolution_x * percentage // 100
    target.resolution_y = source.resolution_y * percentage // 100
    target.resolution_percentage = 100
    target.pixel_aspect_x, target.pixel_aspect_y = source.pixel_aspect_x, source.pixel_aspect_y
    target.fps, target.fps_base = source.fps, source.fps_base * scene.frame_step
    target.dither_intensity = 0.0
    target.filepath = source.filepath
    compat.set_image_output(edit)
    edit.display_settings.display_device = scene.display_settings.display_device
    edit.view_settings.view_transform = plain_view(edit)
    edit.view_settings.look = NO_LOOK
    edit.view_settings.exposure, edit.view_settings.gamma = 0.0, 1.0
    edit.sync_mode = "FRAME_DROP"


def fit_frame_range(edit) -> None:
    """An edit of ours plays exactly from its first strip to its last."""
    strips = list(compat.strips(edit))
    if not strips or not edit.name.startswith("DAS Edit"):
        return
    edit.frame_start = max(0, min(compat.strip_time(strip, "left") for strip in strips))
    edit.frame_end = max(compat.strip_time(strip, "right") for strip in strips) - 1
    edit.frame_current = edit.frame_start
