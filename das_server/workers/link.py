# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process's talk with the server of its machine: one thread owns the socket, words reach it by a queue."""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from das_server.workers import wire
from das_server.workers.talk import Talk

_log = logging.getLogger(__name__)

SERVER_SILENCE_S = 60.0
"""A worker whose server says nothing for this long ends itself."""

LINGER_MS = 1000


class Link(Talk):
    """Over ``address`` as ``routing_id``, with the secret ``token``, as long as the process ``parent`` lives."""

    def __init__(self, address: str, routing_id: str, token: str, *, parent: int):
        super().__init__(routing_id.partition(".")[0])
        self._address = address
        self._routing_id = routing_id
        self._token = token
        self._parent = parent
        self._words: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._bell, self._bell_end = socket.socketpair()

    def start(self) -> None:
        """Connect and begin to beat."""
        threading.Thread(target=self._talk, name="link", daemon=True).start()

    def say(self, kind: str, **fields: Any) -> None:
        self._words.put({"kind": kind, **fields})
        self._bell.send(b"!")

    def end(self, problem: str, status: int) -> None:
        self.say("problem", message=problem)
        self.say("end", status=status)
        threading.Event().wait()

    def note_checkpoint(self, order: dict[str, Any], path: Path) -> None:
        """The server shares the disk."""

    # ── The socket's thread ─────────────────────────────────────────────────────────────────────────────────────────

    def _talk(self) -> None:
        try:
            self._loop()
        except Exception:  # without its socket the process is of no use: end it, the server starts another
            _log.exception("the link to the server broke")
            os._exit(1)

    def _loop(self) -> None:
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, self._routing_id.encode())
        dealer.setsockopt(zmq.LINGER, LINGER_MS)
        dealer.connect(self._address)
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._bell_end, zmq.POLLIN)
        self._tell(dealer, {"kind": "hello", "pid": os.getpid()})
        next_beat_s = heard_s = time.monotonic()
        while True:
            ready = dict(poller.poll(max(0.0, next_beat_s - time.monotonic()) * 1000))
            if self._bell_end.fileno() in ready or self._bell_end in ready:
                self._bell_end.recv(4096)
            while not self._words.empty():
                self._tell(dealer, self._words.get())
            if dealer in ready:
                heard_s = time.monotonic()
                self._listen(dealer)
            now = time.monotonic()
            if now >= next_beat_s:
                next_beat_s = now + wire.HEARTBEAT_S
                self._tell(dealer, self._heartbeat(now))
                if now - heard_s > SERVER_SILENCE_S or (os.name == "posix" and os.getppid() != self._parent):
                    os._exit(0)

    def _tell(self, dealer: zmq.Socket, message: dict[str, Any]) -> None:
        if message["kind"] == "end":
            dealer.close()
            zmq.Context.instance().term()  # returns when all is said, or after the socket's linger
            os._exit(message["status"])
        dealer.send_multipart(wire.pack(self._token, message))

    def _listen(self, dealer: zmq.Socket) -> None:
        while True:
            try:
                message = wire.unpack(self._token, dealer.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if message is not None:
                self.hear(message)
