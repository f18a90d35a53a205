# SPDX-License-Identifier: GPL-3.0-or-later
"""One job that several want, through a real server: rendered once, the same bytes for all, whoever leaves meanwhile."""

import contextlib
import random
import subprocess
import sys
import time

import pytest

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol.messages import Accepted
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.running import wait_for
from tests.support.server import ROOT
from tests.support.wire import JOB_S, Finished, follow, is_step, submit

ADA, BEN, CLEO = (letter * 32 for letter in "abc")
LONG_STEPS = 100
MIDDLING = {"num_inference_steps": 20}


@contextlib.contextmanager
def clients_of(server, *requesters, **options):
    """One client for each requester."""
    with contextlib.ExitStack() as stack:
        make = lambda one: DasClient(server.address, requester=one, timeout_s=60, **options)  # noqa: E731
        yield [stack.enter_context(make(one)) for one in requesters]


def ask(client, job, *, again=False, **changes) -> Accepted:
    """The answer to SUBMIT of a job whose inputs the server has."""
    spec = job_spec(**changes)
    answer = client.submit(job, spec, job_inputs(spec)[0], again=again)
    if not isinstance(answer, Accepted):
        for sha in answer.shas:
            client.upload(job_inputs(spec)[1][sha])
        answer = client.submit(job, spec, job_inputs(spec)[0], again=again)
    return answer


def frames_of(client, finished: Finished) -> list[bytes]:
    artefacts = [one for one in finished.last.fields["artefacts"] if one["role"] == "frame"]
    return list(client.fetch_each([(one["sha"], one["size_bytes"]) for one in artefacts]))


# ── Results ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_results_stay_until_every_requester_has_acknowledged_them(server):
    with clients_of(server, ADA, BEN) as (ada, ben):
        job = submit(ada, seed=61)
        answer = ask(ben, job, seed=61)
        assert (answer.job, answer.duplicate, answer.queue_position) == (job, True, 0)
        finished = follow(ada, job)
        frames = frames_of(ada, finished)
        ada.ack(job)
        assert frames_of(ben, finished) == frames
        ben.ack(job)
        wait_for(lambda: not set(finished.frame_shas) & server.stored_blobs())
        with pytest.raises(StorageError) as caught:
            frames_of(ben, finished)
        assert caught.value.field == "sha"


def test_job_whose_results_are_gone_runs_once_more_when_that_is_asked_for(server):
    with clients_of(server, ADA, BEN, CLEO) as (ada, ben, cleo):
        job = submit(ada, seed=62)
        finished = follow(ada, job)
        frames = frames_of(ada, finished)
        assert ask(ben, job, seed=62, again=True).job == job  # they are there
        for client in (ada, ben):
            client.ack(job)
        assert ask(ben, job, seed=62).job == job  # as it ended: whoever has the frames needs no second run
        answer = ask(ben, job, seed=62, again=True)
        assert answer.job != job and not answer.duplicate
        assert ask(cleo, job, seed=62, again=True).job == answer.job
        assert frames_of(ben, follow(ben, answer.job)) == frames


def test_client_without_a_name_is_one_requester_and_starts_no_second_run(server):
    """As clients of the first version of the protocol are."""
    with DasClient(server.address, timeout_s=60) as old, clients_of(server, ADA) as (ada,):
        job = submit(old, seed=63)
        ask(ada, job, seed=63)
        finished = follow(old, job)
        old.ack(job)
        assert frames_of(ada, finished)
        ada.ack(job)
        assert ask(old, job, seed=63, again=True).job == job


# ── Leaving ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cancel_withdraws_one_requester_and_the_job_goes_on_for_the_others(server):
    with clients_of(server, ADA, BEN) as (ada, ben):
        job = submit(ada, seed=64, **MIDDLING)
        ask(ben, job, seed=64, **MIDDLING)
        follow(ada, job, until=is_step)
        answer = ada.cancel(job)
        assert (answer.state, answer.others) == ("RUNNING", 1)
        assert follow(ben, job).kinds == ["QUEUED", "STARTED", "DONE"]


def test_job_that_all_have_cancelled_ends_and_runs_once_more_for_the_next(server):
    with clients_of(server, ADA, BEN, CLEO) as (ada, ben, cleo):
        job = submit(ada, seed=65, **MIDDLING)
        ask(ben, job, seed=65, **MIDDLING)
        follow(ada, job, until=is_step)
        assert ada.cancel(job).others == 1 and ben.cancel(job).others == 0
        assert follow(ben, job).last.kind == "CANCELLED"
        answer = ask(cleo, job, seed=65, **MIDDLING)
        assert answer.job != job and not answer.duplicate
        assert ask(ada, job, seed=65, **MIDDLING).job == job  # it wanted no more: this came late
        assert cleo.cancel(job).others == 0  # by the id that it asked for
        assert follow(cleo, answer.job).last.kind == "CANCELLED"


