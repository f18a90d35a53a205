# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a connection does not come about, where it is not that nobody is there: told by ZeroMQ's monitor of a socket."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import AuthenticationFailed

_FAILURES = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
MECHANISM_MISMATCH = 0x11000002
"""ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH of zmq.h, which pyzmq does not name."""
OTHER_KEY = "has another key than the one that this machine was paired with, or none"
SOME_TIMES = 3


def speaks_zmtp(address: str, timeout_s: float = 0.5) -> bool:
    """Whether whoever accepts connections at ``address`` (tcp://host:port) greets as ZeroMQ does (ZMTP 3.1, section
    "Greeting": 0xFF, eight bytes, 0x7F); a web server, say, does not.
    """
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port), timeout_s) as connection:
            greeting = b""
            while len(greeting) < 10:
                piece = connection.recv(10 - len(greeting))
                if not piece:
                    return False
                greeting += piece
    except (OSError, ValueError):
        return False
    return greeting[0] == 0xFF and greeting[9] == 0x7F


class Handshake:
    """Of the socket ``client``, before it connects.  ``address``, ``has_key``: for the sentence."""

    def __init__(self, client: zmq.Socket, address: str, *, has_key: bool):
        self._socket = client
        self._monitor = client.get_monitor_socket(_FAILURES | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._address = address
        self._has_key = has_key
        self._broken_off = 0

    def check(self) -> None:
        """Raise `AuthenticationFailed` where the server has refused this client, or is not the one that it knows."""
        while self._monitor.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # quicker than a poll
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
        """What may be said of a server that never answered, but broke off every handshake; None for what is no server.
        """
        if self._broken_off < SOME_TIMES or not speaks_zmtp(self._address):
            return None
        return self._refused("breaks off every connection: perhaps it asks for a key, or has no room")

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
