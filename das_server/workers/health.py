# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device is sick: one that loses job after job, which others make, is set aside for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from das_server.workers.base import WorkerStatus

SICK_AFTER = 3
"""Different jobs that a worker loses in a row before its device is set aside."""

REST_S = 600.0
"""How long a device is set aside before it is tried with one job."""

FULL_S = 60.0
"""The same for a worker whose own disk is full."""


@dataclass
class _Record:
    """``lost``: jobs that the worker has lost since it last finished one, and ``reason`` that of the last.  ``full``:
    why it has no room, where it rests for that."""

    lost: dict[str, None] = field(default_factory=dict)
    reason: str = ""
    full: str = ""
    rests_until_s: float = 0.0


class Health:
    """What is known of each worker, by its name.  ``clock``: seconds that nobody sets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._records: dict[str, _Record] = {}

    def finished(self, worker: str) -> None:
        """It has ended a job as it should, with success or with an error of the job's own."""
        self._records.pop(worker, None)

    def lost(self, worker: str, job: str, reason: str) -> list[str]:
        """It has died, perhaps of this job → the jobs that it lost in a row and for which it is now set aside."""
        record = self._records.setdefault(worker, _Record())
        record.lost[job], record.reason = None, reason
        if len(record.lost) < SICK_AFTER:
            return []
        record.full, record.rests_until_s = "", self._clock() + REST_S
        return list(record.lost)

    def has_no_room(self, worker: str, reason: str) -> None:
        """Its own disk is full: it rests for `FULL_S`."""
        record = self._records.setdefault(worker, _Record())
        record.full, record.rests_until_s = reason, max(record.rests_until_s, self._clock() + FULL_S)

    def rests(self, worker: str) -> bool:
        """Whether its device is set aside now."""
        record = self._records.get(worker)
        return record is not None and self._clock() < record.rests_until_s

    def to_avoid(self, worker: str, others: Collection[str]) -> set[str]:
        """Jobs that this worker has lost and that one of the ``others``, which can work, has not."""
        lost = set(self._lost(worker))
        return {job for job in lost if any(job not in self._lost(other) for other in others if other != worker)}

    def rather_later(self, worker: str) -> set[str]:
        """Jobs that this worker has lost and should try only when nothing else waits."""
        return set(self._lost(worker))

    def shown(self, status: WorkerStatus) -> WorkerStatus:
        """``status`` with what is known of the device's health."""
        if not self.rests(status.name):
            return status
        record = self._records[status.name]
        minutes = max(1.0, (record.rests_until_s - self._clock()) / 60)
        problem = f"{record.full} The worker is set aside for {minutes:.0f} minutes." if record.full else (
            f"The device lost {len(record.lost)} jobs in a row and is set aside for {minutes:.0f} minutes. The last "
            f"time: {record.reason}"
        )
        return replace(status, state="set aside", problem=problem)

    def _lost(self, worker: str) -> Collection[str]:
        record = self._records.get(worker)
        return record.lost if record else ()
