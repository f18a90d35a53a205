# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door: one thread, one ROUTER socket; decode → `requests` → reply, and events to whoever attached.

Never imports torch, and nothing here waits for a model: workers are other processes, and every handler ends within
milliseconds.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from das_blender_addon.errors import (
    DasError,
    JobRejected,
    ModelError,
    ProtocolError,
    SettingsError,
    StorageError,
)
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode, request_of
from das_blender_addon.protocol.kinds import Name, fitting
from das_blender_addon.protocol.messages import ModelCapability
from das_server.blobs import BlobStore
from das_server.config import ServerConfig
from das_server.jobs import JobStore
from das_server.models.registry import capabilities_of_models, is_installed, model_path, model_spec
from das_server.requests import Models, Requests
from das_server.state_lock import lock_state
from das_server.workers.base import Workers
from das_server.workers.dispatch import Dispatcher
from das_server.workers.local import LocalWorkers
from das_server.workers.speed import SpeedRecord

_log = logging.getLogger(__name__)

TICK_MS = 100
"""Longest sleep, and so the longest time before a dead worker is noticed."""

REQUESTS_PER_TURN = 64
"""Requests answered before the workers are looked at again."""

TELL_AGAIN_S = 60.0
"""Pause before the same failure of a step of the loop is logged again."""

COLLECT_EVERY_S = 600.0
MAX_MESSAGE_BYTES = 8 << 20

class Endpoint:
    """Answers requests.  ``models``: what can be asked for now, by name.  ``speed``: how fast it was made so far."""

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
    ):
        self._socket = socket
        self._store = store
        self._followers: dict[tuple[bytes, str], int] = {}
        self._requests = Requests(
            store,
            blobs,
            workers,
            dispatcher,
            follow=self._follow,
            models=models,
            default_model=default_model,
            max_blob_bytes=max_blob_bytes,
            speed=speed,
        )

    def receive(self) -> None:
        """Answer the requests that have come, up to `REQUESTS_PER_TURN` of them."""
        for _ in range(REQUESTS_PER_TURN):
            try:
                peer, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._answer(peer.bytes, [frame.buffer for frame in frames])

    def tell_followers(self) -> None:
        """Send every event that an attached client has not had; one that cannot be sent now comes next time."""
        for (peer, job), after in list(self._followers.items()):
            try:
                self._tell(peer, job, after)
            except DasError as error:  # a disk that refuses, an event that cannot be written: its client asks again
                _log.error("job %s: its events cannot be sent: %s", job, error.message)
                self._followers.pop((peer, job), None)
            except Exception:  # a defect of ours must not end the server for everybody
                _log.exception("job %s: its events cannot be sent", job)
                self._followers.pop((peer, job), None)

    def _follow(self, peer: bytes, job: str, after: int) -> None:
        self._followers[peer, job] = after

    def _tell(self, peer: bytes, job: str, after: int) -> None:
        for event in self._store.events(job, after=after):
            if not self._send(peer, event):
                break
            if (peer, job) in self._followers:
                self._followers[peer, job] = event.seq
            if event.kind in messages.FINAL_EVENT_KINDS:
                self._followers.pop((peer, job), None)

    # ── One request ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, peer: bytes, frames: list[memoryview]) -> None:
        """Answer one request; whatever it does, nobody else notices."""
        try:
            message, blob = decode(frames)
            reply, content = self._requests.answer(peer, message, blob)
            self._send(peer, reply, content)
        except DasError as error:  # among them a reply that cannot be written
            if not isinstance(error, ProtocolError | JobRejected):
                _log.warning("a request failed: %s", error.message)
            self._refuse(peer, frames, error)
        except Exception as error:  # a defect of ours must not end the server for everybody
            _log.exception("a request failed unexpectedly")
            inside = DasError(f"The server failed inside with {type(error).__name__}; its log has the details.")
            self._refuse(peer, frames, inside)

    def _refuse(self, peer: bytes, frames: list[memoryview], error: DasError) -> None:
        try:
            self._send(peer, _failure(request_of(frames), error))
        except Exception:  # its client asks again, or goes away
            _log.exception("a request could not be refused: %s", error.message)

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
            for follower in [one for one in self._followers if one[0] == peer]:
                del self._followers[follower]
            return False


def known_models() -> dict[str, ModelCapability]:
    """Every model of the table by name, with whether its weights are there now."""
    return {one.name: one for one in capabilities_of_models()}


def _failure(request: int, error: DasError) -> messages.Failure:
    return messages.Failure(request, error.code, fitting(error.message), fitting(error.field or "", Name))


# ── The whole server ────────────────────────────────────────────────────────────────────────────────────────────────


