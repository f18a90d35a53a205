# SPDX-License-Identifier: GPL-3.0-or-later
"""What is committed waits for no disk, and is there before it is promised."""

import os
import threading

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import StorageError
from das_blender_addon.protocol import messages as m
from das_server.store.jobs import JobStore
from das_server.store.write_ahead import LARGE_BYTES
from tests.support.front_door import FrontDoor
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.wire import submit


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path)
    yield store
    store.close()


def test_commits_wait_for_no_disk_and_one_flush_is_for_all(store, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    assert not store.log.is_behind
    jobs = [store.submit(job_id(), job_spec(), job_inputs(job_spec())[0])[0].job for _ in range(3)]
    assert store.log.is_behind and not flushed
    store.log.flush()
    assert len(flushed) == 1 and not store.log.is_behind
    store.progress(store.start(jobs[0], worker="worker-0", device="cpu").job, {"step": 1})
    store.log.flush()
    store.log.flush()
    assert len(flushed) == 2
    store.progress(jobs[0], {"step": 2})  # which a loss of power may take away
    assert not store.log.is_behind


def test_request_that_changes_nothing_waits_for_nothing(store):
    job = store.submit(job_id(), job_spec(), [], requester="a" * 32)[0].job
    store.log.flush()
    store.join(job, "a" * 32, 0.0)
    assert not store.log.is_behind


def test_log_begins_anew_when_it_is_large(store, tmp_path):
    job = store.submit(job_id(), job_spec(), [])[0].job
    store.start(job, worker="worker-0", device="cpu")
    for _ in range(40):
        store.progress(job, {"text": "x" * (LARGE_BYTES // 8)})
        store.retry(job, code="job.worker_lost", message="again")
        store.log.flush()
    assert (tmp_path / "jobs.sqlite3-wal").stat().st_size < 2 * LARGE_BYTES
    assert store.last_seq(job) == 2 + 2 * 40


def test_log_that_was_large_once_is_small_again(store, tmp_path):
    job = store.submit(job_id(), job_spec(), [])[0].job
    store.start(job, worker="worker-0", device="cpu")
    for length in (2 * LARGE_BYTES, 1):
        store.progress(job, {"text": "x" * length})
        store.retry(job, code="job.worker_lost", message="again")
        store.log.flush()
    assert (tmp_path / "jobs.sqlite3-wal").stat().st_size <= LARGE_BYTES


def test_disk_that_refuses_is_told(store, monkeypatch):
    def refuse(_):
        raise OSError(5, "Input/output error")

    store.submit(job_id(), job_spec(), [])
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="job list .* Input/output error"):
        store.log.flush()
    assert store.log.is_behind


def test_reply_waits_for_the_disk_and_nobody_else_does(tmp_path, monkeypatch):
    """Submitted under a disk that hangs: everybody is answered, but for the one to whom something is promised."""
    hangs, goes_on = threading.Event(), threading.Event()
    with FrontDoor(tmp_path) as door, DasClient(door.address, timeout_s=60) as client:
        submit(client)
        flush = os.fsync

        def hang(descriptor):
            hangs.set()
            assert goes_on.wait(120)
            flush(descriptor)

        monkeypatch.setattr(os, "fsync", hang)
        asked = m.Submit(0, job_id(), job_spec(), job_inputs(job_spec())[0])
        number = client._send(asked)
        assert hangs.wait(60) and client.ping() < 60
        assert client._answer((number,), 0.3, None) is None
        assert asked.job in {job["job"] for job in client.status().jobs}
        goes_on.set()
        assert isinstance(client._answer((number,), 60, None)[0], m.Accepted)
