# SPDX-License-Identifier: GPL-3.0-or-later
"""ZMTP 3.0 by hand (rfc.zeromq.org/spec/23), for clients that do what no honest library does."""

from __future__ import annotations

import socket
import struct

MORE, LONG, COMMAND = 1, 2, 4


class RawClient:
    """A TCP connection to a ZeroMQ socket at ``tcp://host:port``, greeted as a DEALER without encryption."""

    def __init__(self, address: str, *, greet: bool = True):
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.settimeout(60)  # the other side may have to wait for its turn
        if greet:
            self.greet()

    def greet(self, mechanism: bytes = b"NULL") -> None:
        """Both halves of the handshake."""
        self.send(b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0") + bytes(32))
        self.receive(64)
        body = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b"")
        self.send(bytes([COMMAND, len(body)]) + body)
        flags, size = self.receive(2)
        assert flags == COMMAND
        self.receive(size)

    def frame(self, content: bytes, *, more: bool = False) -> bytes:
        """A frame as it travels."""
        flags = (MORE if more else 0) | (LONG if len(content) > 255 else 0)
        return bytes([flags]) + struct.pack(">Q" if flags & LONG else ">B", len(content)) + content

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def receive(self, count: int) -> bytes:
        """Exactly so many bytes."""
        got = bytearray()
        while len(got) < count:
            piece = self.socket.recv(count - len(got))
            if not piece:
                raise ConnectionResetError("the server has ended the connection")
            got += piece
        return bytes(got)

    def is_cut(self) -> bool:
        """Whether the server has ended the connection, when all that it has said is read."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self) -> None:
        self.socket.close()


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
