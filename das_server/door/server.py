# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole server: what is on disk, the socket, the workers, and the one loop that turns them all."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import zmq

from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.messages import ModelCapability
from das_server import listening
from das_server.config import LOCAL, SPEEDS, ServerConfig, needs_keys
from das_server.door.beside import Beside
from das_server.door.callers import Callers
from das_server.door.collect import Collector
from das_server.door.connections import Connections, open_door
from das_server.door.draining import Drain, Ending
from das_server.door.endpoint import Endpoint
from das_server.door.gate import Gate
from das_server.door.heap import keep_freed_memory, keep_what_is_there
from das_server.models.estimators import capabilities_of_estimators
from das_server.models.registry import capabilities_of_models, is_installed, model_path, model_spec
from das_server.models.revision import QUICK_BYTES, Revisions
from das_server.store.blobs import BlobStore
from das_server.store.endings import Life
from das_server.store.jobs import JobStore
from das_server.store.keys import KeyRing
from das_server.store.state_lock import lock_state
from das_server.workers.base import Workers
from das_server.workers.dispatch import Dispatcher
from das_server.workers.local import LocalWorkers
from das_server.workers.patience import Patience
from das_server.workers.ray import RayWorkers, cluster_address
from das_server.workers.room import Room
from das_server.workers.speed import SpeedRecord

if TYPE_CHECKING:
    from das_server.door.metrics import Metrics

_log = logging.getLogger(__name__)

TICK_MS = 100
"""Longest sleep, and so the longest time before a dead worker is noticed."""

OTHERS_MS = 5
"""While pieces of blobs come and go, workers and all else are looked at this often."""

UNTOLD_MS = 5
"""The same while events wait for a client to read those before them."""

PAIR_S = 1.0
"""How long pairing waits for another process that changes the keys."""

TELL_AGAIN_S = 60.0
"""Pause before the same failure of a step of the loop is logged again."""


