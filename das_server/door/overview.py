# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of jobs and workers in lists, for people and monitoring: as far as it is the asker's to see."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from das_blender_addon.protocol import messages
from das_server.door.callers import Caller
from das_server.door.draining import Drain
from das_server.store.job import Job, JobState
from das_server.store.jobs import JobStore
from das_server.workers.dispatch import Dispatcher

STATUS_JOBS, STATUS_WAITING = 50, 25
"""Jobs in a status, and of them those that wait."""

MOST_SAID = 400
"""Characters of a job's last message in lists."""

COUNTED = {"running": "RUNNING", "waiting": "QUEUED", "done": "DONE", "failed": "FAILED", "cancelled": "CANCELLED"}


class Overview:
    """Of everything on this server."""

    def __init__(self, store: JobStore, dispatcher: Dispatcher, drain: Drain):
        self._store, self._dispatcher, self._drain = store, dispatcher, drain

    def all_of(self, caller: Caller) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
        """(jobs, workers, totals) of a status."""
        workers = [asdict(one) for one in self._dispatcher.worker_status()]
        for one in workers:
            found = self._store.find(one["job"]) if one["job"] else None
            if found is not None and not caller.may(found.owner):
                one["job"] = ""
        return [self.of(job) for job in self._shown(caller)], workers, self.totals(caller.sees)

    def totals(self, owner: str | None) -> dict[str, Any]:
        """How many jobs there are of each kind, of this owner and everybody's; None: of all."""
        counts = self._store.counts(owner)
        totals: dict[str, Any] = {name: counts.get(state, 0) for name, state in COUNTED.items()}
        return totals | {"unfetched": self._store.num_unfetched(owner), "draining": self._drain.is_on}

    def of(self, job: Job) -> dict[str, Any]:
        """A job in a list."""
        progress = self._store.last_event(job.job, "PROGRESS") if job.attempt else None
        last = self._store.last_event(job.job)
        position, eta_s = self._dispatcher.outlook(job)
        about = {
            "job": job.job,
            "number": job.number,
            "state": job.state.value,
            "task": job.spec.task,
            "model": job.spec.model,
            "seed": job.spec.seed,
            "priority": "interactive" if job.priority > messages.BATCH else "batch",
        }
        about |= {"attempt": job.attempt, "created_s": job.created_s, "changed_s": job.changed_s}
        about |= {"queue_position": position, "eta_s": eta_s, "acknowledged": job.acknowledged}
        about |= {"requesters": self._store.num_wanting(job.job)}
        if progress:
            about |= {name: progress.fields.get(name) for name in ("stage", "step", "of", "elapsed_s")}
        if last and last.kind in ("FAILED", "RETRY", "WAITING"):
            about |= {name: str(last.fields.get(name, ""))[:MOST_SAID] for name in ("code", "message")}
        if job.problem:
            about |= {"problem": job.problem[:MOST_SAID]}
        return about

    def _shown(self, caller: Caller) -> list[Job]:
        """Those that run, those that start next, and the newest of the others."""
        running = self._store.listed(["RUNNING"], limit=STATUS_JOBS, owner=caller.sees)
        waiting: dict[str, Job] = {}
        for name in self._dispatcher.first_waiting(STATUS_WAITING):
            job = self._store.find(name)
            if job is not None and job.state is JobState.QUEUED and caller.may(job.owner):
                waiting[name] = job
        for job in reversed(self._store.listed(["QUEUED"], limit=STATUS_WAITING, owner=caller.sees)):
            waiting.setdefault(job.job, job)
        shown = [*running, *list(waiting.values())[:STATUS_WAITING]]
        over = [COUNTED[name] for name in ("done", "failed", "cancelled")]
        limit = max(STATUS_JOBS // 5, STATUS_JOBS - len(shown))
        return shown + self._store.listed(over, limit=limit, owner=caller.sees)
