# SPDX-License-Identifier: GPL-3.0-or-later
"""*Repair Region…*: a part of the chosen take is made anew, as a mask or an object shows; the rest stays as it is."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from ..child.fitting import pixels_of
from ..errors import SettingsError
from ..jobs.region import region_again
from ..shot.resolved import MAX_SEED
from ..shot.settings import resolve_settings
from ..take import recent
from ..take.region import Region
from .job_operators import DAS_OT_render_take, JobOperator
from .take_shelf import chosen_take, shelf
from .words import register_classes, said, unregister_classes

INSIDE = 0.5
"""Of lightness times alpha: from there on a pixel of the mask is inside."""


class DAS_OT_repair_region(JobOperator, bpy.types.Operator):
    bl_idname = "das.repair_region"
    bl_label = "Repair Region…"
    bl_description = (
        "Make a part of the chosen take anew, with another seed or prompt: what is white in a mask of the current "
        "frame, which follows the surface through the shot, or an object. The rest stays pixel by pixel; the result "
        "is a take of its own"
    )
    waits = True
    by: EnumProperty(
        name="Region",
        items=(
            ("MASK", "Mask", "An image of the size of the take, white where it is made anew", 0),
            ("OBJECT", "Object", "Wherever the object is seen", 1),
        ),
    )
    mask: StringProperty(
        name="Mask",
        search=lambda _self, _context, typed: [image.name for image in bpy.data.images if typed in image.name],
    )
    shape: StringProperty(
        name="Object",
        search=lambda _self, context, typed: [one.name for one in context.scene.objects if typed in one.name],
    )
    seed: IntProperty(name="Seed", description="-1 takes any other one", default=-1, min=-1, max=MAX_SEED)
    prompt: StringProperty(name="Prompt", description="Empty keeps that of the take")

    @classmethod
    def why_not(cls, context):
        if chosen_take(context) is None:
            return "The shot has no take yet: use Render Take"
        return DAS_OT_render_take.why_not(context)

    def invoke(self, context, _event):
        """Ask what, and how."""
        if context.object is not None:
            self.shape = self.shape or context.object.name
        return context.window_manager.invoke_props_dialog(self)

    def draw(self, _context):
        layout = self.layout
        layout.use_property_split = True
        for name in ("by", "mask" if self.by == "MASK" else "shape", "seed", "prompt"):
            layout.prop(self, name)

    def execute(self, context):
        """In a window a timer drives it from here on."""
        return super().execute(context) if bpy.app.background else super().invoke(context, None)

    def make_recipe(self, scene):
        region = Region(name=self.shape) if self.by == "OBJECT" else Region(scene.frame_current, self._mask())
        seed = None if self.seed < 0 else self.seed
        entry = chosen_take(bpy.context)
        return region_again(scene, entry, resolve_settings(scene), region, seed=seed, prompt=self.prompt)

    def _mask(self):
        image = bpy.data.images.get(self.mask)
        if image is None:
            raise SettingsError(f"There is no image {self.mask!r} in the file; choose the mask.", field="mask")
        pixels = pixels_of(image, f"The mask {image.name}")
        return pixels[..., :3].max(axis=2) * pixels[..., 3] >= INSIDE

    @classmethod
    def finished(cls, scene, take):
        recent.remember_take(scene, take)
        shelf.forget()

    @classmethod
    def words(cls, take):
        region = take.report["region"]
        return said("Region made anew with the seed {seed}: a take of its own", seed=region["seed"])


CLASSES = (DAS_OT_repair_region,)


def register():
    """Register the button."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
