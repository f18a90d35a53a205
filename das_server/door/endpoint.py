# SPDX-License-Identifier: GPL-3.0-or-later
"""One ROUTER socket: decode → `requests` → reply, and events to whoever attached.  Nothing here waits for a model, and
every handler ends within milliseconds.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import zmq

from das_blender_addon.errors import DasError, JobRejected, ProtocolError
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode, request_of
from das_blender_addon.protocol.kinds import Name, fitting
from das_server.door.beside import BLOBS, JOBS, LOOKS, Beside
from das_server.door.callers import Callers, Peer
from das_server.door.connections import Connections
from das_server.door.draining import Drain
from das_server.door.flying import Flying
from das_server.door.followers import Followers, SlowPeers
from das_server.door.gate import Gate
from das_server.door.requests import Estimators, Models, Reply, Requests
from das_server.door.seldom import Seldom
from das_server.limits import MAX_SENT_BYTES
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobStore
from das_server.store.keys import KeyRing
from das_server.store.reading import EVENTS_AT_ONCE
from das_server.workers.base import Workers
from das_server.workers.dispatch import Dispatcher
from das_server.workers.speed import SpeedRecord

_log = logging.getLogger(__name__)

REQUESTS_PER_TURN = 64
"""Requests answered before the workers are looked at again."""

TURN_S = 0.02

LOOK_EVERY_S, KEEP_EVERY_S = 0.05, 0.2

PROMISES = (messages.Submit, messages.Cancel, messages.Ack, messages.Requeue)
"""Requests whose reply says that something is kept."""


class Endpoint:
    """Answers requests.  ``models``: what can be asked for now, by name.  ``speed``: how fast it was made so far.
    ``connections``: those of ``socket``.  ``beside``: what waits for the disk is done there.  ``gate``: where
    nobody is let in without one of ``keys``.  ``has_told_all``: no event waits for a client to read those before it.
    """

    def __init__(
        self,
        socket: zmq.Socket,
        store: JobStore,
        blobs: BlobStore,
        workers: Workers,
        dispatcher: Dispatcher,
        *,
        models: Models,
        default_model: str,
        max_blob_bytes: int,
        speed: SpeedRecord | None = None,
        connections: Connections | None = None,
        beside: Beside | None = None,
        gate: Gate | None = None,
        keys: KeyRing | None = None,
        callers: Callers | None = None,
        max_sent_bytes: int = MAX_SENT_BYTES,
        drain: Drain | None = None,
        estimators: Estimators = dict,
        flying: Flying | None = None,
    ):
        self.has_told_all = True
        self._socket = socket
        self._connections = connections
        self._look_at_s = self._keep_at_s = 0.0
        self._keeps = self._deletes = False
        self._say = Seldom(_log)
        self._blobs = blobs
        self._beside = beside or Beside()
        self._gate = gate
        self._callers = callers or Callers()
        self._flying = flying or Flying()
        self._store = store
        self._followers, self._slow = Followers(), SlowPeers()
        self._requests = Requests(
            store,
            blobs,
            workers,
            dispatcher,
            follow=self._followers.follow,
            models=models,
            default_model=default_model,
            max_blob_bytes=max_blob_bytes,
            speed=speed,
            keys=keys,
            max_sent_bytes=max_sent_bytes,
            drain=drain,
            estimators=estimators,
        )

    def totals(self) -> dict[str, Any]:
        """How many jobs there are of each kind, and more, as in a status."""
        return self._requests.totals()

    def receive(self) -> None:
        """Answer the requests that have come, up to `REQUESTS_PER_TURN` of them, or for `TURN_S`."""
        until_s, count = time.monotonic() + TURN_S, 0
        while count < REQUESTS_PER_TURN and time.monotonic() < until_s:
            if not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:  # quicker than an exception
                return
            peer = self._socket.recv(zmq.NOBLOCK)
            if self._connections is not None and self._connections.is_ignored(peer):
                while self._socket.recv(copy=False).more:
                    continue
                continue
            count += 1
            frames = self._socket.recv_multipart(copy=False)
            if self._connections is None or self._connections.heard(peer, frames):
                self._followers.heard(peer)
                self._answer(peer, frames)

    def deliver(self) -> None:
        """Send the replies that the disk has let go, and have what nobody needs any more deleted."""
        self._beside.deliver()
        if self._blobs.has_unneeded and not self._deletes:
            self._deletes = True
            self._beside.do(self._blobs.delete_unneeded, self._deleted)

    def _deleted(self, _: None, error: Exception | None) -> None:
        self._deletes = False
        if error is not None:
            self._say(logging.ERROR, "unneeded blobs are not deleted: %s", error)

    def look_at_connections(self) -> None:
        """See to connections that are too many; every `LOOK_EVERY_S` to those that hold more than their share, too, and
        that what nobody was promised comes to the disk."""
        if self._connections is not None:
            self._connections.look_who_came()
        if time.monotonic() < self._look_at_s:
            return
        self._look_at_s = time.monotonic() + LOOK_EVERY_S
        if self._store.log.is_behind and not self._keeps and time.monotonic() >= self._keep_at_s:
            self._keeps, self._keep_at_s = True, time.monotonic() + KEEP_EVERY_S
            self._beside.do(self._store.log.flush, self._kept, lane=JOBS)
        if self._connections is not None:
            self._connections.look()

    def _kept(self, _: None, error: Exception | None) -> None:
        self._keeps = False
        if error is not None:
            self._say(logging.ERROR, "the job list is not on disk: %s", error)

    def tell_followers(self) -> None:
        """Send every event that an attached client has not had; one that cannot be sent now comes next time, or, where
        the client does not read, now and then."""
        self.has_told_all = True
        self._followers.has_news(self._store.told)
        self._store.told.clear()
        for peer, job, after in self._followers.take_due():
            if self._slow.waits(peer):
                self._put_off(peer, job)
                continue
            try:
                self._tell(peer, job, after)
            except DasError as error:  # a disk that refuses, an event that cannot be written: its client asks again
                _log.error("job %s: its events cannot be sent: %s", job, error.message)
                self._followers.leave(peer, job)
            except Exception:  # a defect of ours must not end the server for everybody
                _log.exception("job %s: its events cannot be sent", job)
                self._followers.leave(peer, job)

    def _tell(self, peer: bytes, job: str, after: int) -> None:
        events = self._store.events(job, after=after)
        for event in events:
            is_sent = self._send(peer, event)
            if not self._followers.follows(peer, job):  # it is gone
                return
            if not is_sent:
                self._slow.note_full(peer)
                break
            self._slow.note_sent(peer)
            self._followers.was_told(peer, job, event.seq)
            if event.kind in messages.FINAL_EVENT_KINDS:
                self._followers.leave(peer, job)
                return
        else:
            if len(events) < EVENTS_AT_ONCE:
                return
        self._put_off(peer, job)

    def _put_off(self, peer: bytes, job: str) -> None:
        self._followers.put_off(peer, job)
        self.has_told_all = self.has_told_all and not self._slow.is_tried_soon(peer)

    # ── One request ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, peer: bytes, received: list[zmq.Frame]) -> None:
        """Answer one request; whatever it does, nobody else notices, nor waits for a disk."""
        frames, message = [frame.buffer for frame in received], None
        try:
            key = self._gate.key_of(received[0]) if self._gate is not None else None
            message, blob = decode(frames, is_request=True)
            caller = self._callers.of_key(key) if key is not None else self._callers.of_peer(peer)
            who = Peer(peer, caller)
            if isinstance(message, messages.Hello):
                look = self._requests.look_at_offers()
                greet = self._requests.greet
                self._do_beside(who, message, look, lambda it: self._send(peer, *greet(message, it)), lane=LOOKS)
                return
            if key is not None and (key.is_for_one_use or isinstance(message, messages.Pair)):
                exchange = self._requests.exchange(key, message)
                self._do_beside(who, message, exchange, lambda reply: self._send(peer, *reply), lane=LOOKS)
                return
            look = self._requests.look_at_results(who, message)
            if self._requests.waits_for_the_disk(message):
                if blob is not None and not self._flying.takes(peer, len(blob)):
                    blob = memoryview(b"")  # what is there of the blob is the answer; its client sends this again
                size_bytes = len(blob) if blob is not None else 0
                work = self._requests.work(who, message, blob)
                go_on = functools.partial(self._note_and_send, who, message)
                self._do_beside(who, message, work, go_on, size_bytes=size_bytes)
            elif look is not None:
                answer = functools.partial(self._requests.answer, who, message, blob)
                self._do_beside(who, message, look, lambda gone: self._reply(who, message, answer(results_gone=gone)))
            else:
                self._reply(who, message, self._requests.answer(who, message, blob))
        except Exception as error:  # among them a reply that cannot be written
            self._refuse(peer, request_of(frames) if message is None else getattr(message, "request", 0), error)

    def _do_beside(
        self,
        who: Peer,
        message: Any,
        work: Callable[[], Any],
        go_on: Callable[[Any], None],
        *,
        lane: str = BLOBS,
        size_bytes: int = 0,
    ) -> None:
        """Go on with what ``work`` gives, which waits for the disk and holds so many bytes until then."""
        peer = who.routing_id

        def then(result: Any, error: Exception | None) -> None:
            self._flying.end(peer, size_bytes)
            try:
                if error is not None:
                    raise error
                go_on(result)
            except Exception as problem:
                self._refuse(peer, message.request, problem)

        self._flying.begin(peer, size_bytes)
        self._beside.do(work, then, lane=lane)

    def _note_and_send(self, who: Peer, message: Any, reply: Reply) -> None:
        self._requests.note_reply(who, message, reply)
        self._send(who.routing_id, *reply)

    def _reply(self, who: Peer, message: Any, reply: Reply) -> None:
        if isinstance(message, PROMISES) and self._store.log.is_behind:
            self._send_once_kept(who.routing_id, message.request, reply)
        else:
            self._send(who.routing_id, *reply)

    def _send_once_kept(self, peer: bytes, request: int, reply: Reply) -> None:
        """Send a reply that is a promise, when what it promises is on disk."""

        def then(_: None, error: Exception | None) -> None:
            if error is not None:
                self._refuse(peer, request, error)
            else:
                self._send(peer, *reply)

        self._beside.do(self._store.log.flush, then, lane=JOBS)

    def _refuse(self, peer: bytes, request: int, error: Exception) -> None:
        if not isinstance(error, DasError):  # a defect of ours must not end the server for everybody
            self._say(logging.ERROR, "a request failed unexpectedly", exc_info=error)
            error = DasError(f"The server failed inside with {type(error).__name__}; its log has the details.")
        elif not isinstance(error, ProtocolError | JobRejected):
            self._say(logging.WARNING, "a request failed: %s", error.message)
        try:
            self._send(peer, _failure(request, error))
        except Exception as problem:  # its client asks again, or goes away
            self._say(logging.ERROR, "a request could not be refused: %s", error.message, exc_info=problem)

    def _send(self, peer: bytes, message: Any, blob: bytes | None = None) -> bool:
        """Whether the message is on its way; a client that is gone or does not read misses replies and asks again."""
        try:
            self._socket.send_multipart([peer, *encode(message, blob)], zmq.NOBLOCK, copy=False)
            return True
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._followers.drop(peer)
            return False


def _failure(request: int, error: DasError) -> messages.Failure:
    return messages.Failure(request, error.code, fitting(error.message), fitting(error.field or "", Name))
