# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose a client on the server's own machine is, where no keys are needed: a secret that its user alone can read, at
the head of its routing id, which ZeroMQ sends again with every new connection."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

TOKEN_BYTES = 16
_HEAD = b"DAS1"


def token_file() -> Path:
    """``DAS_TOKEN``, or a file in the platform's folder for user data."""
    if os.environ.get("DAS_TOKEN"):
        return Path(os.environ["DAS_TOKEN"])
    return platform_folder("LOCALAPPDATA", "AppData/Local", "XDG_DATA_HOME", ".local/share") / "token"


def keys_file() -> Path:
    """``DAS_KEYS``, or a file in the platform's folder for user configuration: this machine's keys, by address."""
    if os.environ.get("DAS_KEYS"):
        return Path(os.environ["DAS_KEYS"])
    return platform_folder("APPDATA", "AppData/Roaming", "XDG_CONFIG_HOME", ".config") / "keys.json"


def platform_folder(windows: str, windows_default: str, xdg: str, xdg_default: str) -> Path:
    """Our folder among those of the user's programs: below the one that the variable ``windows`` or ``xdg`` names, or
    its default below the user's home.
    """
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get(windows) or home / windows_default)
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get(xdg) or home / xdg_default)
    return base / "das"


def user_token() -> bytes:
    """The secret of this user on this machine, made when it is not there; b"" where it can be neither read nor made."""
    path = token_file()
    for _ in range(2):
        try:
            found = bytes.fromhex(path.read_text(encoding="ascii").strip())
            return found if len(found) == TOKEN_BYTES else b""
        except FileNotFoundError:
            _make(path)
        except (OSError, ValueError):
            return b""
    return b""


def routing_id(token: bytes) -> bytes | None:
    """A new routing id for a client with this secret; None without one: then it has no name."""
    return _HEAD + token + secrets.token_bytes(8) if len(token) == TOKEN_BYTES else None


def token_in(peer: bytes) -> bytes:
    """The secret in a routing id; b"" for one without."""
    is_ours = peer.startswith(_HEAD) and len(peer) == len(_HEAD) + TOKEN_BYTES + 8
    return peer[len(_HEAD) : len(_HEAD) + TOKEN_BYTES] if is_ours else b""


def _make(path: Path) -> None:
    """Write a new secret, whole or not at all; where another process was faster, that one stays."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_hex(TOKEN_BYTES))
        try:
            os.link(part, path)
        finally:
            part.unlink()
    except OSError:
        return
