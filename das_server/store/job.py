# SPDX-License-Identifier: GPL-3.0-or-later
"""One job: what was asked, where it stands, and which state may follow which.

    QUEUED ─▶ RUNNING ─▶ DONE
      │ ▲        ├─────▶ FAILED
      │ └────────┤ (worker lost, server restarted)
      └──────────┴─────▶ CANCELLED
"""

from __future__ import annotations

import enum
import hashlib
import json
import sqlite3
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from das_blender_addon.errors import ProtocolError, StorageError
from das_blender_addon.protocol.codec import from_plain
from das_blender_addon.protocol.kinds import MAX_SIDE
from das_blender_addon.protocol.messages import FINAL_EVENT_KINDS, PROGRESS_STAGES, Event, JobInput, JobSpec


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
    """One job as stored.  ``attempt``: how often it started; times: Unix seconds.

    ``losses``: how often its worker or its server died of it, perhaps, since it last got further than ever before;
    ``furthest``: how far that was, see `how_far`; ``suspect``: a server died while it ran.
    ``owner``: whose it is, "" for everybody's.  ``priority``: above `BATCH`, somebody waits at a screen.  ``problem``:
    why what is stored cannot be read; the job then has an empty request, and cannot run.
    """

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
    furthest: int = -1
    suspect: bool = False
    problem: str = ""
    owner: str = ""
    priority: int = 0


NO_SPEC = JobSpec("", "", "", "", 0, 0, 0.0, 0, 0, 0, 0)
UNREADABLE = "UNREADABLE"
"""Kind of an event whose fields cannot be read; clients pass over kinds that they do not know."""


def job_from_row(row: sqlite3.Row) -> Job:
    """The job of a row of the table "jobs".  Fields that this release does not know are left alone, on disk; a row that
    it cannot read is a job with a ``problem``, so that it is in nobody's way.
    """
    spec, inputs, state, problem = NO_SPEC, (), JobState.FAILED, ""
    try:
        state = JobState(row["state"])
        spec = from_plain(JobSpec, _from_json(row["spec"]), "spec")
        inputs = tuple(from_plain(JobInput, one, "inputs") for one in _from_json(row["inputs"]))
    except (ValueError, TypeError, RecursionError, ProtocolError) as error:
        reason = error.message if isinstance(error, ProtocolError) else f"{error}."
        spec, inputs, problem = NO_SPEC, (), f"The stored job {row['job']} cannot be read: {reason}"
    return Job(
        number=row["number"],
        job=row["job"],
        spec=spec,
        inputs=inputs,
        state=state,
        attempt=row["attempt"],
        losses=row["losses"],
        cancel_requested=bool(row["cancel_requested"]),
        acknowledged=bool(row["acknowledged"]),
        created_s=row["created_s"],
        changed_s=row["changed_s"],
        furthest=row["furthest"] if "furthest" in row.keys() else -1,  # not in the middle of an upgrade
        suspect=bool(row["suspect"]) if "suspect" in row.keys() else False,
        problem=problem,
        owner=row["owner"] if "owner" in row.keys() else "",
        priority=row["priority"] if "priority" in row.keys() else 0,
    )


def how_far(fields: dict[str, Any]) -> int:
    """How far a job has come, by the fields of a PROGRESS event: the more, the further."""
    stage, step = fields.get("stage"), fields.get("step")
    index = PROGRESS_STAGES.index(stage) if stage in PROGRESS_STAGES else 0
    return index * (MAX_SIDE + 1) + (step if isinstance(step, int) and 0 < step <= MAX_SIDE else 0)


def event_from_row(row: sqlite3.Row) -> Event:
    """The event of a row of the table "events".  One that cannot be read keeps its number, as `UNREADABLE`; the last
    one of a job then says that the job failed, so that nobody waits for it.
    """
    kind = row["kind"]
    try:
        about = _from_json(row["fields"])
        if not isinstance(about, dict):
            raise ValueError("they are no map")
    except (ValueError, TypeError, RecursionError) as error:
        message = f"The stored event {row['seq']} of the job {row['job']}, {kind}, cannot be read: {error}."
        kind = "FAILED" if kind in FINAL_EVENT_KINDS else UNREADABLE
        about = {"code": StorageError.code, "message": message, "field": ""}
    return Event(job=row["job"], seq=row["seq"], kind=kind, time_s=row["time_s"], fields=about)


def _from_json(text: Any) -> Any:
    """What ``text`` says; `ValueError` for what is no JSON, no valid Unicode or no text."""
    if not isinstance(text, str):
        raise ValueError(f"a {type(text).__name__} stands where a text belongs")
    text.encode()
    return json.loads(text)


def request_digest(spec: JobSpec, inputs: list[JobInput]) -> str:
    """SHA-256 of all that a SUBMIT asks for beyond defaults; equal requests have equal digests, in a later release
    with more settings, too."""
    request = [_beyond_defaults(spec), sorted(map(_beyond_defaults, inputs), key=lambda one: one["role"])]
    return hashlib.sha256(to_json(request).encode()).hexdigest()


def to_json(value: Any) -> str:
    """``value`` as it is stored."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _beyond_defaults(part: JobSpec | JobInput) -> dict[str, Any]:
    plain = asdict(part)
    for field in fields(part):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if plain[field.name] == default:
            del plain[field.name]
    return plain
