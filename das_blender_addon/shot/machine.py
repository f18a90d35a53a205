# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to this machine, not to a shot: the add-on preferences as plain values, and its user's folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bpy

from .. import compat
from ..client.address import is_loopback
from ..errors import SettingsError

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


def machine_settings() -> MachineSettings:
    """The preferences as they are now, or the defaults where the package is not an enabled add-on (scripts, tests)."""
    entry = bpy.context.preferences.addons.get(compat.PACKAGE)
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
        return Path(bpy.utils.extension_path_user(compat.PACKAGE, path=name, create=True))
    except ValueError:
        return Path(bpy.utils.user_resource("DATAFILES", path=f"das_blender_addon/{name}", create=True))


def check_online_access(address: str) -> None:
    """Refuse a server on another machine while Blender's online access is off.  Raises `SettingsError`.

    Loopback is this machine and always allowed.  Nothing but Blender's own switch permits more: not the environment,
    nor a script that names the server.
    """
    if is_loopback(address) or bpy.app.online_access:
        return
    if bpy.app.online_access_override:
        remedy = "start Blender without --offline-mode"
    elif bpy.app.background:
        remedy = "start Blender (or das) with --online-mode"
    else:
        remedy = "turn on Preferences › System › Network › Allow Online Access"
    raise SettingsError(
        f"The server {address} is on another machine and Blender's online access is off; "
        f"{remedy}, or use a server on this machine.",
        field="server",
    )


# ── The local server of this session ────────────────────────────────────────────────────────────────────────────────

_local_address: Callable[[], str] = str


def ask_for_local_address(ask: Callable[[], str]) -> None:
    """From now on ``ask()`` tells the address of the local server that was started from here, "" where none runs."""
    global _local_address
    _local_address = ask


def local_address() -> str:
    """Address of the running local server of this session, "" where there is none."""
    return _local_address()
