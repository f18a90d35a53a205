# SPDX-License-Identifier: GPL-3.0-or-later
"""How a Blender and its child talk: JSON messages over a loopback socket, each after its length (4 bytes, big-endian).

    parent → child   {"id", "task", …}   {"stop": id}
    child → parent   {"hello": token, "pid"}, then for a task any number of {"id", "said": {…}} and, last,
                     {"id", "done": {…}} or {"id", "failed": {"code", "message", "field"}}

Blender writes what it likes to its standard output, so that is no channel.  Arrays go by files.  No Blender in here,
and nothing of the package: the child's script loads this file by its path.
"""

from __future__ import annotations

import json
import socket
import struct

LIMIT_BYTES = 64 * 1024 * 1024
"""No message is longer."""


class Talk:
    """One end of a connected socket.  Not for two threads at once, but for `send`."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._buffer = b""

    def send(self, **words) -> None:
        """Send one message.  Raises `OSError` when the other end is gone."""
        data = json.dumps(words).encode()
        self._socket.settimeout(None)
        self._socket.sendall(struct.pack(">I", len(data)) + data)

    def receive(self, timeout_s: float | None) -> dict | None:
        """The next message, or None when none came within ``timeout_s`` (None: wait for ever).

        Raises `EOFError` when the other end has closed, `OSError` when it broke off or sends what is no message.
        """
        while True:
            if len(self._buffer) >= 4:
                (length,) = struct.unpack(">I", self._buffer[:4])
                if length > LIMIT_BYTES:
                    raise OSError(f"a message of {length} bytes was announced")
                if len(self._buffer) >= 4 + length:
                    data, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
                    return _parsed(data)
            self._socket.settimeout(timeout_s)
            try:
                more = self._socket.recv(1 << 16)
            except (TimeoutError, BlockingIOError):
                return None
            if not more:
                raise EOFError("the other end has closed")
            self._buffer += more

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _parsed(data: bytes) -> dict:
    try:
        words = json.loads(data)
    except ValueError as error:
        raise OSError("what came is no message") from error
    if not isinstance(words, dict):
        raise OSError("what came is no message")
    return words
