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

import numpy as np

from ..errors import DasError, JobCancelled, JobRejected, ProtocolError, SettingsError, TransportError, error_from_code
from ..protocol import codec, frames
from ..protocol.messages import (
    PROGRESS_STAGES,
    Artefact,
    Capabilities,
    Event,
    JobInput,
    JobSpec,
    Need,
)
from .client import DasClient
from .connection import POLL_S, ShouldStop
from .files import holds, write_whole

log = logging.getLogger(__name__)

CANCEL_WAIT_S = 1.0
"""How long a stopped job waits for the server's CANCELLED, seconds."""

_SUBMIT_ROUNDS = 4
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
class JobRequest:
    """A job's settings and inputs, all of ``T = spec.num_frames`` frames at ``spec.width`` × ``spec.height``.

    ``tracking_video`` ``[T,H,W,3]`` uint8.  ``first_frame_png``: the bytes of a PNG.  ``first_frame_xy`` ``[T,H,W,2]``
    f32 pixels and ``first_frame_visible`` ``[T,H,W]`` bool: where each pixel's point lies in the first frame and
    whether it is seen there; sent only to models that read them.
    """

    spec: JobSpec
    tracking_video: np.ndarray
    first_frame_png: bytes
    first_frame_xy: np.ndarray | None = None
    first_frame_visible: np.ndarray | None = None


@dataclass(frozen=True)
class Progress:
    """``step`` of ``of`` in ``stage``: "uploading", "queued", one of `PROGRESS_STAGES`, or "downloading".

    ``fraction``: of the whole take, 0 … 1.
    """

    stage: str
    step: int
    of: int
    fraction: float


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
    timeout_s: float = 30.0,
    poll_s: float = POLL_S,
    leaves_running: Callable[[], bool] = lambda: False,
) -> JobOutcome:
    """Run ``request`` on the server at ``address`` and keep its frames as ``frames_folder/0001.png`` …; blocks.

    Calls ``on_event`` in this thread.  A server that restarts is found again and the job goes on; ``timeout_s`` is how
    long it may be silent.  The same ``job_id`` (uuid4 hex) with the same request resumes an earlier call, frames
    already there included.  When ``should_stop`` says True, the server is told to cancel, unless ``leaves_running``
    says that somebody else waits for the job, and `JobCancelled` is raised.

    Raises `SettingsError` for arrays that do not fit ``request.spec``, any `TransportError`, whatever the job failed
    of, and a `StorageError` of the field `client.FRAMES` when it is done and the server no longer has its frames.
    """
    run = _Run(request, Path(frames_folder), on_event, should_stop, job_id or uuid.uuid4().hex)
    with DasClient(
        address,
        timeout_s=timeout_s,
        on_log=lambda text: run.tell(Log(text)),
        on_silence=lambda seconds: run.tell(Silence(seconds)),
    ) as client:
        try:
            # 1. what the server is, and what to send it
            welcome = client.hello(should_stop=should_stop)
            run.tell(Log(f"Connected to {welcome.server} at {client.address}."))
            blobs, inputs = job_inputs(request, welcome.capabilities)
            # 2. the job, on the server's disk
            run.submit(client, blobs, inputs)
            # 3. its events, until the last
            done = run.follow(client, blobs, inputs, poll_s)
            # 4. its frames, on our disk
            outcome = run.download(client, done)
            run.acknowledge(client)
            return outcome
        except BaseException as error:
            # A job whose frames nobody will collect is cancelled; one that only lost its server is not, to be resumed.
            if (isinstance(error, JobCancelled) or not isinstance(error, DasError)) and not leaves_running():
                run.cancel(client)
            raise


def job_inputs(request: JobRequest, capabilities: Capabilities) -> tuple[dict[str, bytes], list[JobInput]]:
    """The blobs of ``request`` by sha, in codecs that the server reads, and their descriptions."""
    spec = request.spec
    _check_shape("tracking video", request.tracking_video, (spec.num_frames, spec.height, spec.width, 3), np.uint8)
    model = next((model for model in capabilities.models if model.name == spec.model), None)
    blobs: dict[str, bytes] = {}
    inputs: list[JobInput] = []

    def add(role: str, blob: bytes, media: str, **array: Any) -> None:
        sha = frames.blob_sha(blob)
        blobs[sha] = blob
        inputs.append(JobInput(role, sha, len(blob), media, **array))

    def add_array(role: str, array: np.ndarray, *preferred: str) -> None:
        usable = [name for name in preferred if name in frames.CODECS and name in capabilities.codecs]
        blob, description = frames.encode_array(array, usable[0] if usable else "raw")
        add(role, blob, "array", **description)

    add_array("tracking_video", request.tracking_video, "zstd", "zlib")
    if not request.first_frame_png:
        raise SettingsError("The first frame is an empty file; render it again.", field="first_frame")
    add("first_frame", request.first_frame_png, "image/png")
    if model is not None and "first_frame_xy" in model.inputs and request.first_frame_xy is not None:
        shape = (spec.num_frames, spec.height, spec.width)
        _check_shape("first-frame positions", request.first_frame_xy, (*shape, 2), np.float32)
        visible = request.first_frame_visible
        visible = np.isfinite(request.first_frame_xy).all(axis=-1) if visible is None else visible
        _check_shape("first-frame visibility", visible, shape, np.bool_)
        packed = frames.pack_first_frame_xy(request.first_frame_xy, visible)
        add_array("first_frame_xy", packed, "delta-zstd", "delta-zlib", "zstd", "zlib")
        if "first_frame_visible" in model.inputs:
            add_array("first_frame_visible", visible, "zstd", "zlib")
    return blobs, inputs


