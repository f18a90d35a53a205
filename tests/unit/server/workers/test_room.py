# SPDX-License-Identifier: GPL-3.0-or-later
"""A full disk: jobs wait with the reason, and go on when there is room."""

import errno

import pytest

from das_blender_addon.errors import StorageError
from das_server.store.blobs import DISK, NODE_DISK, BlobStore, storage_errors
from das_server.store.jobs import JobState, JobStore
from das_server.workers.base import WorkerStatus, WorkFailed
from das_server.workers.dispatch import Dispatcher
from das_server.workers.health import FULL_S
from das_server.workers.room import LOOK_EVERY_S, PAUSE_S, Room
from tests.unit.server.workers.test_dispatch import ScriptedWorkers, submitted

LEAST = 100 << 20


class Disk:
    """As full as a test likes, at a time that it likes."""

    def __init__(self, folder):
        self.free, self.now = LEAST, 0.0
        self.store, self.workers = JobStore(folder), ScriptedWorkers()
        self.room = Room(folder, LEAST, free_bytes=lambda: self.free, clock=lambda: self.now)
        self.dispatcher = Dispatcher(self.store, BlobStore(folder), self.workers, room=self.room)

    def tick(self, later_s: float = LOOK_EVERY_S) -> None:
        self.now += later_s
        self.dispatcher.tick()


def kinds(store: JobStore, job: str) -> list[str]:
    """Of its events, but for those that say its place."""
    first, *others = [event.kind for event in store.events(job)]
    return [first, *(kind for kind in others if kind != "QUEUED")]


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path)
    yield disk
    disk.store.close()


def test_last_room_is_kept_for_what_runs(disk):
    disk.free = LEAST // 2
    disk.dispatcher.check_room()
    disk.free -= 1
    disk.dispatcher.check_room()  # as it was looked at last
    disk.now += LOOK_EVERY_S
    with pytest.raises(StorageError, match="takes no job for now. The disk of .* is full: 49 MiB are free, and 100"):
        disk.dispatcher.check_room()
    disk.free, disk.now = LEAST, disk.now + LOOK_EVERY_S
    disk.dispatcher.check_room()
    disk.room.note_full("quota")  # which others may not have
    disk.dispatcher.check_room()


def test_jobs_wait_where_the_disk_is_full_and_are_told_so_once(disk):
    disk.free = LEAST - 1
    job = submitted(disk.store)
    for _ in range(3):
        disk.tick()
        disk.free -= 2 << 20
    assert disk.workers.order is None and kinds(disk.store, job) == ["QUEUED", "WAITING"]
    assert "is full: 99 MiB are free, and 100 needed" in disk.store.last_event(job, "WAITING").fields["message"]
    disk.free = LEAST
    disk.tick()
    assert disk.workers.order.job == job
    assert kinds(disk.store, job) == ["QUEUED", "WAITING", "STARTED"]


def test_job_whose_results_have_no_room_starts_again_when_there_is_some(disk):
    """Also where a quota is full and the disk is not."""
    job = submitted(disk.store)
    for attempt in range(1, 6):  # more often than a job may lose its worker
        disk.tick(PAUSE_S)
        assert disk.workers.order.job == job
        reason = "The server cannot write the blob ab: its disk is full."
        disk.workers.waiting = [WorkFailed(job, attempt, StorageError.code, reason, DISK)]
        disk.tick()
        assert disk.workers.order is None and disk.store.get(job).state is JobState.QUEUED
        disk.tick(PAUSE_S - 2 * LOOK_EVERY_S)
        assert disk.workers.order is None
    assert kinds(disk.store, job)[-3:] == ["STARTED", "RETRY", "WAITING"]
    assert disk.store.get(job).losses == 0


def test_worker_whose_own_disk_is_full_is_set_aside_and_the_others_go_on(tmp_path, monkeypatch):
    now = [0.0]
    workers, store = SeveralWorkers(2), JobStore(tmp_path)
    dispatcher = Dispatcher(store, BlobStore(tmp_path), workers, room=Room(tmp_path))
    monkeypatch.setattr(dispatcher._health, "_clock", lambda: now[0])
    one, two = submitted(store), submitted(store, seed=8)
    dispatcher.tick()
    full = next(name for name, order in workers.orders.items() if order.job == one)
    reason = "The server cannot write what the job needs on the node b: its disk is full."
    workers.fail(full, WorkFailed(one, 1, StorageError.code, reason, NODE_DISK))
    three = submitted(store, seed=9)
    dispatcher.tick()
    assert full not in workers.orders and store.get(one).state is JobState.QUEUED and store.get(one).losses == 0
    shown = {status.name: status for status in dispatcher.worker_status()}[full]
    assert (shown.state, shown.problem) == ("set aside", f"{reason} The worker is set aside for 1 minutes.")
    (other,) = workers.orders
    workers.fail(other, WorkFailed(two, 1, "error", "It failed."))
    dispatcher.tick()  # at once: the server's own disk has room
    assert workers.orders[other].job == one and full not in workers.orders
    now[0] += FULL_S
    dispatcher._scheduling._nothing = (None, 0.0)
    dispatcher.tick()
    assert workers.orders[full].job == three
    store.close()


class SeveralWorkers(ScriptedWorkers):
    """So many."""

    def __init__(self, count):
        super().__init__()
        self.orders, self._names = {}, [f"worker-{number}" for number in range(count)]

    def free(self):
        return [one for one in self.status() if one.name not in self.orders]

    def run(self, worker, order):
        self.orders[worker] = order

    def fail(self, worker, news):
        del self.orders[worker]
        self.waiting.append(news)

    def status(self):
        return [WorkerStatus(name, "ready", "cpu") for name in self._names]


def test_job_that_fails_of_another_disk_error_fails(disk):
    job = submitted(disk.store)
    disk.tick()
    disk.workers.waiting = [WorkFailed(job, 1, StorageError.code, "The stored blob ab is damaged.", "sha")]
    disk.tick()
    assert disk.store.get(job).state is JobState.FAILED


@pytest.mark.parametrize(("number", "field"), [(errno.ENOSPC, DISK), (errno.EDQUOT, DISK), (errno.EIO, None)])
def test_error_says_whether_the_disk_is_full(number, field):
    with pytest.raises(StorageError) as caught, storage_errors("a blob"):
        raise OSError(number, "no")
    assert caught.value.field == field


def test_disk_that_does_not_answer_is_no_room(tmp_path):
    assert "does not answer" in Room(tmp_path / "gone").problem()
