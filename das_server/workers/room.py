# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the disk has room for what jobs make; where it has none, jobs wait and lose nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from das_blender_addon.errors import StorageError
from das_server.store.blobs import DISK

LOOK_EVERY_S = 1.0
PAUSE_S = 3.0
"""After a disk said that it is full, which a quota does while others still have room."""


class Room:
    """Of the disk of ``folder``, of which ``least_bytes`` have to be free for a job to start.  ``free_bytes``: asks it;
    ``clock``: seconds that nobody sets."""

    def __init__(
        self,
        folder: Path,
        least_bytes: int = 0,
        *,
        free_bytes: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._least_bytes, self._clock = folder, least_bytes, clock
        self._free_bytes = free_bytes or (lambda: shutil.disk_usage(folder).free)
        self._problem, self._look_at_s = "", 0.0
        self._has_reserve = True
        self._full, self._full_until_s = "", 0.0

    def note_full(self, reason: str) -> None:
        """Something could not be written, for this reason."""
        self._full, self._full_until_s = reason, self._clock() + PAUSE_S
        self._look_at_s = 0.0

    def problem(self) -> str:
        """Why no job should start now, "" if nothing speaks against it."""
        now = self._clock()
        if now >= self._look_at_s:
            self._look_at_s = now + LOOK_EVERY_S
            self._problem = self._look(now)
        return self._problem

    def check_reserve(self) -> None:
        """Raise `StorageError` where so little is left that what runs needs it, and nothing new should be kept."""
        problem = self.problem()
        if not self._has_reserve:
            raise StorageError(f"The server takes no job for now. {problem}", field=DISK)

    def _look(self, now: float) -> str:
        try:
            free = self._free_bytes()
        except OSError as error:
            return f"The disk of {self._folder} does not answer: {error.strerror}."
        self._has_reserve = 2 * free >= self._least_bytes
        if free < self._least_bytes:
            needed = f"{free >> 20} MiB are free, and {self._least_bytes >> 20} needed"
            return f"The disk of {self._folder} is full: {needed}."
        return self._full if now < self._full_until_s else ""
