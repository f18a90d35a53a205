# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is let in: ZeroMQ asks at every handshake (ZAP, rfc.zeromq.org/spec/27), and each message is of a key that still
is."""

from __future__ import annotations

import logging

import zmq
from zmq.utils import z85

from das_blender_addon.errors import AuthenticationFailed, DasError
from das_server.door.seldom import Seldom
from das_server.store.keys import AllowedKey, KeyRing

_log = logging.getLogger(__name__)

DOMAIN = b"das-server"


class Gate:
    """``socket`` is for the loop's poller: readable means that somebody waits to be let in, see `answer`.  To be made
    before the sockets of ``context`` that `guard` is for are bound."""

    def __init__(self, context: zmq.Context, keys: KeyRing):
        self._keys = keys
        self._say = Seldom(_log)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind("inproc://zeromq.zap.01")

    def guard(self, socket: zmq.Socket) -> None:
        """Nobody gets through this socket without a key that is let in."""
        socket.curve_secretkey = self._keys.server_keys()[1].encode()
        socket.curve_server = True
        socket.zap_domain = DOMAIN

    def answer(self) -> None:
        """Let in whoever may come."""
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            peer, _, version, request, _domain, address, _identity, mechanism, *credentials = frames
            known = self._known(mechanism, credentials)
            if known is None:
                where = address.decode(errors="replace")
                self._say(logging.WARNING, "somebody at %s has no key that is let in", where)
            status, words = (b"200", b"OK") if known else (b"400", b"this key is not let in")
            user = known.public.encode() if known else b""
            self.socket.send_multipart([peer, b"", version, request, status, words, user, b""])

    def key_of(self, frame: zmq.Frame) -> AllowedKey:
        """The key that a message came with; raises `AuthenticationFailed` where that has been revoked since."""
        known = self._keys.find(frame.get("User-Id"))
        if known is None:
            raise AuthenticationFailed(
                "This server does not let in your key any more; ask for a line of das-server keys pair and pair again.",
                field="server",
            )
        return known

    def _known(self, mechanism: bytes, credentials: list[bytes]) -> AllowedKey | None:
        if mechanism != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != 32:
            return None
        try:
            return self._keys.find(z85.encode(credentials[0]).decode())
        except DasError as error:
            self._say(logging.ERROR, "nobody is let in: %s", error.message)
            return None
