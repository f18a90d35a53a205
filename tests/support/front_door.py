# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole front door in a thread, on a real socket, whose workers never start: for what needs no picture."""

from __future__ import annotations

import threading
from pathlib import Path

import zmq

from das_server.door.ask import Asker
from das_server.door.beside import Beside
from das_server.door.connections import Connections, open_door
from das_server.door.endpoint import Endpoint
from das_server.door.flying import Flying
from das_server.door.gate import Gate
from das_server.door.server import known_models
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobStore
from das_server.store.keys import KeyRing
from das_server.workers.dispatch import Dispatcher
from das_server.workers.local import LocalWorkers


def wait_long(monkeypatch) -> None:
    """The commands of a test give a server on a busy machine more time than people like to wait."""
    monkeypatch.setitem(Asker.__init__.__kwdefaults__, "timeout_s", 60.0)


class FrontDoor:
    """Answers at ``address`` from entering to leaving.  ``locked``: only with a key of ``keys``."""

    def __init__(
        self,
        folder: Path,
        *,
        locked: bool = False,
        most: int = 64,
        max_blob_bytes: int = 1 << 22,
        max_jobs: int = 100,
        max_sent_bytes: int = 1 << 26,
        flying: Flying | None = None,
    ):
        self.flying, self.beside = flying or Flying(), Beside()
        self._max_jobs, self._max_sent_bytes = max_jobs, max_sent_bytes
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.keys = KeyRing(folder)
        self._locked, self._most, self._max_blob_bytes = locked, most, max_blob_bytes
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> FrontDoor:
        self._thread.start()
        assert self._ready.wait(120)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as failure:
            self.failure = failure
            self._ready.set()

    def _serve(self) -> None:
        context = zmq.Context()
        gate = None
        if self._locked:
            self.keys.create()
            gate = Gate(context, KeyRing(self.folder))
        door = open_door(context, "tcp://127.0.0.1:*", gate)
        self.address = door.getsockopt_string(zmq.LAST_ENDPOINT)
        connections, beside = Connections(door, most=self._most), self.beside
        store, blobs = (
            JobStore(self.folder, max_jobs=self._max_jobs),
            BlobStore(self.folder, max_blob_bytes=self._max_blob_bytes),
        )
        workers = LocalWorkers(context, self.folder, devices=("cpu",))
        dispatcher = Dispatcher(store, blobs, workers)
        models = known_models()
        endpoint = Endpoint(
            door,
            store,
            blobs,
            workers,
            dispatcher,
            models=lambda: models,
            default_model="das-preview",
            max_blob_bytes=self._max_blob_bytes,
            connections=connections,
            beside=beside,
            gate=gate,
            keys=KeyRing(self.folder),
            max_sent_bytes=self._max_sent_bytes,
            flying=self.flying,
        )
        poller = zmq.Poller()
        for one in (door, beside.bell, *([gate.socket] if gate else [])):
            poller.register(one, zmq.POLLIN)
        self._ready.set()
        while not self._stop.is_set():
            poller.poll(20)
            if gate is not None:
                gate.answer()
            for step in (endpoint.receive, endpoint.deliver, endpoint.look_at_connections, endpoint.tell_followers):
                step()
        workers.stop()
        connections.close()
        door.close(linger=0)
        if gate is not None:
            gate.socket.close()
        beside.close()
        context.term()
        store.close()
