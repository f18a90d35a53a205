# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server asks of whoever runs its jobs, and what it hears from them.  Never imports torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from das_blender_addon.protocol.messages import Artefact, JobInput, JobSpec


@dataclass(frozen=True)
class WorkOrder:
    """One attempt at one job.  ``weights``: fingerprint of those that it is to be made with, "" for any."""

    job: str
    attempt: int
    spec: JobSpec
    inputs: tuple[JobInput, ...]
    weights: str = ""


@dataclass(frozen=True)
class WorkProgressed:
    """Fields of a PROGRESS event."""

    job: str
    attempt: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class WorkPreviewed:
    """A step preview that is already among the blobs."""

    job: str
    attempt: int
    step: int
    artefact: Artefact


@dataclass(frozen=True)
class WorkRetried:
    """The attempt begins anew on the same worker, which has changed something: ``message`` says what."""

    job: str
    attempt: int
    code: str
    message: str


@dataclass(frozen=True)
class WorkDone:
    """The attempt succeeded; the artefacts are already among the blobs."""

    job: str
    attempt: int
    artefacts: tuple[Artefact, ...]
    report: dict[str, Any]


@dataclass(frozen=True)
class WorkFailed:
    """The attempt ended with an error of the tree (`JobCancelled` included) and would do so again."""

    job: str
    attempt: int
    code: str
    message: str
    field: str = ""


@dataclass(frozen=True)
class WorkLost:
    """The worker died or was given up during the attempt; ``reason`` is a sentence.

    ``begun`` False: the worker had not taken the job up, so that the job has no part in it.  ``by_others``: somebody
    else ended its process.
    """

    job: str
    attempt: int
    reason: str
    begun: bool = True
    by_others: bool = False


WorkNews = WorkProgressed | WorkPreviewed | WorkRetried | WorkDone | WorkFailed | WorkLost


@dataclass(frozen=True)
class WorkerStatus:
    """One worker, for people and for the scheduler.

    ``state``: "starting", "loading" (a model), "ready", "busy", "stopped" or "broken" (keeps dying, see ``problem``).
    ``device``: what it was asked for, until it knows better ("cuda:0").  ``device_label``: in words.  ``step_s``:
    median duration of a step; ``since_progress_s``: time since the running job last moved.  ``lacks``: models that it
    cannot run where others can.
    """

    name: str
    state: str
    device: str
    device_label: str = ""
    pid: int = 0
    model: str = ""
    job: str = ""
    attempt: int = 0
    restarts: int = 0
    step_s: float = 0.0
    since_progress_s: float = 0.0
    memory_bytes: int = 0
    problem: str = ""
    lacks: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)


class Workers(ABC):
    """A set of workers, each of which runs one job at a time.  Used from one thread; nothing here blocks on a job."""

    @abstractmethod
    def start(self) -> None:
        """Start all of them and let them load the default model."""

    @abstractmethod
    def stop(self) -> None:
        """End all of them within seconds, whatever they do."""

    @abstractmethod
    def free(self) -> list[WorkerStatus]:
        """Those that would take a job now."""

    @abstractmethod
    def run(self, worker: str, order: WorkOrder) -> None:
        """Give the job to a free worker."""

    @abstractmethod
    def cancel(self, job: str) -> None:
        """Ask for a cooperative end; `WorkFailed` with `JobCancelled` follows, or `WorkLost` when it was forced."""

    @abstractmethod
    def news(self) -> list[WorkNews]:
        """What happened since the last call, in order; also looks after workers that died or fell silent."""

    def bells(self) -> list[Any]:
        """What the caller may wait for: files or sockets that can be read when there may be `news`."""
        return []

    def held(self) -> dict[str, str]:
        """Jobs that live on with a worker from before this server's start, by id → the worker, to which they must be
        given with `run`, and go on there, or which is to `cancel` them.  Such a worker is not `free`."""
        return {}

    @abstractmethod
    def status(self) -> list[WorkerStatus]:
        """All workers."""
