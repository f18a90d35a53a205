# SPDX-License-Identifier: GPL-3.0-or-later
"""What is heard in a scene: its sound strips and speakers, mixed by Blender."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bpy

from .. import compat


def has_sound(scene) -> bool:
    """Whether a strip or a speaker of the scene may be heard; what is muted is not, nor a strip without its file."""
    if any(strip.type == "SOUND" and not strip.mute and strip.sound for strip in compat.all_strips(scene)):
        return True
    return any(one.type == "SPEAKER" and one.data.sound and not one.data.muted for one in scene.objects)


def heard_with(scene, frame_numbers: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last of ``frame_numbers`` where the scene `has_sound`, else None."""
    return (frame_numbers[0], frame_numbers[-1]) if has_sound(scene) else None


def write_sound(scene, frames: Sequence[int], output: Path) -> bool:
    """Write what is heard from the first to the last of ``frames`` (both included) as a WAV file; False where Blender
    cannot.  The scene is as it was afterwards; the window's scene becomes it.
    """
    before = scene.frame_start, scene.frame_end
    window = bpy.context.window
    if window is not None:
        window.scene = scene
    try:
        scene.frame_start, scene.frame_end = frames[0], frames[-1]
        with bpy.context.temp_override(scene=scene):
            bpy.ops.sound.mixdown(filepath=str(output), container="WAV", codec="PCM", format="S16")
    except RuntimeError:  # a build without sound, or without this container
        return False
    finally:
        scene.frame_start, scene.frame_end = before
    return output.is_file() and output.stat().st_size > 0
