# SPDX-License-Identifier: GPL-3.0-or-later
"""Server addresses as people type them → ``tcp://host:port``."""

from __future__ import annotations

import ipaddress
import re

from ..errors import SettingsError
from ..protocol.messages import DEFAULT_PORT

_ADDRESS = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9a-f:.%]+\]|[^\s/:\[\]@]+)(?::(?P<port>[0-9]+))?/*", re.I
)


def normalise_address(address: str) -> str:
    """``"localhost"``, ``"host:port"``, ``"http://…"`` or ``"tcp://…"`` as ``"tcp://host:port"``; the port may be left
    out.

    An IPv6 host stands in brackets.  Raises `SettingsError` for anything else.
    """
    match = _ADDRESS.fullmatch(address.strip())
    if match is None or (match["scheme"] or "tcp").lower() not in ("tcp", "http", "https"):
        raise SettingsError(
            f"The server address {address!r} is not a host and a port; write it like tcp://127.0.0.1:{DEFAULT_PORT}.",
            field="server",
        )
    if match["host"] in ("*", "0.0.0.0", "[::]"):
        raise SettingsError(
            f"The server address {address!r} is one to listen on, not one to connect to; name the server's host.",
            field="server",
        )
    port = int(match["port"] or DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise SettingsError(f"The port {port} in {address!r} is not between 1 and 65535.", field="server")
    return f"tcp://{match['host'].lower()}:{port}"


def is_loopback(address: str) -> bool:
    """Whether ``address`` is on this machine's own loopback network, where nothing leaves the machine."""
    host = normalise_address(address).removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