def serve(config: ServerConfig, *, on_ready: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Run until SIGINT, SIGTERM or ``stop``.  ``on_ready`` is told the address that clients can connect to.

    Raises `SettingsError` (address or state folder in use), `ModelError` (no such model), `StorageError`.
    """
    # 1. What must be right before anything starts.
    stop = stop or threading.Event()
    model_spec(config.model)
    if not is_installed(model_path(config.model)):
        raise ModelError(
            f"The weights of {config.model} are not installed; get them with das-server models pull {config.model} "
            f"--revision COMMIT, or install a folder with das-server models add {config.model} FOLDER.",
            field="model",
        )
    with lock_state(config.state):
        # 2. What is on disk.
        shutil.rmtree(config.state / "scratch", ignore_errors=True)
        blobs = BlobStore(config.state, max_blob_bytes=config.max_blob_bytes, min_free_bytes=config.min_free_bytes)
        store = JobStore(config.state)

        # 3. Sockets and workers.
        context = zmq.Context()
        socket = _bind(context, config.bind)
        workers = LocalWorkers(
            context,
            config.state,
            devices=config.devices,
            model=config.model,
            threads=config.threads,
            profile=config.profile,
            attention_backend=config.attention_backend,
            compile_blocks=config.compile,
            float8=config.float8,
            cancel_grace_s=config.cancel_grace_s,
            heartbeat_timeout_s=config.heartbeat_timeout_s,
            stall_timeout_s=config.stall_timeout_s,
        )
        speed = SpeedRecord(config.state)
        dispatcher = Dispatcher(store, blobs, workers, max_attempts=config.max_attempts, speed=speed)
        endpoint = Endpoint(
            socket,
            store,
            blobs,
            workers,
            dispatcher,
            models=known_models,
            default_model=config.model,
            max_blob_bytes=config.max_blob_bytes,
            speed=speed,
        )
        try:
            dispatcher.recover()
            workers.start()
            _stop_on_signals(stop)
            on_ready(socket.getsockopt_string(zmq.LAST_ENDPOINT))
            _loop(endpoint, dispatcher, store, blobs, [socket, workers.socket], stop, keep_s=config.keep_s)
        finally:
            # 4. Running jobs stay RUNNING on disk and go on with the next start.
            _log.info("the server stops")
            workers.stop()
            socket.close(linger=0)
            context.term()
            store.close()


def _loop(
    endpoint: Endpoint,
    dispatcher: Dispatcher,
    store: JobStore,
    blobs: BlobStore,
    sockets: list[zmq.Socket],
    stop: threading.Event,
    *,
    keep_s: float,
) -> None:
    poller = zmq.Poller()
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
    collect_at_s = time.monotonic()
    steps = [Guarded(step) for step in (endpoint.receive, dispatcher.tick, endpoint.tell_followers)]
    collect = Guarded(lambda: _collect(store, blobs, keep_s))
    while not stop.is_set():
        poller.poll(TICK_MS)
        for step in steps:
            step()
        if time.monotonic() >= collect_at_s:
            collect_at_s = time.monotonic() + COLLECT_EVERY_S
            collect()


class Guarded:
    """A step of the loop that ends it by no exception.  What one request, job or worker can do is contained further
    inside; this is for what nobody thought of.  The same failure is logged once in `TELL_AGAIN_S`.
    """

    def __init__(self, step: Callable[[], None]):
        self._step = step
        self._told = ""
        self._tell_again_s = 0.0

    def __call__(self) -> None:
        try:
            self._step()
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
            if failure != self._told or time.monotonic() >= self._tell_again_s:
                _log.exception("a step of the server failed; it goes on")
                self._told, self._tell_again_s = failure, time.monotonic() + TELL_AGAIN_S


def _collect(store: JobStore, blobs: BlobStore, keep_s: float) -> None:
    """Forget what nobody needs any more; a disk that refuses is no reason to stop."""
    try:
        jobs = store.forget_old(keep_s=keep_s)
        gone = blobs.collect(store.referenced_blobs(), older_than_s=keep_s)
    except (StorageError, OSError) as error:
        _log.error("old jobs are not cleared away: %s", error)
        return
    if jobs or gone:
        _log.info("forgot %s old jobs and %s blobs", len(jobs), len(gone))


def _bind(context: zmq.Context, address: str) -> zmq.Socket:
    socket = context.socket(zmq.ROUTER)
    for option, value in {
        zmq.LINGER: 0,
        zmq.MAXMSGSIZE: MAX_MESSAGE_BYTES,  # a larger message disconnects its sender
        zmq.HANDSHAKE_IVL: 3000,
        zmq.ROUTER_MANDATORY: 1,  # without it, replies to a full queue vanish silently
        zmq.SNDHWM: 256,
        zmq.HEARTBEAT_IVL: 5000,
        zmq.HEARTBEAT_TIMEOUT: 15000,
        zmq.HEARTBEAT_TTL: 15000,
        zmq.TCP_KEEPALIVE: 1,
        zmq.IPV6: int("[" in address),
    }.items():
        socket.setsockopt(option, value)
    try:
        socket.bind(address.replace("//localhost:", "//127.0.0.1:"))
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            message = f"Another program already listens on {address}; stop it or choose another port with --bind."
        else:
            message = f"The server cannot listen on {address}: {error.strerror}."
        raise SettingsError(message, field="bind") from error
    return socket


def _stop_on_signals(stop: threading.Event) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())


def ask_status(address: str, *, timeout_s: float = 5.0) -> messages.StatusReport:
    """Ask a running server for its status; raises `ServerUnreachable`."""
    from das_blender_addon.errors import ServerUnreachable, error_from_code

    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    try:
        socket.connect(address)
        socket.send_multipart(encode(messages.Status(1)))
        if not socket.poll(timeout_s * 1000):
            raise ServerUnreachable(f"No server answers at {address}; start one with das-server serve.")
        reply, _ = decode(socket.recv_multipart())
    finally:
        socket.close(linger=0)
        context.term()
    if isinstance(reply, messages.Failure):
        raise error_from_code(reply.code, reply.message, field=reply.field)
    return reply
