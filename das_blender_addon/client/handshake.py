# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a connection does not come about, where it is not that nobody is there: told by ZeroMQ's monitor of a socket."""

from __future__ import annotations

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import AuthenticationFailed

_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
MECHANISM_MISMATCH = 0x11000002
"""ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH of zmq.h, which pyzmq does not name."""
OTHER_KEY = "has another key than the one that this machine was paired with, or none"
SOME_TIMES = 3


class Handshake:
    """Of ``socket``, before it connects.  ``address``, ``has_key``: for the sentence."""

    def __init__(self, socket: zmq.Socket, address: str, *, has_key: bool):
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._address = address
        self._has_key = has_key
        self._broken_off = 0

    def check(self) -> None:
        """Raise `AuthenticationFailed` where the server has refused this client, or is not the one that it knows."""
        while self._monitor.poll(0):
            message = recv_monitor_message(self._monitor)
            event, detail = message["event"], int(message["value"])
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._broken_off = 0
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise self._refused("does not let in this machine's key, which was revoked, used or is too old")
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and detail == MECHANISM_MISMATCH:
                raise self._refused(OTHER_KEY if self._has_key else "asks for a key")
            elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                self._broken_off += 1  # it has not understood our greeting, is just going away, or has no room
                if self._has_key and self._broken_off >= SOME_TIMES:
                    raise self._refused(OTHER_KEY)

    def why_nobody(self) -> AuthenticationFailed | None:
        """What may be said of a server that never answered, but broke off every handshake."""
        if self._broken_off < SOME_TIMES:
            return None
        return self._refused(
            "breaks off every connection: perhaps it asks for a key, has no room, or is something else"
        )

    def close(self) -> None:
        """Watch no more."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)

    def _refused(self, what: str) -> AuthenticationFailed:
        return AuthenticationFailed(
            f"The server at {self._address} {what}; ask who runs it for a line of das-server keys pair, and paste it "
            "into the preferences (Pair…) or give it to das pair.",
            field="server",
        )
