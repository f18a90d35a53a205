# SPDX-License-Identifier: GPL-3.0-or-later
"""One job: what was asked, where it stands, and which state may follow which.

    QUEUED ─▶ RUNNING ─▶ DONE
      │ ▲        ├─────▶ FAILED
      │ └────────┤ (worker lost, server restarted)
      └──────────┴─────▶ CANCELLED
"""

from __future__ import annotations

import enum
import json
import sqlite3
from dataclasses import dataclass

from das_blender_addon.protocol.messages import Event, JobInput, JobSpec


class JobState(enum.Enum):
    """Where a job stands."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES


FINAL_STATES = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
ALLOWED_STEPS = {
    JobState.QUEUED: (JobState.RUNNING, JobState.CANCELLED, JobState.FAILED),
    JobState.RUNNING: (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED),
}


@dataclass(frozen=True)
class Job:
    """One job as stored.  ``attempt``: how often it started; ``losses``: workers it has lost; times: Unix seconds."""

    number: int
    job: str
    spec: JobSpec
    inputs: tuple[JobInput, ...]
    state: JobState
    attempt: int
    losses: int
    cancel_requested: bool
    acknowledged: bool
    created_s: float
    changed_s: float


def job_from_row(row: sqlite3.Row) -> Job:
    """The job of a row of the table "jobs"."""
    return Job(
        number=row["number"],
        job=row["job"],
        spec=JobSpec(**json.loads(row["spec"])),
        inputs=tuple(JobInput(**one) for one in json.loads(row["inputs"])),
        state=JobState(row["state"]),
        attempt=row["attempt"],
        losses=row["losses"],
        cancel_requested=bool(row["cancel_requested"]),
        acknowledged=bool(row["acknowledged"]),
        created_s=row["created_s"],
        changed_s=row["changed_s"],
    )


def event_from_row(row: sqlite3.Row) -> Event:
    """The event of a row of the table "events"."""
    return Event(
        job=row["job"], seq=row["seq"], kind=row["kind"], time_s=row["time_s"], fields=json.loads(row["fields"])
    )
