# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of the log that strangers can cause as often as they like: some are written, the others counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any


class Seldom:
    """Writes to ``log`` at most ``most`` lines in ``every_s`` seconds, and then how many it has left out."""

    def __init__(
        self,
        log: logging.Logger,
        *,
        most: int = 20,
        every_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._log, self._most, self._every_s, self._clock = log, most, every_s, clock
        self._until_s, self._written, self._left_out = float("-inf"), 0, 0

    def __call__(self, level: int, message: str, *values: Any, exc_info: BaseException | None = None) -> None:
        """As `logging.Logger.log`."""
        now = self._clock()
        if now >= self._until_s:
            if self._left_out:
                self._log.warning("%s more lines like those before were left out", self._left_out)
            self._until_s, self._written, self._left_out = now + self._every_s, 0, 0
        if self._written < self._most:
            self._written += 1
            self._log.log(level, message, *values, exc_info=exc_info)
        else:
            self._left_out += 1
