# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that may wait for a disk, done beside the loop by one thread, in the order in which it was given."""

from __future__ import annotations

import collections
import logging
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

Work = Callable[[], Any]
Then = Callable[[Any, Exception | None], None]
"""Told what the work returned, or what it raised."""


class Beside:
    """``bell`` is for the loop's poller: readable means that something is done, and that `deliver` has to be called."""

    def __init__(self) -> None:
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        self._given: queue.SimpleQueue[tuple[Work, Then] | None] = queue.SimpleQueue()
        self._done: collections.deque[tuple[Then, Any, Exception | None]] = collections.deque()
        self._thread = threading.Thread(target=self._run, name="beside", daemon=True)
        self._thread.start()

    def do(self, work: Work, then: Then) -> None:
        """Have ``work`` done in the thread, and ``then`` told of it in the caller's, by `deliver`."""
        self._given.put((work, then))

    def deliver(self) -> None:
        """Tell what is done by now."""
        try:
            while self.bell.recv(4096):
                pass
        except BlockingIOError:
            pass
        while self._done:
            then, result, error = self._done.popleft()
            try:
                then(result, error)
            except Exception:  # a defect of ours; the others are told all the same
                _log.exception("what was done beside the loop cannot be told")

    def close(self, wait_s: float = 5.0) -> None:
        """End when all that was given is done, or leave a thread that hangs to the end of the process."""
        self._given.put(None)
        self._thread.join(wait_s)
        if not self._thread.is_alive():
            self.bell.close()
            self._rope.close()

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            work, then = given
            try:
                done = (then, work(), None)
            except Exception as error:  # it is told
                done = (then, None, error)
            self._done.append(done)
            try:
                self._rope.send(b"!")
            except BlockingIOError:  # it rings already
                continue
