# SPDX-License-Identifier: GPL-3.0-or-later
"""`carry_out`: one job of any task, submitted, followed and collected, with progress, cancel, and reconnection.

hello ─▶ submit (uploading what the server lacks) ─▶ attach ─▶ events … DONE ─▶ collect the results ─▶ ack
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import DasError, JobCancelled, JobRejected, ProtocolError, TransportError, error_from_code
from ..protocol import codec
from ..protocol.messages import BATCH, PROGRESS_STAGES, Artefact, Capabilities, Event, JobInput, JobSpec, Need
from .client import DasClient
from .connection import POLL_S, ShouldStop

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


# ── What happens ────────────────────────────────────────────────────────────────────────────────────────────────────


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


@dataclass(frozen=True)
class Named:
    """The job of the window ``number`` (from 0 on, ``of`` how many) of the take goes by the id ``job`` from now on."""

    number: int
    job: str
    of: int = 1


JobEvent = Progress | Preview | Log | Silence | Named
OnEvent = Callable[[JobEvent], None]
Outcome = TypeVar("Outcome")
InputsOf = Callable[[Capabilities], tuple[dict[str, bytes], list[JobInput]]]


def carry_out(
    address: str,
    spec: JobSpec,
    inputs_of: InputsOf,
    collect: Callable[[JobRun, DasClient, Event, bool], Outcome | None],
    *,
    on_event: OnEvent | None = None,
    should_stop: ShouldStop | None = None,
    job_id: str | None = None,
    lease_s: float = 0.0,
    priority: int = BATCH,
    timeout_s: float = 30.0,
    poll_s: float = POLL_S,
    leaves_running: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run one job to its end and give what ``collect`` makes of it; blocks.

    ``inputs_of(capabilities)`` → (blobs by sha, their descriptions).  ``collect(run, client, done, is_last_round)`` →
    the outcome, or None where the server no longer has the results: then the job is asked for again.  The rest as for
    `take.run_job`, which says what is raised.
    """
    run = JobRun(spec, on_event, should_stop, job_id or uuid.uuid4().hex, priority)
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
            blobs, inputs = inputs_of(welcome.capabilities)
            for round_ in range(_FETCH_ROUNDS):
                # 2. the job, on the server's disk
                run.submit(client, blobs, inputs, again=round_ > 0)
                # 3. its events, until the last
                done = run.follow(client, blobs, inputs, poll_s)
                # 4. its results, on our side
                outcome = collect(run, client, done, round_ + 1 == _FETCH_ROUNDS)
                if outcome is not None:
                    break
            run.acknowledge(client)
            return outcome
        except BaseException as error:
            # A job whose results nobody will collect is cancelled; one that only lost its server is not, to be resumed.
            if (isinstance(error, JobCancelled) or not isinstance(error, DasError)) and not leaves_running():
                run.cancel(client)
            raise


class JobRun:
    """The state of one job.  ``asked``: the job's id for all who share it; ``job_id``: that of its run."""

    def __init__(
        self,
        spec: JobSpec,
        on_event: OnEvent | None,
        should_stop: ShouldStop | None,
        job_id: str,
        priority: int,
    ):
        self.spec = spec
        self.priority = priority
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
            answer = client.submit(self.asked, self.spec, inputs, **about)
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
            if not client.is_following(self.job_id):
                return  # nobody tells of its end
            while (left := until - time.monotonic()) > 0:
                event = client.next_event(left, lambda: time.monotonic() > until)
                if event is not None and event.job == self.job_id and event.kind in ("CANCELLED", "DONE", "FAILED"):
                    return
        except JobCancelled:  # the time to wait is over
            log.info("job %s: the server has been told to cancel and has not said CANCELLED yet", self.job_id)
        except DasError as error:
            log.warning("job %s could not be cancelled: %s", self.job_id, error)
