# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own presets for the settings of a shot: kept among the user's scripts, chosen in the panel.

A preset holds how a shot is made, not what it shows: no prompt, no seed, no server, no files.
"""

from __future__ import annotations

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel

from .words import register_classes, unregister_classes

SETTINGS = (
    "steps",
    "guidance",
    "model",
    "size",
    "tracking_range",
    "background",
    "loras",
    "speed",
    "compose",
    "model_frames_every",
    "first_frame_engine",
    "first_frame_samples",
)


class DAS_PT_presets(PresetPanel, bpy.types.Panel):
    """The list of presets, and a field to add one."""

    bl_label = "Diffusion as Shader Presets"
    preset_subdir = "das_blender_addon/settings"
    preset_operator = "script.execute_preset"
    preset_add_operator = "das.add_preset"


class DAS_OT_add_preset(AddPresetBase, bpy.types.Operator):
    bl_idname = "das.add_preset"
    bl_label = "Add Diffusion as Shader Preset"
    bl_description = "Add or remove a preset of the settings, without prompt, seed and files"
    preset_menu = "DAS_PT_presets"
    preset_subdir = DAS_PT_presets.preset_subdir
    preset_defines = ["das = bpy.context.scene.das"]
    preset_values = [f"das.{name}" for name in SETTINGS]


CLASSES = (DAS_PT_presets, DAS_OT_add_preset)


def register():
    """Register the list and its operator."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
