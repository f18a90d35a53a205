# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is drained: who may ask for it, and when it is over."""

import threading

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol import messages
from das_server.door.draining import COUNT_EVERY_S, REASON, Drain, Ending
from das_server.store.jobs import JobStore
from tests.support.front_door import FrontDoor
from tests.support.jobs import job_id, job_spec


def test_drain_is_over_when_nothing_runs_or_its_time_is():
    now = [100.0]
    drain = Drain(clock=lambda: now[0])
    assert not drain.is_over(0)
    drain.begin(60.0)
    assert drain.is_over(0) and not drain.is_over(2)
    drain.begin(1000.0)  # it only becomes shorter
    now[0] = 160.0
    assert drain.is_over(2)


def test_only_an_administrator_drains_the_server(tmp_path):
    with FrontDoor(tmp_path / "state") as door:
        with DasClient(door.address, token=bytes(range(16))) as other, pytest.raises(JobRejected, match="--admins"):
            other._request(messages.Drain(0), messages.Draining)
        with DasClient(door.address) as own:
            assert own._request(messages.Drain(0), messages.Draining) == messages.Draining(2, 0, 0)


class Watch:
    """A clock that is turned by hand."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def start(store):
    job = store.submit(job_id(), job_spec(), [])[0].job
    return store.start(job, worker="worker-0", device="cpu").job


def test_sigterm_shortens_a_drain_that_goes_on_already(tmp_path):
    watch, told = Watch(), []
    store = JobStore(tmp_path)
    start(store)
    drain = Drain(watch)
    ending = Ending(drain, told.append, store, threading.Event(), 10.0, watch)
    drain.begin(float("inf"))
    assert not ending.is_now() and told == [REASON]
    ending.terminate()
    assert not ending.is_now()
    watch.now_s += 10.0
    assert ending.is_now() and told == [REASON]


def test_a_drain_outlives_a_job_list_that_cannot_be_read_until_its_time_is_over(tmp_path):
    watch = Watch()
    store = JobStore(tmp_path)
    drain = Drain(watch)
    ending = Ending(drain, lambda reason: None, store, threading.Event(), 10.0, watch)
    drain.begin(10.0)
    store.close()
    assert not ending.is_now()
    watch.now_s += 10.0
    assert ending.is_now()


def test_a_drain_counts_running_jobs_now_and_then(tmp_path):
    watch = Watch()
    store = JobStore(tmp_path)
    job = start(store)
    drain = Drain(watch)
    ending = Ending(drain, lambda reason: None, store, threading.Event(), 10.0, watch)
    drain.begin(10.0)
    assert not ending.is_now()
    store.cancel(job)
    assert not ending.is_now()
    watch.now_s += COUNT_EVERY_S
    assert ending.is_now()
