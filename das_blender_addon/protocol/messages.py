# SPDX-License-Identifier: GPL-3.0-or-later
"""Every message of the protocol as a frozen dataclass; `docs/protocol.md` is the authoritative description.

Each message is one msgpack header ``{"type": NAME, …fields}`` and, for `Put` and `Chunk`, one raw blob frame.  Field
values are msgpack's own kinds only (None, bool, int, float, str, list, dict).  ``sha`` is a lower-case hex SHA-256 of a
whole blob.  Every request carries a client-chosen ``request`` number that its reply repeats, so that replies and events
can share a socket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PROTOCOL_VERSIONS = (1,)
"""Versions this code speaks, newest first."""

CHUNK_BYTES = 1 << 20
"""Largest blob of one PUT or CHUNK, bytes."""

FETCH_CREDIT = 4
"""FETCH or PUT requests that a client keeps in flight."""

MAX_HEADER_BYTES = 1 << 20
"""Largest header frame, bytes."""

MAX_NESTING = 16
"""Deepest nesting of lists and dicts in a header."""

DEFAULT_PORT = 5599
"""TCP port of a server whose address names none."""

HEARTBEAT_S = 2.0
"""A client that waits for events and hears nothing for this long asks again (ATTACH, or PING without a job)."""


# ── What a job is made of ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class JobSpec:
    """All that decides the pixels of a job, apart from its input blobs.

    ``width``, ``height``: the model's size in pixels.  ``num_frames``: the model's window (inputs hold exactly this
    many); ``kept_frames``: how many of them the client wants back (the rest is padding).  ``options`` is for settings
    of one model.
    """

    task: str
    model: str
    prompt: str
    negative_prompt: str
    seed: int
    num_inference_steps: int
    guidance_scale: float
    num_frames: int
    kept_frames: int
    width: int
    height: int
    tracking_range: str = "signed"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JobInput:
    """An input blob by content: ``role`` "tracking_video", "first_frame", "first_frame_xy" or "first_frame_visible".

    ``media``: "image/png" or "array"; an array has ``dtype`` (numpy name), ``shape`` and ``codec`` ("raw", "zlib",
    "zstd", "delta-zlib", "delta-zstd": see `frames.py`).  "first_frame_xy" also says where a point is visible;
    "first_frame_visible" is for models that ask for it by itself.
    """

    role: str
    sha: str
    size_bytes: int
    media: str
    dtype: str = ""
    shape: list[int] = field(default_factory=list)
    codec: str = ""


@dataclass(frozen=True)
class Artefact:
    """One result blob, PNG or JPEG by ``media``: ``role`` "frame" (``index`` in the window, 0 = first) or "preview"."""

    role: str
    sha: str
    size_bytes: int
    media: str
    index: int = 0


@dataclass(frozen=True)
class SizeRange:
    """Sizes in pixels that a model makes besides its list: both sides are multiples of ``multiple``.

    Neither side is below ``smallest``; the longer side is at most ``longer``, the shorter one at most ``shorter``.
    ``multiple`` 0: there are none.
    """

    multiple: int = 0
    smallest: int = 0
    longer: int = 0
    shorter: int = 0


@dataclass(frozen=True)
class ModelCapability:
    """What a server says of one model: enough for the client to plan a job and to fill its panel without guessing.

    ``num_frames``: window lengths it accepts, increasing.  ``sizes``: [width, height] pairs in pixels, default first.
    ``exact_steps``: step counts it accepts.  ``uses_prompt`` False: the prompt is ignored and the panel says so.
    ``inputs``: roles it reads besides "tracking_video" and "first_frame".  ``installed``: weights are there.
    ``is_fast``: jobs on this server were so fast that its largest sizes take seconds, too: where somebody waits at a
    screen, the automatic size may be the largest of a shape.  ``size_range``: more sizes, for those who ask for one;
    the automatic size is one of ``sizes`` (`sizes.py`).
    """

    name: str
    label: str
    num_frames: list[int]
    sizes: list[list[int]]
    default_steps: int
    exact_steps: list[int]
    default_guidance: float
    default_tracking_range: str
    uses_prompt: bool
    inputs: list[str]
    licence: str
    installed: bool
    is_fast: bool = False
    size_range: SizeRange = SizeRange()


@dataclass(frozen=True)
class Capabilities:
    """What a server can do: its default model, all models, codecs it decodes, limits in bytes, and devices in words."""

    default_model: str
    models: list[ModelCapability]
    codecs: list[str]
    max_blob_bytes: int
    devices: list[str]


# ── Requests (client → server) and their replies ────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Hello:
    """First message of a connection: the versions the client speaks and its name.  Reply: `Welcome` or `Failure`."""

    request: int
    versions: list[int]
    client: str


@dataclass(frozen=True)
class Welcome:
    request: int
    version: int
    server_id: str
    server: str
    capabilities: Capabilities


@dataclass(frozen=True)
class Put:
    """A piece of an upload (blob frame ≤ `CHUNK_BYTES`); an empty piece asks how much is there.  Reply: `Have`."""

    request: int
    sha: str
    size_bytes: int
    offset: int


@dataclass(frozen=True)
class Have:
    """``received_bytes`` from the start are safe; the upload goes on there.  The whole size: complete, sha checked."""

    request: int
    sha: str
    received_bytes: int


@dataclass(frozen=True)
class Submit:
    """Ask for a job under the client's own id (uuid4 hex).  Idempotent.  Reply: `Accepted`, `Need` or `Failure`."""

    request: int
    job: str
    spec: JobSpec
    inputs: list[JobInput]


