# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door's endpoint by itself, for tests that turn its loop by hand."""

import zmq

from das_blender_addon.protocol import codec
from das_server.door.beside import Beside
from das_server.door.endpoint import Endpoint
from das_server.door.server import known_models
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobStore
from das_server.workers.dispatch import Dispatcher
from das_server.workers.local import LocalWorkers
from tests.support.jobs import job_id, job_inputs, job_spec

ANSWER_MS = 60_000


class House:
    """An endpoint whose loop is turned by hand, and a client's socket."""

    def __init__(self, folder, models=known_models):
        self.store = JobStore(folder)
        self.folder = folder
        self.beside = Beside()
        self.blobs = blobs = BlobStore(folder)
        self._context = zmq.Context()
        self._router = router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # as the front door's
        router.bind("inproc://front-door")
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.connect("inproc://front-door")
        workers = LocalWorkers(self._context, folder, devices=("cpu",))  # never started
        self.endpoint = Endpoint(
            router,
            self.store,
            blobs,
            workers,
            Dispatcher(self.store, blobs, workers),
            models=models,
            default_model="das-preview",
            max_blob_bytes=1 << 20,
            beside=self.beside,
        )
        self._workers = workers

    def close(self):
        self._workers.stop()
        self.beside.close()
        self._context.destroy(linger=0)
        self.store.close()

    def submitted(self):
        job, spec = job_id(), job_spec()
        self.store.submit(job, spec, job_inputs(spec)[0])
        return job

    def ask(self, request):
        """Send a request, let the endpoint answer it, and return the answer."""
        self.send(request)
        return self.heard()

    def send(self, request, blob=None):
        """Send a request, and let the endpoint take it."""
        self._dealer.send_multipart(codec.encode(request, blob))
        self.receive()

    def receive(self):
        """Let the endpoint take all that has come; a turn in which it had no time, on a busy machine, takes nothing."""
        while self._router.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self.endpoint.receive()

    def heard(self):
        assert self._dealer.poll(ANSWER_MS)
        return codec.decode(self._dealer.recv_multipart())[0]
