# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message of the protocol as a frozen dataclass; `docs/protocol.md` is the authoritative description.  One
file, though long: one table.

Each message is one msgpack header ``{"type": NAME, …fields}`` and, for `Put` and `Chunk`, one raw blob frame.  Field
values are msgpack's own kinds only (None, bool, int, float, str, list, dict).  ``sha`` is a lower-case hex SHA-256 of a
whole blob.  Every request carries a client-chosen ``request`` number that its reply repeats, so that replies and events
can share a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .kinds import (
    MAX_SECONDS,
    Amount,
    Count,
    JobId,
    Lease,
    Name,
    Priority,
    Request,
    RequesterId,
    Seconds,
    Seed,
    Sha,
    SizeBytes,
    Text,
    Version,
    Weight,
)

PROTOCOL_VERSIONS = (3, 2, 1)
"""Versions this code speaks, newest first."""

CHUNK_BYTES = 1 << 20
"""Largest blob of one PUT or CHUNK, bytes."""

FETCH_CREDIT = 4
"""FETCH or PUT requests that a client keeps in flight."""

MAX_HEADER_BYTES = 1 << 20
"""Largest header frame, bytes."""

MAX_FRAME_BYTES = max(CHUNK_BYTES, MAX_HEADER_BYTES)
"""Largest frame; a peer that sends a larger one is disconnected, bytes."""

FRAME_EXTRA_BYTES = 64
"""What encryption may add to a frame on its way, bytes."""

MAX_NESTING = 16
"""Deepest nesting of lists and dicts in a header."""

DEFAULT_PORT = 5599
"""TCP port of a server whose address names none."""

HEARTBEAT_S = 2.0
"""A client that waits for events and hears nothing for this long asks again (ATTACH, or PING without a job)."""

MIN_LEASE_S = 3.0
"""Shortest lease of a requester, seconds."""

BATCH, INTERACTIVE = 0, 1
"""Priorities: nobody waits for the job at a screen; somebody does (and so above)."""


# ── What a job is made of ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class JobSpec:
    """All that decides the pixels of a job, apart from its input blobs.

    ``width``, ``height``: the model's size in pixels.  ``num_frames``: the model's window (inputs hold exactly this
    many); ``kept_frames``: how many of them the client wants back (the rest is padding).  ``options`` is for settings
    of one model.  ``model_revision``: the weights meant, `ModelCapability.revision`; "": those that are there.
    """

    task: Name
    model: Name
    prompt: Text
    negative_prompt: Text
    seed: Seed
    num_inference_steps: Amount
    guidance_scale: Weight
    num_frames: Amount
    kept_frames: Amount
    width: Amount
    height: Amount
    tracking_range: Name = "signed"
    options: dict[str, Any] = field(default_factory=dict)
    model_revision: Name = ""


@dataclass(frozen=True)
class JobInput:
    """An input blob by content: ``role`` "tracking_video", "first_frame", "carried_video", "carried_holes" or
    "references"; "clip" of `estimate`.

    ``media``: "image/png" or "array"; an array has ``dtype`` (numpy name), ``shape`` and ``codec`` ("raw", "zlib",
    "zstd", "delta-zlib", "delta-zstd": see `frames.py`).
    """

    role: Name
    sha: Sha
    size_bytes: SizeBytes
    media: Name
    dtype: Name = ""
    shape: list[Amount] = field(default_factory=list)
    codec: Name = ""


@dataclass(frozen=True)
class Artefact:
    """One result blob: ``role`` "frame" (``index`` in the window, 0 = first) or "preview", PNG or JPEG by ``media``.

    Or ``role`` "array" and ``media`` "array": a result called ``name``, with ``dtype``, ``shape`` and ``codec`` as an
    input's.
    """

    role: Name
    sha: Sha
    size_bytes: SizeBytes
    media: Name
    index: Amount = 0
    name: Name = ""
    dtype: Name = ""
    shape: list[Amount] = field(default_factory=list)
    codec: Name = ""


