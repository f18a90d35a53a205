# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a server that was asked for it: no new jobs, those that run finish, or go on later from a checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)

REASON = "it is being stopped, and goes on with its jobs when it runs again."


class Drain:
    """``clock``: seconds that nobody sets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._ends_s = float("inf")
        self.is_on = False

    def begin(self, within_s: float) -> None:
        """End when nothing runs any more, in ``within_s`` at the latest; a second call may only shorten that."""
        self._ends_s = min(self._ends_s, self._clock() + within_s)
        if not self.is_on:
            _log.info("the server is drained: no job starts any more")
        self.is_on = True

    def is_over(self, num_running: int) -> bool:
        """Whether the server may end, with so many jobs running."""
        return self.is_on and (not num_running or self._clock() >= self._ends_s)
