# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own presets: of the settings of a shot, and of its words; kept among the user's scripts, chosen in the
panel, and shared as files.

A preset of settings holds how a shot is made, one of words what it shows and in which style; neither has a seed, a
server or files.  Blender runs its presets as scripts: a file from somebody else is read, never run, and written anew.
"""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import bpy
from bl_operators.presets import AddPresetBase
from bl_ui.utils import PresetPanel
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ..client.files import write_whole
from ..errors import DasError, SettingsError, StorageError
from .words import register_classes, said, unregister_classes

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
WORDS = ("prompt", "negative_prompt")
HEAD = ("import bpy", "das = bpy.context.scene.das", "")
MOST_BYTES = 1 << 20
SUFFIX = ".py"


class _Shared:
    """A list of presets with buttons to share them."""

    def draw(self, context):
        super().draw(context)
        row = self.layout.row(align=True)
        row.operator("das.import_preset", icon="IMPORT").kind = self.kind
        row.operator("das.export_preset", icon="EXPORT").kind = self.kind


class DAS_PT_presets(_Shared, PresetPanel, bpy.types.Panel):
    """The list of presets, and a field to add one."""

    bl_label = "Diffusion as Shader Presets"
    preset_subdir = "das_blender_addon/settings"
    preset_operator = "script.execute_preset"
    preset_add_operator = "das.add_preset"
    kind = "SETTINGS"


class DAS_PT_word_presets(_Shared, PresetPanel, bpy.types.Panel):
    """The list of prompts and styles, and a field to add one."""

    bl_label = "Prompts and Styles"
    preset_subdir = "das_blender_addon/words"
    preset_operator = "script.execute_preset"
    preset_add_operator = "das.add_word_preset"
    kind = "WORDS"


class DAS_OT_add_preset(AddPresetBase, bpy.types.Operator):
    bl_idname = "das.add_preset"
    bl_label = "Add Diffusion as Shader Preset"
    bl_description = "Add or remove a preset of the settings, without prompt, seed and files"
    preset_menu = "DAS_PT_presets"
    preset_subdir = DAS_PT_presets.preset_subdir
    preset_defines = ["das = bpy.context.scene.das"]
    preset_values = [f"das.{name}" for name in SETTINGS]


class DAS_OT_add_word_preset(AddPresetBase, bpy.types.Operator):
    bl_idname = "das.add_word_preset"
    bl_label = "Add Prompt"
    bl_description = "Add or remove a preset of prompt and negative prompt"
    preset_menu = "DAS_PT_word_presets"
    preset_subdir = DAS_PT_word_presets.preset_subdir
    preset_defines = ["das = bpy.context.scene.das"]
    preset_values = [f"das.{name}" for name in WORDS]


KINDS = {"SETTINGS": (DAS_PT_presets, SETTINGS), "WORDS": (DAS_PT_word_presets, WORDS)}


def read_preset(path: Path, names: tuple[str, ...]) -> dict[str, object]:
    """What the preset ``path`` says of the settings ``names``; nothing of it is run.

    Raises `SettingsError` for a file that is no preset of them, or holds anything else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(f"{path} is too large to be a preset.", field="preset")
        lines = ast.parse(path.read_text(encoding="utf-8-sig")).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise SettingsError(f"{path} cannot be read as a preset: {error}.", field="preset") from error
    values = {}
    for line in lines:
        if ast.unparse(line) in HEAD:
            continue
        name, value = _assigned(line)
        if name not in names:
            raise SettingsError(
                f"Line {line.lineno} of {path} is no setting of such a preset, which has {', '.join(names)}.",
                field="preset",
            )
        values[name] = value
    if not values:
        raise SettingsError(f"{path} says nothing; a preset has {', '.join(names)}.", field="preset")
    return values


def _assigned(line: ast.stmt) -> tuple[str, object]:
    """("steps", 7) for ``das.steps = 7``; ("", None) for anything else."""
    if not isinstance(line, ast.Assign) or len(line.targets) != 1:
        return "", None
    target = ast.unparse(line.targets[0])
    try:
        value = ast.literal_eval(line.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return "", None
    is_plain = isinstance(value, str | int | float | bool)
    return (target.removeprefix("das."), value) if target.startswith("das.") and is_plain else ("", None)


def folder_of(kind: str) -> Path:
    """Where this user's presets of ``kind`` lie; made where it is not there."""
    subdir = KINDS[kind][0].preset_subdir
    return Path(bpy.utils.user_resource("SCRIPTS", path=f"presets/{subdir}", create=True))


class _Sharing:
    bl_options = {"REGISTER"}
    kind: EnumProperty(
        items=(("SETTINGS", "Settings", "", 0), ("WORDS", "Prompts and Styles", "", 1)), options={"SKIP_SAVE"}
    )
    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_glob: StringProperty(default=f"*{SUFFIX}", options={"HIDDEN"})

    def invoke(self, context, _event):
        """Ask for the file."""
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context):
        try:
            words = self.act(Path(bpy.path.abspath(self.filepath)))
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        self.report({"INFO"}, words)
        return {"FINISHED"}


class DAS_OT_import_preset(_Sharing, bpy.types.Operator):
    bl_idname = "das.import_preset"
    bl_label = "Import…"
    bl_description = "Add a preset from a file that somebody shared; nothing of it is run but its settings"

    def act(self, path):
        values = read_preset(path, KINDS[self.kind][1])
        lines = [*HEAD[:2], "", *(f"das.{name} = {value!r}" for name, value in values.items()), ""]
        target = folder_of(self.kind) / f"{path.stem}{SUFFIX}"
        number = 2
        while target.exists():
            target = target.with_name(f"{path.stem}_{number}{SUFFIX}")
            number += 1
        write_whole(target, "\n".join(lines).encode())
        return said("{preset} is in the list", preset=target.stem)


class DAS_OT_export_preset(_Sharing, bpy.types.Operator):
    bl_idname = "das.export_preset"
    bl_label = "Export All…"
    bl_description = "Copy all presets of the list into a folder, as files to share"
    directory: StringProperty(subtype="DIR_PATH", options={"SKIP_SAVE"})
    overwrite: BoolProperty(name="Overwrite", description="Replace files of the same names")

    def act(self, _path):
        target, files = Path(bpy.path.abspath(self.directory)), sorted(folder_of(self.kind).glob(f"*{SUFFIX}"))
        there = next((target / file.name for file in files if (target / file.name).exists()), None)
        if not files:
            raise SettingsError("There is no preset in the list yet; add one.", field="preset")
        if there is not None and not self.overwrite:
            raise SettingsError(f"{there} is there already; choose another folder, or Overwrite.", field="preset")
        try:
            target.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copyfile(file, target / file.name)
        except OSError as error:
            raise StorageError(f"{target} cannot be written to: {error.strerror or error}.") from error
        return said("{count} presets in {folder}", count=len(files), folder=target)


CLASSES = (
    DAS_PT_presets,
    DAS_PT_word_presets,
    DAS_OT_add_preset,
    DAS_OT_add_word_preset,
    DAS_OT_import_preset,
    DAS_OT_export_preset,
)


def register():
    """Register the lists and their operators."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
