# SPDX-License-Identifier: GPL-3.0-or-later
"""*Pair…*: this machine is let in by a server on another one, with the line that its keeper sends."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from .. import compat
from ..client.client import pair_with
from ..errors import DasError
from ..protocol.pairing import read_pairing
from ..shot.machine import check_online_access
from .words import register_classes, said, unregister_classes

PATIENCE_S = 5.0
"""Longest time that Blender waits for the server."""


class DAS_OT_pair(bpy.types.Operator):
    bl_idname = "das.pair"
    bl_label = "Pair…"
    bl_description = "Be let in by a server on another machine: paste the line that das-server keys pair printed there"
    bl_options = {"INTERNAL"}

    line: StringProperty(
        name="Line",
        description="It begins with das-pair: and is good for one machine and ten minutes",
        subtype="PASSWORD",
        options={"SKIP_SAVE", "HIDDEN"},
    )

    def invoke(self, context, event):
        return context.window_manager.invoke_props_dialog(self, width=500)

    def draw(self, context):
        self.layout.prop(self, "line")

    def execute(self, context):
        try:
            check_online_access(read_pairing(self.line).address)
            address, user = pair_with(self.line, timeout_s=PATIENCE_S)
        except DasError as error:
            self.report({"ERROR"}, error.message)
            return {"CANCELLED"}
        entry = context.preferences.addons.get(compat.PACKAGE)
        if getattr(entry, "preferences", None) is not None:
            entry.preferences.server = address
        self.report({"INFO"}, said("{server} lets this machine in as {user}", server=address, user=user))
        return {"FINISHED"}


def register():
    """Register the operator."""
    register_classes([DAS_OT_pair])


def unregister():
    """Undo `register`."""
    unregister_classes([DAS_OT_pair])