@dataclass(frozen=True)
class Accepted:
    """The job is on disk.  ``duplicate``: it was already there.  ``queue_position`` 0 means next or running."""

    request: int
    job: str
    duplicate: bool
    queue_position: int


@dataclass(frozen=True)
class Need:
    """The job was not accepted: these blobs must be uploaded first."""

    request: int
    job: str
    shas: list[str]


@dataclass(frozen=True)
class Attach:
    """Send the job's events with ``seq`` > ``after`` now, later ones as they come.  Reply: `Attached`, `Event` …"""

    request: int
    job: str
    after: int


@dataclass(frozen=True)
class Attached:
    request: int
    job: str
    last_seq: int


@dataclass(frozen=True)
class Fetch:
    """Ask for a piece of a blob (``length`` ≤ `CHUNK_BYTES`).  Reply: `Chunk`."""

    request: int
    sha: str
    offset: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """A piece of a blob (blob frame).  ``size_bytes`` is the whole blob's."""

    request: int
    sha: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Cancel:
    """Cancel a job; harmless when it is already over.  Reply: `Cancelling`; the CANCELLED event follows."""

    request: int
    job: str


@dataclass(frozen=True)
class Cancelling:
    request: int
    job: str
    state: str


@dataclass(frozen=True)
class Ack:
    """The client has all it wants of the job: the server may forget its blobs.  Reply: `Acked`."""

    request: int
    job: str


@dataclass(frozen=True)
class Acked:
    request: int
    job: str


@dataclass(frozen=True)
class Ping:
    request: int


@dataclass(frozen=True)
class Pong:
    request: int


@dataclass(frozen=True)
class Status:
    """Ask for the server's jobs and workers, for people.  Reply: `StatusReport`."""

    request: int


@dataclass(frozen=True)
class StatusReport:
    request: int
    server_id: str
    uptime_s: float
    jobs: list[dict[str, Any]]
    workers: list[dict[str, Any]]


@dataclass(frozen=True)
class Failure:
    """The request failed: a stable error code of `errors.py`, one sentence, and the field at fault if there is one."""

    request: int
    code: str
    message: str
    field: str = ""


# ── Events (server → client, numbered 1… per job, kept on disk until the job is forgotten) ──────────────────────────


@dataclass(frozen=True)
class Event:
    """Something happened to a job.  ``kind`` is one of `EVENT_KINDS`, ``fields`` depends on it:

    QUEUED {position} · STARTED {worker, device, attempt} · PROGRESS {stage, step, of, elapsed_s} (stages:
    `PROGRESS_STAGES`) · PREVIEW {step, artefact} · RETRY {attempt, code, message} · DONE {artefacts, report} ·
    FAILED {code, message, field} · CANCELLED {}
    """

    job: str
    seq: int
    kind: str
    time_s: float
    fields: dict[str, Any]


EVENT_KINDS = ("QUEUED", "STARTED", "PROGRESS", "PREVIEW", "RETRY", "DONE", "FAILED", "CANCELLED")
FINAL_EVENT_KINDS = ("DONE", "FAILED", "CANCELLED")

EVENT_FIELDS: dict[str, dict[str, Any]] = {
    "QUEUED": {"position": int},
    "STARTED": {"worker": str, "device": str, "attempt": int},
    "PROGRESS": {"stage": str, "step": int, "of": int, "elapsed_s": float},
    "PREVIEW": {"step": int, "artefact": Artefact},
    "RETRY": {"attempt": int, "code": str, "message": str},
    "DONE": {"artefacts": list[Artefact], "report": dict[str, Any]},
    "FAILED": {"code": str, "message": str, "field": str},
    "CANCELLED": {},
}
"""Kind → its fields and their types; an `Artefact` stands here for its plain dict (`codec.to_plain`)."""

PROGRESS_STAGES = ("loading", "encoding", "denoising", "decoding", "composing", "saving")
"""Stages of PROGRESS, in order."""

MESSAGES: dict[str, type] = {
    "HELLO": Hello,
    "WELCOME": Welcome,
    "PUT": Put,
    "HAVE": Have,
    "SUBMIT": Submit,
    "ACCEPTED": Accepted,
    "NEED": Need,
    "ATTACH": Attach,
    "ATTACHED": Attached,
    "EVENT": Event,
    "FETCH": Fetch,
    "CHUNK": Chunk,
    "CANCEL": Cancel,
    "CANCELLING": Cancelling,
    "ACK": Ack,
    "ACKED": Acked,
    "PING": Ping,
    "PONG": Pong,
    "STATUS": Status,
    "STATUS_REPORT": StatusReport,
    "FAILURE": Failure,
}
"""Wire name ⇄ class."""

WITH_BLOB = ("PUT", "CHUNK")
"""The messages that carry a blob frame."""
