# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits for a disk: how much of it each connection has, and how many bytes all have together."""

from __future__ import annotations

import collections

from das_blender_addon.errors import JobRejected
from das_server.limits import MAX_FLYING, MAX_FLYING_BYTES


class Flying:
    """Requests that were given to another thread and are not answered yet.  ``num_bytes``: of the pieces of blobs that
    came with them, all together; that is never more than ``most_bytes`` and one piece of each connection."""

    def __init__(self, *, most: int = MAX_FLYING, most_bytes: int = MAX_FLYING_BYTES):
        self._most, self._most_bytes = most, most_bytes
        self._counts: collections.Counter[bytes] = collections.Counter()
        self._sizes: collections.Counter[bytes] = collections.Counter()
        self.num_bytes = 0

    def takes(self, peer: bytes, size_bytes: int) -> bool:
        """Whether a piece of so many bytes may wait: there is room, or it is the only one of its connection, so that
        nobody's upload stands still for those of others."""
        return self.num_bytes + size_bytes <= self._most_bytes or not self._sizes[peer]

    def begin(self, peer: bytes, size_bytes: int = 0) -> None:
        """One request more; raises `JobRejected` where this connection has too many already."""
        if self._counts[peer] >= self._most:
            raise JobRejected(f"More than {self._most} pieces are in flight; wait for answers before sending more.")
        self._counts[peer] += 1
        if size_bytes:
            self._sizes[peer] += size_bytes
            self.num_bytes += size_bytes

    def end(self, peer: bytes, size_bytes: int = 0) -> None:
        """One that `begin` was told of is done."""
        self.num_bytes -= size_bytes
        for counts, less in ((self._counts, 1), (self._sizes, size_bytes)):
            counts[peer] -= less
            if counts[peer] <= 0:
                del counts[peer]
