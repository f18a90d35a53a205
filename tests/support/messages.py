# SPDX-License-Identifier: GPL-3.0-or-later
"""One example of every message of the protocol, and of every event kind."""

from das_blender_addon.protocol import codec
from das_blender_addon.protocol import messages as m

SHA = "5e" * 32
JOB = "0123456789abcdef" * 2
REQUESTER = "fedcba9876543210" * 2

SPEC = m.JobSpec(
    task="mesh_to_video",
    model="das-preview",
    prompt="a paper boat, späte Sonne ☀",
    negative_prompt="",
    seed=2**63 - 1,
    num_inference_steps=4,
    guidance_scale=6.0,
    num_frames=9,
    kept_frames=7,
    width=96,
    height=64,
    tracking_range="signed",
    options={"sharp": True, "nested": {"list": [1, 2.5, "x", None]}},
    model_revision="r1",
)
INPUT = m.JobInput("tracking_video", SHA, 1234, "array", "uint8", [9, 64, 96, 3], "zstd")
ARTEFACT = m.Artefact("frame", SHA, 4321, "image/png", 3)
MODEL = m.ModelCapability(
    "das-preview", "Preview", [9, 17], [[96, 64]], 4, [4], 6.0, "signed", True, ["carried_video"], "GPL", True,
    revision="r1",
)  # fmt: skip
CAPABILITIES = m.Capabilities("das-preview", [MODEL], ["zlib", "raw"], 1 << 30, ["cpu"])

EVENT_FIELDS = {
    "QUEUED": {"position": 2},
    "WAITING": {"message": "No worker can start."},
    "STARTED": {"worker": "w0", "device": "cpu", "attempt": 1},
    "PROGRESS": {"stage": "denoising", "step": 1, "of": 4, "elapsed_s": 0.5},
    "PREVIEW": {"step": 1, "artefact": codec.to_plain(ARTEFACT)},
    "RETRY": {"attempt": 2, "code": "job.worker_lost", "message": "The worker was lost."},
    "DONE": {"artefacts": [codec.to_plain(ARTEFACT)], "report": {"seed": 7}},
    "FAILED": {"code": "job.out_of_memory", "message": "It does not fit.", "field": ""},
    "CANCELLED": {},
}

EXAMPLES = [
    m.Hello(1, [2, 1], "test"),
    m.Welcome(1, 1, "server", "das-server 0.1", CAPABILITIES),
    m.Put(2, SHA, 10, 0),
    m.Have(2, SHA, 10),
    m.Submit(3, JOB, SPEC, [INPUT]),
    m.Submit(3, JOB, SPEC, [INPUT], REQUESTER, 60.0, True, m.INTERACTIVE),
    m.Accepted(3, JOB, False, 0),
    m.Need(3, JOB, [SHA]),
    m.Attach(4, JOB, 0),
    m.Attach(4, JOB, 0, REQUESTER, 60.0),
    m.Attached(4, JOB, 8),
    *(m.Event(JOB, i + 1, kind, 1.5, fields) for i, (kind, fields) in enumerate(EVENT_FIELDS.items())),
    m.Event(JOB, 20, "QUEUED", 1.5, {"position": 2, "eta_s": 90.0}),
    m.Event(JOB, 21, "PROGRESS", 1.5, EVENT_FIELDS["PROGRESS"] | {"eta_s": 2.5}),
    m.Fetch(5, SHA, 0, 10),
    m.Chunk(5, SHA, 0, 10),
    m.Cancel(6, JOB),
    m.Cancel(6, JOB, REQUESTER),
    m.Cancelling(6, JOB, "RUNNING", 2),
    m.Ack(7, JOB),
    m.Ack(7, JOB, REQUESTER),
    m.Acked(7, JOB),
    m.Ping(8),
    m.Pong(8),
    m.Status(9),
    m.StatusReport(9, "server", 12.5, [{"job": JOB, "state": "DONE"}], [{"name": "w0"}]),
    m.Cancel(6, JOB, everybody=True),
    m.ListJobs(11, ["FAILED"], "01", 7, 50),
    m.JobList(11, [{"job": JOB, "state": "DONE", "number": 3}]),
    m.Requeue(12, JOB),
    m.Requeued(12, JOB, REQUESTER),
    m.Drain(12),
    m.Drain(12, 60.0),
    m.Draining(12, 1, 200),
    m.Pair(13, "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7", "workstation"),
    m.Paired(13, "ada"),
    m.Failure(10, "job.rejected", "The seed is negative; use 0 or more.", "seed"),
]
