# SPDX-License-Identifier: GPL-3.0-or-later
"""What moving a blob costs at least: a ROUTER in a process of its own, without the protocol, and a DEALER.

The same pieces, as many in flight as `DasClient` has, and, where it is asked for, the same work with them: hashed by
one thread at either end, written and flushed, read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Self

import numpy as np
import zmq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from das_blender_addon.protocol.digest import Digests  # noqa: E402
from das_blender_addon.protocol.messages import CHUNK_BYTES, FETCH_CREDIT  # noqa: E402


def serve(folder: Path, secret: str) -> None:
    """Answer for ever: ``put`` is thrown away, ``keep`` hashed and appended to a file, ``end`` flushes it; ``give`` is
    answered with bytes of memory, ``read`` with bytes of that file."""
    socket = zmq.Context().socket(zmq.ROUTER)
    if secret:
        socket.curve_secretkey, socket.curve_server = secret.encode(), True
    socket.bind("tcp://127.0.0.1:*")
    print(socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
    chunk, digests = bytes(CHUNK_BYTES), Digests()
    digest, file, number = None, None, 0
    while True:
        who, word, *rest = socket.recv_multipart(copy=False)
        reply = b""
        match word.bytes:
            case b"give":
                reply = chunk
            case b"read":
                with open(folder / f"kept{number}", "rb") as kept:
                    kept.seek(int.from_bytes(rest[0].bytes, "big"))
                    reply = kept.read(CHUNK_BYTES)
            case b"keep":
                if file is None:
                    (folder / f"kept{number}").unlink(missing_ok=True)
                    number += 1
                    digest, file = digests.begin(), open(folder / f"kept{number}", "wb", buffering=0)  # noqa: SIM115
                file.write(rest[0].buffer)
                digest.update(rest[0].buffer)
            case b"end":
                reply = digest.hexdigest().encode()
                os.fsync(file.fileno())
                file.close()
                file = None
        socket.send_multipart([who, b"ok", reply], copy=False)


class BareLoop:
    """The process, and a connection with it; a context manager."""

    def __init__(self, folder: Path, *, curve: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        server = zmq.curve_keypair() if curve else (b"", b"")
        command = [sys.executable, str(Path(__file__)), str(folder), server[1].decode()]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        if curve:
            self._socket.curve_serverkey = server[0]
            self._socket.curve_publickey, self._socket.curve_secretkey = zmq.curve_keypair()
        self._socket.connect(self._process.stdout.readline().strip())
        self._digests = Digests()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._digests.close()
        self._socket.close()
        self._context.term()
        self._process.kill()
        self._process.wait()

    def up(self, blob: bytes, sha: str = "") -> None:
        """Send it; with its ``sha`` it is kept."""
        view = memoryview(blob)
        pieces = (view[at : at + CHUNK_BYTES] for at in range(0, len(blob), CHUNK_BYTES))
        for _ in self._answers([b"keep" if sha else b"put", piece] for piece in pieces):
            pass
        if sha:
            self._socket.send(b"end")
            assert self._socket.recv_multipart()[1].decode() == sha

    def down(self, size_bytes: int, sha: str = "") -> None:
        """Have as many bytes in one piece of memory; with a ``sha``, what was kept last, and hashed."""
        content, digest = np.empty(size_bytes, np.uint8), self._digests.begin()
        offsets = range(0, size_bytes, CHUNK_BYTES)
        requests = ([b"read", offset.to_bytes(8, "big")] if sha else [b"give"] for offset in offsets)
        for offset, piece in zip(offsets, self._answers(requests), strict=True):
            place = content[offset : offset + CHUNK_BYTES]
            np.copyto(place, np.frombuffer(piece, np.uint8)[: len(place)])
            if sha:
                digest.update(place.data)
        assert not sha or digest.hexdigest() == sha

    def _answers(self, requests):
        flying = 0
        for request in requests:
            if flying == FETCH_CREDIT:
                yield self._socket.recv_multipart(copy=False)[1].buffer
                flying -= 1
            self._socket.send_multipart(request, copy=False)
            flying += 1
        for _ in range(flying):
            yield self._socket.recv_multipart(copy=False)[1].buffer


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
