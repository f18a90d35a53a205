# SPDX-License-Identifier: GPL-3.0-or-later
"""A small server in a thread, on a real socket, that can be told to misbehave; for the tests of the client.

It keeps blobs and jobs in memory, speaks the whole protocol, and "runs" a job as soon as it is followed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, defaultdict

import numpy as np
import zmq

from das_blender_addon.client import connection, job_run
from das_blender_addon.protocol import codec
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.frames import CODECS, blob_sha, decode_array
from das_blender_addon.protocol.png import encode_png

WIDTH, HEIGHT, NUM_FRAMES = 16, 8, 3
MODEL = m.ModelCapability(
    "tiny", "Tiny", [NUM_FRAMES], [[WIDTH, HEIGHT]], 2, [2], 1.0, "signed", True, ["carried_video"], "GPL", True
)
PREVIEW_IMAGE = b"\xff\xd8 not really a JPEG"


def frame(index: int) -> np.ndarray:
    """The ``index``-th frame of every job's result, ``[H,W,3]`` uint8."""
    return np.full((HEIGHT, WIDTH, 3), 10 * index, np.uint8)


def ask_once(monkeypatch) -> None:
    """Clients ask nothing twice, and wait for the end of what they cancel, however long the machine stalls: for tests
    that lose no message and count what a peer is asked.
    """
    monkeypatch.setattr(connection, "ATTEMPT_S", 60.0)
    monkeypatch.setattr(job_run, "CANCEL_WAIT_S", 60.0)


