# SPDX-License-Identifier: GPL-3.0-or-later
"""The door from outside: what the command line asks a running server."""

from __future__ import annotations

import zmq

from das_blender_addon.errors import ServerUnreachable, error_from_code
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode


def ask_status(address: str, *, timeout_s: float = 5.0) -> messages.StatusReport:
    """Ask a running server for its status; raises `ServerUnreachable`."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(address)
        socket.send_multipart(encode(messages.Status(1)))
        if not socket.poll(timeout_s * 1000):
            raise ServerUnreachable(f"No server answers at {address}; start one with das-server serve.")
        reply, _ = decode(socket.recv_multipart())
    finally:
        socket.close(linger=0)
        context.term()
    if isinstance(reply, messages.Failure):
        raise error_from_code(reply.code, reply.message, field=reply.field)
    return reply
