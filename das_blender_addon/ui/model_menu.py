# SPDX-License-Identifier: GPL-3.0-or-later
"""The menu of the models that the shot's server offers, beside the field in which any name can be typed."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from ..client.known_servers import known_capabilities
from ..errors import DasError
from ..shot.settings import resolve_settings
from .words import register_classes, said, unregister_classes


class DAS_OT_choose_model(bpy.types.Operator):
    bl_idname = "das.choose_model"
    bl_label = "Choose Model"
    bl_description = "Let this model make the shot"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}

    name: StringProperty(name="Model", description="The server's name for it; empty for the server's default")

    def execute(self, context):
        context.scene.das.model = self.name
        return {"FINISHED"}


class DAS_MT_models(bpy.types.Menu):
    """What the server said of itself when it was last asked; asks no network."""

    bl_label = "Models"

    def draw(self, context):
        layout = self.layout
        capabilities = offered(context.scene)
        if capabilities is None:
            layout.label(text=said("The models are known once the server was asked"), icon="INFO")
            layout.operator("das.test_connection", icon="LINKED")
            return
        layout.operator("das.choose_model", text="Server's Default").name = ""
        layout.separator()
        for model in capabilities.models:
            row = layout.row()
            row.enabled = model.installed
            words = model.label if model.installed else said("{model} (not installed)", model=model.label)
            row.operator("das.choose_model", text=words, translate=False).name = model.name


def offered(scene):
    """What the shot's server offers, None while it was not asked."""
    try:
        return known_capabilities(resolve_settings(scene).server)
    except DasError:
        return None


CLASSES = (DAS_OT_choose_model, DAS_MT_models)


def register():
    """Register the menu and its operator."""
    register_classes(CLASSES)


def unregister():
    """Undo `register`."""
    unregister_classes(CLASSES)
