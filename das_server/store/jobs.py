# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs on disk: the one state machine (`job`), their numbered events, and the blobs that they keep alive.
One file, though long: all that changes the list, one transaction each; what only reads it is in `reading`.

SQLite in WAL mode: what a method returned from outlives this process, and, once ``log.flush`` has returned, a loss of
power.  One thread, one process: `state_lock` sees to that; only ``log.flush`` is for any thread.
"""

from __future__ import annotations

import collections
import logging
import re
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol.messages import Artefact, Event, JobInput, JobSpec
from das_server.limits import MAX_JOBS
from das_server.store.job import (
    ALLOWED_STEPS,
    FINAL_STATES,
    Job,
    JobState,
    how_far,
    job_from_row,
    request_digest,
    to_json,
)
from das_server.store.lived import LivedClock
from das_server.store.reading import StoredJobs
from das_server.store.requesters import CANCELLED, HAS, LAPSED, WANTS
from das_server.store.write_ahead import WriteAheadLog

_log = logging.getLogger(__name__)

JOB_ID_PATTERN = re.compile(r"[0-9a-f]{32}")


class JobStore(StoredJobs):
    """The jobs of one state folder; every method raises `StorageError` when the disk refuses.  ``max_jobs``: of one
    owner that are not over."""

    def __init__(self, folder: Path, *, max_jobs: int = MAX_JOBS):
        super().__init__(folder)
        self.max_jobs = max_jobs
        self.touched: set[str] = set()
        """Jobs that may have begun to wait, or ceased to, since somebody emptied this."""
        self.told: set[str] = set()
        """Jobs that have got events since somebody emptied this."""
        self.steps: collections.deque[tuple[Job, JobState, float]] = collections.deque(maxlen=1000)
        """The last steps of jobs, for whoever counts them: (as it was, what it became, when, Unix time)."""
        with self._errors():
            self.log = WriteAheadLog(self._path, self._db)
        self._sent_bytes: dict[str, int] = {}
        self._lived = LivedClock(folder / "lived.json")

    def close(self) -> None:
        self._lived.save()
        super().close()

    # ── Coming in ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        job: str,
        spec: JobSpec,
        inputs: list[JobInput],
        *,
        requester: str = "",
        lease_s: float = 0.0,
        anew: bool = False,
        owner: str = "",
        priority: int = 0,
    ) -> tuple[Job, bool]:
        """Store a new job with its QUEUED event, wanted by ``requester`` → (job, whether it was already there).

        The same id with the same request is a duplicate, which the requester joins; with another it is a `JobRejected`.
        ``anew``: if it is there, it runs once more, under an id of the server's own; so does one of another ``owner``.
        A job has the highest ``priority`` of those who asked for it.
        """
        if not JOB_ID_PATTERN.fullmatch(job):
            raise JobRejected(f"The job id {job[:80]!r} is not 32 lower-case hex digits.", field="job")
        digest = request_digest(spec, inputs)
        with self._transaction():
            row = self._run_row(job, requester, owner)
            if row is not None and row["digest"] != digest:
                raise JobRejected(f"The job {job} is already there with another request; use a new id.", field="job")
            if row is not None and not anew:
                self._requesters.join(row["job"], requester, lease_s)
                self._raise_priority(row, priority)
                return job_from_row(row), True
            self._check_number_of_jobs(owner)
            run = job if self.find(job) is None else uuid.uuid4().hex
            self._insert(run, job, digest, spec, inputs, owner, priority)
            self._requesters.join(run, requester, lease_s)
        return self.get(run), False

    def _raise_priority(self, row: sqlite3.Row, priority: int) -> None:
        if priority > row["priority"]:
            self._db.execute("UPDATE jobs SET priority = ? WHERE job = ?", (priority, row["job"]))
            self.touched.add(row["job"])

    def _insert(
        self,
        job: str,
        asked: str,
        digest: str,
        spec: JobSpec,
        inputs: list[JobInput],
        owner: str,
        priority: int,
    ) -> None:
        stored = (to_json(asdict(spec)), to_json([asdict(one) for one in inputs]))
        self._insert_row(job, asked, digest, *stored, inputs, owner, priority)

    def _insert_row(
        self,
        job: str,
        asked: str,
        digest: str,
        spec_json: str,
        inputs_json: str,
        inputs: Iterable[JobInput],
        owner: str,
        priority: int,
    ) -> None:
        self.touched.add(job)
        now = time.time()
        number = self._db.execute(
            "INSERT INTO jobs (job, asked, digest, spec, inputs, state, created_s, changed_s, owner, "
            "priority) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (job, asked, digest, spec_json, inputs_json, JobState.QUEUED.value, now, now, owner, priority),
        ).lastrowid
        self._keep_blobs(job, {one.sha for one in inputs}, is_input=True)
        self._append_event(job, "QUEUED", {"position": self._count_before(number)})

    def run_again(self, job: str) -> Job:
        """Store a new run of a job that failed or was cancelled, with what that asks for as it is stored → the run.
        Raises `JobRejected` where there is nothing to make once more."""
        with self._transaction():
            old = self.get(job)
            row = self._db.execute("SELECT * FROM jobs WHERE number = ?", (old.number,)).fetchone()
            newest = self._newest_run(row["asked"], old.owner)
            if old.state not in (JobState.FAILED, JobState.CANCELLED) or newest["number"] != old.number:
                what = old.state.value if newest["number"] == old.number else f"made once more as {newest['job']}"
                raise JobRejected(
                    f"The job {job} is {what}; only one that failed or was cancelled can be made once more.",
                    field="job",
                )
            if old.problem:
                raise JobRejected(f"{old.problem} It cannot be made once more.", field="job")
            self._check_number_of_jobs(old.owner)
            run = uuid.uuid4().hex
            stored = (row["spec"], row["inputs"], old.inputs)
            self._insert_row(run, row["asked"], row["digest"], *stored, old.owner, old.priority)
            self._requesters.join(run, "", 0.0)
        return self.get(run)

    def join(self, job: str, requester: str, lease_s: float) -> None:
        """The requester wants the job, too, unless it has cancelled it or has its results."""
        with self._transaction():
            self._requesters.join(job, requester, lease_s, unless=(CANCELLED, HAS))

    def own_blob(self, sha: str, owner: str, size_bytes: int) -> None:
        """``owner`` has sent the whole of a blob."""
        with self._transaction(durable=False):
            self._db.execute("INSERT OR IGNORE INTO blob_owners VALUES (?, ?, ?)", (sha, owner, size_bytes))
        self._sent_bytes.pop(owner, None)

    def sent_bytes(self, owner: str) -> int:
        """All blobs that this owner has sent and that are kept."""
        if owner not in self._sent_bytes:
            with self._errors():
                sql = "SELECT coalesce(sum(size_bytes), 0) FROM blob_owners WHERE owner = ?"
                self._sent_bytes[owner] = self._db.execute(sql, (owner,)).fetchone()[0]
        return self._sent_bytes[owner]

    def disown_blobs(self, shas: Iterable[str]) -> None:
        """These blobs are deleted."""
        self._sent_bytes.clear()
        with self._transaction(durable=False):
            self._db.executemany("DELETE FROM blob_owners WHERE sha = ?", [(sha,) for sha in shas])

    # ── Its turn ────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_queued(self, *, but: Collection[str] = ()) -> Job | None:
        """The job that waits longest, of all ``but`` these; one that cannot be read is set aside on the way."""
        marks = ", ".join("?" * len(but))
        sql = f"SELECT * FROM jobs WHERE state = 'QUEUED' AND job NOT IN ({marks}) ORDER BY number LIMIT 1"
        while True:
            with self._errors():
                row = self._db.execute(sql, tuple(but)).fetchone()
            job = None if row is None else job_from_row(row)
            if job is None or not job.problem:
                return job
            self._set_aside(job)

    def set_aside_unreadable(self) -> None:
        """Fail every unfinished job that cannot be read, with the reason; what it asked for stays as it is stored."""
        final = tuple(state.value for state in FINAL_STATES)
        with self._errors():
            rows = self._db.execute("SELECT * FROM jobs WHERE state NOT IN (?, ?, ?)", final).fetchall()
        for job in map(job_from_row, rows):
            if job.problem:
                self._set_aside(job)

    def tell_waiting(self, message: str, *, after: int = 0, limit: int = 200) -> int:
        """Append a WAITING event to the waiting jobs with a ``number`` > ``after``, the first ``limit`` of them → the
        number of the last one, ``after`` if there is none."""
        sql = "SELECT job, number FROM jobs WHERE state = 'QUEUED' AND number > ? ORDER BY number LIMIT ?"
        with self._errors():
            rows = self._db.execute(sql, (after, limit)).fetchall()
        if not rows:  # asked at every turn of the loop
            return after
        with self._transaction():
            for row in rows:
                self._append_event(row["job"], "WAITING", {"message": message})
                after = row["number"]
        return after

    def tell_one_waiting(self, job: str, message: str) -> None:
        """Append a WAITING event to a waiting job."""
        with self._transaction():
            self._append_event(job, "WAITING", {"message": message})

    # ── Going through its life ──────────────────────────────────────────────────────────────────────────────────────

    def start(self, job: str, *, worker: str, device: str) -> Job:
        """QUEUED → RUNNING, one attempt more."""
        with self._transaction():
            current = self.get(job)
            self._change_state(current, JobState.RUNNING, attempt=current.attempt + 1)
            self._append_event(job, "STARTED", {"worker": worker, "device": device, "attempt": current.attempt + 1})
            return self.get(job)

    def progress(self, job: str, fields: dict[str, Any]) -> Event:
        """Append a PROGRESS event, which a loss of power may take away again."""
        with self._transaction(durable=False):
            return self._append_event(job, "PROGRESS", fields)

    def tell_places(self, places: Iterable[tuple[str, int, float | None]]) -> None:
        """Append a QUEUED event to each waiting job of (job, how many are before it, seconds until it starts, None
        where that is not known), which a loss of power may take away again."""
        with self._transaction(durable=False):
            for job, position, eta_s in places:
                fields = {"position": position} | ({} if eta_s is None else {"eta_s": eta_s})
                self._append_event(job, "QUEUED", fields)

    def preview(self, job: str, step: int, artefact: Artefact) -> Event:
        """Append a PREVIEW event and keep its blob."""
        with self._transaction():
            self._keep_blobs(job, {artefact.sha}, is_input=False)
            return self._append_event(job, "PREVIEW", {"step": step, "artefact": asdict(artefact)})

    def retry(self, job: str, *, code: str, message: str) -> Event:
        """Append a RETRY event: the same attempt begins anew."""
        with self._transaction():
            fields = {"attempt": self.get(job).attempt, "code": code, "message": message}
            return self._append_event(job, "RETRY", fields)

    def requeue(
        self, job: str, *, code: str, message: str, lost: bool, suspect: bool = False, by_others: bool = False
    ) -> Event:
        """RUNNING → QUEUED with a RETRY event, in its old place.  ``lost``: perhaps its worker died of it; ``suspect``:
        perhaps the whole server did; ``by_others``: neither, somebody else ended it."""
        with self._transaction():
            current = self.get(job)
            columns = {"cancel_requested": 0, "suspect": int(current.suspect or suspect)}
            if lost:
                columns["losses"] = self.losses_with_this(current)
            if lost or by_others:
                columns["furthest"] = max(current.furthest, self._how_far(current))
            self._change_state(current, JobState.QUEUED, **columns)
            return self._append_event(job, "RETRY", {"attempt": current.attempt + 1, "code": code, "message": message})

    def losses_with_this(self, job: Job) -> int:
        """``job.losses`` when its attempt is lost now: one more, or 1 if it has got further than ever before, because
        then it was not what ended the earlier attempts."""
        return 1 if self.got_further(job) else job.losses + 1

    def forgive(self, job: str) -> None:
        """One loss less: it was not the job's."""
        with self._transaction():
            self._db.execute("UPDATE jobs SET losses = max(0, losses - 1) WHERE job = ? AND state = 'QUEUED'", (job,))

    def got_further(self, job: Job) -> bool:
        """Whether the attempt that runs has got further than every one before it that was lost."""
        return self._how_far(job) > job.furthest

    def _how_far(self, job: Job) -> int:
        started = self.last_event(job.job, "STARTED")
        progress = self.last_event(job.job, "PROGRESS")
        is_of_this_attempt = progress is not None and started is not None and progress.seq > started.seq
        return how_far(progress.fields) if is_of_this_attempt else 0

    def finish(self, job: str, artefacts: list[Artefact], report: dict[str, Any]) -> Event:
        """RUNNING → DONE; keeps the artefacts' blobs."""
        with self._transaction():
            self._change_state(self.get(job), JobState.DONE)
            self._keep_blobs(job, {one.sha for one in artefacts}, is_input=False)
            return self._append_event(job, "DONE", {"artefacts": [asdict(one) for one in artefacts], "report": report})

    def fail(self, job: str, *, code: str, message: str, field: str = "") -> Event:
        """→ FAILED."""
        with self._transaction():
            self._change_state(self.get(job), JobState.FAILED)
            return self._append_event(job, "FAILED", {"code": code, "message": message, "field": field})

    def request_cancel(self, job: str, requester: str = "", *, lapsed: bool = False, everybody: bool = False) -> Job:
        """The requester (``everybody``: each of them) wants the job no more.  When nobody does, a waiting job is
        cancelled at once, and of a running one it is remembered that it is to be; a finished one stays as it is."""
        with self._transaction():
            current = self.get(job)
            if current.state.is_final and not lapsed:
                return current
            if everybody:
                self._requesters.leave_all(job, CANCELLED)
            else:
                self._requesters.leave(job, requester, LAPSED if lapsed else CANCELLED)
            if not self._requesters.count(job):
                self._cancel_unwanted(current)
        return self.get(job)

    def _cancel_unwanted(self, current: Job) -> None:
        if current.state is JobState.QUEUED:
            self._change_state(current, JobState.CANCELLED, cancel_requested=1)
            self._append_event(current.job, "CANCELLED", {})
        elif current.state is JobState.RUNNING:
            self._db.execute("UPDATE jobs SET cancel_requested = 1 WHERE job = ?", (current.job,))

    def cancel(self, job: str) -> Event:
        """→ CANCELLED."""
        with self._transaction():
            self._change_state(self.get(job), JobState.CANCELLED)
            return self._append_event(job, "CANCELLED", {})

    # ── Forgetting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def acknowledge(self, job: str, requester: str = "") -> list[str]:
        """The requester has all it wants: when that is true of all, let go of the results → SHAs that no job needs any
        more.  The events stay."""
        with self._transaction():
            current = self.get(job)
            if not current.state.is_final:
                raise JobRejected(
                    f"The job {job} is {current.state.value} and cannot be acknowledged before it is over.", field="job"
                )
            self._requesters.leave(job, requester, HAS)
            return self._let_go(job)

    def let_go_of_unwanted(self, job: str) -> list[str]:
        """`acknowledge` without anybody's word, where a finished job's last requester has gone and another has it."""
        with self._transaction():
            is_over = self.get(job).state.is_final
            return self._let_go(job) if is_over and self._requesters.count(job, HAS) else []

    def _let_go(self, job: str) -> list[str]:
        if self._requesters.count(job):
            return []
        rows = self._db.execute("SELECT sha FROM job_blobs WHERE job = ? AND NOT is_input", (job,))
        shas = [row["sha"] for row in rows]
        self._db.execute("DELETE FROM job_blobs WHERE job = ?", (job,))
        self._db.execute("UPDATE jobs SET acknowledged = 1 WHERE job = ?", (job,))
        return [sha for sha in shas if not self.is_referenced(sha)]

    def forget_old(
        self, *, keep_s: float, keep_unfetched_s: float = 0.0, later_s: float = 0.0, limit: int = -1
    ) -> list[str]:
        """Remove jobs that are over and changed last more than ``keep_s`` of servers' time ago, with events and
        references, at most ``limit`` of them (-1: all) → their ids.  Results that somebody still wants stay for
        ``keep_unfetched_s``, 0: for ever.  ``later_s``: as if so much more time had passed."""
        now = self._lived.now() + later_s
        before_s = now - max(keep_s, keep_unfetched_s) if keep_unfetched_s else -1.0
        self._lived.save()
        with self._transaction():
            final = tuple(state.value for state in FINAL_STATES)
            rows = self._db.execute(
                "SELECT job FROM jobs WHERE state IN (?, ?, ?) AND lived_s <= ? AND (state != 'DONE' OR lived_s <= ? "
                "OR NOT EXISTS (SELECT 1 FROM requesters WHERE requesters.job = jobs.job AND requesters.state = ?)) "
                "LIMIT ?",
                (*final, now - keep_s, before_s, WANTS, limit),
            ).fetchall()
            self._db.executemany("DELETE FROM jobs WHERE job = ?", [(row["job"],) for row in rows])
        return [row["job"] for row in rows]

    def unix_time_before(self, seconds: float) -> float:
        """As of `LivedClock`."""
        return self._lived.unix_time_before(seconds)

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _check_number_of_jobs(self, owner: str) -> None:
        sql = "SELECT count(*) FROM jobs WHERE state IN ('QUEUED', 'RUNNING') AND owner = ?"
        if self._db.execute(sql, (owner,)).fetchone()[0] >= self.max_jobs:
            raise JobRejected(
                f"{self.max_jobs} jobs of yours wait or run already; ask again when some are done.", field="job"
            )

    def _set_aside(self, job: Job) -> None:
        _log.error("job %s is set aside: %s", job.job, job.problem)
        self.touched.add(job.job)
        with self._transaction():
            sql = "UPDATE jobs SET state = 'FAILED', changed_s = ?, lived_s = ? WHERE job = ?"
            self._db.execute(sql, (time.time(), self._lived.now(), job.job))
            self._append_event(job.job, "FAILED", {"code": StorageError.code, "message": job.problem, "field": ""})

    def _change_state(self, current: Job, state: JobState, **columns: int) -> None:
        if state not in ALLOWED_STEPS.get(current.state, ()):
            raise ValueError(
                f"job {current.job}: {current.state.value} → {state.value} is not a step of the state machine"
            )
        self.touched.add(current.job)
        self.steps.append((current, state, time.time()))
        columns_sql = "".join(f", {name} = ?" for name in columns)
        self._db.execute(
            f"UPDATE jobs SET state = ?, changed_s = ?, lived_s = ?{columns_sql} WHERE job = ?",
            (state.value, time.time(), self._lived.now(), *columns.values(), current.job),
        )

    def _append_event(self, job: str, kind: str, fields: dict[str, Any]) -> Event:
        self.told.add(job)
        seq = self.last_seq(job) + 1
        event = Event(job=job, seq=seq, kind=kind, time_s=time.time(), fields=fields)
        self._db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?)", (job, seq, kind, event.time_s, to_json(fields)))
        return event

    def _keep_blobs(self, job: str, shas: set[str], *, is_input: bool) -> None:
        rows = [(job, sha, int(is_input)) for sha in sorted(shas)]
        self._db.executemany("INSERT OR IGNORE INTO job_blobs VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self, *, durable: bool = True) -> Iterator[None]:
        with self._errors():
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
                if durable and self._db.total_changes != before:
                    self.log.note_commit()
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
