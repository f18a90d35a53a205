# SPDX-License-Identifier: GPL-3.0-or-later
"""`DasClient`: blocking calls to one server over one ZeroMQ DEALER socket, used from one thread.

Every request is idempotent.  One that is not answered in time is sent again on a new socket, after HELLO and ATTACH for
the jobs being followed (the "Lazy Pirate" pattern of the ZeroMQ guide, chapter 4), until nothing has been heard for
``timeout_s``.  Bulk goes in pieces with at most `FETCH_CREDIT` of them in flight.  ``should_stop`` is asked at least
every 100 ms wherever a call waits; when it says True, the call raises `JobCancelled`.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from ..errors import (
    DasError,
    JobCancelled,
    MessageTooLarge,
    ProtocolError,
    ServerUnreachable,
    StorageError,
    TransportTimeout,
    VersionMismatch,
    error_from_code,
)
from ..protocol import codec, messages
from ..protocol.frames import blob_sha
from ..protocol.messages import CHUNK_BYTES, FETCH_CREDIT, FINAL_EVENT_KINDS, HEARTBEAT_S, PROTOCOL_VERSIONS
from .address import normalise_address

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Longest wait without asking ``should_stop``, seconds."""

ATTEMPT_S = 2.5
"""A request without an answer for this long is sent again on a new socket, seconds."""

MAX_FRAME_BYTES = 8 << 20
"""A server that sends a larger frame is disconnected, bytes."""

_UPLOAD_REWINDS = 8

ShouldStop = Callable[[], bool]
OnBytes = Callable[[int, int], None]


