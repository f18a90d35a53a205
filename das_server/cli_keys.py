# SPDX-License-Identifier: GPL-3.0-or-later
"""``das-server keys``: who is let in from other machines."""

from __future__ import annotations

import argparse
import socket
import time
from typing import TYPE_CHECKING

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.pairing import Pairing
from das_server.cli_status import printable
from das_server.config import build_config, split_address

if TYPE_CHECKING:
    from das_server.store.keys import KeyRing


def add_keys_parser(keys: argparse.ArgumentParser) -> None:
    """The actions of ``das-server keys``."""
    actions = keys.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("create", help="make the server's own keys").set_defaults(command=_create)
    pair = actions.add_parser("pair", help="print the line that lets in one machine of a user, for ten minutes")
    pair.add_argument("user", help="whose jobs it asks for: the same name for all machines of one artist")
    pair.add_argument(
        "--address", metavar="HOST:PORT", help="where that machine finds this server (default: by its name)"
    )
    pair.set_defaults(command=_pair)
    actions.add_parser("list", help="who is let in").set_defaults(command=_list)
    revoke = actions.add_parser("revoke", help="let in a user, or one key, no more")
    revoke.add_argument("name", help="the user, or the first 8 characters of a key or more")
    revoke.set_defaults(command=_revoke)
    for action in actions.choices.values():
        action.add_argument("--state", metavar="FOLDER", help="the server's, as for serve")


def _create(options: argparse.Namespace) -> None:
    print(f"The server's public key is {_ring(options).create()}")


def _pair(options: argparse.Namespace) -> None:
    ring = _ring(options)
    public, _ = ring.server_keys()
    address = options.address or f"{socket.getfqdn()}:{_port(options)}"
    host, port = split_address(f"tcp://{address.removeprefix('tcp://')}", field="address")
    host = f"[{host}]" if ":" in host else host
    print(Pairing(f"tcp://{host}:{port}", public, ring.pair(options.user)).line)


def _list(options: argparse.Namespace) -> None:
    for one in _ring(options).allowed():
        until = f"for one use until {time.strftime('%T', time.localtime(one.until_s))}" if one.is_for_one_use else ""
        words = [one.public[:8], one.user, one.machine, time.strftime("%F", time.localtime(one.created_s)), until]
        print(" · ".join(printable(word) for word in words if word))


def _revoke(options: argparse.Namespace) -> None:
    for one in _ring(options).revoke(options.name):
        print(f"{one.public[:8]} of {printable(one.user)} is let in no more")


def _ring(options: argparse.Namespace) -> KeyRing:
    from das_server.store.keys import KeyRing

    return KeyRing(build_config({"state": options.state}, check_address=False).state)


def _port(options: argparse.Namespace) -> str:
    port = split_address(build_config({"state": options.state}, check_address=False).bind)[1]
    if port == "*":
        raise SettingsError("The server takes any free port; say where it is with --address.", field="address")
    return port
