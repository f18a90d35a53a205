# SPDX-License-Identifier: GPL-3.0-or-later
"""How one object, or all of a collection, is tracked: `Object.das`, `Collection.das` and their panels.  What is seen
through glass is a choice of objects only.
"""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty, PointerProperty

from .panel import RenderPanel
from .words import register_classes, unregister_classes


def _chosen(settings, _context):
    """A render that comes later reads the scene again."""
    settings.id_data.update_tag()


class DAS_PG_tracking(bpy.types.PropertyGroup):
    """How something is tracked, saved with it."""

    tracking: EnumProperty(
        name="Tracking",
        description="How the model is told of it",
        items=(
            ("TRACK", "Track", "Every point of it is followed exactly", 0),
            (
                "IGNORE",
                "Ignore",
                "It is not in the tracking video: what is behind it is followed through it instead",
                1,
            ),
            (
                "BACKGROUND",
                "Background",
                "It is drawn behind everything else, as if it were far away: a backdrop, a painted sky",
                2,
            ),
            (
                "SILHOUETTE",
                "Only Silhouette",
                "It hides what is behind it and is black itself: the model fills the shape as it likes",
                3,
            ),
        ),
        default="TRACK",
        update=_chosen,
    )
    transmission: EnumProperty(
        name="Transmission",
        description="What is tracked where a material of the object lets light through, as glass does",
        items=(
            ("SURFACE", "Surface", "The surface itself, with what is seen in it", 0),
            ("BEHIND", "What Is Behind", "What is seen through it, as if it were not there", 1),
        ),
        default="SURFACE",
        update=_chosen,
    )


class _TrackingPanel(RenderPanel):
    bl_label = "Diffusion as Shader"
    bl_options = {"DEFAULT_CLOSED"}


class DAS_PT_object_tracking(_TrackingPanel, bpy.types.Panel):
    """The choices for the active object."""

    bl_context = "object"

    def draw(self, context):
        _draw(self.layout, context.object.das, "tracking", "transmission")


class DAS_PT_collection_tracking(_TrackingPanel, bpy.types.Panel):
    """The choice for the active collection; that of an object goes before it."""

    bl_context = "collection"

    @classmethod
    def poll(cls, context):
        return super().poll(context) and context.collection != context.scene.collection

    def draw(self, context):
        _draw(self.layout, context.collection.das, "tracking")


def _draw(layout, settings, *names: str) -> None:
    layout.use_property_split = True
    layout.use_property_decorate = False
    for name in names:
        layout.prop(settings, name)


CLASSES = (DAS_PG_tracking, DAS_PT_object_tracking, DAS_PT_collection_tracking)


def register():
    """Register both panels and give every object and collection its choice."""
    register_classes(CLASSES)
    for kind in (bpy.types.Object, bpy.types.Collection):
        kind.das = PointerProperty(name="Diffusion as Shader", type=DAS_PG_tracking)


def unregister():
    """Undo `register`."""
    for kind in (bpy.types.Collection, bpy.types.Object):
        del kind.das
    unregister_classes(CLASSES)
