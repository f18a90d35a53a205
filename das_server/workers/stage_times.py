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
        self.first_step_s = 0.0
        """From the job's beginning to the end of its first denoising step, 0 before that."""

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def note_step(self, stage: str, step: int) -> bool:
        """So many steps of the stage are done → whether this is the first of the job's denoising."""
        if stage != "denoising" or not step or self.first_step_s:
            return False
        self.first_step_s = self.elapsed_s
        return True

    def spent_s(self, stage: str) -> float:
        """Seconds of a stage that is over."""
        return self._spent.get(stage, 0.0)

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