def test_job_that_is_asked_for_while_it_stops_is_made(server):
    with clients_of(server, ADA, BEN) as (ada, ben):
        job = submit(ada, seed=66, **MIDDLING)
        follow(ada, job, until=is_step)
        ada.cancel(job)
        answer = ask(ben, job, seed=66, **MIDDLING)
        assert follow(ben, answer.job).last.kind == "DONE"


def test_failed_job_is_tried_again_for_another_requester_only(server):
    with clients_of(server, ADA, BEN) as (ada, ben):
        job, spec = job_id(), job_spec(seed=67)
        inputs, blobs = job_inputs(spec)
        broken = [one for one in inputs if one.role != "first_frame"]
        sha = ada.upload(b"no picture")
        picture = next(one for one in inputs if one.role == "first_frame")
        broken.append(type(picture)("first_frame", sha, len(b"no picture"), picture.media))
        for one in broken[:-1]:
            ada.upload(blobs[one.sha])
        assert isinstance(ada.submit(job, spec, broken), Accepted)
        assert follow(ada, job).last.kind == "FAILED"
        assert ada.submit(job, spec, broken).job == job
        answer = ben.submit(job, spec, broken)
        assert answer.job != job and follow(ben, answer.job).last.kind == "FAILED"


@pytest.mark.parametrize("speaks", [False, True], ids=["gone", "there"])
def test_job_ends_with_the_lease_of_a_client_that_is_gone(server, speaks):
    lease_s, long = 6.0, {"num_inference_steps": LONG_STEPS, "num_frames": 25, "width": 192, "height": 128}
    with clients_of(server, ADA, lease_s=lease_s) as (ada,), DasClient(server.address, timeout_s=60) as watcher:
        job = submit(ada, seed=68 + speaks, **long)
        if not speaks:
            ada.close()
            assert follow(watcher, job).last.kind == "CANCELLED"
        else:
            began = follow(ada, job, until=is_step).last.time_s
            last = follow(ada, job, until=lambda event: event.time_s > began + lease_s + 1.0).last
            assert last.kind != "CANCELLED"
            ada.cancel(job)


@pytest.mark.parametrize("lease_s", [0.1, 2.9])
def test_lease_that_is_too_short_is_refused_by_name(server, lease_s):
    with DasClient(server.address, lease_s=lease_s) as client, pytest.raises(JobRejected) as caught:
        ask(client, job_id())
    assert caught.value.field == "lease_s" and "3 s and more" in caught.value.message


def test_requesters_outlive_their_server(own_server):
    with clients_of(own_server, ADA, BEN) as (ada, ben):
        job = submit(ada, seed=70, **MIDDLING)
        ask(ben, job, seed=70, **MIDDLING)
        follow(ada, job, until=is_step)
        own_server.kill()
        own_server.start()
        assert ada.cancel(job).others == 1
        assert follow(ben, job).last.kind == "DONE"


# ── Many ────────────────────────────────────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import signal, sys, threading
from tests.e2e.test_client_take import request
from das_blender_addon.client.take import Progress, run_job
from das_blender_addon.errors import JobCancelled

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())

def tell(event):
    if isinstance(event, Progress):
        print(event.stage, event.step, flush=True)

address, folder, job, seed = sys.argv[1:]
asked = request(num_inference_steps=100, seed=int(seed))
try:
    print(run_job(address, asked, folder, job_id=job, on_event=tell, should_stop=stop.is_set).job_id)
except JobCancelled as error:
    sys.exit(error.exit_code)
"""


def test_eight_processes_share_a_job_and_some_are_killed_or_cancel(server, tmp_path):
    job, draw = job_id(), random.Random(8)
    folders = [tmp_path / f"{index}" for index in range(8)]
    start = lambda folder: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", PROGRAM, server.address, str(folder), job, "7108"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    processes = [start(folder) for folder in folders]
    for process in processes:
        assert any(line.startswith(("queued", "denoising")) for line in process.stdout)
    victims = draw.sample(range(8), 4)
    killed, cancelled = victims[:2], victims[2:]
    for index in draw.sample(victims, 4):
        processes[index].kill() if index in killed else processes[index].terminate()
        time.sleep(draw.uniform(0.0, 0.2))
    outputs = [process.communicate(timeout=JOB_S)[0] for process in processes]
    assert [processes[index].returncode for index in cancelled] == [42, 42]
    going_on = [index for index in range(8) if index not in victims]
    assert [processes[index].returncode for index in going_on] == [0] * 4
    assert {outputs[index].split()[-1] for index in going_on} == {job}

    again = start(folders[killed[0]])  # those who never said that they have it keep the results for it
    assert again.communicate(timeout=JOB_S)[0].split()[-1] == job and again.returncode == 0
    contents = [[path.read_bytes() for path in sorted(folders[i].iterdir())] for i in [*going_on, killed[0]]]
    assert len(contents[0]) == 5 and all(one == contents[0] for one in contents)
    runs = [one for one in server.status()["jobs"] if one["seed"] == 7108]
    assert [(one["job"], one["state"], one["attempt"]) for one in runs] == [(job, "DONE", 1)]
