# SPDX-License-Identifier: GPL-3.0-or-later
"""`run_job`: one whole job, from arrays to frames on disk, with progress, cancel, and reconnection.

hello ─▶ submit (uploading what the server lacks) ─▶ attach ─▶ events … DONE ─▶ fetch the frames ─▶ ack
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import (
    DasError,
    JobCancelled,
    JobRejected,
    ProtocolError,
    StorageError,
    TransportError,
    error_from_code,
)
from ..protocol import codec
from ..protocol.messages import BATCH, PROGRESS_STAGES, Artefact, Event, JobInput, Need
from .client import DasClient
from .connection import POLL_S, ShouldStop
from .files import holds, write_whole
from .inputs import JobRequest, job_inputs

log = logging.getLogger(__name__)

SHARED_JOBS_VERSION = 2
"""The version of the protocol since which several may want one job."""

CANCEL_WAIT_S = 1.0
"""How long a stopped job waits for the server's CANCELLED, seconds."""

_SUBMIT_ROUNDS = 4
_FETCH_ROUNDS = 3
_SPANS = {
    "uploading": (0.00, 0.04),
    "queued": (0.04, 0.04),
    "loading": (0.04, 0.10),
    "encoding": (0.10, 0.14),
    "denoising": (0.14, 0.85),
    "decoding": (0.85, 0.93),
    "composing": (0.93, 0.95),
    "saving": (0.95, 0.97),
    "downloading": (0.97, 1.00),
}
"""Stage → its part of a take's progress; guesses that need only be increasing."""


# ── What goes in, what happens, what comes out ──────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Progress:
    """``step`` of ``of`` in ``stage``: "uploading", "queued" (``step``: jobs before this one), one of
    `PROGRESS_STAGES`, or "downloading".

    ``fraction``: of the whole take, 0 … 1.  ``eta_s``: about how long until the job starts, where it waits, else until
    the server has made it, seconds; None where the server does not say.
    """

    stage: str
    step: int
    of: int
    fraction: float
    eta_s: float | None = None


@dataclass(frozen=True)
class Preview:
    """A picture of the take after denoising step ``step`` (0: what the model starts from), an image file of type
    ``media``."""

    step: int
    image: bytes
    media: str


@dataclass(frozen=True)
class Log:
    """Something the user may want to read."""

    text: str


@dataclass(frozen=True)
class Silence:
    """The server has owed an answer for ``seconds``, whole ones; 0: it is heard again."""

    seconds: int


JobEvent = Progress | Preview | Log | Silence
OnEvent = Callable[[JobEvent], None]


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
    run = _Run(request, Path(frames_folder), on_event, should_stop, job_id or uuid.uuid4().hex, priority)
    with DasClient(
        address,
        timeout_s=timeout_s,
        requester=uuid.uuid4().hex,
        lease_s=lease_s,
        on_log=lambda text: run.tell(Log(text)),
        on_silence=lambda seconds: run.tell(Silence(seconds)),
    ) as client:
        try:
            # 1. what the server is, and what to send it
            welcome = client.hello(should_stop=should_stop)
            run.tell(Log(f"Connected to {welcome.server} at {client.address}."))
            if welcome.version < SHARED_JOBS_VERSION:
                run.asked = run.job_id = uuid.uuid4().hex
            blobs, inputs = job_inputs(request, welcome.capabilities)
            for round_ in range(_FETCH_ROUNDS):
                # 2. the job, on the server's disk
                run.submit(client, blobs, inputs, again=round_ > 0)
                # 3. its events, until the last
                done = run.follow(client, blobs, inputs, poll_s)
                # 4. its frames, on our disk
                outcome = run.download(client, done, is_last_round=round_ + 1 == _FETCH_ROUNDS)
                if outcome is not None:
                    break
            run.acknowledge(client)
            return outcome
        except BaseException as error:
            # A job whose frames nobody will collect is cancelled; one that only lost its server is not, to be resumed.
            if (isinstance(error, JobCancelled) or not isinstance(error, DasError)) and not leaves_running():
                run.cancel(client)
            raise


