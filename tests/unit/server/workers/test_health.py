# SPDX-License-Identifier: GPL-3.0-or-later
"""A device that loses job after job is set aside, and what it lost is made elsewhere; a job that ends every worker is
given up all the same."""

import pytest

from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobState, JobStore
from das_server.workers import health
from das_server.workers.base import WorkDone, WorkerStatus, WorkLost
from das_server.workers.dispatch import Dispatcher
from tests.unit.server.workers.test_blame import TwoWorkers
from tests.unit.server.workers.test_dispatch import ScriptedWorkers, frame, submitted


class Farm:
    """A dispatcher over scripted workers, some of whose devices are sick, and some of whose jobs are poison."""

    def __init__(self, store, blobs, names=("worker-0", "worker-1"), sick=(), poison=()):
        self.store, self.blobs, self.sick, self.poison = store, blobs, sick, poison
        self.workers = TwoWorkers()
        self.workers.status = lambda: [WorkerStatus(name, "ready", "cuda:0") for name in names]
        self.dispatcher = Dispatcher(store, blobs, self.workers, max_attempts=3)
        self.tried: list[tuple[str, str]] = []

    def turn(self):
        """Everybody who has nothing to do gets a job, and ends it or dies of it."""
        self.dispatcher.tick()
        for name, order in list(self.workers.orders.items()):
            self.tried.append((name, order.job))
            if name in self.sick or order.job in self.poison:
                end = WorkLost(order.job, order.attempt, "It ended with exit status 70.")
            else:
                end = WorkDone(order.job, order.attempt, (frame(self.blobs),), {})
            self.workers.waiting.append(end)
            del self.workers.orders[name]
        self.dispatcher.tick()

    def state(self, job):
        return self.store.get(job).state

    def shown(self, name):
        return next(one for one in self.dispatcher.worker_status() if one.name == name)


@pytest.fixture
def disk(tmp_path):
    store = JobStore(tmp_path)
    yield store, BlobStore(tmp_path)
    store.close()


def test_sick_device_is_set_aside_and_its_jobs_are_made_elsewhere(disk):
    farm = Farm(*disk, sick=("worker-1",))
    jobs = [submitted(farm.store, seed=seed) for seed in range(12)]
    for _ in range(12):
        farm.turn()
    assert [farm.state(job) for job in jobs] == [JobState.DONE] * 12
    on_the_sick = [job for name, job in farm.tried if name == "worker-1"]
    assert len(on_the_sick) == len(set(on_the_sick)) == health.SICK_AFTER
    assert farm.shown("worker-1").state == "set aside" and "exit status 70" in farm.shown("worker-1").problem
    assert farm.shown("worker-0").state == "ready"


def test_only_device_that_is_sick_costs_no_job_and_is_tried_again(disk, monkeypatch):
    farm = Farm(*disk, names=("worker-0",), sick=("worker-0",))
    jobs = [submitted(farm.store, seed=seed) for seed in range(5)]
    for _ in range(6):
        farm.turn()
    assert [farm.state(job) for job in jobs] == [JobState.QUEUED] * 5
    assert [farm.store.get(job).losses for job in jobs] == [0] * 5
    waiting = farm.store.last_event(jobs[0], "WAITING").fields["message"]
    assert "set aside" in waiting and "exit status 70" in waiting
    assert [event.kind for event in farm.store.events(jobs[4])].count("WAITING") == 1
    monkeypatch.setattr(farm.dispatcher._health, "_clock", lambda: float("inf"))  # the rest is over
    farm.sick = ()
    for _ in range(5):
        farm.turn()
    assert [farm.state(job) for job in jobs] == [JobState.DONE] * 5
    assert farm.shown("worker-0").state == "ready"


@pytest.mark.parametrize("names", [("worker-0",), ("worker-0", "worker-1")])
def test_job_that_ends_every_worker_is_given_up_and_no_device_is_set_aside(disk, names):
    store, blobs = disk
    jobs = [submitted(store, seed=seed) for seed in range(5)]
    farm = Farm(store, blobs, names=names, poison=(jobs[0],))
    for _ in range(9):
        farm.turn()
    assert [farm.state(job) for job in jobs] == [JobState.FAILED] + [JobState.DONE] * 4
    assert all(farm.shown(name).state == "ready" for name in names)


def test_job_that_was_lost_waits_for_the_device_that_has_not_lost_it(disk):
    store, blobs = disk
    farm = Farm(store, blobs, sick=("worker-0",))
    job = submitted(store)
    farm.turn()
    farm.turn()
    assert farm.tried == [("worker-0", job), ("worker-1", job)] and farm.state(job) is JobState.DONE


def test_scripted_worker_without_losses_is_as_it_says():
    status = ScriptedWorkers().status()[0]
    assert health.Health().shown(status) is status
