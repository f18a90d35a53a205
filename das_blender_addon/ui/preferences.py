# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on preferences: the server's address, the cache folder, and a local server to start."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty, StringProperty

from .. import compat, local_server
from ..shot.machine import DEFAULT_SERVER, DEFAULT_TIMEOUT_S
from .cache_page import draw_caches
from .drawing import alert, draw_server_line, say
from .words import register_classes, said, unregister_classes

LOG_LINES_SHOWN = 12


class DAS_AP_preferences(bpy.types.AddonPreferences):
    """The add-on's preferences."""

    bl_idname = compat.PACKAGE

    server: StringProperty(
        name="Server",
        description="Address of the server, for example localhost or tcp://127.0.0.1:5599",
        default=DEFAULT_SERVER,
    )
    timeout_s: FloatProperty(
        name="Give Up After",
        description="Seconds of silence after which a server counts as gone",
        default=DEFAULT_TIMEOUT_S,
        min=1.0,
        max=86400.0,
        subtype="TIME_ABSOLUTE",
    )
    cache_folder: StringProperty(
        name="Cache Folder",
        description="Folder for first frames and takes; empty puts a das_cache folder beside each file",
        subtype="DIR_PATH",
    )
    server_executable: StringProperty(
        name="das-server",
        description="The das-server program; empty looks for it on the PATH",
        subtype="FILE_PATH",
    )
    server_model: StringProperty(
        name="Model", description="Model that the local server serves; empty takes its own default"
    )
    server_port: IntProperty(
        name="Port", description="Loopback port of the local server; 0 takes a free one", default=0, min=0, max=65535
    )
    show_server_log: BoolProperty(
        name="Show Log", description="Show the last lines of the local server's log", default=False
    )

    def draw(self, context):
        """Server line, cache, and the local server with its log."""
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        row = layout.row(align=True)
        row.prop(self, "server")
        row.operator("das.pair", text="", icon="LOCKED")
        draw_server_line(layout, context)
        layout.prop(self, "timeout_s")
        layout.prop(self, "cache_folder")
        draw_caches(layout)

        box = layout.box()
        box.label(text=said("Server on This Machine"))
        column = box.column()
        server = local_server.current()
        is_running = server is not None and server.is_running
        column.enabled = not is_running
        column.prop(self, "server_executable")
        column.prop(self, "server_model")
        column.prop(self, "server_port")
        row = box.row()
        if is_running and not server.is_own:
            words = said("Running at {address}, started by another Blender", address=server.address)
            row.label(text=words, icon="CHECKMARK")
        elif is_running:
            row.label(text=said("Running at {address}", address=server.address), icon="CHECKMARK")
            row.operator("das.stop_local_server", icon="X")
        else:
            row.operator("das.start_local_server", icon="PLAY")
            if server is not None and server.is_own:
                status, words = server.process.returncode, server.last_words()
                alert(box, said("It ended with status {status}: {words}", status=status, words=words))
            elif server is not None:
                alert(box, server.last_words())
            else:
                reason = local_server.can_start()
                if reason:
                    say(box, reason, "INFO")
        if server is not None and server.is_own:
            box.prop(self, "show_server_log")
            if self.show_server_log:
                lines = box.column(align=True)
                lines.scale_y = 0.8
                for line in server.log_tail[-LOG_LINES_SHOWN:]:
                    lines.label(text=line)


def register():
    """Register the preferences."""
    register_classes([DAS_AP_preferences])


def unregister():
    """Undo `register`."""
    unregister_classes([DAS_AP_preferences])
