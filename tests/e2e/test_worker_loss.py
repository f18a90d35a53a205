# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers that die or fall silent: noticed, replaced, their job tried again, but not for ever."""

import signal

from das_blender_addon.client.client import DasClient
from tests.support.server import running_server
from tests.support.wire import follow, is_step, kill, submit, whole_story

JOB = {"num_inference_steps": 20, "seed": 21}


def test_job_of_killed_worker_is_tried_again_with_same_result(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        expected = follow(client, submit(client, **JOB)).frame_shas
        job = submit(client, **JOB)
        follow(client, job, until=is_step)
        kill(own_server.status()["workers"][0]["pid"])
        finished = whole_story(own_server.address, job)
    assert finished.kinds == ["QUEUED", "STARTED", "RETRY", "STARTED", "DONE"]
    retry = next(event for event in finished.events if event.kind == "RETRY").fields
    assert retry["code"] == "job.worker_lost" and retry["attempt"] == 2 and "SIGKILL" in retry["message"]
    assert finished.frame_shas == expected
    assert own_server.status()["workers"][0]["restarts"] >= 1


def test_job_that_always_loses_its_worker_is_given_up(own_server):
    """After three losses without getting further: here a step is so long that each attempt ends in its second."""
    large = {"width": 240, "height": 160, "num_frames": 25, "kept_frames": 25, "num_inference_steps": 100}
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, **large)
        last, kills = None, 0
        while last is None or last.kind == "RETRY":
            step = follow(client, job, after=last.seq if last else 0, until=is_step).last
            kill(client.status().workers[0]["pid"], signal.SIGSEGV)
            kills += 1
            last = follow(client, job, after=step.seq, until=lambda event: event.kind == "RETRY").last
        finished = whole_story(own_server.address, job)
        assert finished.kinds == ["QUEUED"] + ["STARTED", "RETRY"] * (kills - 1) + ["STARTED", "FAILED"]
        assert finished.last.fields["code"] == "job.worker_lost"
        assert "3 times" in finished.last.fields["message"]
        assert follow(client, submit(client)).last.kind == "DONE"


def test_silent_worker_is_replaced(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, **JOB)
        follow(client, job, until=is_step)
        kill(own_server.status()["workers"][0]["pid"], signal.SIGSTOP)
        finished = whole_story(own_server.address, job)
    assert finished.last.kind == "DONE"
    retry = next(event for event in finished.events if event.kind == "RETRY").fields
    assert "silent" in retry["message"]


def test_job_waits_with_the_reason_while_its_worker_cannot_start(tmp_path):
    environment = {"DAS_SERVER_DEVICES": "cuda:0", "CUDA_VISIBLE_DEVICES": ""}
    with running_server(tmp_path / "state", environment=environment) as server:
        with DasClient(server.address, timeout_s=60) as client:
            job = submit(client)
            told = follow(client, job, until=lambda event: event.kind == "WAITING").last
        assert "torch is not usable on cuda:0" in told.fields["message"]
        status = server.status()
        assert status["workers"][0]["state"] == "broken" and status["jobs"][0]["state"] == "QUEUED"
        assert status["jobs"][0]["message"] == told.fields["message"]
        assert server.stop() == 0


def test_idle_worker_that_dies_is_replaced(own_server):
    ready = own_server.wait_until(lambda status: status["workers"][0]["state"] == "ready", "a ready worker")
    assert ready
    pid = own_server.status()["workers"][0]["pid"]
    kill(pid)
    own_server.wait_until(lambda status: status["workers"][0]["pid"] not in (0, pid), "a new worker")
    with DasClient(own_server.address, timeout_s=60) as client:
        assert follow(client, submit(client)).kinds == ["QUEUED", "STARTED", "DONE"]