@dataclass(frozen=True)
class SizeRange:
    """Sizes in pixels that a model makes besides its list: both sides are multiples of ``multiple``.

    Neither side is below ``smallest``; the longer side is at most ``longer``, the shorter one at most ``shorter``.
    ``multiple`` 0: there are none.
    """

    multiple: Amount = 0
    smallest: Amount = 0
    longer: Amount = 0
    shorter: Amount = 0


@dataclass(frozen=True)
class ModelCapability:
    """What a server says of one model: enough for the client to plan a job and to fill its panel without guessing.

    ``num_frames``: window lengths it accepts, increasing.  ``sizes``: [width, height] pairs in pixels, default first.
    ``exact_steps``: step counts it accepts.  ``uses_prompt`` False: the prompt is ignored and the panel says so.
    ``inputs``: roles it reads besides "tracking_video" and "first_frame".  ``installed``: weights are there.
    ``is_fast``: jobs on this server were so fast that its largest sizes take seconds, too: where somebody waits at a
    screen, the automatic size may be the largest of a shape.  ``size_range``: more sizes, for those who ask for one;
    the automatic size is one of ``sizes`` (`sizes.py`).  ``revision``: names the weights; other weights, another name.
    ``frames_per_second``: of the clips that it was trained on, so that it makes every third frame of a shot that has
    three times as many; 0: any, and it makes all of them.  ``loras``: [name, SHA-256] of the adapters that may be asked
    for by ``JobSpec.options["loras"]``, a list of [name, weight, SHA-256].  ``speeds``: what ``options["speed"]`` may
    be, the server's own choice first; a job without it is "exact".
    """

    name: Name
    label: Name
    num_frames: list[Amount]
    sizes: list[list[Amount]]
    default_steps: Amount
    exact_steps: list[Amount]
    default_guidance: Weight
    default_tracking_range: Name
    uses_prompt: bool
    inputs: list[Name]
    licence: Name
    installed: bool
    is_fast: bool = False
    size_range: SizeRange = SizeRange()
    revision: Name = ""
    frames_per_second: Weight = 0.0
    loras: list[list[Name]] = field(default_factory=list)
    speeds: list[Name] = field(default_factory=list)


@dataclass(frozen=True)
class EstimatorCapability:
    """What a server says of one estimator, which measures pictures and clips: of a ``kind``, in words in ``label``.

    ``size_bytes``: of its weights, 0 for none (or not installed).  ``remedy``: where it is not ``installed``, what to
    do, in a sentence.  ``gives``: names of the arrays that it makes.
    """

    name: Name
    kind: Name
    label: Name
    licence: Name
    installed: bool
    size_bytes: SizeBytes = 0
    remedy: Text = ""
    gives: list[Name] = field(default_factory=list)


@dataclass(frozen=True)
class Capabilities:
    """What a server can do: its default model, all models, codecs it decodes, limits in bytes, and devices in words.

    ``estimators``: all that it knows; of each kind, the first that is installed is the default.
    """

    default_model: Name
    models: list[ModelCapability]
    codecs: list[Name]
    max_blob_bytes: SizeBytes
    devices: list[Name]
    estimators: list[EstimatorCapability] = field(default_factory=list)


# ── Requests (client → server) and their replies ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Hello:
    """First message of a connection: the versions the client speaks and its name.  Reply: `Welcome` or `Failure`."""

    request: Request
    versions: list[Version]
    client: Name


@dataclass(frozen=True)
class Welcome:
    request: Request
    version: Version
    server_id: Name
    server: Name
    capabilities: Capabilities


@dataclass(frozen=True)
class Put:
    """A piece of an upload (blob frame ≤ `CHUNK_BYTES`); an empty piece asks how much is there.  Reply: `Have`."""

    request: Request
    sha: Sha
    size_bytes: SizeBytes
    offset: SizeBytes


@dataclass(frozen=True)
class Have:
    """``received_bytes`` from the start are safe; the upload goes on there.  The whole size: complete, sha checked."""

    request: Request
    sha: Sha
    received_bytes: SizeBytes


