# SPDX-License-Identifier: GPL-3.0-or-later
"""`DasClient`: blocking calls to one server, one for each request of the protocol, and whole blobs up and down.

Bulk goes in pieces with at most `FETCH_CREDIT` of them in flight.  What happens to lost messages: see `connection.py`.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import time
from collections.abc import Callable

from ..errors import DasError, MessageTooLarge, ProtocolError, StorageError
from ..protocol import messages
from ..protocol.frames import blob_sha
from ..protocol.messages import CHUNK_BYTES, FETCH_CREDIT
from .connection import Connection, ShouldStop

log = logging.getLogger(__name__)

OnBytes = Callable[[int, int], None]

_UPLOAD_REWINDS = 8


class DasClient(Connection):
    """All requests of the protocol; a context manager, used from one thread.  See `Connection` for its arguments."""

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