def _check_shape(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise SettingsError(
            f"The {name} is {list(array.shape)} {array.dtype}, the job's settings ask for {list(shape)} "
            f"{np.dtype(dtype)}; export it at the model's size and window."
        )


class _Run:
    """The state of one `run_job`."""

    def __init__(
        self,
        request: JobRequest,
        folder: Path,
        on_event: OnEvent | None,
        should_stop: ShouldStop | None,
        job_id: str,
    ):
        self.request = request
        self.folder = folder
        self.on_event = on_event
        self.should_stop = should_stop
        self.job_id = job_id
        self.submitted = False
        self.over = False
        self.start = time.monotonic()
        self.timings: dict[str, float] = {}

    def tell(self, event: JobEvent) -> None:
        if self.on_event is not None:
            self.on_event(event)

    def progress(self, stage: str, step: int, of: int) -> None:
        low, high = _SPANS.get(stage, (0.0, 0.0))
        self.tell(Progress(stage, step, of, low + (high - low) * min(1.0, step / of if of > 0 else 1.0)))

    def mark(self, name: str) -> None:
        self.timings.setdefault(name, time.monotonic() - self.start)

    def submit(self, client: DasClient, blobs: dict[str, bytes], inputs: list[JobInput]) -> None:
        """Submit the job, uploading what the server says it lacks."""
        for _ in range(_SUBMIT_ROUNDS):
            self.submitted = True  # from here on it may be there, even when no answer arrives
            answer = client.submit(self.job_id, self.request.spec, inputs, should_stop=self.should_stop)
            if not isinstance(answer, Need):
                log.info("job %s accepted, queue position %s", self.job_id, answer.queue_position)
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
            if event.kind == "DONE":
                self.over = True
                self.mark("done")
                return event
            self.handle(client, event)

    def handle(self, client: DasClient, event: Event) -> None:
        """Tell the user of one event; raises what the job failed of."""
        fields = event.fields
        if event.kind == "QUEUED":
            self.progress("queued", 0, 0)
            if fields["position"]:
                self.tell(Log(f"Waiting in the queue; jobs before this one: {fields['position']}."))
        elif event.kind == "STARTED":
            self.tell(Log(f"Started on {fields['device']} (worker {fields['worker']}, attempt {fields['attempt']})."))
        elif event.kind == "PROGRESS" and fields["stage"] in PROGRESS_STAGES:
            self.mark("first_progress")
            self.progress(fields["stage"], fields["step"], fields["of"])
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
        self.tell(Preview(fields["step"], image, artefact.media))

    def download(self, client: DasClient, done: Event) -> JobOutcome:
        """Bring the frames to disk, each whole or not at all; those that are there already are kept."""
        artefacts = [codec.from_plain(Artefact, plain) for plain in done.fields["artefacts"]]
        kept = sorted((a for a in artefacts if a.role == "frame"), key=lambda a: a.index)
        count = self.request.spec.kept_frames
        if [a.index for a in kept] != list(range(count)) or any(a.media != "image/png" for a in kept):
            raise ProtocolError(
                f"The server finished the job with {len(kept)} PNG frames, {count} were asked for; look at its log."
            )
        paths = [self.folder / f"{artefact.index + 1:04d}.png" for artefact in kept]
        missing = [(one, path) for one, path in zip(kept, paths, strict=True) if not holds(path, one.sha)]
        images = client.fetch_frames([(one.sha, one.size_bytes) for one, _ in missing], should_stop=self.should_stop)
        there = count - len(missing)
        self.progress("downloading", there, count)
        for (_, path), image in zip(missing, images, strict=True):
            write_whole(path, image)
            there += 1
            self.progress("downloading", there, count)
        self.mark("downloaded")
        return JobOutcome(self.job_id, paths, done.fields["report"], artefacts, self.timings)

    def acknowledge(self, client: DasClient) -> None:
        """Let the server forget the job; the take is complete, so that a failure here is only logged."""
        try:
            client.ack(self.job_id, should_stop=self.should_stop)
        except DasError as error:
            log.warning("job %s could not be acknowledged: %s", self.job_id, error)

    def cancel(self, client: DasClient) -> None:
        """Tell the server to cancel, and wait a moment for it to say so; errors are only logged."""
        if not self.submitted or self.over:
            return
        until = time.monotonic() + CANCEL_WAIT_S
        try:
            client.cancel(self.job_id, timeout_s=CANCEL_WAIT_S)
            while (left := until - time.monotonic()) > 0:
                event = client.next_event(left, lambda: time.monotonic() > until)
                if event is not None and event.job == self.job_id and event.kind in ("CANCELLED", "DONE", "FAILED"):
                    return
        except JobCancelled:  # the time to wait is over
            log.info("job %s: the server has been told to cancel and has not said CANCELLED yet", self.job_id)
        except DasError as error:
            log.warning("job %s could not be cancelled: %s", self.job_id, error)
