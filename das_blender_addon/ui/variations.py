# SPDX-License-Identifier: GPL-3.0-or-later
"""*Variations…*: the shot once for each of several seeds, prompts and guidance scales, and a sheet of them."""

from __future__ import annotations

import bpy
from bpy.props import FloatVectorProperty, IntProperty, StringProperty

from ..errors import SettingsError
from ..jobs import noted
from ..scene.colours import read_as_srgb
from ..shot.settings import resolve_settings
from ..take import recent
from ..take.comparing import write_sheet
from ..take.last_reports import keeping
from ..take.variations import MOST, combinations, parse_seeds, prompts_of
from .images import load_sequence, show_image
from .job_operators import DAS_OT_render_take, JobOperator
from .take_shelf import shelf
from .words import register_classes, said, unregister_classes


class DAS_OT_variations(JobOperator, bpy.types.Operator):
    bl_idname = "das.variations"
    bl_label = "Variations…"
    bl_description = (
        "Render the shot once for each of several seeds, prompts and guidance scales, and show the middle frame of "
        "each in one sheet; all of them are in the list of takes afterwards"
    )
    waits = True
    seeds: StringProperty(name="Seeds", description="1-4, or 3,9,12-14; empty for the scene's", default="1-4")
    prompts: StringProperty(
        name="Prompts",
        description="Text data block of the file with a prompt in each line; empty for the scene's prompt",
        search=lambda _self, _context, typed: [text.name for text in bpy.data.texts if typed in text.name],
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
        layout.prop(self, "scales")
        for index in range(self.scales):
            layout.prop(self, "guidance", index=index, text=said("Guidance"))

    def execute(self, context):
        """In a window a timer drives it from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        settings = resolve_settings(scene)
        asked = combinations(
            settings, parse_seeds(self.seeds), self._prompts(), tuple(self.guidance)[: self.scales]
        )
        recipe, self.note = noted.noted_takes(scene, noted.VARIATIONS, asked, on_report=keeping(scene))
        return recipe

    def _prompts(self) -> tuple[str, ...]:
        if not self.prompts:
            return ()
        text = bpy.data.texts.get(self.prompts)
        if text is None:
            raise SettingsError(f"There is no text {self.prompts!r} in the file; choose one.", field="prompt")
        return prompts_of(text.as_string())

    @classmethod
    def finished(cls, scene, made):
        recent.remember_take(scene, made[-1].take)
        shelf.forget()
        folder = made[0].take.folder.parent.parent / "sheets"
        file = write_sheet([one.middle for one in made], folder / "variations.png", most=MOST)
        image = load_sequence("DAS Variations", [file])
        read_as_srgb(image)
        show_image(image)

    @classmethod
    def words(cls, made):
        return said("{count} variations: see Takes", count=len(made))


CLASSES = (DAS_OT_variations,)


def register():
    """Register the button."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
