# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door: one thread, one ROUTER socket; decode → handler → reply, and events to whoever attached.

Never imports torch, and nothing here waits for a model: workers are other processes, and every handler ends within
milliseconds.
"""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import zmq

from das_blender_addon.errors import (
    DasError,
    JobRejected,
    MessageTooLarge,
    ModelError,
    ProtocolError,
    SettingsError,
    StorageError,
    VersionMismatch,
)
from das_blender_addon.protocol import messages
from das_blender_addon.protocol.codec import decode, encode, request_of
from das_blender_addon.protocol.frames import CODECS
from das_blender_addon.protocol.messages import CHUNK_BYTES, PROTOCOL_VERSIONS, Capabilities, ModelCapability
from das_server import __version__
from das_server.blobs import BlobStore
from das_server.config import ServerConfig
from das_server.jobs import Job, JobStore, lock_state
from das_server.models.registry import capabilities_of_models, is_installed, model_path, model_spec
from das_server.tasks.base import task_module
from das_server.workers.base import Workers
from das_server.workers.dispatch import Dispatcher
from das_server.workers.local import LocalWorkers
from das_server.workers.speed import SpeedRecord

_log = logging.getLogger(__name__)

TICK_MS = 100
"""Longest sleep, and so the longest time before a dead worker is noticed."""

REQUESTS_PER_TURN = 64
"""Requests answered before the workers are looked at again."""

COLLECT_EVERY_S = 600.0
MAX_MESSAGE_BYTES = 8 << 20
STATUS_JOBS = 50

Models = Callable[[], dict[str, ModelCapability]]


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
        self._blobs = blobs
        self._workers = workers
        self._dispatcher = dispatcher
        self._models = models
        self._default_model = default_model
        self._max_blob_bytes = max_blob_bytes
        self._speed = speed
        self._server_id = uuid.uuid4().hex
        self._started_s = time.monotonic()
        self._followers: dict[tuple[bytes, str], int] = {}
        self._handlers: dict[type, Callable[..., Any]] = {
            messages.Hello: self._hello,
            messages.Put: self._put,
            messages.Submit: self._submit,
            messages.Attach: self._attach,
            messages.Fetch: self._fetch,
            messages.Cancel: self._cancel,
            messages.Ack: self._ack,
            messages.Ping: lambda peer, message, blob: (messages.Pong(message.request), None),
            messages.Status: self._status,
        }

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
        try:
            message, blob = decode(frames)
            handler = self._handlers.get(type(message))
            if handler is None:
                raise ProtocolError(f"{type(message).__name__} is not a request.", field="type")
            reply, content = handler(peer, message, blob)
        except DasError as error:
            if not isinstance(error, ProtocolError | JobRejected):
                _log.warning("a request failed: %s", error.message)
            reply, content = _failure(request_of(frames), error), None
        except Exception as error:  # a defect of ours must not end the server for everybody
            _log.exception("a request failed unexpectedly")
            inside = DasError(f"The server failed inside with {type(error).__name__}; its log has the details.")
            reply, content = _failure(request_of(frames), inside), None
        try:
            self._send(peer, reply, content)
        except ProtocolError as error:  # a reply that cannot be written
            _log.error("a reply could not be written: %s", error.message)
            self._send(peer, _failure(request_of(frames), error))

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

    def _hello(self, peer: bytes, message: messages.Hello, blob: None):
        common = [version for version in PROTOCOL_VERSIONS if version in message.versions]
        if not common:
            raise VersionMismatch(
                f"The client speaks protocol {_words(message.versions[:8])}, this server {__version__} speaks "
                f"{_words(PROTOCOL_VERSIONS)}; install matching releases.",
                field="versions",
            )
        devices = [one.device_label or one.device for one in self._workers.status()]
        models = list(self._models().values())
        if self._speed is not None:
            models = [replace(one, is_fast=self._speed.is_fast(one.name, devices)) for one in models]
        capabilities = Capabilities(
            default_model=self._default_model,
            models=models,
            codecs=list(CODECS),
            max_blob_bytes=self._max_blob_bytes,
            devices=devices,
        )
        server = f"das-server {__version__}"
        return messages.Welcome(message.request, common[0], self._server_id, server, capabilities), None

    def _put(self, peer: bytes, message: messages.Put, blob: memoryview):
        received = self._blobs.put(message.sha, message.size_bytes, message.offset, blob)
        return messages.Have(message.request, message.sha, received), None

    def _submit(self, peer: bytes, message: messages.Submit, blob: None):
        spec, inputs = message.spec, message.inputs
        duplicate = self._store.find(message.job) is not None
        if not duplicate:
            task = task_module(spec.task)
            task.check(spec, inputs, self._model(spec.model))
            missing = self._missing_blobs(inputs)
            if missing:
                return messages.Need(message.request, message.job, missing), None
        job, duplicate = self._store.submit(message.job, spec, inputs)
        if not duplicate:
            _log.info("job %s: accepted, %s with %s at %s×%s", job.job, spec.task, spec.model, spec.width, spec.height)
        return messages.Accepted(message.request, job.job, duplicate, self._store.queue_position(job)), None

    def _attach(self, peer: bytes, message: messages.Attach, blob: None):
        job = self._store.get(message.job)
        self._followers[peer, job.job] = message.after
        return messages.Attached(message.request, job.job, self._store.last_seq(job.job)), None

    def _fetch(self, peer: bytes, message: messages.Fetch, blob: None):
        if message.length > CHUNK_BYTES:
            raise MessageTooLarge(
                f"A piece of {message.length} bytes is over the limit of {CHUNK_BYTES}.", field="length"
            )
        piece = self._blobs.read(message.sha, message.offset, message.length)
        size = self._blobs.size_bytes(message.sha)
        if size is None:
            raise StorageError(f"The server has just forgotten the blob {message.sha[:12]}….")
        return messages.Chunk(message.request, message.sha, message.offset, size), piece

    def _cancel(self, peer: bytes, message: messages.Cancel, blob: None):
        job = self._dispatcher.cancel(message.job)
        _log.info("job %s: cancellation asked for while %s", job.job, job.state.value)
        return messages.Cancelling(message.request, job.job, job.state.value), None

    def _ack(self, peer: bytes, message: messages.Ack, blob: None):
        for sha in self._store.acknowledge(message.job):
            self._blobs.delete(sha, unless_newer_than=self._store.oldest_running_s())
        return messages.Acked(message.request, message.job), None

    def _status(self, peer: bytes, message: messages.Status, blob: None):
        jobs = [self._describe(job) for job in self._store.in_states(limit=STATUS_JOBS)]
        workers = [asdict(one) for one in self._workers.status()]
        uptime_s = time.monotonic() - self._started_s
        return messages.StatusReport(message.request, self._server_id, uptime_s, jobs, workers), None

    # ── Inside ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _model(self, name: str) -> ModelCapability:
        models = self._models()
        if name not in models:
            raise JobRejected(
                f"The model {name[:80]!r} does not exist; this server knows {', '.join(models)}.", field="model"
            )
        if not models[name].installed:
            usable = ", ".join(one.name for one in models.values() if one.installed)
            raise JobRejected(
                f"The model {name} is known but its weights are not installed; use one of {usable}.", field="model"
            )
        return models[name]

    def _missing_blobs(self, inputs: list[messages.JobInput]) -> list[str]:
        missing = []
        for one in inputs:
            size = self._blobs.size_bytes(one.sha)
            if size is None:
                missing.append(one.sha)
            elif size != one.size_bytes:
                raise JobRejected(
                    f"The input {one.role} is said to have {one.size_bytes} bytes but has {size}.", field=one.role
                )
        return missing

    def _describe(self, job: Job) -> dict[str, Any]:
        progress = self._store.last_event(job.job, "PROGRESS")
        last = self._store.last_event(job.job)
        about = {
            "job": job.job,
            "state": job.state.value,
            "task": job.spec.task,
            "model": job.spec.model,
            "seed": job.spec.seed,
        }
        about |= {"attempt": job.attempt, "created_s": job.created_s, "changed_s": job.changed_s}
        about |= {"queue_position": self._store.queue_position(job), "acknowledged": job.acknowledged}
        if progress:
            about |= {name: progress.fields.get(name) for name in ("stage", "step", "of", "elapsed_s")}
        if last and last.kind in ("FAILED", "RETRY"):
            about |= {"code": last.fields["code"], "message": last.fields["message"]}
        return about


def known_models() -> dict[str, ModelCapability]:
    """Every model of the table by name, with whether its weights are there now."""
    return {one.name: one for one in capabilities_of_models()}


def _failure(request: int, error: DasError) -> messages.Failure:
    return messages.Failure(request, error.code, error.message, error.field or "")


def _words(versions: Any) -> str:
    return ", ".join(str(version) for version in versions) or "none"


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
    while not stop.is_set():
        poller.poll(TICK_MS)
        endpoint.receive()
        dispatcher.tick()
        endpoint.tell_followers()
        if time.monotonic() >= collect_at_s:
            collect_at_s = time.monotonic() + COLLECT_EVERY_S
            _collect(store, blobs, keep_s)


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
