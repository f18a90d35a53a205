# SPDX-License-Identifier: GPL-3.0-or-later
"""`run_job`: one whole take's job, from arrays to frames on disk; see `job_run` for what happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ProtocolError, StorageError
from ..protocol import codec
from ..protocol.messages import BATCH, Artefact, Event
from .client import DasClient
from .connection import POLL_S, ShouldStop
from .files import holds, write_whole
from .inputs import JobRequest, job_inputs
from .job_run import (
    JobEvent,
    JobRun,
    Log,
    Named,
    OnEvent,
    Preview,
    Progress,
    Silence,
    carry_out,
)

__all__ = [
    "JobEvent",
    "JobOutcome",
    "JobRequest",
    "Log",
    "Named",
    "OnEvent",
    "Preview",
    "Progress",
    "Silence",
    "job_inputs",
    "run_job",
]


@dataclass(frozen=True)
class JobOutcome:
    """A finished job: the kept frames as PNG files, in order, and what the server reports.

    ``timings``: seconds from the call of `run_job` to "submitted", "first_progress", "first_preview", "done",
    "downloaded".
    """

    job_id: str
    frames: list[Path]
    report: dict[str, Any]
    artefacts: list[Artefact]
    timings: dict[str, float] = field(default_factory=dict)


def run_job(
    address: str,
    request: JobRequest,
    frames_folder: Path,
    *,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
    job_id: str | None = None,
    lease_s: float = 0.0,
    priority: int = BATCH,
    timeout_s: float = 30.0,
    poll_s: float = POLL_S,
    leaves_running: Callable[[], bool] = lambda: False,
) -> JobOutcome:
    """Run ``request`` on the server at ``address`` and keep its frames as ``frames_folder/0001.png`` …; blocks.

    Calls ``on_event`` in this thread.  A server that restarts is found again and the job goes on; ``timeout_s`` is how
    long it may be silent.  Calls with the same ``job_id`` (32 lower-case hex digits) and the same request share one
    job, whichever processes and machines they come from, and a later one resumes it, frames already there included; it
    runs once more only where it was cancelled or failed before this call, or its results are gone.

    When ``should_stop`` says True, the server is told that this call wants the job no more, unless ``leaves_running``
    says that somebody else goes on with it, and `JobCancelled` is raised; the job ends when no call wants it, with
    ``lease_s`` also so long after the death of the last one.

    ``priority``: `INTERACTIVE` for somebody who waits at a screen, whose jobs go before those of `BATCH`.

    Raises `SettingsError` for arrays that do not fit ``request.spec``, any `TransportError`, and whatever the job
    failed of.
    """
    folder = Path(frames_folder)
    return carry_out(
        address,
        request.spec,
        lambda capabilities: job_inputs(request, capabilities),
        lambda run, client, done, is_last: _download(run, client, done, folder, is_last_round=is_last),
        on_event=on_event,
        should_stop=should_stop,
        job_id=job_id,
        lease_s=lease_s,
        priority=priority,
        timeout_s=timeout_s,
        poll_s=poll_s,
        leaves_running=leaves_running,
    )


def _download(run: JobRun, client: DasClient, done: Event, folder: Path, *, is_last_round: bool) -> JobOutcome | None:
    """Bring the frames to disk, each whole or not at all; those that are there already are kept.

    None when the server no longer has some that are not there, unless ``is_last_round``: then that is raised.
    """
    artefacts = [codec.from_plain(Artefact, plain) for plain in done.fields["artefacts"]]
    kept = sorted((a for a in artefacts if a.role == "frame"), key=lambda a: a.index)
    count = run.spec.kept_frames
    if [a.index for a in kept] != list(range(count)) or any(a.media != "image/png" for a in kept):
        raise ProtocolError(
            f"The server finished the job with {len(kept)} PNG frames, {count} were asked for; look at its log."
        )
    paths = [folder / f"{artefact.index + 1:04d}.png" for artefact in kept]
    frames = list(zip(kept, paths, strict=True))
    try:
        _fetch_missing(run, client, frames)
    except StorageError as error:
        if error.field != "sha":
            raise
        if not all(holds(path, one.sha) for one, path in frames):  # another process may have brought them meanwhile
            if is_last_round:
                raise
            run.tell(Log("The server no longer has all frames of the job; asking for it again."))
            return None
    run.mark("downloaded")
    return JobOutcome(run.job_id, paths, done.fields["report"], artefacts, run.timings)


def _fetch_missing(run: JobRun, client: DasClient, frames: list[tuple[Artefact, Path]]) -> None:
    """Bring those of ``frames`` that are not on disk."""
    missing = [(one, path) for one, path in frames if not holds(path, one.sha)]
    images = client.fetch_each([(one.sha, one.size_bytes) for one, _ in missing], should_stop=run.should_stop)
    there, count = len(frames) - len(missing), len(frames)
    run.progress("downloading", there, count)
    for (_, path), image in zip(missing, images, strict=True):
        write_whole(path, image)
        there += 1
        run.progress("downloading", there, count)
        client.renew_lease(run.job_id)
