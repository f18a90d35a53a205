# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers for Prometheus, at /metrics of a port of this machine: no prompts, no users, no names that people gave."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from das_blender_addon.protocol.messages import BATCH
from das_server.door.loopback import Handler, LoopbackServer, Refused
from das_server.models.estimators import estimator_names
from das_server.models.registry import table_names
from das_server.store.job import Job, JobState
from das_server.store.jobs import JobStore
from das_server.workers.base import WorkerStatus

LOOK_EVERY_S = 2.0
SECONDS = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
OWN = "own"
"""Stands for every model with a name of its own."""

WORKER_STATES = ("starting", "loading", "ready", "busy", "broken", "set aside", "stopped")


class Metrics:
    """What the loop tells (`step`), and who asks for it (``server``, a context manager).

    ``totals``: as in a status.  ``kept_bytes``: of all blobs.
    """

    def __init__(
        self,
        port: int,
        store: JobStore,
        workers: Callable[[], list[WorkerStatus]],
        totals: Callable[[], dict[str, Any]],
        kept_bytes: Callable[[], int],
    ):
        self._store, self._workers, self._totals, self._kept_bytes = store, workers, totals, kept_bytes
        self._began_s, self._next_s = time.monotonic(), 0.0
        self._labels: dict[str, str] = {}
        """By the names of the workers that there are."""
        self._registry = registry = CollectorRegistry()
        kind = {"registry": registry}
        self._jobs = Gauge("das_jobs", "Jobs that the server has, by state", ["state"], **kind)
        self._unfetched = Gauge("das_unfetched_jobs", "Jobs whose results somebody still wants", **kind)
        self._ended = Counter("das_jobs_ended", "Jobs that ended", ["state", "model"], **kind)
        self._retried = Counter("das_jobs_retried", "Attempts that were lost", ["model"], **kind)
        about = {"buckets": SECONDS, **kind}
        self._took = Histogram("das_job_seconds", "From the start of a job to its end", ["model"], **about)
        self._waited = Histogram("das_job_wait_seconds", "From asking to the first start", ["priority"], **about)
        self._states = Gauge("das_worker_state", "1 for the state that a worker is in", ["worker", "state"], **kind)
        self._restarts = Gauge("das_worker_restarts", "How often a worker was replaced", ["worker"], **kind)
        self._memory = Gauge("das_worker_memory_bytes", "Resident memory of a worker", ["worker"], **kind)
        self._step_s = Gauge("das_worker_step_seconds", "Median duration of its denoising steps", ["worker"], **kind)
        self._kept = Gauge("das_kept_bytes", "Files of jobs and results on disk", **kind)
        self._draining = Gauge("das_draining", "1 while no job starts any more", **kind)
        self._uptime = Gauge("das_uptime_seconds", "Time since the server started", **kind)
        self.server = LoopbackServer(_handler_of(registry), port, field="metrics")

    def step(self) -> None:
        """Bring the numbers up to date, every `LOOK_EVERY_S`; called in the loop."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + LOOK_EVERY_S
        while self._store.steps:
            self._count(*self._store.steps.popleft())
        totals = self._totals()
        for name in ("running", "waiting", "done", "failed", "cancelled"):
            self._jobs.labels(name).set(totals[name])
        self._unfetched.set(totals["unfetched"])
        self._draining.set(totals["draining"])
        self._kept.set(self._kept_bytes())
        self._uptime.set(time.monotonic() - self._began_s)
        self._show(self._workers())

    def _show(self, workers: list[WorkerStatus]) -> None:
        names = {one.name for one in workers}
        for gone in [name for name in self._labels if name not in names]:
            label = self._labels.pop(gone)
            for state in WORKER_STATES:
                self._states.remove(label, state)
            for gauge in (self._restarts, self._memory, self._step_s):
                gauge.remove(label)
        for one in workers:
            label = self._label(one.name)
            for state in WORKER_STATES:
                self._states.labels(label, state).set(one.state == state)
            self._restarts.labels(label).set(one.restarts)
            self._memory.labels(label).set(one.memory_bytes)
            self._step_s.labels(label).set(one.step_s)

    def _label(self, name: str) -> str:
        """A worker's own name where that is only a number; one of a cluster has its machine's in it, and is counted."""
        if name not in self._labels:
            counted = (f"worker-{number}" for number in itertools.count(1))
            taken = self._labels.values()
            own = re.fullmatch(r"worker-\d+", name) and name not in taken
            self._labels[name] = name if own else next(one for one in counted if one not in taken)
        return self._labels[name]

    def _count(self, before: Job, after: JobState, now_s: float) -> None:
        model = before.spec.model if before.spec.model in table_names() | estimator_names() else OWN
        if after is JobState.RUNNING and not before.attempt:
            self._waited.labels("interactive" if before.priority > BATCH else "batch").observe(
                max(0.0, now_s - before.created_s)
            )
        elif after is JobState.QUEUED:
            self._retried.labels(model).inc()
        elif after.is_final:
            self._ended.labels(after.value.lower(), model).inc()
            if before.state is JobState.RUNNING:
                self._took.labels(model).observe(max(0.0, now_s - before.changed_s))


def _handler_of(registry: CollectorRegistry) -> type[Handler]:
    class Metric(Handler):
        def get(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                raise Refused(404, "There is only /metrics here.")
            self.answer(generate_latest(registry), CONTENT_TYPE_LATEST)

    return Metric
