# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a job spends where."""

from __future__ import annotations

import time


class StageTimes:
    """Seconds spent in each stage of a job."""

    def __init__(self):
        self._started_s = self._since_s = time.monotonic()
        self._stage = "reading"
        self._spent: dict[str, float] = {}

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def enter(self, stage: str) -> None:
        """The stage has begun, or goes on."""
        if stage != self._stage:
            now = time.monotonic()
            self._spent[self._stage] = self._spent.get(self._stage, 0.0) + now - self._since_s
            self._stage, self._since_s = stage, now

    def finish(self) -> dict[str, float]:
        """Seconds per stage and in all."""
        self.enter("")
        return {stage: round(spent, 3) for stage, spent in self._spent.items()} | {"total": round(self.elapsed_s, 3)}
