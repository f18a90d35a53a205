# SPDX-License-Identifier: GPL-3.0-or-later
"""`DasClient`: blocking calls to one server, one for each request of the protocol, and whole blobs up and down.

Bulk goes in pieces with at most `FETCH_CREDIT` of them in flight.  What happens to lost messages: see `connection.py`.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from ..errors import DasError, MessageTooLarge, ProtocolError, StorageError
from ..protocol import kinds, messages
from ..protocol.digest import Digests
from ..protocol.frames import blob_sha
from ..protocol.messages import CHUNK_BYTES, FETCH_CREDIT
from .connection import Connection, ShouldStop
from .keys import ServerKeys, pair
from .memory import keep_freed_memory

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
        again: bool = False,
        priority: int = messages.BATCH,
        should_stop: ShouldStop | None = None,
    ) -> messages.Accepted | messages.Need:
        """Ask for a job.  `Need` names blobs to upload first; asking again with the same id is harmless.

        `Accepted.job` is the id to go on with.  ``again``: its results are gone, and it is to be rendered once more.
        """
        request = messages.Submit(0, job, spec, inputs, self.requester, self.lease_s, again, priority)
        return self._request(request, messages.Accepted, messages.Need, should_stop=should_stop)

    def attach(self, job: str, after: int = 0, *, should_stop: ShouldStop | None = None) -> messages.Attached:
        """Follow a job: `next_event` then gives its events with ``seq`` > ``after``, in order, each once.

        Raises `JobRejected` with the field "job" when the server does not know the job.
        """
        self._following[job] = after
        try:
            return self._request(self._attach_to(job, after), messages.Attached, should_stop=should_stop)
        except DasError:
            self._following.pop(job, None)
            raise

    def is_following(self, job: str) -> bool:
        """Whether events of the job are still to come."""
        return job in self._following

    def renew_lease(self, job: str) -> None:
        """Say that the job is still wanted, where a lease asks for it and it is time; any answer is good."""
        if self._is_lease_due():
            self._beat_at = time.monotonic()
            self._send(self._attach_to(job, kinds.MAX_NUMBER))

    def cancel(self, job: str, *, timeout_s: float | None = None) -> messages.Cancelling:
        """Say that this requester wants the job no more; it ends when nobody does, and CANCELLED follows."""
        return self._request(messages.Cancel(0, job, self.requester), messages.Cancelling, timeout_s=timeout_s)

    def ack(self, job: str, *, should_stop: ShouldStop | None = None) -> messages.Acked:
        """Say that this requester has all it wants of a job; when all have, the server may forget its blobs."""
        return self._request(messages.Ack(0, job, self.requester), messages.Acked, should_stop=should_stop)

    def status(self, *, should_stop: ShouldStop | None = None) -> messages.StatusReport:
        """The server's jobs and workers, for people."""
        return self._request(messages.Status(0), messages.StatusReport, should_stop=should_stop)

    def list_jobs(self, prefix: str, *, should_stop: ShouldStop | None = None) -> list[dict]:
        """The jobs whose ids begin with ``prefix``, newest first, as the server lists them."""
        return self._request(messages.ListJobs(0, prefix=prefix), messages.JobList, should_stop=should_stop).jobs

    def ping(self, *, timeout_s: float | None = None, should_stop: ShouldStop | None = None) -> float:
        """The time of one round trip, seconds."""
        start = time.monotonic()
        self._request(messages.Ping(0), messages.Pong, timeout_s=timeout_s, should_stop=should_stop)
        return time.monotonic() - start

    def pair(self, public: str, machine: str) -> str:
        """Exchange this connection's key for one use for the public key ``public`` → the user whose it is now."""
        return self._request(messages.Pair(0, public, machine), messages.Paired).user

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
        sha = sha or blob_sha(blob)
        try:
            return self._upload(blob, sha, on_progress, should_stop)
        except ProtocolError as error:
            if error.field != "sha":
                raise
            log.warning("the upload of %s arrived damaged and is sent again: %s", sha, error)
        return self._upload(blob, sha, on_progress, should_stop)

    def _upload(self, blob: bytes, sha: str, on_progress: OnBytes | None, should_stop: ShouldStop | None) -> str:
        size, view = len(blob), memoryview(blob)
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
    ) -> memoryview:
        """The blob ``sha`` of ``size_bytes``; see `fetch_each`."""
        return next(self.fetch_each([(sha, size_bytes)], on_progress, should_stop))

    def fetch_each(
        self,
        blobs: Iterable[tuple[str, int]],
        on_progress: OnBytes | None = None,
        should_stop: ShouldStop | None = None,
    ) -> Iterator[memoryview]:
        """Blobs, ``(sha, size_bytes)`` each, in order, each checked against its sha.

        The credit goes on from one blob to the next, so that a small one does not cost a round trip of its own.
        ``on_progress(received_bytes, size_bytes)`` counts all of them.  Raises `StorageError` when one arrives damaged
        twice.
        """
        keep_freed_memory()
        digests = Digests(None)  # of what is kept, so that nobody waits for it before the end
        try:
            yield from self._fetch_each(blobs, digests, on_progress, should_stop)
        finally:
            digests.close()

    def _fetch_each(
        self,
        blobs: Iterable[tuple[str, int]],
        digests: Digests,
        on_progress: OnBytes | None,
        should_stop: ShouldStop | None,
    ) -> Iterator[memoryview]:
        downloads = collections.deque(_Download(sha, size_bytes, digests) for sha, size_bytes in blobs)
        total, received = sum(one.size_bytes for one in downloads), 0
        waiting = collections.deque((one, offset) for one in downloads for offset in one.offsets())
        flying: dict[int, tuple[_Download, int]] = {}
        moved = time.monotonic()
        if self._socket is None:
            self._greet(should_stop, self.timeout_s)
        while downloads:
            # 1. what is complete
            if (one := downloads[0]).is_complete:
                if one.is_whole():
                    yield downloads.popleft().content()
                else:
                    received -= one.size_bytes
                    waiting.extendleft((one, offset) for offset in reversed(one.begin_again()))
                moved = time.monotonic()
                continue
            # 2. ask for more
            while len(flying) < FETCH_CREDIT and waiting:
                one, offset = waiting[0]
                piece = messages.Fetch(0, one.sha, offset, one.length_at(offset))
                number = self._send(piece, should_stop=should_stop)
                if number is None:
                    break
                flying[number] = waiting.popleft()
            # 3. take one piece
            answer = self._answer(flying, self._attempt_s, should_stop) if flying else None
            if answer is None:
                self._recover("the download", moved, should_stop)
                waiting.extendleft(reversed(flying.values()))
                flying = {}
                continue
            chunk, piece = self._expect(answer[0], messages.Chunk), answer[1]
            one, offset = flying.pop(chunk.request)
            one.take(chunk, piece, offset)
            received, moved = received + len(piece), time.monotonic()
            if on_progress:
                on_progress(received, total)

    def _ask_upload(self, sha: str, size_bytes: int, should_stop: ShouldStop | None) -> int:
        """How much of the blob the server has: a PUT with an empty piece."""
        return self._request(messages.Put(0, sha, size_bytes, 0), messages.Have, should_stop=should_stop).received_bytes


