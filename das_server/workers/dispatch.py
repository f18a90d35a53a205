# SPDX-License-Identifier: GPL-3.0-or-later
"""Between the job list and the workers: gives out jobs in order, writes down news, decides what is tried again."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from das_blender_addon.errors import JobCancelled, JobError, JobRejected, ModelError, StorageError, WorkerLost
from das_blender_addon.protocol.kinds import Name, fitting
from das_blender_addon.protocol.messages import Artefact
from das_server.store.blobs import DISK, NODE_DISK, BlobStore
from das_server.store.endings import Ending
from das_server.store.jobs import Job, JobState, JobStore
from das_server.store.requesters import Leases
from das_server.workers.base import (
    WorkDone,
    Workers,
    WorkerStatus,
    WorkFailed,
    WorkLost,
    WorkNews,
    WorkOrder,
    WorkPreviewed,
    WorkProgressed,
    WorkRetried,
)
from das_server.workers.health import Health
from das_server.workers.room import Room
from das_server.workers.scheduling import Scheduling
from das_server.workers.speed import SpeedRecord

_log = logging.getLogger(__name__)

UNREADABLE_S = 30.0
"""A result that the disk does not show for so long is lost."""

SAVE_AGAIN_S = 2.0
"""Pause before the end of an attempt is offered once more to a disk that refused it."""

TELL_AGAIN_S = 60.0
"""Pause before the log says the same once more."""

MOST_STARTS = 5
"""A job that is lost after this many times ``max_attempts`` starts is given up, however far it came."""


class Dispatcher:
    """Moves jobs through their states.

    ``max_attempts``: how many workers a job may lose before it fails.  ``speed`` is told of every finished job.
    ``max_running``: jobs of one owner that may run at once, 0 for any number.
    ``room``: that the disk has for results; without it, no job starts.
    ``check_weights(model, revision)``: the fingerprint of the weights that a job means, or `ModelError`.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: BlobStore,
        workers: Workers,
        *,
        max_attempts: int = 3,
        max_running: int = 0,
        room: Room | None = None,
        speed: SpeedRecord | None = None,
        check_weights: Callable[[str, str], str] = lambda model, revision: "",
    ):
        self._store = store
        self._blobs = blobs
        self._workers = workers
        self._max_attempts = max_attempts
        self._speed = speed
        self._room = room
        self.check_weights = check_weights
        self._leases = Leases(store.leases())
        self._told = ("", 0)
        self._ends_because = ""
        self._health = Health()
        self._where: dict[str, str] = {}
        self._scheduling = Scheduling(store, limit=max_running, alone=self._runs_alone)
        self._unsaved: list[WorkNews] = []
        self._save_again_s = 0.0
        self._unreadable_since_s: dict[str, float] = {}
        self._refused, self._tell_again_s = "", 0.0

    def recover(self, ending: Ending = Ending.CLEAN) -> None:
        """After a start: jobs that were running when the server ended wait again, in their old places; what cannot be
        read is set aside.  ``ending``: how it ended; perhaps one of them has taken it down.
        """
        self._store.set_aside_unreadable()
        for job in self._store.in_states(JobState.RUNNING):
            if job.cancel_requested and not self._store.num_wanting(job.job):
                self._store.cancel(job.job)
            elif ending is Ending.CLEAN:
                _log.info("job %s was running when the server ended and starts again", job.job)
                message = "The server was restarted; the job starts again."
                self._store.requeue(job.job, code=WorkerLost.code, message=message, lost=False)
            elif ending is Ending.KILLED:
                _log.warning("job %s was running when the server was killed", job.job)
                self._retry(job, "The server was killed while it made this job.", by_others=True)
            else:
                _log.warning("job %s was running when the server died", job.job)
                self._retry(job, "The server died while it made this job.", suspect=True)

    def tick(self) -> None:
        """Take in the workers' news, end the leases that ran out, then give out waiting jobs."""
        news = self._workers.news()
        if self._unsaved and time.monotonic() >= self._save_again_s:
            news, self._unsaved = self._unsaved + news, []
        for one in news:
            try:
                self._take_in(one)
            except StorageError as error:
                _log.error("job %s: %s", one.job, error.message)
                if _ends_attempt(one):
                    self._unsaved.append(one)  # the end of an attempt must not get lost
                    self._save_again_s = time.monotonic() + SAVE_AGAIN_S
            except Exception as error:  # a defect of ours must cost no more than this job
                _log.exception("job %s: its news cannot be taken in", one.job)
                if _ends_attempt(one) and not self._set_aside(one.job, error):
                    self._unsaved.append(one)
                    self._save_again_s = time.monotonic() + SAVE_AGAIN_S
        self._end_leases()
        try:
            self._give_out()
            self._tell_why_they_wait()
            self._scheduling.tell(self.worker_status())
        except StorageError as error:  # at every turn of the loop
            if error.message != self._refused or time.monotonic() >= self._tell_again_s:
                _log.error("no job can start: %s", error.message)
                self._refused, self._tell_again_s = error.message, time.monotonic() + TELL_AGAIN_S

    def cancel(self, job: str, requester: str = "", *, everybody: bool = False) -> Job:
        """The requester (``everybody``: each of them) wants the job no more.  When nobody does, a waiting job is
        cancelled now, a running one within its step; nothing happens to one that is over."""
        self._leases.drop(job, requester)
        return self._stop_unwanted(self._store.request_cancel(job, requester, everybody=everybody))

    def check_room(self) -> None:
        """Raise `StorageError` where the disk has no room for one job more in the list."""
        if self._room is not None:
            self._room.check_reserve()

    def give_out_no_more(self, reason: str) -> None:
        """No job starts any more; those that wait are told why: "The job waits, because the server …"."""
        self._ends_because = reason

    def first_waiting(self, limit: int) -> list[str]:
        """The jobs that start next, as far as is known."""
        return self._scheduling.first_waiting(limit)

    def outlook(self, job: Job) -> tuple[int, float | None]:
        """(how many jobs start before it, about how many seconds until it starts or, where it runs, is done: None where
        that is not known); (0, None) for one that is over."""
        return self._scheduling.outlook(job)

    def worker_status(self) -> list[WorkerStatus]:
        """All workers, with what is known of the health of their devices."""
        return [self._health.shown(one) for one in self._workers.status()]

    def heard_of(self, job: str, requester: str, lease_s: float) -> None:
        """A requester wants the job, and its lease begins anew."""
        self._leases.renew(job, requester, lease_s)

    def done_with(self, job: str, requester: str) -> None:
        """A requester needs no lease any more."""
        self._leases.drop(job, requester)

    def _stop_unwanted(self, job: Job) -> Job:
        if job.state is JobState.RUNNING and job.cancel_requested:
            self._workers.cancel(job.job)
        return job

    def _end_leases(self) -> None:
        for job, requester in self._leases.take_ended():
            try:
                found = self._stop_unwanted(self._store.request_cancel(job, requester, lapsed=True))
                _log.info("job %s: the lease of a requester ran out while it was %s", job, found.state.value)
                unneeded = self._store.let_go_of_unwanted(job)
                self._blobs.let_go(unneeded, before_s=self._store.oldest_running_s())
            except JobRejected:  # forgotten meanwhile
                continue
            except StorageError as error:
                _log.error("job %s: the end of a lease is not noted, which is tried again: %s", job, error.message)
                self._leases.renew(job, requester, SAVE_AGAIN_S)

    def _take_in(self, news: WorkNews) -> None:
        job = self._store.find(news.job)
        if job is None or job.state is not JobState.RUNNING or job.attempt != news.attempt:
            _log.info("job %s: late news of attempt %s ignored", news.job, news.attempt)
            return
        if isinstance(news, WorkProgressed):
            self._store.progress(job.job, self._scheduling.progressed(job, news.fields))
        elif isinstance(news, WorkPreviewed):
            self._store.preview(job.job, news.step, news.artefact)
        elif isinstance(news, WorkRetried):
            self._store.retry(job.job, code=news.code, message=fitting(news.message))
        elif job.cancel_requested and not self._store.num_wanting(job.job):
            self._store.cancel(job.job)
        elif isinstance(news, WorkDone):
            self._health.finished(self._where.pop(job.job, ""))
            self._finish(job, news)
        elif isinstance(news, WorkFailed):
            worker = self._where.pop(job.job, "")
            if news.field != NODE_DISK:
                self._health.finished(worker)
            self._fail(job, news, worker)
        elif job.cancel_requested:
            self._wanted_again(job)  # it was killed because it did not stop in time
        elif not news.begun:
            self._not_taken_up(job, news.reason)
        else:
            self._retry(job, news.reason, by_others=news.by_others)
            if not news.by_others:
                self._note_loss(job.job, news.reason)

    def _note_loss(self, job: str, reason: str) -> None:
        """The device of a job that was lost may be sick; then those that it lost have no part in that."""
        worker = self._where.pop(job, "")
        victims = self._health.lost(worker, job, reason)
        if victims:
            _log.error("%s lost %s jobs in a row and its device is set aside: %s", worker, len(victims), reason)
            for one in victims:
                self._store.forgive(one)

    def _finish(self, job: Job, news: WorkDone) -> None:
        missing = [one for one in news.artefacts if not self._is_there(job.job, one)]
        self._unreadable_since_s.pop(job.job, None)
        if missing:
            self._retry(job, f"{len(missing)} results vanished from the server's disk.")
        else:
            self._store.finish(job.job, list(news.artefacts), news.report)
            self._scheduling.finished(job, news.report)
            if self._speed is not None:
                self._speed.note(job.spec, news.report)

    def _is_there(self, job: str, result: Artefact) -> bool:
        """Whether a result can be fetched; raises `StorageError` where the disk may say so later."""
        try:
            return self._blobs.size_bytes(result.sha) == result.size_bytes
        except StorageError:
            since_s = self._unreadable_since_s.setdefault(job, time.monotonic())
            if time.monotonic() - since_s < UNREADABLE_S:
                raise
            return False

    def _fail(self, job: Job, news: WorkFailed, worker: str) -> None:
        if news.code == JobCancelled.code and job.cancel_requested:
            self._wanted_again(job)
        elif news.code == JobCancelled.code:  # nobody asked for it: that was forgotten with an earlier server
            self._store.cancel(job.job)
        elif self._room is not None and (news.code, news.field) == (StorageError.code, DISK):
            self._room.note_full(news.message)
            message = fitting(f"{news.message} The job starts again when there is room.")
            self._store.requeue(job.job, code=news.code, message=message, lost=False)
        elif (news.code, news.field) == (StorageError.code, NODE_DISK):
            self._health.has_no_room(worker, news.message)
            message = fitting(f"{news.message} The job starts again elsewhere, or when there is room.")
            self._store.requeue(job.job, code=news.code, message=message, lost=False)
        else:
            message, field = fitting(news.message), fitting(news.field, Name)
            self._store.fail(job.job, code=news.code, message=message, field=field)

    def _wanted_again(self, job: Job) -> None:
        """Its worker was told to stop when nobody wanted it any more, and then somebody did."""
        message = "The job was being cancelled when it was asked for again; it starts again."
        self._store.requeue(job.job, code=JobCancelled.code, message=message, lost=False)

    def _retry(self, job: Job, reason: str, *, suspect: bool = False, by_others: bool = False) -> None:
        """Try again, or give up.  ``by_others``: somebody else ended its worker or its server, which counts only where
        it happens again and again at one place: then it may be their answer to what the job does."""
        losses = job.losses if by_others else self._store.losses_with_this(job)
        too_often = job.attempt >= MOST_STARTS * self._max_attempts and not (by_others and self._store.got_further(job))
        if losses >= self._max_attempts or too_often:
            times = losses if losses >= self._max_attempts else job.attempt
            message = fitting(f"The job lost its worker {times} times and is given up. The last time: {reason}")
            self._store.fail(job.job, code=WorkerLost.code, message=message)
        else:
            message = f"{reason} The job starts again."
            about = {"lost": not by_others, "suspect": suspect, "by_others": by_others}
            self._store.requeue(job.job, code=WorkerLost.code, message=message, **about)

    def _not_taken_up(self, job: Job, reason: str) -> None:
        """Its worker died of something else."""
        self._store.requeue(job.job, code=WorkerLost.code, message=f"{reason} The job starts again.", lost=False)

    def _set_aside(self, job: str, error: Exception) -> bool:
        """Fail a job with which the server itself cannot go on → whether the disk took that, or there is nothing to
        take."""
        message = f"The server failed inside with {type(error).__name__}: {error}; its log has the details."
        try:
            self._store.fail(job, code=JobError.code, message=fitting(message))
        except StorageError as problem:
            _log.error("job %s cannot be set aside: %s", job, problem.message)
            return False
        except Exception:  # it stays as it is stored; the others go on
            _log.exception("job %s cannot be set aside", job)
        return True

    def _give_out(self) -> None:
        if not self._ends_because:
            self._give_to_holders()
        free = {} if self._ends_because or self._no_room() else {one.name: one for one in self._workers.free()}
        while free:
            found = self._scheduling.next_start(self.worker_status(), free, self._health)
            if found is None:
                return
            job, worker = found
            self._give(job, free.pop(worker))

    def _give_to_holders(self) -> None:
        """Jobs that have outlived the last server go on where they are; those that nobody wants any more end."""
        held = self._workers.held()
        workers = {one.name: one for one in self.worker_status()} if held else {}
        for name, worker in held.items():
            job = self._store.find(name)
            if job is None or job.state is not JobState.QUEUED or worker not in workers:
                self._workers.cancel(name)
            else:
                self._give(job, workers[worker])

    def _no_room(self) -> str:
        return self._room.problem() if self._room is not None else ""

    def _give(self, job: Job, worker: WorkerStatus) -> None:
        try:
            weights = self.check_weights(job.spec.model, job.spec.model_revision)
            started = self._store.start(job.job, worker=worker.name, device=worker.device_label or worker.device)
        except StorageError:
            raise
        except ModelError as error:  # its model was removed, or has other weights
            self._store.fail(job.job, code=error.code, message=error.message, field=error.field or "")
            return
        except Exception as error:  # as above
            _log.exception("job %s cannot be started", job.job)
            self._set_aside(job.job, error)
            return
        self._where[job.job] = worker.name
        try:
            self._workers.run(worker.name, WorkOrder(job.job, started.attempt, job.spec, job.inputs, weights))
        except Exception as error:  # the job has no part in that; it ends as an attempt that others broke off
            _log.exception("job %s cannot be given to %s", job.job, worker.name)
            reason = fitting(f"The job could not be given to {worker.name} ({type(error).__name__}: {error}).")
            self._unsaved.append(WorkLost(job.job, started.attempt, reason, by_others=True))
            self._save_again_s = time.monotonic() + SAVE_AGAIN_S

    def _runs_alone(self, losses: int) -> bool:
        """Whether a job under which a server died, and with so many losses, is a danger to others, and would be taken
        for it."""
        return losses > 0 and losses >= self._max_attempts - 1

    def _tell_why_they_wait(self) -> None:
        """Where no worker can work, or what one makes has no room, every waiting job says so once, with the reason; it
        goes on when that is over."""
        statuses = self.worker_status()
        if self._ends_because:
            self._tell_once(self._ends_because, f"The job waits, because the server ends: {self._ends_because}")
        elif self._no_room():
            self._tell_once(self._no_room(), f"The job waits. {self._no_room()}")
        elif not statuses or any(one.state not in ("broken", "set aside") for one in statuses):
            self._told = ("", 0)
        else:
            reason = statuses[0].problem
            if _without_numbers(reason) != _without_numbers(self._told[0]):
                _log.error("no worker can work, and the jobs wait: %s", reason)
            self._tell_once(reason, f"The job waits, because no worker of this server can work: {reason}")

    def _tell_once(self, reason: str, message: str) -> None:
        told, after = self._told
        after = after if _without_numbers(reason) == _without_numbers(told) else 0
        self._told = (reason, self._store.tell_waiting(fitting(message), after=after))


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+", "", text)


def _ends_attempt(news: WorkNews) -> bool:
    return not isinstance(news, WorkProgressed | WorkPreviewed | WorkRetried)
