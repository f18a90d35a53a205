# SPDX-License-Identifier: GPL-3.0-or-later
"""What is tried again and what is given up, with a real job list and a pool whose workers do as the test says."""

import itertools
import time
from dataclasses import replace

import pytest

from das_blender_addon.errors import StorageError
from das_blender_addon.protocol.messages import Artefact
from das_server.store.blobs import BlobStore
from das_server.store.jobs import JobState, JobStore
from das_server.workers.base import (
    WorkDone,
    Workers,
    WorkerStatus,
    WorkFailed,
    WorkLost,
    WorkOrder,
    WorkPreviewed,
    WorkProgressed,
    WorkRetried,
)
from das_server.workers.dispatch import Dispatcher
from tests.support.jobs import job_id, job_inputs, job_spec


class ScriptedWorkers(Workers):
    """A second implementation of the interface: one worker, and news that the test puts there."""

    def __init__(self):
        self.order: WorkOrder | None = None
        self.cancelled: list[str] = []
        self.waiting: list = []
        self.state = "ready"

    def start(self):
        self.state = "ready"

    def stop(self):
        self.state = "stopped"

    def free(self):
        return self.status() if self.order is None and self.state == "ready" else []

    def run(self, worker, order):
        assert worker == "worker-0" and self.order is None
        self.order = order

    def cancel(self, job):
        self.cancelled.append(job)

    def news(self):
        news, self.waiting = self.waiting, []
        if any(not isinstance(one, WorkProgressed | WorkPreviewed | WorkRetried) for one in news):
            self.order = None
        return news

    def status(self):
        return [WorkerStatus("worker-0", self.state, "cpu", problem="It broke." if self.state == "broken" else "")]


@pytest.fixture
def house(tmp_path):
    store, blobs, workers = JobStore(tmp_path), BlobStore(tmp_path), ScriptedWorkers()
    yield store, blobs, workers, Dispatcher(store, blobs, workers, max_attempts=3)
    store.close()


def submitted(store: JobStore, **changes) -> str:
    job = job_id()
    spec = job_spec(**changes)
    store.submit(job, spec, job_inputs(spec)[0])
    return job


def kinds(store: JobStore, job: str) -> list[str]:
    return [event.kind for event in store.events(job)]


def frame(blobs: BlobStore, content: bytes = b"pixels") -> Artefact:
    sha, size = blobs.add(content)
    return Artefact("frame", sha, size, "image/png")


def test_jobs_are_given_out_one_by_one_in_order(house):
    store, blobs, workers, dispatcher = house
    one, two = submitted(store), submitted(store)
    dispatcher.tick()
    dispatcher.tick()
    assert workers.order.job == one and store.get(two).state is JobState.QUEUED
    workers.waiting = [WorkDone(one, 1, (frame(blobs),), {"seed": 7})]
    dispatcher.tick()
    assert workers.order.job == two
    assert store.last_event(one).fields["report"] == {"seed": 7}


