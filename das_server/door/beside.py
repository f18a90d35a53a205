# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that may wait for a disk, done beside the loop: by one thread for blobs, one for the job list and one for
what is there to be had, each in the order in which it was given."""

from __future__ import annotations

import collections
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

LANES = BLOBS, JOBS, LOOKS = "blobs", "jobs", "looks"
"""Of what one lane waits for, the others do not."""

BELL_BYTES = 4096
"""Strokes of the bell that are taken in at once."""

Work = Callable[[], Any]
Then = Callable[[Any, Exception | None], None]
"""Told what the work returned, or what it raised."""


class Beside:
    """``bell`` is for the loop's poller: readable means that something is done, and that `deliver` has to be called."""

    def __init__(self) -> None:
        self.bell, self._rope = socket.socketpair()
        self.bell.setblocking(False)
        self._rope.setblocking(False)
        self._given = {lane: queue.SimpleQueue() for lane in LANES}
        self._done: collections.deque[tuple[Then, Any, Exception | None]] = collections.deque()
        self._threads = [
            threading.Thread(target=self._run, args=(given,), name=f"beside, {lane}", daemon=True)
            for lane, given in self._given.items()
        ]
        for thread in self._threads:
            thread.start()

    def do(self, work: Work, then: Then, *, lane: str = BLOBS) -> None:
        """Have ``work`` done in the thread of that lane, and ``then`` told of it in the caller's, by `deliver`."""
        self._given[lane].put((work, then))

    def deliver(self) -> None:
        """Tell what is done by now."""
        try:
            while len(self.bell.recv(BELL_BYTES)) == BELL_BYTES:
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
        """End when all that was given is done, or leave threads that hang to the end of the process."""
        for given in self._given.values():
            given.put(None)
        until = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            self.bell.close()
            self._rope.close()

    def _run(self, given: queue.SimpleQueue[tuple[Work, Then] | None]) -> None:
        while (one := given.get()) is not None:
            work, then = one
            try:
                done = (then, work(), None)
            except Exception as error:  # it is told
                done = (then, None, error)
            self._done.append(done)
            try:
                self._rope.send(b"!")
            except BlockingIOError:  # it rings already
                continue
