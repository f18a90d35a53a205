# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that is asked to end while it works: jobs finish, or go on from a checkpoint that was made for it."""

import signal

import pytest

from das_blender_addon.client.client import DasClient
from tests.support.server import IMPATIENT, run_das_server, running_server
from tests.support.wire import follow, is_step, kill, submit, wait_for_death, whole_story

LONG = {"num_inference_steps": 20, "seed": 41}
GOES_ON = "the clip goes on after step"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    environment = IMPATIENT | {"DAS_SERVER_DRAIN_S": "0"}
    with running_server(tmp_path_factory.mktemp("drained") / "state", environment=environment) as server:
        yield server


def test_terminated_server_saves_a_checkpoint_and_its_job_goes_on_there(server):
    with DasClient(server.address, timeout_s=60) as client:
        expected = follow(client, submit(client, **LONG)).frame_shas
        job = submit(client, **LONG)
        follow(client, job, until=is_step)
        worker = server.status()["workers"][0]["pid"]
        assert server.stop() == 0 and wait_for_death(worker)
        assert (server.state / "checkpoints" / f"{job}.safetensors").is_file()  # sooner than after 20 s
        server.start()
        finished = whole_story(server.address, job)
    assert finished.kinds == ["QUEUED", "STARTED", "RETRY", "STARTED", "DONE"]
    assert finished.frame_shas == expected and GOES_ON in server.log


def test_drained_server_finishes_what_runs_and_begins_nothing_else(server):
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, num_inference_steps=25, seed=42)
        follow(client, job, until=is_step)
        waiting = submit(client, seed=43)
        said = run_das_server("drain", "--server", server.address)
        assert said.returncode == 0 and "1 job runs, 1 job waits" in said.stdout and "has ended" in said.stdout
        assert server.wait() == 0
        server.start()
        assert whole_story(server.address, job).kinds == ["QUEUED", "STARTED", "DONE"]
        told = whole_story(server.address, waiting)
    assert told.kinds == ["QUEUED", "WAITING", "STARTED", "DONE"]
    assert "it is being stopped" in next(one for one in told.events if one.kind == "WAITING").fields["message"]


def test_worker_that_somebody_ends_saves_a_checkpoint_and_it_is_held_against_no_job(server):
    before = server.log.count(GOES_ON)
    with DasClient(server.address, timeout_s=60) as client:
        job = submit(client, num_inference_steps=10, seed=44)
        follow(client, job, until=is_step)
        kill(server.status()["workers"][0]["pid"], signal.SIGTERM)
        finished = follow(client, job)
    assert finished.kinds == ["QUEUED", "STARTED", "RETRY", "STARTED", "DONE"]
    assert "was killed by SIGTERM" in next(one for one in finished.events if one.kind == "RETRY").fields["message"]
    assert server.log.count(GOES_ON) == before + 1
