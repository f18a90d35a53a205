# SPDX-License-Identifier: GPL-3.0-or-later
"""The SHA-256 of a blob that comes in pieces, computed beside whoever moves the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

SMALL_BYTES = 1 << 16
"""A piece up to here is hashed at once: to hand it over takes longer."""


class Digests:
    """One thread for all digests of one owner, begun when it is needed."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def begin(self) -> Digest:
        """The digest of nothing, to be continued."""
        return Digest(self)

    def close(self) -> None:
        """End the thread; digests under way are finished first."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def submit(self, work: Callable[..., None], *arguments) -> Future:
        """``work(*arguments)`` in the thread."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="das digest")
        return self._pool.submit(work, *arguments)


class Digest:
    """A running SHA-256.  One thread feeds it; at most one piece waits, so that nothing piles up in memory."""

    def __init__(self, owner: Digests):
        self._owner, self._running = owner, hashlib.sha256()
        self._waits_for: Future | None = None

    def update(self, piece: bytes | memoryview, into: memoryview | None = None) -> None:
        """Go on with ``piece``, which must not change until the next call returns; copied ``into`` a place of its size.

        What fails of that is raised by the next call.
        """
        self._settle()
        if len(piece) <= SMALL_BYTES:
            self._take(piece, into)
        else:
            self._waits_for = self._owner.submit(self._take, piece, into)

    def _take(self, piece: bytes | memoryview, into: memoryview | None) -> None:
        self._running.update(piece)
        if into is not None:
            into[:] = piece

    def hexdigest(self) -> str:
        """Of all pieces, in lower-case hex."""
        self._settle()
        return self._running.hexdigest()

    def _settle(self) -> None:
        if self._waits_for is not None:
            waited, self._waits_for = self._waits_for, None
            waited.result()
