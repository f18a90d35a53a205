# SPDX-License-Identifier: GPL-3.0-or-later
"""The SHA-256 of a blob that comes in pieces, computed beside whoever moves the next one."""

from __future__ import annotations

import collections
import hashlib
import queue
import sys
import threading

SMALL_BYTES = 1 << 16
"""A piece up to here is hashed at once: to hand it over takes longer."""

MOST_WAITING = 4
"""Pieces that may wait for the thread, so that nothing piles up in memory; who brings one more waits."""


class Digests:
    """One thread for all digests of one owner, begun when it is needed.  One other thread feeds them.

    ``most_waiting``: pieces that may wait for it; None where they are in memory anyhow.
    """

    def __init__(self, most_waiting: int | None = MOST_WAITING) -> None:
        self._most_waiting = most_waiting or sys.maxsize
        self._given: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._waiting: collections.deque[_Piece] = collections.deque()
        self._thread: threading.Thread | None = None

    def begin(self) -> Digest:
        """The digest of nothing, to be continued."""
        return Digest(self)

    def close(self) -> None:
        """End the thread; what it was given is finished first."""
        if self._thread is not None:
            self._given.put(None)
            self._thread.join()
            self._thread = None

    def take(self, piece: _Piece) -> None:
        """Have a piece hashed in the thread; waits where too many are there already."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="das digest", daemon=True)
            thread.start()  # which the system may refuse
            self._thread = thread
        while self._waiting and (len(self._waiting) >= self._most_waiting or self._waiting[0].is_done):
            self._waiting.popleft().wait()
        self._waiting.append(piece)
        self._given.put(piece)

    def _run(self) -> None:
        while (piece := self._given.get()) is not None:
            piece.hash()


class Digest:
    """A running SHA-256."""

    def __init__(self, owner: Digests):
        self._owner, self.running = owner, hashlib.sha256()
        self._last: _Piece | None = None
        self.failure: Exception | None = None

    def update(self, piece: bytes | memoryview) -> None:
        """Go on with ``piece``, which must not change before `hexdigest` returns.  What fails of that is raised there,
        if not before."""
        if len(piece) <= SMALL_BYTES:
            self._settle()
            self.running.update(piece)
        else:
            last = _Piece(self, piece)
            self._owner.take(last)
            self._last = last

    def hexdigest(self) -> str:
        """Of all pieces, in lower-case hex."""
        self._settle()
        return self.running.hexdigest()

    def _settle(self) -> None:
        if self._last is not None:
            self._last.wait()  # those before it come before it
            self._last = None
        if self.failure is not None:
            raise self.failure


class _Piece:
    """One piece on its way through the thread."""

    def __init__(self, digest: Digest, content: bytes | memoryview):
        self._digest, self._content = digest, content
        self._hashes = threading.Lock()
        self._hashes.acquire()

    @property
    def is_done(self) -> bool:
        return not self._hashes.locked()

    def wait(self) -> None:
        with self._hashes:
            return

    def hash(self) -> None:
        try:
            self._digest.running.update(self._content)
        except Exception as error:  # the thread goes on for the others
            self._digest.failure = error
        finally:
            self._content = None
            self._hashes.release()
