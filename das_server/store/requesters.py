# SPDX-License-Identifier: GPL-3.0-or-later
"""Who wants a job: any number of requesters, each known by an id of its own choice ("" for clients that send none).

    wants ─▶ has        it has acknowledged the results
      │ ▲
      │ └── lapsed      its lease ran out; whatever it says next renews it
      └───▶ cancelled   for good, so that what it said before and arrives late changes nothing
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable

WANTS, HAS, LAPSED, CANCELLED = "wants", "has", "lapsed", "cancelled"


class Requesters:
    """The table "requesters" of an open job list; the caller sees to transactions and errors."""

    def __init__(self, db: sqlite3.Connection):
        self._db = db

    def join(self, job: str, requester: str, lease_s: float, *, unless: Collection[str] = (CANCELLED,)) -> None:
        """The requester wants the job, from now on with this lease; not one that is in a state of ``unless``."""
        known = self._row(job, requester)
        if known is None:
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

    def _row(self, job: str, requester: str) -> sqlite3.Row | None:
        sql = "SELECT * FROM requesters WHERE job = ? AND requester = ?"
        return self._db.execute(sql, (job, requester)).fetchone()


class Leases:
    """When each lease runs out.  A lease begins anew with the server, whose silence is no requester's fault, and goes
    by a clock that nobody sets."""

    def __init__(self, leases: Iterable[tuple[str, str, float]] = ()):
        self._ends_s: dict[tuple[str, str], float] = {}
        for job, requester, lease_s in leases:
            self.renew(job, requester, lease_s)

    def renew(self, job: str, requester: str, lease_s: float) -> None:
        """The requester has been heard of; ``lease_s`` 0: it needs no lease any more."""
        self._ends_s.pop((job, requester), None)
        if lease_s > 0:
            self._ends_s[job, requester] = time.monotonic() + lease_s

    def drop(self, job: str, requester: str) -> None:
        """The requester is done with the job."""
        self._ends_s.pop((job, requester), None)

    def take_ended(self) -> list[tuple[str, str]]:
        """(job, requester) of the leases that have run out since the last call."""
        now = time.monotonic()
        ended = [one for one, ends_s in self._ends_s.items() if ends_s <= now]
        for one in ended:
            del self._ends_s[one]
        return ended
