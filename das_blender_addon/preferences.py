# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to this machine, not to a shot: the server's address, the cache folder, and a local server to start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bpy
from bpy.props import BoolProperty, FloatProperty, IntProperty, StringProperty

from .errors import SettingsError

DEFAULT_SERVER = "tcp://127.0.0.1:5599"
DEFAULT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class MachineSettings:
    """The add-on preferences as plain values; the defaults where the package runs without being an enabled add-on."""

    server: str = DEFAULT_SERVER
    timeout_s: float = DEFAULT_TIMEOUT_S
    cache_folder: str = ""
    server_executable: str = ""
    server_model: str = ""
    server_port: int = 0


class DAS_AP_preferences(bpy.types.AddonPreferences):
    """The add-on's preferences."""

    bl_idname = __package__

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
        from . import panels

        panels.draw_preferences(self, context)


def machine_settings() -> MachineSettings:
    """The preferences as they are now, or the defaults where the package is not an enabled add-on (scripts, tests)."""
    entry = bpy.context.preferences.addons.get(__package__)
    chosen = getattr(entry, "preferences", None)
    if chosen is None:
        return MachineSettings()
    return MachineSettings(
        server=chosen.server or DEFAULT_SERVER,
        timeout_s=chosen.timeout_s,
        cache_folder=chosen.cache_folder,
        server_executable=chosen.server_executable,
        server_model=chosen.server_model,
        server_port=chosen.server_port,
    )


def user_folder(name: str) -> Path:
    """A folder of this user that the extension may write to; created if it is not there.

    Blender gives extensions one of their own; a package that is not installed as an extension gets one among the user's
    data files.
    """
    try:
        return Path(bpy.utils.extension_path_user(__package__, path=name, create=True))
    except ValueError:
        return Path(bpy.utils.user_resource("DATAFILES", path=f"das_blender_addon/{name}", create=True))


def check_online_access(address: str, *, chosen_by_environment: bool) -> None:
    """Refuse a server on another machine while Blender's online access is off.

    Loopback is this machine and always allowed.  A DAS_SERVER in the environment is a choice made outside of the
    file and counts as permission, which farms need: background Blender has no online access unless asked for.
    Raises `SettingsError`.
    """
    from .client.address import is_loopback

    if is_loopback(address) or bpy.app.online_access or chosen_by_environment:
        return
    raise SettingsError(
        f"The server {address} is on another machine and Blender's online access is off; "
        "turn on Preferences › System › Network › Allow Online Access, or use a server on this machine.",
        field="server",
    )


def register():
    """Register the preferences."""
    bpy.utils.register_class(DAS_AP_preferences)


def unregister():
    """Undo `register`."""
    bpy.utils.unregister_class(DAS_AP_preferences)
