# SPDX-License-Identifier: GPL-3.0-or-later
"""What `schedule` decides by, kept up to date: the jobs that wait and run, whose turn it is, and how long jobs take."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from das_blender_addon.protocol.kinds import MAX_SECONDS, fitting
from das_server.models.estimators import is_without_weights
from das_server.models.registry import is_for_any_device
from das_server.store.job import Job, JobState
from das_server.store.jobs import JobStore
from das_server.store.waiting import WaitingJob, WaitingJobs, waiting, work_of
from das_server.workers.base import WorkerStatus
from das_server.workers.health import Health
from das_server.workers.pace import Pace
from das_server.workers.schedule import LOOK, Place, Rules, Turns, forecast, in_turn, next_start

UNABLE = ("broken", "set aside", "stopped")
NOWHERE = "none of the workers has it, with the weights that are asked for and enough memory."
TELL_EVERY_S = 2.0
"""Pause between two looks whether waiting jobs have another place."""

LOOK_AGAIN_S = 1.0
"""Pause before a decision that nothing can start is made anew where nothing has changed."""

MOST_DENOISED = 0.85
"""A guess: the part of a job that its denoising steps, and what comes before them, make up."""


@dataclass
class _Running:
    """``done``: the part of the job that is done, as far as its steps tell."""

    worker: str
    device: str
    began_s: float
    expected_s: float
    done: float = 0.0

    def remaining_s(self, now: float) -> float:
        """About how long until it is done; infinity where that is not known."""
        elapsed = now - self.began_s
        if elapsed < self.expected_s < math.inf:
            return max(1.0, self.expected_s - elapsed)
        return elapsed * (1 - self.done) / self.done if self.done > 0 else math.inf


class Scheduling:
    """``limit``: jobs of one owner that may run at once.  ``alone(losses)``: whether a job that may have taken down a
    server and has so many runs only by itself.  ``clock``: seconds that nobody sets."""

    def __init__(
        self,
        store: JobStore,
        *,
        limit: int = 0,
        alone: Callable[[int], bool] = lambda losses: False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._store, self._limit, self._alone, self._clock = store, limit, alone, clock
        self._waiting = WaitingJobs(store)
        self._turns = Turns()
        self._pace = Pace(store)
        self._running: dict[str, _Running] = {}
        self._outlook: dict[str, tuple[int, float | None]] = {}
        self._told: dict[str, tuple[int, float | None, float]] = {}
        self._stuck: dict[str, str] = {}
        self._tell_at_s = 0.0
        self._nothing: tuple[Any, float] = (None, 0.0)

    # ── Who is next ─────────────────────────────────────────────────────────────────────────────────────────────────

    def next_start(
        self, statuses: Sequence[WorkerStatus], free: Collection[str], health: Health
    ) -> tuple[Job, str] | None:
        """The (job, worker) to start now, of the ``free`` ones; counts as started.  Raises `StorageError`."""
        self._waiting.look()
        if not len(self._waiting):
            return None
        looks = [(one.name, one.state, one.model, one.lacks, one.name in free) for one in statuses]
        seen = (self._waiting.changes, looks)
        if seen == self._nothing[0] and self._clock() < self._nothing[1]:
            return None
        running = self._store.in_states(JobState.RUNNING)
        if any(self._alone(waiting(job).losses) for job in running):
            return None
        places = self._places(statuses, free)
        able = [place.name for place in places if place.is_able]
        rules = Rules(
            self._runs_on(places),
            self._limit,
            avoided={(job, worker) for worker in free for job in health.to_avoid(worker, able)},
            later={(job, worker) for worker in free for job in health.rather_later(worker)},
            alone=lambda job: self._alone(job.losses),
        )
        found = next_start(self._waiting, places, Counter(job.owner for job in running), self._turns, rules)
        if found is None:
            self._nothing = (seen, self._clock() + LOOK_AGAIN_S)
            return None
        job, worker = found
        self._turns.note(job, passes_others=bool(self._waiting.owners(interactive=False)))
        self._note_start(job, next(one for one in statuses if one.name == worker))
        return self._store.get(job.job), worker

    def _note_start(self, job: WaitingJob, on: WorkerStatus) -> None:
        device = on.device_label or on.device
        expected_s = self._pace.seconds(job.model, device, job.work)
        self._running = {name: one for name, one in self._running.items() if one.worker != on.name}
        self._running[job.job] = _Running(on.name, device, self._clock(), expected_s)
        for known in (self._outlook, self._told, self._stuck):
            known.pop(job.job, None)

    def _places(self, statuses: Sequence[WorkerStatus], free: Collection[str]) -> list[Place]:
        now = self._clock()
        busy = {one.worker: one.remaining_s(now) for one in self._running.values()}
        return [
            Place(
                one.name,
                is_gpu=one.device.startswith("cuda") or one.device == "auto",  # as long as it is not known
                model=one.model,
                is_able=one.state not in UNABLE,
                free_in_s=0.0 if one.name in free else busy.get(one.name, math.inf),
                lacks=one.lacks,
            )
            for one in statuses
        ]

    @staticmethod
    def _runs_on(places: Collection[Place]) -> Callable[[str, bool], bool]:
        """A model that asks for a GPU goes to the CPU only where there is none."""
        some_gpu = any(place.is_gpu for place in places)
        return lambda model, is_gpu: is_gpu or not some_gpu or is_for_any_device(model) or is_without_weights(model)

    # ── How long ────────────────────────────────────────────────────────────────────────────────────────────────────

    def progressed(self, job: Job, fields: dict[str, Any]) -> dict[str, Any]:
        """A running job's PROGRESS → the same with ``eta_s``, where it is known."""
        one = self._running.get(job.job)
        if one is None:
            return fields
        if fields.get("stage") == "denoising" and fields.get("of"):
            one.done = MOST_DENOISED * fields["step"] / fields["of"]
        return fields | _known(one.remaining_s(self._clock()))

    def finished(self, job: Job, report: dict[str, Any]) -> None:
        """A job is made."""
        self._running.pop(job.job, None)
        self._pace.note(job.spec.model, work_of(job), report)

    def outlook(self, job: Job) -> tuple[int, float | None]:
        """See `Dispatcher.outlook`."""
        if job.state is JobState.RUNNING:
            one = self._running.get(job.job)
            return 0, None if one is None else _known(one.remaining_s(self._clock())).get("eta_s")
        if job.state is not JobState.QUEUED:
            return 0, None
        if job.job in self._outlook:
            return self._outlook[job.job]
        self._waiting.look()
        return self._waiting.num_before(job.number), None

    def first_waiting(self, limit: int) -> list[str]:
        """See `Dispatcher.first_waiting`."""
        return list(itertools.islice(self._outlook, limit))

    # ── What those who wait are told ────────────────────────────────────────────────────────────────────────────────

    def tell(self, statuses: Sequence[WorkerStatus]) -> None:
        """Now and then, tell the first `LOOK` waiting jobs their places, where these have changed."""
        now = self._clock()
        if now < self._tell_at_s:
            return
        self._tell_at_s = now + TELL_EVERY_S
        self._waiting.look()
        self._outlook = {}
        if not len(self._waiting):
            self._told, self._stuck = {}, {}
            return
        places = self._places(statuses, {one.name for one in statuses if one.state in ("ready", "loading")})
        able = sum(place.is_able for place in places)
        owners = Counter(job.owner for job in self._store.in_states(JobState.RUNNING))
        first = list(itertools.islice(in_turn(self._waiting, owners, self._turns, num_places=able), LOOK))
        rules = Rules(self._runs_on(places))
        labels = {one.name: one.device_label or one.device for one in statuses}
        starts = forecast(first, places, lambda job, on: self._pace.seconds(job.model, labels[on], job.work), rules)
        self._outlook = {job.job: (i, _known(s).get("eta_s")) for i, (job, s) in enumerate(starts)}
        news = [(job, *self._outlook[job]) for job in self._outlook if self._is_news(job, *self._outlook[job], now)]
        if news:
            self._store.tell_places(news)
            self._told |= {job: (position, eta_s, now) for job, position, eta_s in news}
        self._told = {job: told for job, told in self._told.items() if job in self._outlook}
        if able:
            self._tell_stuck(first, places, statuses, rules)

    def _is_news(self, job: str, position: int, eta_s: float | None, now: float) -> bool:
        if job not in self._told:
            queued = self._store.last_event(job, "QUEUED")
            said = queued.fields if queued else {}
            self._told[job] = (said.get("position", -1), said.get("eta_s"), now)
        before, eta_before_s, told_s = self._told[job]
        if position != before and (min(position, before) <= 10 or abs(position - before) >= 0.1 * before):
            return True
        if eta_s is None or eta_before_s is None:
            return eta_s is not None
        expected_s = max(0.0, eta_before_s - (now - told_s))
        return now - told_s >= 2 * TELL_EVERY_S and abs(eta_s - expected_s) > max(15.0, 0.3 * expected_s)

    def _tell_stuck(
        self, jobs: Sequence[WaitingJob], places: Sequence[Place], statuses: Sequence[WorkerStatus], rules: Rules
    ) -> None:
        """Tell jobs whose devices cannot work, while others can, why they wait; once."""
        for job in jobs:
            own = [i for i, place in enumerate(places) if rules.takes(job.model, place)]
            if any(places[i].is_able for i in own):
                self._stuck.pop(job.job, None)
            elif job.job not in self._stuck:
                self._stuck[job.job] = problem = statuses[own[0]].problem if own else NOWHERE
                message = f"The job waits, because no device for the model {job.model} can work: {problem}"
                self._store.tell_one_waiting(job.job, fitting(message))


def _known(eta_s: float) -> dict[str, float]:
    """``eta_s`` as a field of an event, where it is a time at all."""
    return {"eta_s": round(eta_s, 1)} if eta_s < MAX_SECONDS else {}