def serve(config: ServerConfig, *, on_ready: Callable[[str], None], stop: threading.Event | None = None) -> None:
    """Run until SIGINT or ``stop``, or, after SIGTERM or DRAIN, until running jobs have had their time.  ``on_ready``
    is told the address that clients can connect to.

    Raises `SettingsError` (address or state folder in use), `ModelError` (no such model), `StorageError`.
    One function, though long: the parts of the server, in the order in which they begin and, backwards, end.
    """
    # 1. What must be right before anything starts.
    stop = stop or threading.Event()
    if config.workers != LOCAL:
        cluster_address(config.workers)
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
        keep_freed_memory()
        context = zmq.Context()
        gate = Gate(context, KeyRing(config.state)) if needs_keys(config) else None
        door = open_door(context, config.bind, gate)
        connections, beside = Connections(door), Beside()
        speed = SpeedRecord(config.state)
        revisions = Revisions(config.state)
        for model in known_models().values():
            if model.installed:  # other machines compare content, so that all of it must be known
                revisions.learn(model.name, at_most=QUICK_BYTES if config.workers == LOCAL else sys.maxsize)
        workers = _workers(context, config, store, revisions)
        dispatcher = Dispatcher(
            store,
            blobs,
            workers,
            max_attempts=config.max_attempts,
            max_running=config.max_running,
            room=Room(config.state, config.min_free_bytes // 4),
            speed=speed,
            check_weights=revisions.check,
        )
        drain = Drain()
        endpoint = Endpoint(
            door,
            store,
            blobs,
            workers,
            dispatcher,
            models=lambda: known_models(revisions, config.speed),
            default_model=config.model,
            max_blob_bytes=config.max_blob_bytes,
            speed=speed,
            connections=connections,
            beside=beside,
            gate=gate,
            keys=KeyRing(config.state, wait_s=PAIR_S),  # its own, for another thread
            callers=Callers(config.admins),
            drain=drain,
            estimators=capabilities_of_estimators,
        )
        ending = Ending(drain, dispatcher.give_out_no_more, store, stop, config.drain_s)
        collector = Collector(
            store,
            blobs,
            beside,
            keep_s=config.keep_s,
            keep_unfetched_s=config.keep_unfetched_s,
            max_kept_bytes=config.max_kept_bytes,
        )
        metrics = _metrics(config.metrics, store, dispatcher, endpoint, collector) if config.metrics else None
        life = Life(config.state)
        try:
            dispatcher.recover(life.last)
            workers.start()
            ending.listen_to_signals()
            address = door.getsockopt_string(zmq.LAST_ENDPOINT)
            more = [collector.step, *([metrics.step] if metrics else [])]
            page = metrics.server if metrics else contextlib.nullcontext()
            with page, listening.said_in(config.state, address, gate is not None):
                on_ready(address)
                keep_what_is_there()
                _loop(endpoint, dispatcher, more, gate, [door, connections.news, *workers.bells(), beside.bell], ending)
            life.note_end()
        except BaseException as error:
            life.note_end(error)
            raise
        finally:
            # 4. Running jobs stay RUNNING on disk and go on with the next start.
            _log.info("the server stops")
            workers.stop()
            connections.close()
            door.close(linger=0)
            if gate is not None:
                gate.socket.close()
            beside.close()
            context.term()
            store.close()


def _workers(context: zmq.Context, config: ServerConfig, store: JobStore, revisions: Revisions) -> Workers:
    patience = Patience(config.cancel_grace_s, config.heartbeat_timeout_s, config.stall_timeout_s)
    about = {
        "threads": config.threads,
        "profile": config.profile,
        "attention_backend": config.attention_backend,
        "compile_blocks": config.compile,
        "float8": config.float8,
        "speed": config.speed,
    }
    if config.workers == LOCAL:
        about |= asdict(patience) | {"spares": config.spares}
        return LocalWorkers(context, config.state, devices=config.devices, model=config.model, **about)
    return RayWorkers(
        context,
        config.state,
        address=cluster_address(config.workers),
        devices=config.devices,
        model=config.model,
        fewest=config.min_workers,
        most=config.max_workers,
        waiting=store.num_waiting,
        models=lambda: _revisions_of_all(revisions),
        patience=patience,
        **about,
    )


def _metrics(port: int, store: JobStore, dispatcher: Dispatcher, endpoint: Endpoint, collector: Collector) -> Metrics:
    from das_server.door.metrics import Metrics  # nobody else needs its library

    metrics = Metrics(port, store, dispatcher.worker_status, endpoint.totals, lambda: collector.kept_bytes)
    _log.info("metrics are at %s/metrics", metrics.server.address)
    return metrics


def known_models(revisions: Revisions | None = None, speed: str = SPEEDS[0]) -> dict[str, ModelCapability]:
    """Every model of the table by name, with whether its weights are there now, and which they are; ``speed`` first of
    those that it has."""
    models = capabilities_of_models()
    models = [replace(one, speeds=sorted(one.speeds, key=lambda name: name != speed)) for one in models]
    if revisions is not None:
        models = [replace(one, revision=revisions.of(one.name) if one.installed else "") for one in models]
    return {one.name: one for one in models}


def _revisions_of_all(revisions: Revisions) -> dict[str, str]:
    """What the server has, models and estimators, by name."""
    models = {name: one.revision for name, one in known_models(revisions).items() if one.installed}
    there = [one.name for one in capabilities_of_estimators().values() if one.installed]
    return models | {name: revisions.of(name) for name in there}


def _loop(
    endpoint: Endpoint,
    dispatcher: Dispatcher,
    more: list[Callable[[], None]],
    gate: Gate | None,
    sockets: list[zmq.Socket | socket.socket],
    ending: Ending,
) -> None:
    poller = zmq.Poller()
    for one in [*sockets, gate.socket] if gate else sockets:
        poller.register(one, zmq.POLLIN)
    traffic = [Guarded(step) for step in (endpoint.receive, endpoint.deliver, *([gate.answer] if gate else []))]
    others = [Guarded(step) for step in (endpoint.look_at_connections, dispatcher.tick, *more)]
    tell = Guarded(endpoint.tell_followers)
    due_s, wait_ms = 0.0, 0
    while not ending.is_now():
        poller.poll(wait_ms)
        for step in traffic:
            step()
        is_due = time.monotonic() >= due_s
        if is_due:
            for step in others:
                step()
            due_s = time.monotonic() + OTHERS_MS / 1000
        tell()
        wait_ms = OTHERS_MS if not is_due else TICK_MS if endpoint.has_told_all else UNTOLD_MS


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
