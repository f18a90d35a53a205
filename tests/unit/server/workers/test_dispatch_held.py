# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs that outlived the server, with a real job list and a pool that still has them."""

from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobState, JobStore
from das_server.workers.dispatch import Dispatcher
from tests.support.jobs import job_id
from tests.unit.server.workers.test_dispatch import ScriptedWorkers, submitted


class HoldingWorkers(ScriptedWorkers):
    """Workers one of which still has jobs of before the server's start."""

    def __init__(self, *held: str):
        super().__init__()
        self.of_before = dict.fromkeys(held, "worker-0")

    def held(self):
        return dict(self.of_before)

    def free(self):
        return [] if self.of_before else super().free()

    def run(self, worker, order):
        super().run(worker, order)
        self.of_before.pop(order.job, None)

    def cancel(self, job):
        super().cancel(job)
        self.of_before.pop(job, None)


def test_job_that_outlived_the_server_goes_on_where_it_is_before_those_that_came_first(tmp_path):
    store, blobs = JobStore(tmp_path), BlobStore(tmp_path)
    first, held = submitted(store), submitted(store)
    workers = HoldingWorkers(held)
    Dispatcher(store, blobs, workers).tick()
    assert workers.order.job == held and store.get(first).state is JobState.QUEUED
    store.close()


def test_job_that_outlived_the_server_and_that_nobody_wants_is_ended(tmp_path):
    store, blobs = JobStore(tmp_path), BlobStore(tmp_path)
    cancelled = submitted(store)
    store.request_cancel(cancelled, everybody=True)
    workers = HoldingWorkers(cancelled, job_id())
    Dispatcher(store, blobs, workers).tick()
    assert workers.cancelled[0] == cancelled and len(workers.cancelled) == 2 and workers.order is None
    store.close()
