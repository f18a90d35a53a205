# SPDX-License-Identifier: GPL-3.0-or-later
"""The door from outside: what the command line asks a running server."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Self

import zmq

from das_blender_addon.errors import ServerUnreachable, SettingsError, error_from_code
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode
from das_blender_addon.protocol.identity import keys_file, routing_id, user_token
from das_server.config import ServerConfig, is_loopback, needs_keys, split_address
from das_server.store.keys import KeyRing

PAGE = 200
"""Jobs asked for at once; a server may give fewer."""


class Asker:
    """A short conversation with the server at ``address``; a context manager.  Every method raises `ServerUnreachable`
    after ``timeout_s`` without an answer, and what the server refuses.  ``keys``: see `KeyRing.admin_keys`."""

    def __init__(self, address: str, *, keys: tuple[str, str, str] | None = None, timeout_s: float = 5.0):
        self._address = address
        self._timeout_s = timeout_s
        self._number = 0
        self._blob = b""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        if keys is not None:
            self._socket.curve_serverkey, self._socket.curve_publickey, self._socket.curve_secretkey = (
                key.encode() for key in keys
            )
        elif (name := routing_id(user_token())) is not None and is_loopback(split_address(address)[0]):
            self._socket.setsockopt(zmq.ROUTING_ID, name)
        self._socket.connect(address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close(linger=0)
        self._context.term()

    def ask(self, request: Any) -> Any:
        """The answer to ``request``; events that come before it are passed over."""
        self._number += 1
        self._socket.send_multipart(encode(dataclasses.replace(request, request=self._number)))
        while True:
            reply = self._receive()
            if getattr(reply, "request", -1) in (0, self._number):
                break
        if isinstance(reply, messages.Failure):
            raise error_from_code(reply.code, reply.message, field=reply.field)
        return reply

    def ask_blob(self, request: Any) -> bytes:
        """The blob that comes with the answer to ``request``."""
        self.ask(request)
        return self._blob

    def jobs(self, states: list[str] = (), prefix: str = "", most: int = 10_000) -> Iterator[dict[str, Any]]:
        """Jobs in these states, newest first."""
        before = 0
        while most > 0:
            page = self.ask(messages.ListJobs(0, list(states), prefix, before, min(PAGE, most))).jobs
            yield from page
            if not page:
                return
            most, before = most - len(page), page[-1]["number"]

    def events(self, job: str) -> list[messages.Event]:
        """All events of a job until now."""
        self._number += 1
        self._socket.send_multipart(encode(messages.Attach(self._number, job, 0)))
        events, last = [], None
        while last is None or (events[-1].seq if events else 0) < last:
            reply = self._receive()
            if isinstance(reply, messages.Failure):
                raise error_from_code(reply.code, reply.message, field=reply.field)
            if isinstance(reply, messages.Attached):
                last = reply.last_seq
            elif isinstance(reply, messages.Event) and reply.job == job:
                events.append(reply)
        return events

    def _receive(self) -> Any:
        if not self._socket.poll(self._timeout_s * 1000):
            raise ServerUnreachable(f"No server answers at {self._address}; start one with das-server serve.")
        message, blob = decode(self._socket.recv_multipart())
        self._blob = b"" if blob is None else bytes(blob)
        return message


def asker_for(config: ServerConfig) -> Asker:
    """For the server at ``config.bind``, with the keys that this machine was paired with, or those in ``config.state``
    where it lets in nobody without; on its own machine the other way round."""
    admin = KeyRing(config.state).admin_keys() if needs_keys(config) else None
    is_here = is_loopback(split_address(config.bind)[0])
    return Asker(config.bind, keys=admin if admin and is_here else paired_keys(config.bind) or admin)


def paired_keys(address: str) -> tuple[str, str, str] | None:
    """(the server's public key, public, secret) with which this machine was paired with the server at ``address``."""
    try:
        about = json.loads(keys_file().read_text(encoding="utf-8")).get(address)
        return None if about is None else (about["server"], about["public"], about["secret"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"The keys in {keys_file()} cannot be read: {error}.", field="server") from error


def ask_status(config: ServerConfig) -> messages.StatusReport:
    """Ask a running server for its status; raises `ServerUnreachable`."""
    with asker_for(config) as asker:
        return asker.ask(messages.Status(1))
