# SPDX-License-Identifier: GPL-3.0-or-later
"""A network that can be cut: a proxy on loopback between clients and a server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

PIECE_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for an end in the middle of everything."""


class Proxy:
    """Connections to ``address`` go on to ``port`` of this machine, until `cut`."""

    def __init__(self, port: int):
        self._port = port
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._dark_until_s = 0.0
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, dark_s: float) -> int:
        """End every connection, and take no other for so long → how many there were."""
        with self._lock:
            self._dark_until_s = time.monotonic() + dark_s
            ended, self._open = self._open, set()
        for one in ended:
            _end(one)
        return len(ended) // 2

    def close(self) -> None:
        """Let nobody through any more."""
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        self.cut(0.0)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            try:
                if time.monotonic() < self._dark_until_s:
                    raise OSError("the network is cut")
                far = socket.create_connection(("127.0.0.1", self._port), timeout=5)
                far.settimeout(None)
            except OSError:  # no server for now
                _end(near)
                continue
            with self._lock:
                self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                target.sendall(piece)
        with self._lock:
            self._open -= {source, target}
        for one in (source, target):
            _end(one)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        one.close()
