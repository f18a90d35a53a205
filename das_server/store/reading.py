# SPDX-License-Identifier: GPL-3.0-or-later
"""The job list as it is read: jobs, their events, who wants them, and the blobs that they keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol.kinds import MAX_NUMBER
from das_blender_addon.protocol.messages import Event
from das_server.store.job import Job, JobState, event_from_row, job_from_row
from das_server.store.requesters import Requesters
from das_server.store.schema import open_or_replace_job_list

EVENTS_AT_ONCE = 200
"""Events of a job that are read at once."""


def no_job(job: str) -> JobRejected:
    """The server does not have the job, or not for whoever asks."""
    return JobRejected(
        f"The server has no job {job[:80]!r}; it was never accepted or is already forgotten.", field="job"
    )


def _whose(owner: str | None) -> tuple[str, tuple[str, ...]]:
    """The condition for this owner's and everybody's jobs (None: all), and its values."""
    return ("1", ()) if owner is None else ("owner IN ('', ?)", (owner,))


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


class StoredJobs:
    """The jobs of one state folder; every method raises `StorageError` when the disk refuses."""

    def __init__(self, folder: Path):
        self._path = folder / "jobs.sqlite3"
        with self._errors():
            self._db = open_or_replace_job_list(self._path)
        self._requesters = Requesters(self._db)

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._db.close()

    # ── Jobs ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, job: str) -> Job | None:
        """The job, or None."""
        with self._errors():
            row = self._db.execute("SELECT * FROM jobs WHERE job = ?", (job,)).fetchone()
        return None if row is None else job_from_row(row)

    def get(self, job: str) -> Job:
        """The job; raises `JobRejected` if the server does not have it."""
        found = self.find(job)
        if found is None:
            raise no_job(job)
        return found

    def run_of(self, asked: str, requester: str = "", owner: str = "") -> Job | None:
        """The job that a request for ``asked`` of this requester of this owner is about: its newest run, but for a
        requester that has cancelled one that one, and for one without an id the first."""
        with self._errors():
            row = self._run_row(asked, requester, owner)
        return None if row is None else job_from_row(row)

    def wants_no_more(self, asked: str, requester: str, owner: str = "") -> bool:
        """Whether the requester of this owner has cancelled a run of the job ``asked`` for."""
        with self._errors():
            return self._requesters.cancelled_run(asked, requester, owner) is not None

    def has_requester(self, job: str, requester: str) -> bool:
        """Whether the requester ever asked for this job."""
        with self._errors():
            return self._requesters.knows(job, requester)

    def latest_run(self, asked: str, requester: str, owner: str | None = None) -> str:
        """The newest run of the job ``asked`` for that this requester wants or wanted; else that id itself."""
        with self._errors():
            return self._requesters.latest_run(asked, requester, owner) or asked

    def num_wanting(self, job: str) -> int:
        """How many requesters want the job."""
        with self._errors():
            return self._requesters.count(job)

    def leases(self) -> list[tuple[str, str, float]]:
        """(job, requester, seconds) of every lease that runs."""
        with self._errors():
            return self._requesters.leases()

    def in_states(self, *states: JobState, limit: int = 1000) -> list[Job]:
        """Jobs in these states, newest first; all of them when none is named."""
        names = [state.value for state in states or JobState]
        marks = ", ".join("?" * len(names))
        with self._errors():
            rows = self._db.execute(
                f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number DESC LIMIT ?", (*names, limit)
            )
            return [job_from_row(row) for row in rows]

    def counts(self, owner: str | None = None) -> dict[str, int]:
        """State → how many jobs are in it; ``owner``: this one's and everybody's only."""
        whose, named = _whose(owner)
        with self._errors():
            rows = self._db.execute(f"SELECT state, count(*) FROM jobs WHERE {whose} GROUP BY state", named)
            return dict(map(tuple, rows))

    def num_unfetched(self, owner: str | None = None) -> int:
        """How many jobs are done and somebody still wants their results; ``owner`` as above."""
        whose, named = _whose(owner)
        sql = (
            "SELECT count(DISTINCT jobs.job) FROM jobs JOIN requesters USING (job) WHERE jobs.state = 'DONE' "
            f"AND requesters.state = 'wants' AND {whose}"
        )
        with self._errors():
            return self._db.execute(sql, named).fetchone()[0]

    def queued_jobs(self) -> list[str]:
        """All that wait."""
        with self._errors():
            return [row["job"] for row in self._db.execute("SELECT job FROM jobs WHERE state = 'QUEUED'")]

    def listed(
        self,
        states: Sequence[str] = (),
        prefix: str = "",
        before: int = 0,
        limit: int = 200,
        owner: str | None = None,
    ) -> list[Job]:
        """Jobs in one of ``states`` (in any if none is named) whose id begins with ``prefix`` and whose ``number`` is
        below ``before`` (0: all), newest first; ``owner``: this one's and everybody's only."""
        named = [state.value for state in JobState if not states or state.value in states]
        owners = None if owner is None else sorted({"", owner})
        if prefix:  # ids are hex digits; a plus keeps SQLite from going by another index than that of ids
            marks = f"+state IN ({_marks(named)})" + (f" AND +owner IN ({_marks(owners)})" if owners else "")
            pieces = [(f"job >= ? AND job < ? AND {marks}", (prefix, f"{prefix}g", *named, *(owners or ())))]
        elif owners is None:  # pieces of an index, each read from its end
            pieces = [("state = ?", (state,)) for state in named]
        else:
            pieces = [("owner = ? AND state = ?", (one, state)) for one in owners for state in named]
        last = before or MAX_NUMBER
        by = "+number" if prefix else "number"
        one = f"SELECT * FROM (SELECT number FROM jobs WHERE {{}} AND {by} < ? ORDER BY {by} DESC LIMIT ?)"
        found = " UNION ALL ".join(one.format(condition) for condition, _ in pieces) or "SELECT 0"
        sql = f"SELECT * FROM jobs WHERE number IN ({found}) ORDER BY number DESC LIMIT ?"
        values = [value for _, own in pieces for value in (*own, last, limit)]
        with self._errors():
            return [job_from_row(row) for row in self._db.execute(sql, (*values, limit))]

    def num_waiting(self, limit: int = 1000) -> dict[str, int]:
        """How many of the first ``limit`` waiting jobs are for each model."""
        sql = (
            "SELECT json_extract(spec, '$.model') AS model, count(*) AS number FROM (SELECT spec FROM jobs WHERE state "
            "= 'QUEUED' AND json_valid(spec) ORDER BY number LIMIT ?) GROUP BY model"
        )
        with self._errors():
            rows = self._db.execute(sql, (limit,)).fetchall()
        return {row["model"]: row["number"] for row in rows if isinstance(row["model"], str)}

    def oldest_running_s(self) -> float:
        """When the oldest running attempt began (Unix time); infinity if none runs."""
        with self._errors():
            began = self._db.execute("SELECT min(changed_s) FROM jobs WHERE state = 'RUNNING'").fetchone()[0]
        return float("inf") if began is None else began

    def events(self, job: str, *, after: int = 0, limit: int = EVENTS_AT_ONCE) -> list[Event]:
        """Events with ``seq`` > ``after``, in order."""
        with self._errors():
            rows = self._db.execute(
                "SELECT * FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?", (job, after, limit)
            )
            return [event_from_row(row) for row in rows]

    def last_event(self, job: str, *kinds: str) -> Event | None:
        """The newest event, of these kinds if any are named."""
        where = f"AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        with self._errors():
            row = self._db.execute(
                f"SELECT * FROM events WHERE job = ? {where} ORDER BY seq DESC LIMIT 1", (job, *kinds)
            ).fetchone()
        return None if row is None else event_from_row(row)

    def last_seq(self, job: str) -> int:
        """Number of the newest event, 0 if there is none."""
        event = self.last_event(job)
        return event.seq if event else 0

    def referenced_blobs(self) -> set[str]:
        """Every SHA that some job needs."""
        with self._errors():
            return {row["sha"] for row in self._db.execute("SELECT DISTINCT sha FROM job_blobs")}

    def owns_blob(self, owner: str, sha: str) -> bool:
        """Whether a blob is everybody's or this owner's: it has sent it, or a job of it has it."""
        sql = (
            "SELECT 1 FROM blob_owners WHERE sha = ?1 AND owner IN ('', ?2) UNION ALL SELECT 1 FROM job_blobs "
            "JOIN jobs USING (job) WHERE sha = ?1 AND owner IN ('', ?2) LIMIT 1"
        )
        with self._errors():
            return self._db.execute(sql, (sha, owner)).fetchone() is not None

    def is_referenced(self, sha: str) -> bool:
        """Whether some job needs the blob."""
        with self._errors():
            return self._db.execute("SELECT 1 FROM job_blobs WHERE sha = ? LIMIT 1", (sha,)).fetchone() is not None

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _run_row(self, asked: str, requester: str, owner: str) -> sqlite3.Row | None:
        run = self._requesters.cancelled_run(asked, requester, owner) if requester else asked
        if run is not None:
            row = self._db.execute("SELECT * FROM jobs WHERE job = ?", (run,)).fetchone()
            if row is None or row["owner"] in ("", owner):
                return row
        return self._newest_run(asked, owner)

    def _newest_run(self, asked: str, owner: str) -> sqlite3.Row | None:
        """Of those that are everybody's or this owner's."""
        sql = "SELECT * FROM jobs WHERE asked = ? AND owner IN ('', ?) ORDER BY number DESC LIMIT 1"
        return self._db.execute(sql, (asked, owner)).fetchone()

    def _count_before(self, number: int) -> int:
        with self._errors():
            sql = "SELECT count(*) FROM jobs WHERE state = 'QUEUED' AND number < ?"
            return self._db.execute(sql, (number,)).fetchone()[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            reason = "its disk is full" if "full" in str(error) else str(error)
            reason = "another program has it open and changes it; close that" if "locked" in reason else reason
            raise StorageError(f"The server cannot use its job list {self._path}: {reason}.") from error
