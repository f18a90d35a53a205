# SPDX-License-Identifier: GPL-3.0-or-later
"""Cancelling: what waits ends at once, what runs ends within its step, what does not obey is killed."""

import signal
import time

from das_blender_addon.client.client import DasClient
from tests.support.wire import follow, is_step, kill, submit

LONG = {"num_inference_steps": 100}


def test_running_job_ends_within_its_step(server):
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, **LONG)
        seen = follow(client, job, until=is_step)
        assert client.cancel(job).state == "RUNNING"
        cancelled_s = time.time()  # a busy machine may do more steps before this process is heard
        finished = follow(client, job, after=seen.last.seq)
    assert finished.last.kind == "CANCELLED"
    assert [
        event for event in finished.events if event.kind == "PROGRESS" and event.fields["stage"] == "decoding"
    ] == []
    steps = [event.fields["step"] for event in finished.events if is_step(event) and event.time_s > cancelled_s]
    assert len(steps) <= 3


def test_worker_goes_on_with_next_job_after_cancel(server):
    worker = server.status()["workers"][0]
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, **LONG)
        follow(client, job, until=is_step)
        client.cancel(job)
        assert follow(client, job).last.kind == "CANCELLED"
        assert follow(client, submit(client)).last.kind == "DONE"
    assert server.status()["workers"][0]["pid"] == worker["pid"]


def test_waiting_job_ends_at_once_and_running_one_goes_on(server):
    with DasClient(server.address, timeout_s=60) as client:
        running = submit(client, num_inference_steps=40)
        follow(client, running, until=lambda event: event.kind == "STARTED")
        waiting = submit(client)
        assert client.cancel(waiting).state == "CANCELLED"
        assert follow(client, waiting).kinds == ["QUEUED", "CANCELLED"]
        assert follow(client, running).last.kind == "DONE"


def test_cancel_of_finished_job_changes_nothing(server):
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client)
        count = follow(client, job).last.seq
        assert client.cancel(job).state == "DONE"
        assert client.attach(job, 0).last_seq == count


def test_worker_that_does_not_obey_is_killed(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, **LONG)
        follow(client, job, until=is_step)
        worker = own_server.status()["workers"][0]
        kill(worker["pid"], signal.SIGSTOP)
        client.cancel(job)
        assert follow(client, job).last.kind == "CANCELLED"
        assert follow(client, submit(client)).last.kind == "DONE"
    assert own_server.status()["workers"][0]["pid"] != worker["pid"]