def test_news_become_numbered_events(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    preview = frame(blobs, b"small")
    workers.waiting = [WorkProgressed(job, 1, {"step": 1}), WorkPreviewed(job, 1, 1, preview)]
    dispatcher.tick()
    assert kinds(store, job) == ["QUEUED", "STARTED", "PROGRESS", "PREVIEW"]
    assert preview.sha in store.referenced_blobs()


def test_job_whose_result_the_disk_refuses_is_made_again_and_not_waited_for_ever(house, tmp_path, monkeypatch):
    monkeypatch.setattr("das_server.workers.dispatch.SAVE_AGAIN_S", 0.0)
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    result = frame(blobs)
    folder = blobs.path(result.sha).parent
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(folder)  # a folder that cannot be read, also by root
    workers.waiting = [WorkDone(job, 1, (result,), {})]
    dispatcher.tick()
    dispatcher.tick()
    assert kinds(store, job) == ["QUEUED", "STARTED"]  # it may be there in a moment
    monkeypatch.setattr("das_server.workers.dispatch.UNREADABLE_S", 0.0)
    dispatcher.tick()
    assert "RETRY" in kinds(store, job) and workers.order.attempt == 2
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    workers.waiting = [WorkDone(job, 2, (result,), {})]
    dispatcher.tick()
    assert store.get(job).state is JobState.DONE


def test_end_that_is_not_understood_is_kept_until_a_full_disk_takes_it(house, monkeypatch, caplog):
    monkeypatch.setattr("das_server.workers.dispatch.SAVE_AGAIN_S", 0.0)
    store, blobs, workers, dispatcher = house
    job, other = submitted(store), submitted(store)
    dispatcher.tick()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    for length, one in itertools.product((1000, 10), (job, other)):
        with pytest.raises(StorageError, match="full"):
            for _ in range(1000):
                store.tell_one_waiting(one, "x" * length)
    workers.waiting = [WorkDone(job, 1, (), {"seed": {1, 2}})]  # a report that nobody can write down
    caplog.clear()
    for _ in range(20):
        dispatcher.tick()
    assert store.get(job).state is JobState.RUNNING
    assert sum("no job can start" in line for line in caplog.messages) == 1
    store._db.execute("PRAGMA max_page_count = 1000000")
    dispatcher.tick()
    assert store.get(job).state is JobState.FAILED


def test_job_that_cannot_be_given_to_its_worker_waits_again_and_counts_no_loss(tmp_path, monkeypatch):
    class Refusing(ScriptedWorkers):
        refuses = True

        def run(self, worker, order):
            if self.refuses:
                raise OSError(24, "Too many open files")
            super().run(worker, order)

    monkeypatch.setattr("das_server.workers.dispatch.SAVE_AGAIN_S", 0.0)
    store, workers = JobStore(tmp_path), Refusing()
    dispatcher = Dispatcher(store, BlobStore(tmp_path), workers)
    job = submitted(store)
    dispatcher.tick()
    assert store.get(job).state is JobState.RUNNING
    workers.refuses = False
    dispatcher.tick()
    assert workers.order.job == job and (store.get(job).attempt, store.get(job).losses) == (2, 0)
    assert "Too many open files" in store.last_event(job, "RETRY").fields["message"]
    workers.refuses, workers.waiting = True, [WorkLost(job, 2, "It is gone.", by_others=True)]
    for _ in range(100):
        dispatcher.tick()
    assert store.get(job).state is JobState.FAILED  # not for ever
    store.close()


def test_lost_job_is_tried_three_times(house):
    store, _, workers, dispatcher = house
    job = submitted(store)
    for attempt in (1, 2, 3):
        dispatcher.tick()
        assert workers.order.attempt == attempt
        workers.waiting = [WorkLost(job, attempt, "It died.")]
        dispatcher.tick()
    assert store.get(job).state is JobState.FAILED
    assert store.last_event(job).fields["code"] == "job.worker_lost"
    assert "It died." in store.last_event(job).fields["message"]


def test_failed_job_is_not_tried_again(house):
    store, _, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    workers.waiting = [WorkFailed(job, 1, "first_frame", "No.", "first_frame")]
    dispatcher.tick()
    assert kinds(store, job) == ["QUEUED", "STARTED", "FAILED"]
    assert store.last_event(job).fields == {"code": "first_frame", "message": "No.", "field": "first_frame"}


def test_attempt_that_begins_anew_is_told_and_goes_on(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    workers.waiting = [WorkRetried(job, 1, "job.out_of_memory", "Once more with less.")]
    dispatcher.tick()
    assert kinds(store, job) == ["QUEUED", "STARTED", "RETRY"]
    fields = {"attempt": 1, "code": "job.out_of_memory", "message": "Once more with less."}
    assert store.last_event(job).fields == fields
    assert store.get(job).state is JobState.RUNNING and store.get(job).losses == 0
    workers.waiting = [WorkDone(job, 1, (frame(blobs),), {})]
    dispatcher.tick()
    assert store.get(job).state is JobState.DONE


def test_late_news_of_an_earlier_attempt_change_nothing(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    workers.waiting = [WorkLost(job, 1, "It died.")]
    dispatcher.tick()
    workers.waiting = [WorkProgressed(job, 1, {"step": 9})]
    dispatcher.tick()
    assert store.get(job).attempt == 2 and store.get(job).state is JobState.RUNNING
    assert "PROGRESS" not in kinds(store, job)


@pytest.mark.parametrize("how", ["done", "failed", "lost"])
def test_cancelled_job_is_cancelled_however_its_worker_ends(house, how):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    dispatcher.cancel(job)
    assert workers.cancelled == [job]
    news = {
        "done": WorkDone(job, 1, (frame(blobs),), {}),
        "failed": WorkFailed(job, 1, "job.cancelled", "Stopped."),
        "lost": WorkLost(job, 1, "It was killed."),
    }
    workers.waiting = [news[how]]
    dispatcher.tick()
    assert kinds(store, job) == ["QUEUED", "STARTED", "CANCELLED"]


def test_result_that_vanished_from_disk_is_made_again(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    artefact = frame(blobs)
    blobs.path(artefact.sha).unlink()
    workers.waiting = [WorkDone(job, 1, (artefact,), {})]
    dispatcher.tick()
    assert kinds(store, job)[-2:] == ["RETRY", "STARTED"]


def test_restart_puts_running_jobs_back_and_ends_cancelled_ones(house):
    store, blobs, _, _ = house
    one, two = submitted(store), submitted(store)
    for job in (one, two):
        store.start(job, worker="worker-0", device="cpu")
    store.request_cancel(two)
    workers = ScriptedWorkers()
    dispatcher = Dispatcher(store, blobs, workers)
    dispatcher.recover()
    assert store.get(one).state is JobState.QUEUED and store.get(one).losses == 0
    assert store.get(two).state is JobState.CANCELLED
    dispatcher.tick()
    assert workers.order.job == one and workers.order.attempt == 2


def test_end_of_job_that_could_not_be_written_is_written_later(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    workers.waiting = [WorkDone(job, 1, (frame(blobs),), {"long": "x" * 50_000})]
    dispatcher.tick()
    assert store.get(job).state is JobState.RUNNING
    store._db.execute("PRAGMA max_page_count = 100000")
    deadline = time.monotonic() + 60
    while store.get(job).state is JobState.RUNNING and time.monotonic() < deadline:
        dispatcher.tick()
    assert store.get(job).state is JobState.DONE


def test_jobs_wait_with_the_reason_while_no_worker_can_start_and_go_on(house):
    store, _, workers, dispatcher = house
    jobs = [submitted(store)]
    workers.state = "broken"
    dispatcher.tick()
    jobs.append(submitted(store, seed=8))
    for _ in range(3):
        dispatcher.tick()
    for job in jobs:
        assert kinds(store, job) == ["QUEUED", "WAITING"]
        assert "no worker of this server can work: It broke." in store.last_event(job).fields["message"]
    workers.state = "ready"
    dispatcher.tick()
    assert workers.order.job == jobs[0]


def test_failure_of_the_server_inside_costs_one_job_and_no_other(house, caplog):
    store, blobs, workers, dispatcher = house
    bad, good = submitted(store), submitted(store, seed=8)
    dispatcher.tick()
    workers.waiting = [WorkDone(bad, 1, (frame(blobs),), {"object": object()})]  # nothing that can be stored
    dispatcher.tick()
    last = store.last_event(bad)
    assert last.kind == "FAILED" and "failed inside with TypeError" in last.fields["message"]
    assert workers.order.job == good
    assert "cannot be taken in" in caplog.text


def test_worker_that_takes_no_order_costs_no_other_job(house):
    store, blobs, workers, dispatcher = house
    bad = submitted(store)
    workers.run = lambda worker, order: (_ for _ in ()).throw(OSError("no way to it"))
    dispatcher.tick()
    del workers.run
    good = submitted(store)
    dispatcher.tick()
    assert workers.order.job == good and not store.get(bad).state.is_final


def test_result_that_the_disk_does_not_give_is_asked_for_again(house):
    store, blobs, workers, dispatcher = house
    job = submitted(store)
    dispatcher.tick()
    artefact = frame(blobs)
    path = blobs.path(artefact.sha)
    path.unlink()
    path.symlink_to(path)  # any look at it is an OSError, as on a network disk that went away
    workers.waiting = [WorkDone(job, 1, (artefact,), {})]
    dispatcher.tick()
    assert store.get(job).state is JobState.RUNNING
    path.unlink()
    path.write_bytes(b"pixels")
    deadline = time.monotonic() + 60
    while store.get(job).state is JobState.RUNNING and time.monotonic() < deadline:
        dispatcher.tick()
    assert store.get(job).state is JobState.DONE


def test_job_that_cannot_be_read_is_set_aside_when_its_turn_comes(house):
    store, _, workers, dispatcher = house
    bad, good = submitted(store), submitted(store, seed=8)
    store._db.execute("UPDATE jobs SET inputs = '[{}]' WHERE job = ?", (bad,))
    dispatcher.tick()
    assert workers.order.job == good
    assert store.get(bad).state is JobState.FAILED and "lacks its field 'role'" in store.get(bad).problem
    assert store.last_event(bad).fields["code"] == "job.storage"


def test_worker_is_given_no_job_of_a_model_that_it_lacks(house):
    store, _, workers, dispatcher = house
    job = submitted(store)
    status = workers.status()[0]
    workers.status = lambda: [replace(status, lacks=("das-preview",))]
    dispatcher.tick()
    assert workers.order is None
    assert "none of the workers" in store.last_event(job, "WAITING").fields["message"]
    workers.status = lambda: [replace(status, lacks=("another",))]
    dispatcher.tick()
    assert workers.order is not None
