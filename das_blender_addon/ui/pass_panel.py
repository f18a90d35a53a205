# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of Blender's passes a view layer renders with our engine: those that the geometry tells."""

from __future__ import annotations

import bpy

from ..scene.blender_passes import MATTES, PASSES
from .panel import RenderPanel
from .words import register_classes, unregister_classes


class DAS_PT_passes(RenderPanel, bpy.types.Panel):
    """The passes of the active view layer."""

    bl_label = "Passes"
    bl_context = "view_layer"

    def draw(self, context):
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column(heading="Include")
        for one in PASSES:
            column.prop(context.view_layer, one.setting)
        column = layout.column(heading="Cryptomatte")
        for setting in MATTES.values():
            column.prop(context.view_layer, setting)
        row = layout.row()
        row.active = any(getattr(context.view_layer, setting) for setting in MATTES.values())
        row.prop(context.view_layer, "pass_cryptomatte_depth")


CLASSES = (DAS_PT_passes,)


def register():
    """Register the panel."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
