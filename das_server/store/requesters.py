# SPDX-License-Identifier: GPL-3.0-or-later
"""Who wants a job: any number of requesters, each known by an id of its own choice ("" for clients that send none).

    wants ─▶ has        it has acknowledged the results
      │ ▲
      │ └── lapsed      its lease ran out; whatever it says next renews it
      └───▶ cancelled   for good, so that what it said before and arrives late changes nothing
"""

from __future__ import annotations

import heapq
import sqlite3
import time
from collections.abc import Collection, Iterable

from das_blender_addon.errors import JobRejected
from das_server.limits import MAX_REQUESTERS, MAX_REQUESTERS_OF_OWNER

WANTS, HAS, LAPSED, CANCELLED = "wants", "has", "lapsed", "cancelled"


COUNT_EVERY_S = 60.0
"""Pause before the requesters of an owner who has too many are counted again."""


class Requesters:
    """The table "requesters" of an open job list; the caller sees to transactions and errors.

    ``most``: of one job; ``most_of_owner``: of all jobs of one owner.
    """

    def __init__(
        self, db: sqlite3.Connection, *, most: int = MAX_REQUESTERS, most_of_owner: int = MAX_REQUESTERS_OF_OWNER
    ):
        self._db, self._most, self._most_of_owner = db, most, most_of_owner
        self._counts: dict[str, tuple[int, float]] = {}
        """Of each owner as counted last and with those since, and when it may be counted again."""

    def join(self, job: str, requester: str, lease_s: float, *, unless: Collection[str] = (CANCELLED,)) -> None:
        """The requester wants the job, from now on with this lease; not one that is in a state of ``unless``.  Raises
        `JobRejected` where there are too many."""
        known = self._row(job, requester)
        if known is None:
            self._check_number(job)
            self._db.execute("INSERT INTO requesters VALUES (?, ?, ?, ?)", (job, requester, WANTS, lease_s))
        elif known["state"] not in unless and (known["state"], known["lease_s"]) != (WANTS, lease_s):
            self._db.execute(
                "UPDATE requesters SET state = ?, lease_s = ? WHERE job = ? AND requester = ?",
                (WANTS, lease_s, job, requester),
            )

    def leave(self, job: str, requester: str, state: str) -> None:
        """The requester wants the job no more, for the reason ``state``; one that never did is not written down, except
        that it has the results."""
        if state == HAS and self._row(job, requester) is None:
            self.join(job, requester, 0.0)
        self._db.execute(
            "UPDATE requesters SET state = ? WHERE job = ? AND requester = ? AND state IN (?, ?)",
            (state, job, requester, WANTS, LAPSED),
        )

    def leave_all(self, job: str, state: str) -> None:
        """Nobody wants the job any more, for the reason ``state``."""
        sql = "UPDATE requesters SET state = ? WHERE job = ? AND state IN (?, ?)"
        self._db.execute(sql, (state, job, WANTS, LAPSED))

    def knows(self, job: str, requester: str) -> bool:
        """Whether the requester ever asked for the job."""
        return self._row(job, requester) is not None

    def count(self, job: str, state: str = WANTS) -> int:
        """How many requesters of the job are in this state."""
        sql = "SELECT count(*) FROM requesters WHERE job = ? AND state = ?"
        return self._db.execute(sql, (job, state)).fetchone()[0]

    def cancelled_run(self, asked: str, requester: str, owner: str) -> str | None:
        """The run of the job ``asked`` for that this requester of this owner cancelled."""
        sql = (
            "SELECT jobs.job FROM jobs JOIN requesters USING (job) WHERE asked = ? AND requester = ? "
            "AND requesters.state = ? AND owner IN ('', ?) ORDER BY number DESC LIMIT 1"
        )
        row = self._db.execute(sql, (asked, requester, CANCELLED, owner)).fetchone()
        return None if row is None else row[0]

    def latest_run(self, asked: str, requester: str, owner: str | None) -> str | None:
        """The newest run of the job ``asked`` for that this requester is known for, of those that are everybody's or
        this owner's; None: of all."""
        sql = (
            "SELECT jobs.job FROM jobs JOIN requesters USING (job) WHERE asked = ? AND requester = ? "
            "AND (? IS NULL OR owner IN ('', ?)) ORDER BY number DESC LIMIT 1"
        )
        row = self._db.execute(sql, (asked, requester, owner, owner)).fetchone()
        return None if row is None else row[0]

    def leases(self) -> list[tuple[str, str, float]]:
        """(job, requester, seconds) of every lease that runs."""
        sql = "SELECT job, requester, lease_s FROM requesters WHERE state = ? AND lease_s > 0"
        return [tuple(row) for row in self._db.execute(sql, (WANTS,))]

    def _check_number(self, job: str) -> None:
        sql = "SELECT count(*) FROM requesters WHERE job = ?"
        if self._db.execute(sql, (job,)).fetchone()[0] >= self._most:
            raise JobRejected(f"{self._most} others have asked for the job {job} already.", field="requester")
        owner = self._db.execute("SELECT owner FROM jobs WHERE job = ?", (job,)).fetchone()[0]
        count, count_at_s = self._counts.get(owner, (self._most_of_owner, 0.0))
        if count >= self._most_of_owner and time.monotonic() >= count_at_s:  # some may have been forgotten
            sql = "SELECT count(*) FROM requesters JOIN jobs USING (job) WHERE owner = ?"
            count, count_at_s = self._db.execute(sql, (owner,)).fetchone()[0], time.monotonic() + COUNT_EVERY_S
        self._counts[owner] = count + (count < self._most_of_owner), count_at_s
        if count >= self._most_of_owner:
            raise JobRejected(
                f"Your jobs have been asked for {count} times, each time by another requester; ask again when old ones "
                "are forgotten.",
                field="requester",
            )

    def _row(self, job: str, requester: str) -> sqlite3.Row | None:
        sql = "SELECT * FROM requesters WHERE job = ? AND requester = ?"
        return self._db.execute(sql, (job, requester)).fetchone()


class Leases:
    """When each lease runs out.  A lease begins anew with the server, whose silence is no requester's fault, and goes
    by a clock that nobody sets."""

    def __init__(self, leases: Iterable[tuple[str, str, float]] = ()):
        self._ends_s: dict[tuple[str, str], float] = {}
        self._order: list[tuple[float, tuple[str, str]]] = []
        """Ends as they were said, soonest first; those that were renewed or dropped since are passed over."""
        for job, requester, lease_s in leases:
            self.renew(job, requester, lease_s)

    def renew(self, job: str, requester: str, lease_s: float) -> None:
        """The requester has been heard of; ``lease_s`` 0: it needs no lease any more."""
        if lease_s <= 0:
            self.drop(job, requester)
            return
        self._ends_s[job, requester] = ends_s = time.monotonic() + lease_s
        heapq.heappush(self._order, (ends_s, (job, requester)))
        if len(self._order) > 2 * len(self._ends_s) + 100:
            self._order = [(ends_s, one) for one, ends_s in self._ends_s.items()]
            heapq.heapify(self._order)

    def drop(self, job: str, requester: str) -> None:
        """The requester is done with the job."""
        self._ends_s.pop((job, requester), None)

    def take_ended(self) -> list[tuple[str, str]]:
        """(job, requester) of the leases that have run out since the last call."""
        now, ended = time.monotonic(), []
        while self._order and self._order[0][0] <= now:
            ends_s, one = heapq.heappop(self._order)
            if self._ends_s.get(one) == ends_s:
                del self._ends_s[one]
                ended.append(one)
        return ended
