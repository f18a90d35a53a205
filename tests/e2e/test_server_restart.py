# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers that end, on purpose or not, and go on where they were."""

import signal

from das_blender_addon.client.client import DasClient
from tests.support.server import run_das_server
from tests.support.wire import follow, is_step, kill, submit, wait_for_death, whole_story

JOB = {"num_inference_steps": 20, "seed": 31}


def test_job_goes_on_after_server_was_killed(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        expected = follow(client, submit(client, **JOB)).frame_shas
        job = submit(client, **JOB)
        waiting = submit(client, seed=32)
        last = follow(client, job, until=is_step).last
        worker = own_server.status()["workers"][0]["pid"]
        own_server.kill()
        assert wait_for_death(worker), "the worker outlived its server"
        own_server.start()
        finished = whole_story(own_server.address, job)
        assert follow(client, waiting).last.kind == "DONE"
    assert finished.kinds == ["QUEUED", "STARTED", "RETRY", "STARTED", "DONE"]
    assert [event.seq for event in finished.events] == list(range(1, len(finished.events) + 1))
    assert finished.events[last.seq - 1] == last
    assert finished.frame_shas == expected
    retry = next(event for event in finished.events if event.kind == "RETRY")
    assert "server was killed while it made this job" in retry.fields["message"]


def test_finished_job_is_still_there_after_restart(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, seed=33)
        before = follow(client, job)
        assert own_server.stop() == 0
        own_server.start()
        after = whole_story(own_server.address, job)
        one = after.last.fields["artefacts"][0]
        assert len(client.fetch(one["sha"], one["size_bytes"])) == one["size_bytes"]
    assert after == before


def test_cancel_is_not_forgotten_by_restart(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, num_inference_steps=100)
        follow(client, job, until=is_step)
        kill(own_server.status()["workers"][0]["pid"], signal.SIGSTOP)  # it cannot obey before the server ends
        client.cancel(job)
        own_server.kill()
        own_server.start()
        assert whole_story(own_server.address, job).kinds == ["QUEUED", "STARTED", "CANCELLED"]


def test_server_ends_cleanly_on_request_in_the_middle_of_a_job(own_server):
    with DasClient(own_server.address, timeout_s=60) as client:
        job = submit(client, num_inference_steps=100)
        follow(client, job, until=is_step)
        worker = own_server.status()["workers"][0]["pid"]
        assert own_server.interrupt() == 0
        assert wait_for_death(worker)
        assert "Traceback" not in own_server.log
        own_server.start()
        client.cancel(job)
        retry = next(event for event in whole_story(own_server.address, job).events if event.kind == "RETRY")
        assert "was restarted" in retry.fields["message"]  # it is held against no job


def test_second_server_on_same_state_or_port_is_told_why_not(server, tmp_path):
    same_state = run_das_server("serve", "--bind", "tcp://127.0.0.1:*", "--state", str(server.state))
    same_port = run_das_server("serve", "--bind", server.address, "--state", str(tmp_path))
    for answer, words in ((same_state, "already uses the state folder"), (same_port, "already listens")):
        assert answer.returncode == 13
        assert words in answer.stderr and answer.stderr.count("\n") == 1
        assert answer.stdout == ""
    assert server.status()["workers"]