@dataclass(frozen=True)
class Submit:
    """Ask for a job under the client's own id.  Idempotent.  Reply: `Accepted`, `Need` or `Failure`.

    ``requester``: who asks, by an id of the client's choice.  ``lease_s``: one that says nothing of the job for so long
    counts as withdrawn; 0: never.  ``again``: the results are gone.  ``priority``: `BATCH`, or above it where somebody
    waits at a screen.
    """

    request: Request
    job: JobId
    spec: JobSpec
    inputs: list[JobInput]
    requester: RequesterId = ""
    lease_s: Lease = 0.0
    again: bool = False
    priority: Priority = 0


@dataclass(frozen=True)
class Accepted:
    """The job is on disk, as ``job``: the id that was asked for, or that of a later run.  ``duplicate``: it was already
    there.  ``queue_position`` 0 means next or running."""

    request: Request
    job: JobId
    duplicate: bool
    queue_position: Count


@dataclass(frozen=True)
class Need:
    """The job was not accepted: these blobs must be uploaded first."""

    request: Request
    job: JobId
    shas: list[Sha]


@dataclass(frozen=True)
class Attach:
    """Send the job's events with ``seq`` > ``after`` now, later ones as they come.  Reply: `Attached`, `Event` …"""

    request: Request
    job: JobId
    after: Count
    requester: RequesterId = ""
    lease_s: Lease = 0.0


@dataclass(frozen=True)
class Attached:
    request: Request
    job: JobId
    last_seq: Count


@dataclass(frozen=True)
class Fetch:
    """Ask for a piece of a blob (``length`` ≤ `CHUNK_BYTES`).  Reply: `Chunk`."""

    request: Request
    sha: Sha
    offset: SizeBytes
    length: SizeBytes


@dataclass(frozen=True)
class Chunk:
    """A piece of a blob (blob frame).  ``size_bytes`` is the whole blob's."""

    request: Request
    sha: Sha
    offset: SizeBytes
    size_bytes: SizeBytes


@dataclass(frozen=True)
class Cancel:
    """The requester wants the job no more; it ends when nobody does, if it is not over.  Reply: `Cancelling`.

    ``everybody``: as if all of its requesters said so.
    """

    request: Request
    job: JobId
    requester: RequesterId = ""
    everybody: bool = False


@dataclass(frozen=True)
class Cancelling:
    """``others``: requesters that still want the job; with 0, the CANCELLED event follows."""

    request: Request
    job: JobId
    state: Name
    others: Count = 0


@dataclass(frozen=True)
class Ack:
    """The requester has all it wants of the job; the blobs go when that is true of all.  Reply: `Acked`."""

    request: Request
    job: JobId
    requester: RequesterId = ""


@dataclass(frozen=True)
class Acked:
    request: Request
    job: JobId


@dataclass(frozen=True)
class Ping:
    request: Request


@dataclass(frozen=True)
class Pong:
    request: Request


@dataclass(frozen=True)
class Status:
    """Ask for the server's jobs and workers, for people.  Reply: `StatusReport`."""

    request: Request


@dataclass(frozen=True)
class StatusReport:
    request: Request
    server_id: Name
    uptime_s: Seconds
    jobs: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    totals: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ListJobs:
    """Ask for jobs, newest first.  Reply: `JobList`.

    ``states``: in one of these, all if it is empty.  ``prefix``: of their ids.  ``before``: with a smaller ``number``
    than this, 0 for all.  ``limit``: at most so many.
    """

    request: Request
    states: list[Name] = field(default_factory=list)
    prefix: Name = ""
    before: Count = 0
    limit: Count = 200


@dataclass(frozen=True)
class JobList:
    request: Request
    jobs: list[dict[str, Any]]


@dataclass(frozen=True)
class Requeue:
    """Make a job that failed or was cancelled once more, as a new run.  Reply: `Requeued`."""

    request: Request
    job: JobId


@dataclass(frozen=True)
class Requeued:
    """``run``: the id of the new run."""

    request: Request
    job: JobId
    run: JobId


@dataclass(frozen=True)
class Drain:
    """Begin no job any more, and end the server when those that run are done.  For administrators.  Reply: `Draining`.

    ``within_s``: jobs that take longer are broken off at a checkpoint, and go on when the server runs again.
    """

    request: Request
    within_s: Seconds = MAX_SECONDS


