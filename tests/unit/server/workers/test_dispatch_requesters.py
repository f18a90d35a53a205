# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of a job that some or all want no more, with a real job list and a pool that does as the test says."""

import time

import pytest

from das_server.store.jobs import JobState
from das_server.workers.base import WorkDone, WorkFailed, WorkLost
from das_server.workers.dispatch import Dispatcher
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.unit.server.workers.test_dispatch import ScriptedWorkers, frame, house, kinds  # noqa: F401 (a fixture)

ADA, BEN = "a" * 32, "b" * 32
SPEC = job_spec()


def wanted_by(house, requester, job=None, lease_s=0.0):  # noqa: F811
    store, _, _, dispatcher = house
    job = job or job_id()
    store.submit(job, SPEC, job_inputs(SPEC)[0], requester=requester, lease_s=lease_s)
    dispatcher.heard_of(job, requester, lease_s)
    return job


def turn_until(dispatcher, condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        dispatcher.tick()
        time.sleep(0.01)
    assert condition()


def test_running_job_is_stopped_when_the_last_requester_cancels(house):  # noqa: F811
    store, _, workers, dispatcher = house
    job = wanted_by(house, ADA)
    wanted_by(house, BEN, job)
    dispatcher.tick()
    dispatcher.cancel(job, ADA)
    assert workers.cancelled == []
    dispatcher.cancel(job, BEN)
    assert workers.cancelled == [job]
    workers.waiting = [WorkFailed(job, 1, "job.cancelled", "Stopped.")]
    dispatcher.tick()
    assert store.get(job).state is JobState.CANCELLED


@pytest.mark.parametrize("how", ["stopped", "killed", "done"])
def test_job_that_is_wanted_again_while_it_stops_is_not_lost(house, how):  # noqa: F811
    store, blobs, workers, dispatcher = house
    job = wanted_by(house, ADA)
    dispatcher.tick()
    dispatcher.cancel(job, ADA)
    wanted_by(house, BEN, job)
    news = {
        "stopped": WorkFailed(job, 1, "job.cancelled", "Stopped."),
        "killed": WorkLost(job, 1, "It did not stop."),
        "done": WorkDone(job, 1, (frame(blobs),), {}),
    }
    workers.waiting = [news[how]]
    dispatcher.tick()
    if how != "done":
        assert kinds(store, job) == ["QUEUED", "STARTED", "RETRY", "STARTED"]
        assert store.get(job).losses == 0 and not store.get(job).cancel_requested
        workers.waiting = [WorkDone(job, 2, (frame(blobs),), {})]
        dispatcher.tick()
    assert store.get(job).state is JobState.DONE


def test_job_that_is_wanted_again_when_its_server_ends_starts_again_with_the_next(house):  # noqa: F811
    store, blobs, _, dispatcher = house
    job = wanted_by(house, ADA)
    dispatcher.tick()
    dispatcher.cancel(job, ADA)
    wanted_by(house, BEN, job)
    Dispatcher(store, blobs, ScriptedWorkers()).recover()
    assert store.get(job).state is JobState.QUEUED and not store.get(job).cancel_requested


@pytest.mark.parametrize("running", [True, False], ids=["running", "waiting"])
def test_lease_that_runs_out_ends_the_job(house, running):  # noqa: F811
    store, _, workers, dispatcher = house
    if not running:
        wanted_by(house, BEN)
        dispatcher.tick()
    job = wanted_by(house, ADA, lease_s=600.0)  # long enough to begin on a busy machine
    dispatcher.tick()
    assert store.get(job).state is (JobState.RUNNING if running else JobState.QUEUED)
    dispatcher.heard_of(job, ADA, 0.05)
    if running:
        turn_until(dispatcher, lambda: workers.cancelled == [job])
        workers.waiting = [WorkFailed(job, 1, "job.cancelled", "Stopped.")]
    turn_until(dispatcher, lambda: store.get(job).state is JobState.CANCELLED)


def test_lease_that_runs_out_does_not_end_a_job_that_another_wants(house):  # noqa: F811
    store, _, workers, dispatcher = house
    job = wanted_by(house, ADA, lease_s=0.05)
    wanted_by(house, BEN, job)
    turn_until(dispatcher, lambda: store.num_wanting(job) == 1)
    assert store.get(job).state is JobState.RUNNING and workers.cancelled == []


def test_lease_begins_anew_with_the_next_server(house):  # noqa: F811
    store, blobs, _, _ = house
    job = job_id()
    store.submit(job, SPEC, job_inputs(SPEC)[0], requester=ADA, lease_s=0.05)
    dispatcher = Dispatcher(store, blobs, ScriptedWorkers())
    turn_until(dispatcher, lambda: store.num_wanting(job) == 0)


def test_results_go_with_the_lease_of_the_last_who_wanted_them(house):  # noqa: F811
    store, blobs, workers, dispatcher = house
    job = wanted_by(house, ADA)
    wanted_by(house, BEN, job, lease_s=600.0)  # he still wants them when Ada has them, however busy the machine is
    dispatcher.tick()
    result = frame(blobs)
    workers.waiting = [WorkDone(job, 1, (result,), {})]
    dispatcher.tick()
    assert store.acknowledge(job, ADA) == []
    dispatcher.heard_of(job, BEN, 0.05)
    turn_until(dispatcher, lambda: blobs.delete_unneeded() or blobs.size_bytes(result.sha) is None)


def test_lease_of_a_forgotten_job_harms_nobody(house, caplog):  # noqa: F811
    store, _, workers, dispatcher = house
    job = wanted_by(house, ADA, lease_s=0.05)
    store._db.execute("DELETE FROM jobs WHERE job = ?", (job,))
    time.sleep(0.1)
    good = wanted_by(house, BEN)
    dispatcher.tick()
    assert workers.order.job == good and "Traceback" not in caplog.text