class DasClient:
    """A conversation with the server at ``address``; a context manager.

    ``timeout_s``: how long the server may stay silent before a call raises `ServerUnreachable` (it never answered) or
    `TransportTimeout` (it had answered before).  ``on_log`` is told in words what the user may want to know.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 10.0,
        context: zmq.Context | None = None,
        name: str = "das-blender-addon",
        on_log: Callable[[str], None] | None = None,
    ):
        self.address = normalise_address(address)
        self.timeout_s = timeout_s
        self.welcome: messages.Welcome | None = None
        self._name = name
        self._on_log = on_log
        self._own_context = context is None
        self._context = context or zmq.Context()
        self._socket: zmq.Socket | None = None
        self._thread: int | None = None
        self._number = 0
        self._following: dict[str, int] = {}
        self._inbox: collections.deque[messages.Event] = collections.deque()
        self._heard = 0.0
        self._asked: float | None = None
        self._beats: set[int | None] = set()
        self._attempt_s = min(ATTEMPT_S, timeout_s)

    def __enter__(self) -> DasClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket at once; unsent messages are dropped."""
        self._drop_socket()
        if self._own_context:
            self._context.term()

    # ── Small requests ──────────────────────────────────────────────────────────────────────────────────────────────

    def hello(self, *, should_stop: ShouldStop | None = None) -> messages.Welcome:
        """Greet the server and learn its capabilities.  Raises `VersionMismatch`, `ServerUnreachable`."""
        return self._greet(should_stop, self.timeout_s)

    def submit(
        self,
        job: str,
        spec: messages.JobSpec,
        inputs: list[messages.JobInput],
        *,
        should_stop: ShouldStop | None = None,
    ) -> messages.Accepted | messages.Need:
        """Ask for a job.  `Need` names blobs to upload first; asking again with the same id is harmless."""
        return self._request(
            messages.Submit(0, job, spec, inputs), messages.Accepted, messages.Need, should_stop=should_stop
        )

    def attach(self, job: str, after: int = 0, *, should_stop: ShouldStop | None = None) -> messages.Attached:
        """Follow a job: `next_event` then gives its events with ``seq`` > ``after``, in order, each once.

        Raises `JobRejected` with the field "job" when the server does not know the job.
        """
        self._following[job] = after
        try:
            return self._request(messages.Attach(0, job, after), messages.Attached, should_stop=should_stop)
        except DasError:
            self._following.pop(job, None)
            raise

    def cancel(self, job: str, *, timeout_s: float | None = None) -> messages.Cancelling:
        """Ask the server to cancel a job; its CANCELLED event follows."""
        return self._request(messages.Cancel(0, job), messages.Cancelling, timeout_s=timeout_s)

    def ack(self, job: str, *, should_stop: ShouldStop | None = None) -> messages.Acked:
        """Say that nothing more is wanted of a job; the server may forget its blobs."""
        return self._request(messages.Ack(0, job), messages.Acked, should_stop=should_stop)

    def status(self, *, should_stop: ShouldStop | None = None) -> messages.StatusReport:
        """The server's jobs and workers, for people."""
        return self._request(messages.Status(0), messages.StatusReport, should_stop=should_stop)

    def ping(self, *, timeout_s: float | None = None, should_stop: ShouldStop | None = None) -> float:
        """The time of one round trip, seconds."""
        start = time.monotonic()
        self._request(messages.Ping(0), messages.Pong, timeout_s=timeout_s, should_stop=should_stop)
        return time.monotonic() - start

    # ── Bulk ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def upload(
        self,
        blob: bytes,
        sha: str | None = None,
        on_progress: OnBytes | None = None,
        should_stop: ShouldStop | None = None,
    ) -> str:
        """Bring ``blob`` to the server, from where an earlier upload stopped; returns its sha.

        ``on_progress(safe_bytes, size_bytes)``.  Raises `MessageTooLarge` when the server takes no blob of this size.
        """
        sha, size, view = sha or blob_sha(blob), len(blob), memoryview(blob)
        if self.welcome and size > self.welcome.capabilities.max_blob_bytes:
            raise MessageTooLarge(
                f"A blob of {size} bytes is over the server's limit of {self.welcome.capabilities.max_blob_bytes}; "
                "send fewer or smaller frames, or raise the server's limit."
            )
        safe = sent = best = self._ask_upload(sha, size, should_stop)
        flying: dict[int, int] = {}
        moved, rewinds = time.monotonic(), 0
        while safe < size:
            while len(flying) < FETCH_CREDIT and sent < size:
                piece = view[sent : sent + CHUNK_BYTES]
                number = self._send(messages.Put(0, sha, size, sent), piece, should_stop=should_stop)
                if number is None:
                    break
                sent += len(piece)
                flying[number] = sent
            answer = self._answer(flying, self._attempt_s, should_stop) if flying else None
            if answer is None:
                self._recover("the upload", moved, should_stop)
                safe, end, flying = self._ask_upload(sha, size, should_stop), -1, {}
                sent = safe
            else:
                have = self._expect(answer[0], messages.Have)
                safe, end = have.received_bytes, flying.pop(have.request)
            if safe < end:  # the server has less than we thought: go back; answers still in flight are ignored
                sent, flying = safe, {}
            sent = max(sent, safe)
            if safe > best:
                best, moved, rewinds = safe, time.monotonic(), 0
            elif (rewinds := rewinds + 1) > _UPLOAD_REWINDS:
                raise StorageError(
                    f"The server keeps no more than {best} of {size} bytes; look at its disk and its log."
                )
            if on_progress:
                on_progress(safe, size)
        return sha

    def fetch(
        self,
        sha: str,
        size_bytes: int,
        on_progress: OnBytes | None = None,
        should_stop: ShouldStop | None = None,
    ) -> bytes:
        """The blob ``sha`` of ``size_bytes``, checked against its sha.

        ``on_progress(received_bytes, size_bytes)``.  Raises `StorageError` when it arrives damaged twice.
        """
        for _ in range(2):
            blob, arrived_sha = self._fetch_once(sha, size_bytes, on_progress, should_stop)
            if arrived_sha == sha:
                return blob
            log.warning("blob %s arrived damaged", sha)
        raise StorageError(f"The blob {sha[:12]}… arrived damaged twice; look at the server's disk and render again.")

    def _ask_upload(self, sha: str, size_bytes: int, should_stop: ShouldStop | None) -> int:
        """How much of the blob the server has: a PUT with an empty piece."""
        return self._request(messages.Put(0, sha, size_bytes, 0), messages.Have, should_stop=should_stop).received_bytes

    def _fetch_once(
        self, sha: str, size_bytes: int, on_progress: OnBytes | None, should_stop: ShouldStop | None
    ) -> tuple[bytes, str]:
        """The blob and its sha, which is computed while the rest is on its way."""
        pieces: dict[int, memoryview] = {}
        running, hashed, received = hashlib.sha256(), 0, 0
        waiting = collections.deque(range(0, size_bytes, CHUNK_BYTES))
        flying: dict[int, int] = {}
        moved = time.monotonic()
        if self._socket is None:
            self._greet(should_stop, self.timeout_s)
        while waiting or flying:
            while len(flying) < FETCH_CREDIT and waiting:
                length = min(CHUNK_BYTES, size_bytes - waiting[0])
                number = self._send(messages.Fetch(0, sha, waiting[0], length), should_stop=should_stop)
                if number is None:
                    break
                flying[number] = waiting.popleft()
            answer = self._answer(flying, self._attempt_s, should_stop) if flying else None
            if answer is None:
                self._recover("the download", moved, should_stop)
                waiting.extendleft(reversed(flying.values()))
                flying = {}
                continue
            chunk, piece = self._expect(answer[0], messages.Chunk), answer[1]
            offset = flying.pop(chunk.request)
            if (
                chunk.size_bytes != size_bytes
                or chunk.offset != offset
                or len(piece) != min(CHUNK_BYTES, size_bytes - offset)
            ):
                raise ProtocolError(
                    f"The server sent bytes {chunk.offset} to {chunk.offset + len(piece)} of {chunk.size_bytes} of a "
                    f"blob where {offset} onward of {size_bytes} was asked for; use the same release on both sides."
                )
            pieces[offset] = piece
            while hashed in pieces:
                running.update(pieces[hashed])
                hashed += CHUNK_BYTES
            received, moved = received + len(piece), time.monotonic()
            if on_progress:
                on_progress(received, size_bytes)
        return b"".join(pieces[offset] for offset in sorted(pieces)), running.hexdigest()

    # ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_event(self, timeout_s: float, should_stop: ShouldStop | None = None) -> messages.Event | None:
        """The next event of the jobs being followed, or None after ``timeout_s``.

        Asks the server again (ATTACH) when it is silent for `HEARTBEAT_S`, which also brings back whatever was lost,
        and reconnects when it does not answer; raises `TransportTimeout` after ``self.timeout_s`` of silence.
        """
        until = time.monotonic() + timeout_s
        while True:
            # 1. take all that is there
            while (received := self._receive(0.0)) is not None:
                if isinstance(received[0], messages.Failure) and received[0].request in self._beats:
                    self._expect(received[0])
            if self._inbox:
                return self._inbox.popleft()
            # 2. keep the connection alive
            now = time.monotonic()
            if self._asked is not None and now - self._asked > self._attempt_s:
                self._recover("the last question", now, should_stop)
            elif self._asked is None and now - self._heard > HEARTBEAT_S:
                self._beat()
            # 3. wait a little
            self._check_stop(should_stop)
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._poll(min(POLL_S, left))

    def _beat(self) -> None:
        """Ask for the events since the last one seen; the answers are taken by `next_event`."""
        beats: list[Any] = [messages.Attach(0, job, after) for job, after in self._following.items()]
        self._beats = {self._send(beat, wait_s=0.0) for beat in beats or [messages.Ping(0)]}
        self._asked = time.monotonic()

    # ── One request ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(
        self,
        message: Any,
        *kinds: type,
        should_stop: ShouldStop | None = None,
        timeout_s: float | None = None,
        until: float | None = None,
        greet: bool = True,
    ) -> Any:
        """Send ``message`` until it is answered; the answer is one of ``kinds``, or the error that the server names."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        until = time.monotonic() + timeout_s if until is None else until
        while True:
            if greet and self._socket is None:
                self._greet(should_stop, timeout_s, until)
            left = until - time.monotonic()
            if left <= 0:
                raise self._silence(timeout_s)
            number = self._send(message, wait_s=left, should_stop=should_stop)
            if number is not None:
                answer = self._answer((number,), min(left, self._attempt_s), should_stop)
                if answer is not None:
                    return self._expect(answer[0], *kinds)
                self._drop_socket()

    def _greet(self, should_stop: ShouldStop | None, timeout_s: float, until: float | None = None) -> messages.Welcome:
        """HELLO, as the first message of a connection; then ATTACH for the jobs being followed."""
        hello = messages.Hello(0, list(PROTOCOL_VERSIONS), self._name)
        welcome = self._request(
            hello, messages.Welcome, should_stop=should_stop, timeout_s=timeout_s, until=until, greet=False
        )
        if welcome.version not in PROTOCOL_VERSIONS:
            raise VersionMismatch(
                f"The server at {self.address} answers in protocol version {welcome.version}, this side speaks "
                f"{', '.join(map(str, PROTOCOL_VERSIONS))}; install the same release on both sides."
            )
        self.welcome = welcome
        if self._following:
            self._beat()
        return welcome

    def _expect(self, answer: Any, *kinds: type) -> Any:
        if isinstance(answer, messages.Failure):
            raise error_from_code(answer.code, answer.message, field=answer.field or None)
        if not isinstance(answer, kinds):
            raise ProtocolError(
                f"The server at {self.address} answered with {type(answer).__name__} where "
                f"{' or '.join(kind.__name__ for kind in kinds)} was due; use the same release on both sides."
            )
        return answer

    def _recover(self, what: str, since: float, should_stop: ShouldStop | None) -> None:
        """Leave a silent connection for a new one; `TransportTimeout` if nothing has moved ``since`` too long."""
        if time.monotonic() - since > self.timeout_s:
            raise self._silence(self.timeout_s)
        text = f"No answer to {what} for {self._attempt_s:g} s; connecting to {self.address} again."
        log.info("%s", text)
        if self._on_log:
            self._on_log(text)
        self._drop_socket()
        self._greet(should_stop, self.timeout_s)

    def _silence(self, timeout_s: float) -> ServerUnreachable | TransportTimeout:
        if not self._heard:
            return ServerUnreachable(
                f"No server answers at {self.address} after {timeout_s:g} s: start one with `das-server serve`, or "
                "correct the address in the add-on's preferences or in DAS_SERVER.",
                field="server",
            )
        return TransportTimeout(
            f"The server at {self.address} fell silent for {timeout_s:g} s: look whether it still runs, and render "
            "again to go on.",
            field="server",
        )

    # ── The socket ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_socket(self) -> zmq.Socket:
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError("A DasClient belongs to one thread; make another one for this thread.")
        if self._socket is None:
            self._thread = threading.get_ident()
            socket = self._context.socket(zmq.DEALER)
            socket.linger = 0
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.RECONNECT_IVL, 200)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
            socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
            socket.setsockopt(zmq.IPV6, int("[" in self.address))
            socket.connect(self.address)
            self._socket, self._asked = socket, None
        return self._socket

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        self._asked = None

    def _send(
        self,
        message: Any,
        blob: memoryview | None = None,
        *,
        wait_s: float = ATTEMPT_S,
        should_stop: ShouldStop | None = None,
    ) -> int | None:
        """Send ``message`` under a new number and return the number; None when nobody takes it within ``wait_s``."""
        self._number += 1
        frames = codec.encode(dataclasses.replace(message, request=self._number), blob)
        socket, until = self._open_socket(), time.monotonic() + wait_s
        while True:
            self._check_stop(should_stop)
            try:
                socket.send_multipart(frames, zmq.NOBLOCK)
                return self._number
            except zmq.Again:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                socket.poll(int(1000 * min(POLL_S, left)) + 1, zmq.POLLOUT)

    def _answer(
        self, numbers: Any, wait_s: float, should_stop: ShouldStop | None
    ) -> tuple[Any, memoryview | None] | None:
        """The first answer to one of the request ``numbers``, or None after ``wait_s``; events go to the inbox."""
        until = time.monotonic() + wait_s
        while True:
            self._check_stop(should_stop)
            left = until - time.monotonic()
            received = self._receive(min(POLL_S, max(left, 0.0)))
            if received is None:
                if left <= 0:
                    return None
            elif isinstance(received[0], messages.Failure) and received[0].request == 0:
                self._expect(received[0])
            elif getattr(received[0], "request", 0) in numbers:
                return received

    def _receive(self, wait_s: float) -> tuple[Any, memoryview | None] | None:
        """One message within ``wait_s``, or None; events are also put into the inbox."""
        if not self._poll(wait_s):
            return None
        frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        message, blob = codec.decode([frame.buffer for frame in frames])
        self._heard, self._asked = time.monotonic(), None
        if isinstance(message, messages.Event):
            self._take_event(message)
        return message, blob

    def _poll(self, wait_s: float) -> bool:
        return bool(self._open_socket().poll(int(1000 * wait_s), zmq.POLLIN))

    def _take_event(self, event: messages.Event) -> None:
        """Keep an event of a followed job, once; a repeated one has a ``seq`` that was seen."""
        if event.seq <= self._following.get(event.job, event.seq):
            return
        self._following[event.job] = event.seq
        self._inbox.append(event)
        if event.kind in FINAL_EVENT_KINDS:
            del self._following[event.job]

    def _check_stop(self, should_stop: ShouldStop | None) -> None:
        if should_stop is not None and should_stop():
            raise JobCancelled("Stopped by the user.")