@dataclass(frozen=True)
class Draining:
    """``running``: jobs that the server ends before it does; ``waiting``: those that wait until it runs again."""

    request: Request
    running: Count
    waiting: Count


@dataclass(frozen=True)
class Pair:
    """Let ``key`` (a public key, Z85) in for good, in place of the key for one use that this connection has.  Reply:
    `Paired`.  ``machine``: its name, for people."""

    request: Request
    key: Name
    machine: Name


@dataclass(frozen=True)
class Paired:
    """``user``: whose key it is now."""

    request: Request
    user: Name


@dataclass(frozen=True)
class Failure:
    """The request failed: a stable error code of `errors.py`, one sentence, and the field at fault if there is one."""

    request: Request
    code: Name
    message: Text
    field: Name = ""


# ── Events (server → client, numbered 1… per job, kept on disk until the job is forgotten) ──────────────────────────


@dataclass(frozen=True)
class Event:
    """Something happened to a job.  ``kind`` is one of `EVENT_KINDS`; ``fields`` depends on it, see `EVENT_FIELDS`."""

    job: JobId
    seq: Count
    kind: Name
    time_s: Seconds
    fields: dict[str, Any]


EVENT_KINDS = ("QUEUED", "WAITING", "STARTED", "PROGRESS", "PREVIEW", "RETRY", "DONE", "FAILED", "CANCELLED")
FINAL_EVENT_KINDS = ("DONE", "FAILED", "CANCELLED")

EVENT_FIELDS: dict[str, dict[str, Any]] = {
    "QUEUED": {"position": Count},
    "WAITING": {"message": Text},
    "STARTED": {"worker": Name, "device": Name, "attempt": Count},
    "PROGRESS": {"stage": Name, "step": Amount, "of": Amount, "elapsed_s": Seconds},
    "PREVIEW": {"step": Amount, "artefact": Artefact},
    "RETRY": {"attempt": Count, "code": Name, "message": Text},
    "DONE": {"artefacts": list[Artefact], "report": dict[str, Any]},
    "FAILED": {"code": Name, "message": Text, "field": Name},
    "CANCELLED": {},
}
"""Kind → its fields and their types; an `Artefact` stands here for its plain dict (`codec.to_plain`)."""

EVENT_MAY_HAVE: dict[str, dict[str, Any]] = {"QUEUED": {"eta_s": Seconds}, "PROGRESS": {"eta_s": Seconds}}
"""Fields that may be left out: about how long until the job starts (QUEUED), or is done (PROGRESS)."""

PROGRESS_STAGES = ("loading", "encoding", "denoising", "decoding", "composing", "saving")
"""Stages of PROGRESS, in order."""

MESSAGES: dict[str, type] = {
    "HELLO": Hello, "WELCOME": Welcome, "PUT": Put, "HAVE": Have,
    "SUBMIT": Submit, "ACCEPTED": Accepted, "NEED": Need,
    "ATTACH": Attach, "ATTACHED": Attached, "EVENT": Event,
    "FETCH": Fetch, "CHUNK": Chunk, "CANCEL": Cancel, "CANCELLING": Cancelling, "ACK": Ack, "ACKED": Acked,
    "PING": Ping, "PONG": Pong, "STATUS": Status, "STATUS_REPORT": StatusReport,
    "LIST_JOBS": ListJobs, "JOB_LIST": JobList, "REQUEUE": Requeue, "REQUEUED": Requeued,
    "DRAIN": Drain, "DRAINING": Draining,
    "PAIR": Pair, "PAIRED": Paired, "FAILURE": Failure,
}  # fmt: skip
"""Wire name ⇄ class."""

REQUESTS = (Hello, Put, Submit, Attach, Fetch, Cancel, Ack, Ping, Status, ListJobs, Requeue, Drain, Pair)
"""What clients send; all others come from servers."""

WITH_BLOB = ("PUT", "CHUNK")
"""The messages that carry a blob frame."""
