# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a running server listens and whether it asks for keys, as it says in its state folder; and so whom the commands
on its machine ask."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.messages import DEFAULT_PORT
from das_server.config import ServerConfig, build_config, is_loopback, split_address

_log = logging.getLogger(__name__)

FILE = "listening.json"
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
"""Hosts that stand for every address of a machine, and the one by which it reaches itself."""


@contextmanager
def said_in(state: Path, address: str, needs_keys: bool) -> Iterator[None]:
    """The state folder says so meanwhile, to its owner alone; without it, commands must be told the address."""
    path, part = state / FILE, state / f"{FILE}.part"
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump({"address": address, "keys": needs_keys}, file)
        os.replace(part, path)
    except OSError as error:
        _log.warning("%s cannot be written, so that commands have to be given --server: %s", path, error.strerror)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def client_config(
    server: str | None, environment: Mapping[str, str] | None = None, *, state: str | None = None
) -> ServerConfig:
    """For commands that ask a server: ``bind`` is the one named, else that of ``DAS_SERVER``, as for Blender, else
    where the server of the ``state`` folder listens now, else the one that `build_config` finds; ``curve`` is what the
    server of the state folder says, where it is the one.  Raises `SettingsError`."""
    environment = os.environ if environment is None else environment
    named = re.sub(r"^(tcp|https?)://", "", environment.get("DAS_SERVER", "").strip().rstrip("/"), flags=re.I)
    if server is None and named:
        server = f"tcp://{named}" + ("" if re.search(r"[^:\]]:\d+$|\]:\d+$", named) else f":{DEFAULT_PORT}")
        split_address(server, field="DAS_SERVER")
    config = build_config({"bind": server, "state": state}, environment=environment, check_address=False)
    found = _said_in(config.state)
    if found is None:
        return config
    address, keys = found
    if server is None:
        return replace(config, bind=address, curve=keys)
    return replace(config, curve=keys) if _is_same(server, address) else config


def _said_in(state: Path) -> tuple[str, bool] | None:
    """(address as this machine reaches it, whether keys are needed), None where no server says so."""
    try:
        about = json.loads((state / FILE).read_text(encoding="utf-8"))
        host, port = split_address(about["address"])
        return (f"tcp://{EVERYWHERE[host]}:{port}" if host in EVERYWHERE else about["address"]), bool(about["keys"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SettingsError):
        return None


def _is_same(named: str, address: str) -> bool:
    (host, port), (found, found_port) = split_address(named), split_address(address)
    return port == found_port and (host == found or (is_loopback(host) and is_loopback(found)))