def pair_with(line: str, *, timeout_s: float = 10.0) -> tuple[str, str]:
    """Pair this machine by a line of ``das-server keys pair`` → (address, user); see `keys.pair`."""

    def ask(address: str, keys: ServerKeys, public: str, machine: str) -> str:
        with DasClient(address, timeout_s=timeout_s, keys=keys) as client:
            return client.pair(public, machine)

    return pair(line, ask)


class _Download:
    """A blob that is coming in pieces, hashed while the rest is on its way."""

    def __init__(self, sha: str, size_bytes: int, digests: Digests):
        self.sha = sha
        self.size_bytes = size_bytes
        self._content = memoryview(b"")
        self._early: set[int] = set()
        self._digests = digests
        self._running, self._hashed = digests.begin(), 0
        self._was_damaged = False

    def offsets(self) -> range:
        """Where its pieces begin."""
        return range(0, self.size_bytes, CHUNK_BYTES)

    def length_at(self, offset: int) -> int:
        """Bytes of the piece that begins at ``offset``."""
        return min(CHUNK_BYTES, self.size_bytes - offset)

    @property
    def is_complete(self) -> bool:
        return self._hashed >= self.size_bytes

    def take(self, chunk: messages.Chunk, piece: memoryview, offset: int) -> None:
        """Keep the answer to the request for the piece at ``offset``; `ProtocolError` when it is another one."""
        if chunk.size_bytes != self.size_bytes or chunk.offset != offset or len(piece) != self.length_at(offset):
            raise ProtocolError(
                f"The server sent bytes {chunk.offset} to {chunk.offset + len(piece)} of {chunk.size_bytes} of a "
                f"blob where {offset} onward of {self.size_bytes} was asked for; use the same release on both sides."
            )
        if not self._content and self.size_bytes:
            self._content = np.empty(self.size_bytes, np.uint8).data
        np.copyto(np.frombuffer(self._content[offset : offset + len(piece)], np.uint8), np.frombuffer(piece, np.uint8))
        self._early.add(offset)
        while self._hashed in self._early:
            self._early.remove(self._hashed)
            self._running.update(self._content[self._hashed : self._hashed + CHUNK_BYTES])
            self._hashed += CHUNK_BYTES

    def is_whole(self) -> bool:
        """Whether what arrived has the sha."""
        return self._running.hexdigest() == self.sha

    def begin_again(self) -> range:
        """Forget what arrived, because it is damaged, and give `offsets`; `StorageError` the second time."""
        log.warning("blob %s arrived damaged", self.sha)
        if self._was_damaged or not self.size_bytes:
            raise StorageError(
                f"The blob {self.sha[:12]}… arrived damaged twice; look at the server's disk and render again.",
                field="sha",
            )
        self._was_damaged = True
        self._early, self._running, self._hashed = set(), self._digests.begin(), 0
        return self.offsets()

    def content(self) -> memoryview:
        """All of it."""
        return self._content.toreadonly()
