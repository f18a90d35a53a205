# SPDX-License-Identifier: GPL-3.0-or-later
"""*Variations…*: the shot once for each of several seeds, prompts and guidance scales, and a sheet of them."""

from __future__ import annotations

from dataclasses import replace

import bpy
from bpy.props import FloatVectorProperty, IntProperty, StringProperty

from ..errors import SettingsError
from ..jobs import noted
from ..jobs.as_made import full_settings
from ..shot.settings import parse_size, resolve_settings
from ..take import recent
from ..take.comparing import write_sheet
from ..take.last_reports import keeping
from ..take.variation_table import read_text, variations_of
from ..take.variations import MOST, combinations, parse_seeds
from .beside import beside
from .images import shown_as
from .job_operators import DAS_OT_render_take, JobOperator
from .take_shelf import chosen_take, shelf
from .words import register_classes, said, unregister_classes


class DAS_OT_variations(JobOperator, bpy.types.Operator):
    bl_idname = "das.variations"
    bl_label = "Variations…"
    bl_description = (
        "Render the shot once for each of several seeds, prompts and guidance scales, or for each row of a table, and "
        "show the middle frame of each in one sheet; all of them are in the list of takes afterwards, where Make Full "
        "renders a chosen one with the scene's own size and steps"
    )
    waits = True
    seeds: StringProperty(name="Seeds", description="1-4, or 3,9,12-14; empty for the scene's", default="1-4")
    prompts: StringProperty(
        name="Prompts",
        description=(
            "Text data block of the file with a prompt in each line, or a table whose first line names columns: "
            "prompt, negative prompt, seed, guidance, steps; empty for the scene's prompt"
        ),
        search=lambda _self, _context, typed: [text.name for text in bpy.data.texts if typed in text.name],
    )
    table: StringProperty(
        name="Table", description="CSV file with the same columns, instead of a text", subtype="FILE_PATH"
    )
    steps: IntProperty(
        name="Steps", description="For a first look, fewer than the scene's; 0 for the scene's", min=0, max=1000
    )
    size: StringProperty(
        name="Size", description="For a first look, a smaller size of the model, as 96x64; empty for the scene's"
    )
    scales: IntProperty(name="Guidance Scales", description="How many; 0 for the scene's", min=0, max=4)
    guidance: FloatVectorProperty(name="Guidance", size=4, default=(3.0, 6.0, 9.0, 12.0), min=0.0, max=50.0)

    @classmethod
    def why_not(cls, context):
        return DAS_OT_render_take.why_not(context)

    def invoke(self, context, _event):
        """Ask what varies."""
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, _context):
        layout = self.layout
        layout.use_property_split = True
        layout.prop(self, "seeds")
        layout.prop(self, "prompts")
        layout.prop(self, "table")
        layout.prop(self, "steps")
        layout.prop(self, "size")
        layout.prop(self, "scales")
        for index in range(self.scales):
            layout.prop(self, "guidance", index=index, text=said("Guidance"))

    def execute(self, context):
        """In a window a timer drives it from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        asked = self._asked(resolve_settings(scene))
        recipe, self.note = noted.noted_takes(scene, noted.VARIATIONS, asked, on_report=keeping(scene))
        return recipe

    def _asked(self, settings):
        if self.steps:
            settings = replace(settings, steps=self.steps)
        if self.size:
            settings = replace(settings, size=parse_size(self.size))
        seeds, guidances = parse_seeds(self.seeds), tuple(self.guidance)[: self.scales]
        if self.table:
            path = bpy.path.abspath(self.table)
            return variations_of(read_text(path), settings, seeds, guidances, name=path, only_table=True)
        if not self.prompts:
            return combinations(settings, seeds, (), guidances)
        text = bpy.data.texts.get(self.prompts)
        if text is None:
            raise SettingsError(f"There is no text {self.prompts!r} in the file; choose one.", field="prompt")
        return variations_of(text.as_string(), settings, seeds, guidances, name=f"The text {text.name!r}")

    @classmethod
    def finished(cls, scene, made):
        recent.remember_take(scene, made[-1].take)
        shelf.forget()
        file, middles = made[0].take.folder.parent.parent / "sheets" / "variations.png", [one.middle for one in made]
        beside(cls.bl_label, lambda _stop: [write_sheet(middles, file, most=MOST)], shown_as("DAS Variations"))

    @classmethod
    def words(cls, made):
        return said("{count} variations: see Takes", count=len(made))


class DAS_OT_make_full(JobOperator, bpy.types.Operator):
    bl_idname = "das.make_full"
    bl_label = "Make Full"
    bl_description = (
        "Render the chosen take once more with its seed, words and camera, and the scene's own model, size, steps and "
        "speed: of a first look, the real one"
    )
    waits = True

    @classmethod
    def why_not(cls, context):
        if chosen_take(context) is None:
            return "The shot has no take yet: use Render Take"
        return DAS_OT_render_take.why_not(context)

    def execute(self, context):
        """In a window a timer drives it from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        asked = full_settings(scene, chosen_take(bpy.context), resolve_settings(scene))
        recipe, self.note = noted.noted_takes(scene, noted.TAKE, [asked], on_report=keeping(scene))
        return recipe

    @classmethod
    def finished(cls, scene, take):
        recent.remember_take(scene, take)
        shelf.forget()

    @classmethod
    def words(cls, take):
        width, height = take.report["model_size"]
        steps, seed = take.report["num_inference_steps"], take.report["seed"]
        if take.cached:
            return said("There already: seed {seed}, {width}×{height}", seed=seed, width=width, height=height)
        words = "Seed {seed} with {steps} steps at {width}×{height}"
        return said(words, seed=seed, steps=steps, width=width, height=height)


CLASSES = (DAS_OT_variations, DAS_OT_make_full)


def register():
    """Register the buttons."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
