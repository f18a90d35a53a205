# SPDX-License-Identifier: GPL-3.0-or-later
"""*Compare…*: the chosen take with another one, with Blender's own render or with its key pictures, in an Image Editor
or as a pair of strips of the edit scene.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import bpy
from bpy.props import EnumProperty

from .. import compat
from ..errors import SettingsError
from ..scene.sequencer import TAKE_PROPERTY, other_scene
from ..scene.strip_pair import PAIR_PROPERTY, Row, add_pair, pair_of, remove_pair, wipe_of
from ..scene.written import output_file
from ..shot.picture_size import png_size
from ..take.comparing import KEYS, MODES, RENDERED, compare_takes, in_step, key_pictures_of, rendered_files
from ..take.library import check_frames
from .beside import beside
from .drawing import say
from .images import shown_as
from .job_operators import redraw
from .take_shelf import chosen_take, shelf
from .takes import TakeOperator
from .words import register_classes, said, unregister_classes

_items: list[tuple[str, str, str]] = []


def _others(_self, context):
    """What a take is compared with; kept, as Blender does not keep the words of dynamic items."""
    chosen = chosen_take(context)
    entries = [entry for entry in shelf.entries if chosen is None or entry.key != chosen.key]
    _items[:] = [(entry.key, f"{entry.when}  {entry.words()}", "") for entry in entries]
    tip = said("The PNG files at the scene's output path, as another engine has rendered them")
    _items.append((RENDERED, said("Blender's Own Render"), tip))
    tip = said("The pictures that the take was made of, at their frames")
    _items.append((KEYS, said("Its Key Pictures"), tip))
    return _items


class CompareOperator(TakeOperator):
    """Compares the chosen take with ``other``, as ``mode``."""

    other: EnumProperty(name="With", description="The other take", items=_others)
    mode: EnumProperty(
        name="As",
        description="How both are shown",
        items=tuple(
            (mode, name, "", place)
            for place, (mode, name) in enumerate(zip(MODES, ("Side by Side", "Wipe", "Difference"), strict=True))
        ),
    )

    def invoke(self, context, _event):
        """Ask for the other take."""
        return context.window_manager.invoke_props_dialog(self)

    def chosen_other(self, context, entry):
        """What it is compared with.  Raises `SettingsError`, `StorageError`."""
        take, name = entry.take, self.other
        if name == RENDERED:
            return rendered_files(take.frame_numbers, partial(output_file, context.scene))
        if name == KEYS:
            return key_pictures_of(take, shelf.folder / "compared" / f"{entry.key[:16]}_{KEYS}")
        other = next((one.take for one in shelf.look(context.scene) if one.key == name), None)
        if other is None:
            raise SettingsError("That take is gone; choose another one to compare with.", field="take")
        check_frames(other)
        return other


class DAS_OT_compare_takes(CompareOperator, bpy.types.Operator):
    bl_idname = "das.compare_takes"
    bl_label = "Compare…"
    bl_description = (
        "Show the chosen take beside another one, Blender's own render or its key pictures; as a wipe, or their "
        "difference"
    )

    def act(self, context, entry):
        other, mode = self.chosen_other(context, entry), self.mode
        folder = shelf.folder / "compared" / f"{entry.key[:8]}_{self.other[:8]}_{mode}"

        def work(should_stop):
            return _at_every_frame(compare_takes(entry.take, other, mode, folder, should_stop=should_stop))

        beside(self.bl_label, work, shown_as("DAS Compared"))
        return ""


class DAS_OT_compare_strips(CompareOperator, bpy.types.Operator):
    bl_idname = "das.compare_strips"
    bl_label = "Compare in Sequencer…"
    bl_description = (
        "Put the chosen take and another one, Blender's own render or its key pictures as a pair of strips into the "
        "edit scene, in the place of the pair that is there"
    )
    bl_options = {"REGISTER", "UNDO"}

    def act(self, context, entry):
        scene, take = context.scene, entry.take
        check_frames(take)
        other = self.chosen_other(context, entry)
        place, *files = in_step(take, other)
        names = said("seed {seed}", seed=entry.report["seed"]), self._name_of_other()
        keys = entry.key, self.other
        edit = other_scene(scene, scene.das.edit_scene)
        size = edit.render.resolution_x, edit.render.resolution_y
        rows = tuple(
            Row(name, key, row, png_size(row[0]) or size)
            for name, key, row in zip(names, keys, files, strict=True)
        )
        add_pair(edit, rows, take.frame_numbers[0] + place, self.mode)
        compat.show_in_sequencer(context, edit)
        return said("{count} frames in {scene}", count=len(files[0]), scene=edit.name)

    def _name_of_other(self) -> str:
        if self.other in (RENDERED, KEYS):
            return said("Blender's Own Render") if self.other == RENDERED else said("Its Key Pictures")
        report = next(one.report for one in shelf.entries if one.key == self.other)
        return said("seed {seed}", seed=report["seed"])


class DAS_OT_remove_compared(bpy.types.Operator):
    bl_idname = "das.remove_compared"
    bl_label = "Remove Comparison"
    bl_description = "Take the pair of strips out of the edit scene; the takes stay"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context):
        if not any(pair_of(scene) for scene in _edits(context)):
            cls.poll_message_set(said("No takes are compared in the edit scene"))
            return False
        return True

    def execute(self, context):
        """Remove the pair."""
        for scene in _edits(context):
            remove_pair(scene)
        redraw()
        return {"FINISHED"}


class DAS_PT_strip(bpy.types.Panel):
    """What the active strip shows, where it is a take or one of a pair."""

    bl_label = "Take"
    bl_space_type = "SEQUENCE_EDITOR"
    bl_region_type = "UI"
    bl_category = "Strip"

    @classmethod
    def poll(cls, context):
        strip = _active_strip(context)
        return strip is not None and (TAKE_PROPERTY in strip.keys() or PAIR_PROPERTY in strip.keys())

    def draw(self, context):
        layout, strip = self.layout, _active_strip(context)
        if TAKE_PROPERTY in strip.keys():
            column = layout.column(align=True)
            seed, model = strip.get("das_seed", ""), strip.get("das_model", "")
            say(column, said("Seed {seed}, {model}", seed=seed, model=model))
            say(column, str(strip.get("das_prompt", "")))
            return
        wipe = wipe_of(strip.id_data)
        if wipe is not None:
            layout.prop(wipe, "effect_fader", text=said("Second Take"), slider=True)
        layout.operator("das.remove_compared", icon="X")


def _at_every_frame(files: list[Path]) -> list[Path]:
    """``files``, named by their frames, with copies of the one before where there is none: an Image Editor shows
    nothing there.
    """
    found, folder = {int(file.stem): file for file in files}, files[0].parent
    whole = []
    for number in range(min(found), max(found) + 1):
        file = folder / f"{number:04d}.png"
        if number not in found:
            shutil.copyfile(whole[-1], file)
        whole.append(file)
    return whole


def _active_strip(context):
    scene = compat.sequencer_scene(context)
    return None if scene is None or scene.sequence_editor is None else scene.sequence_editor.active_strip


def _edits(context) -> list:
    """The scenes that may have a pair: the shot's edit scene, and the one whose strips are shown."""
    scenes = (context.scene.das.edit_scene, compat.sequencer_scene(context))
    return [scene for place, scene in enumerate(scenes) if scene is not None and scene not in scenes[:place]]


CLASSES = (DAS_OT_compare_takes, DAS_OT_compare_strips, DAS_OT_remove_compared, DAS_PT_strip)


def register():
    """Register the buttons and the strip's panel."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