class _Run:
    """The state of one `run_job`.  ``asked``: the job's id for all who share it; ``job_id``: that of its run."""

    def __init__(
        self,
        request: JobRequest,
        folder: Path,
        on_event: OnEvent | None,
        should_stop: ShouldStop | None,
        job_id: str,
        priority: int,
    ):
        self.request = request
        self.priority = priority
        self.folder = folder
        self.on_event = on_event
        self.should_stop = should_stop
        self.asked = job_id
        self.job_id = job_id
        self.submitted = False
        self.over = False
        self.position = 0
        self.start = time.monotonic()
        self.timings: dict[str, float] = {}

    def tell(self, event: JobEvent) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def progress(self, stage: str, step: int, of: int, eta_s: float | None = None) -> None:
        low, high = _SPANS.get(stage, (0.0, 0.0))
        self.tell(Progress(stage, step, of, low + (high - low) * min(1.0, step / of if of > 0 else 1.0), eta_s))

    def mark(self, name: str) -> None:
        self.timings.setdefault(name, time.monotonic() - self.start)

    def submit(
        self, client: DasClient, blobs: dict[str, bytes], inputs: list[JobInput], *, again: bool = False
    ) -> None:
        """Submit the job, uploading what the server says it lacks, and follow it."""
        for _ in range(_SUBMIT_ROUNDS):
            self.submitted, self.over = True, False  # from here on it may be there, even when no answer arrives
            about = {"again": again, "priority": self.priority, "should_stop": self.should_stop}
            answer = client.submit(self.asked, self.request.spec, inputs, **about)
            if not isinstance(answer, Need):
                self.job_id = answer.job
                log.info("job %s accepted as %s, queue position %s", self.asked, answer.job, answer.queue_position)
                self.mark("submitted")
                client.attach(self.job_id, 0, should_stop=self.should_stop)
                return
            unknown = [sha for sha in answer.shas if sha not in blobs]
            if unknown:
                raise ProtocolError(
                    f"The server asks for the blob {unknown[0][:12]}…, which is no input of the job; "
                    "use the same release on both sides."
                )
            self.upload(client, [blobs[sha] for sha in dict.fromkeys(answer.shas)])
        raise ProtocolError(
            f"The server asked {_SUBMIT_ROUNDS} times for inputs that it was sent; look at its disk and its log."
        )

    def upload(self, client: DasClient, blobs: list[bytes]) -> None:
        total, before = sum(map(len, blobs)), 0

        def on_progress(safe: int, _: int) -> None:
            self.progress("uploading", before + safe, total)

        for blob in blobs:
            client.upload(blob, on_progress=on_progress, should_stop=self.should_stop)
            before += len(blob)

    def follow(self, client: DasClient, blobs: dict[str, bytes], inputs: list[JobInput], poll_s: float) -> Event:
        """Pass the job's events on until it is done; a server that forgot the job is given it again."""
        resubmitted = 0
        while True:
            try:
                event = client.next_event(poll_s, self.should_stop)
            except JobRejected as error:
                if error.field != "job" or resubmitted >= _SUBMIT_ROUNDS:
                    raise
                resubmitted += 1
                self.tell(Log("The server no longer knows the job; sending it again."))
                self.submit(client, blobs, inputs)
                continue
            if event is None or event.job != self.job_id:
                continue
            if event.kind == "CANCELLED" and client.lease_s and resubmitted < _SUBMIT_ROUNDS:
                resubmitted += 1
                self.tell(Log("The lease of the job ran out; sending it again."))
                self.submit(client, blobs, inputs)
                continue
            if event.kind == "DONE":
                self.over = True
                self.mark("done")
                return event
            self.handle(client, event)

    def handle(self, client: DasClient, event: Event) -> None:
        """Tell the user of one event; raises what the job failed of."""
        fields = event.fields
        if event.kind == "QUEUED":
            self.progress("queued", fields["position"], 0, fields.get("eta_s"))
            if fields["position"] and fields["position"] != self.position:
                self.tell(Log(f"Waiting in the queue; jobs before this one: {fields['position']}."))
            self.position = fields["position"]
        elif event.kind == "WAITING":
            self.tell(Log(fields["message"]))
        elif event.kind == "STARTED":
            self.tell(Log(f"Started on {fields['device']} (worker {fields['worker']}, attempt {fields['attempt']})."))
        elif event.kind == "PROGRESS" and fields["stage"] in PROGRESS_STAGES:
            self.mark("first_progress")
            self.progress(fields["stage"], fields["step"], fields["of"], fields.get("eta_s"))
        elif event.kind == "PREVIEW":
            self.show_preview(client, fields)
        elif event.kind == "RETRY":
            self.tell(Log(f"Attempt {fields['attempt']}: {fields['message']}"))
        elif event.kind == "FAILED":
            self.over = True
            raise error_from_code(fields["code"], fields["message"], field=fields["field"] or None)
        elif event.kind == "CANCELLED":
            self.over = True
            raise JobCancelled(f"The job {self.job_id} was cancelled on the server.")

    def show_preview(self, client: DasClient, fields: dict[str, Any]) -> None:
        """Fetch and pass on a preview; a preview that is gone is no reason to stop."""
        artefact = codec.from_plain(Artefact, fields["artefact"])
        try:
            image = client.fetch(artefact.sha, artefact.size_bytes, should_stop=self.should_stop)
        except (JobCancelled, TransportError):
            raise
        except DasError as error:
            self.tell(Log(f"The preview of step {fields['step']} cannot be shown: {error.message}"))
            return
        self.mark("first_preview")
        self.tell(Preview(fields["step"], bytes(image), artefact.media))

    def download(self, client: DasClient, done: Event, *, is_last_round: bool) -> JobOutcome | None:
        """Bring the frames to disk, each whole or not at all; those that are there already are kept.

        None when the server no longer has some that are not there, unless ``is_last_round``: then that is raised.
        """
        artefacts = [codec.from_plain(Artefact, plain) for plain in done.fields["artefacts"]]
        kept = sorted((a for a in artefacts if a.role == "frame"), key=lambda a: a.index)
        count = self.request.spec.kept_frames
        if [a.index for a in kept] != list(range(count)) or any(a.media != "image/png" for a in kept):
            raise ProtocolError(
                f"The server finished the job with {len(kept)} PNG frames, {count} were asked for; look at its log."
            )
        paths = [self.folder / f"{artefact.index + 1:04d}.png" for artefact in kept]
        frames = list(zip(kept, paths, strict=True))
        try:
            self.fetch_missing(client, frames)
        except StorageError as error:
            if error.field != "sha":
                raise
            if not all(holds(path, one.sha) for one, path in frames):  # another process may have brought them meanwhile
                if is_last_round:
                    raise
                self.tell(Log("The server no longer has all frames of the job; asking for it again."))
                return None
        self.mark("downloaded")
        return JobOutcome(self.job_id, paths, done.fields["report"], artefacts, self.timings)

    def fetch_missing(self, client: DasClient, frames: list[tuple[Artefact, Path]]) -> None:
        """Bring those of ``frames`` that are not on disk."""
        missing = [(one, path) for one, path in frames if not holds(path, one.sha)]
        images = client.fetch_each([(one.sha, one.size_bytes) for one, _ in missing], should_stop=self.should_stop)
        there, count = len(frames) - len(missing), len(frames)
        self.progress("downloading", there, count)
        for (_, path), image in zip(missing, images, strict=True):
            write_whole(path, image)
            there += 1
            self.progress("downloading", there, count)
            client.renew_lease(self.job_id)

    def acknowledge(self, client: DasClient) -> None:
        """Say that this call has all it wants; the take is complete, so that a failure here is only logged."""
        try:
            client.ack(self.job_id, should_stop=self.should_stop)
        except DasError as error:
            log.warning("job %s could not be acknowledged: %s", self.job_id, error)

    def cancel(self, client: DasClient) -> None:
        """Tell the server that this call wants the job no more, and wait a moment for a job that nobody wants to end;
        errors are only logged."""
        if not self.submitted or self.over:
            return
        until = time.monotonic() + CANCEL_WAIT_S
        try:
            if client.cancel(self.job_id, timeout_s=CANCEL_WAIT_S).others:
                return  # it goes on for them
            while (left := until - time.monotonic()) > 0:
                event = client.next_event(left, lambda: time.monotonic() > until)
                if event is not None and event.job == self.job_id and event.kind in ("CANCELLED", "DONE", "FAILED"):
                    return
        except JobCancelled:  # the time to wait is over
            log.info("job %s: the server has been told to cancel and has not said CANCELLED yet", self.job_id)
        except DasError as error:
            log.warning("job %s could not be cancelled: %s", self.job_id, error)
