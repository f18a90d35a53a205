# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs that wait, in memory: what a decision about the next one needs of each, without reading the whole list."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from das_blender_addon.protocol.messages import BATCH
from das_server.store.job import Job, JobState
from das_server.store.jobs import JobStore


@dataclass(frozen=True)
class WaitingJob:
    """``number``: its place in the order in which jobs came.  ``is_interactive``: somebody waits at a screen.
    ``work``: how much it is, see `work_of`.  ``losses``: of a job that may have taken down a server, else 0."""

    job: str
    number: int
    owner: str
    is_interactive: bool
    model: str
    work: float
    losses: int = 0


def work_of(job: Job) -> float:
    """Pixels of the clip times steps; encoding and decoding count as four."""
    spec = job.spec
    return float(spec.num_frames * spec.width * spec.height * (spec.num_inference_steps + 4))


def waiting(job: Job) -> WaitingJob:
    """What is to be known of a job."""
    losses = job.losses if job.suspect else 0
    about = (job.job, job.number, job.owner, job.priority > BATCH, job.spec.model, work_of(job), losses)
    return WaitingJob(*about)


class Lines:
    """Every owner's waiting jobs in the order in which they came, interactive ones and others apart.

    ``changes`` counts the changes: nothing has changed while it stays.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._jobs: dict[str, WaitingJob] = {}
        self._numbers: list[int] = []
        self._lines: dict[bool, dict[str, list[tuple[int, str]]]] = {True: {}, False: {}}

    def __len__(self) -> int:
        return len(self._jobs)

    def owners(self, *, interactive: bool) -> list[str]:
        """Whose jobs wait, of one kind."""
        return list(self._lines[interactive])

    def line(self, owner: str, *, interactive: bool) -> Iterator[WaitingJob]:
        """An owner's jobs of one kind, those that came first first."""
        for _, job in self._lines[interactive].get(owner, ()):
            yield self._jobs[job]

    def num_before(self, number: int) -> int:
        """How many came before the job with this number."""
        return bisect.bisect_left(self._numbers, number)

    def put(self, job: str, now: WaitingJob | None) -> None:
        """The job waits, in its place, or does not (None)."""
        before = self._jobs.pop(job, None)
        if now is not None:
            self._jobs[job] = now
        if before == now:
            return
        self.changes += 1
        if before is not None:
            line = self._lines[before.is_interactive][before.owner]
            del line[bisect.bisect_left(line, (before.number, job))]
            del self._numbers[bisect.bisect_left(self._numbers, before.number)]
            if not line:
                del self._lines[before.is_interactive][before.owner]
        if now is not None:
            bisect.insort(self._numbers, now.number)
            bisect.insort(self._lines[now.is_interactive].setdefault(now.owner, []), (now.number, job))


class WaitingJobs(Lines):
    """Those of a job list."""

    def __init__(self, store: JobStore):
        super().__init__()
        self._store = store
        store.touched.update(store.queued_jobs())

    def look(self) -> None:
        """Take in what has changed since the last call.  Raises `StorageError`."""
        while self._store.touched:
            job = next(iter(self._store.touched))
            found = self._store.find(job)
            self._store.touched.discard(job)
            if found is not None and found.problem and not found.state.is_final:
                self._store.set_aside_unreadable()
            is_waiting = found is not None and found.state is JobState.QUEUED and not found.problem
            self.put(job, waiting(found) if is_waiting else None)