class Peer:
    """Listens on a free loopback port while the context lasts.

    ``drop``: how many requests of a class are to be ignored, replies included, from now on.  ``say``: an answer to give
    instead, by request class: a message, or frames.  ``on_request``: called with each request, in the peer's thread.
    ``final``: the last event of every job, or None for a job that goes on until it is cancelled.  ``others``: how many
    more want every job.  ``version``: of the protocol that it speaks.
    """

    def __init__(self, *, address: str = "tcp://127.0.0.1:*", codecs=CODECS, model=MODEL, max_blob_bytes=1 << 26):
        self.capabilities = m.Capabilities("tiny", [model], list(codecs), max_blob_bytes, ["cpu"])
        self.version = m.PROTOCOL_VERSIONS[0]
        self.seen: Counter[type] = Counter()
        self.requests: list = []
        self.drop: Counter[type] = Counter()
        self.say: dict[type, object] = {}
        self.final: str | None = "DONE"
        self.on_request = lambda message: None
        self.damage_fetches = 0
        self.others = 0
        self.connections: dict[bytes, list] = defaultdict(list)
        self.blobs: dict[str, bytearray] = defaultdict(bytearray)
        self.results: dict[str, bytes] = {}
        self.jobs: dict[str, m.Submit] = {}
        self.runs: dict[str, str] = {}
        self.events: dict[str, list[m.Event]] = {}
        self.followers: dict[str, bytes] = {}
        self.failure: BaseException | None = None
        self._waiting: queue.SimpleQueue[tuple[str, str, dict]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        until = time.monotonic() + 60
        while True:
            try:
                self._socket.bind(address)
                break
            except zmq.ZMQError:  # the port of a peer that has just ended
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join(60)
        self._socket.close(0)
        self._context.term()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                while not self._waiting.empty():
                    self.add_event(*self._waiting.get())
                if self._socket.poll(10):
                    who, *frames = self._socket.recv_multipart()
                    self._take(who, frames)
        except BaseException as failure:
            self.failure = failure

    def _take(self, who: bytes, frames: list[bytes]) -> None:
        message, blob = codec.decode(frames)
        kind = type(message)
        self.seen[kind] += 1
        self.requests.append(message)
        self.connections[who].append(message)
        self.on_request(message)
        if self.drop[kind] > 0:
            self.drop[kind] -= 1
            return
        answer = self.say.get(kind)
        if isinstance(answer, list):
            self._socket.send_multipart([who, *answer])
        elif answer is not None:
            self._send(who, m.Failure(message.request, answer.code, answer.message, answer.field or ""))
        else:
            getattr(self, kind.__name__.lower())(who, message, blob)

    def _send(self, who: bytes, message, blob=None) -> None:
        self._socket.send_multipart([who, *codec.encode(message, blob)])

    # ── The requests ────────────────────────────────────────────────────────────────────────────────────────────────

    def hello(self, who, message, _):
        if self.version in message.versions:
            self._send(who, m.Welcome(message.request, self.version, "peer", "test-peer 1", self.capabilities))
        else:
            words = f"This peer speaks {self.version}; install the same."
            self._send(who, m.Failure(message.request, "protocol.version", words))

    def put(self, who, message, piece):
        have = self.blobs[message.sha]
        if message.offset == len(have):
            have += piece
        self._send(who, m.Have(message.request, message.sha, len(have)))

    def submit(self, who, message, _):
        missing = [one.sha for one in message.inputs if len(self.blobs[one.sha]) < one.size_bytes]
        if missing and message.job not in self.jobs:
            self._send(who, m.Need(message.request, message.job, missing))
            return
        run = self.runs.get(message.job, message.job)
        over = run in self.events and self.events[run][-1].kind
        if over == "CANCELLED" or (over == "FAILED" and message.requester) or (over == "DONE" and message.again):
            run = self.runs[message.job] = blob_sha(run.encode())[:32]
        duplicate = run in self.jobs
        if not duplicate:
            assert all(blob_sha(self.blobs[one.sha]) == one.sha for one in message.inputs)
            self.jobs[run] = message
            self.events[run] = []
            self.add_event(run, "QUEUED", {"position": 1})
        self._send(who, m.Accepted(message.request, run, duplicate, 0))

    def attach(self, who, message, _):
        if message.job not in self.jobs:
            self._send(who, m.Failure(message.request, "job.rejected", "There is no such job; submit it.", "job"))
            return
        self.followers[message.job] = who
        events = self.events[message.job]
        self._send(who, m.Attached(message.request, message.job, len(events)))
        for event in events[message.after :]:
            self._send(who, event)
        if len(events) == 1:
            self.run_job(message.job)

    def run_job(self, job: str) -> None:
        """All events of a job, at once, and its results; those that were lost once are back."""
        final = self.final
        preview = self.keep(PREVIEW_IMAGE, "preview", "image/jpeg", 0)
        kept = self.jobs[job].spec.kept_frames
        artefacts = [self.keep(encode_png(frame(i)), "frame", "image/png", i) for i in range(kept)]
        self.add_event(job, "STARTED", {"worker": "w0", "device": "cpu", "attempt": 1})
        self.add_event(job, "PROGRESS", {"stage": "denoising", "step": 1, "of": 2, "elapsed_s": 0.1})
        self.add_event(job, "PREVIEW", {"step": 1, "artefact": preview})
        self.add_event(job, "PROGRESS", {"stage": "denoising", "step": 2, "of": 2, "elapsed_s": 0.2})
        if final == "DONE":
            self.add_event(job, "DONE", {"artefacts": [preview, *artefacts], "report": {"seed": 7}})
        elif final == "FAILED":
            self.add_event(job, "FAILED", {"code": "job.out_of_memory", "message": "Too big.", "field": ""})

    def keep(self, blob: bytes, role: str, media: str, index: int) -> dict:
        sha = blob_sha(blob)
        self.results[sha] = blob
        return codec.to_plain(m.Artefact(role, sha, len(blob), media, index))

    def input_of(self, job: str, role: str) -> bytes:
        """The bytes of a job's only input of ``role``."""
        (one,) = (one for one in self.jobs[job].inputs if one.role == role)
        return bytes(self.blobs[one.sha])

    def array_of(self, job: str, role: str) -> np.ndarray:
        """`input_of`, decoded."""
        (one,) = (one for one in self.jobs[job].inputs if one.role == role)
        return decode_array(self.blobs[one.sha], one.dtype, one.shape, one.codec)

    def add_event(self, job: str, kind: str, fields: dict) -> None:
        """Something happens to a job; may be called from any thread."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._waiting.put((job, kind, fields))
            return
        event = m.Event(job, len(self.events[job]) + 1, kind, time.time(), fields)
        self.events[job].append(event)
        if job in self.followers:
            self._send(self.followers[job], event)

    def fetch(self, who, message, _):
        blob = self.results.get(message.sha)
        if blob is None:
            self._send(who, m.Failure(message.request, "job.storage", "The blob is gone; render again.", "sha"))
            return
        piece = blob[message.offset : message.offset + message.length]
        if self.damage_fetches > 0:
            self.damage_fetches -= 1
            piece = bytes([piece[0] ^ 1]) + piece[1:]
        self._send(who, m.Chunk(message.request, message.sha, message.offset, len(blob)), piece)

    def cancel(self, who, message, _):
        if message.job not in self.jobs:
            self._send(who, m.Failure(message.request, "job.rejected", "There is no such job; submit it.", "job"))
            return
        self._send(who, m.Cancelling(message.request, message.job, "RUNNING", self.others))
        if self.others:
            return
        self.add_event(message.job, "CANCELLED", {})

    def ack(self, who, message, _):
        self._send(who, m.Acked(message.request, message.job))

    def ping(self, who, message, _):
        self._send(who, m.Pong(message.request))

    def status(self, who, message, _):
        self._send(who, m.StatusReport(message.request, "peer", 1.0, [{"job": job} for job in self.jobs], []))
