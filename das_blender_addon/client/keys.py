# SPDX-License-Identifier: GPL-3.0-or-later
"""This machine's keys for servers that let in only whom they know: found by address, got by pairing, kept as files that
nobody else may read."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass

import zmq

from ..errors import DasError, SettingsError
from ..protocol.identity import keys_file
from ..protocol.pairing import read_pairing
from .address import normalise_address


@dataclass(frozen=True)
class ServerKeys:
    """``server``: a server's public key; ``public``, ``secret``: this user's own on this machine; all in Z85."""

    server: str
    public: str
    secret: str


def keys_for(address: str) -> ServerKeys | None:
    """The keys for the server at ``address``, None where this machine was never paired with it."""
    about = _read().get(normalise_address(address))
    try:
        return None if about is None else ServerKeys(**about)
    except TypeError as error:
        raise SettingsError(f"The keys in {keys_file()} are damaged; pair again.", field="server") from error


def pair(line: str, ask: Callable[[str, ServerKeys, str, str], str]) -> tuple[str, str]:
    """Exchange the key for one use in ``line`` for a key of this machine and keep that → (address, user).

    ``ask(address, keys, public, machine)``: sends PAIR over a connection with these keys → the user.  Raises
    `SettingsError` for a line that is none, `AuthenticationFailed` for one that is used or too old.
    """
    pairing = read_pairing(line)
    if not zmq.has("curve"):
        raise SettingsError("ZeroMQ here was built without encryption (CURVE); install pyzmq's own wheel.")
    one_use = ServerKeys(pairing.server, zmq.curve_public(pairing.secret.encode()).decode(), pairing.secret)
    public, secret = (key.decode() for key in zmq.curve_keypair())
    own = ServerKeys(pairing.server, public, secret)
    address = normalise_address(pairing.address)
    before = _read()
    _write(before | {address: asdict(own)})  # first: a key that is let in and then lost would stay on the server's list
    try:
        return address, ask(address, one_use, public, platform.node())
    except DasError:
        _write(before)
        raise


def _read() -> dict[str, dict[str, str]]:
    try:
        found = json.loads(keys_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"The keys in {keys_file()} cannot be read: {error}.", field="server") from error
    return found if isinstance(found, dict) else {}


def _write(keys: dict[str, dict[str, str]]) -> None:
    path = keys_file()
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(keys, file, indent=1)
        os.replace(part, path)
    except OSError as error:
        raise SettingsError(f"The keys in {path} cannot be written: {error.strerror}.", field="server") from error
