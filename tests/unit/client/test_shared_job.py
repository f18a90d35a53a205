# SPDX-License-Identifier: GPL-3.0-or-later
"""`run_job` as one of several that want a job, against a small peer: it is known by an id, and results may be gone."""

import threading

import pytest

from das_blender_addon.client import connection, job_run
from das_blender_addon.client.take import Log, Preview, run_job
from das_blender_addon.errors import JobCancelled, StorageError
from das_blender_addon.protocol import messages as m
from tests.support.messages import JOB
from tests.support.peer import ask_once
from tests.unit.client.test_take import assert_frames, request


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    ask_once(monkeypatch)
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.2)


def requesters_of(peer, *kinds):
    return [one.requester for one in peer.requests if type(one) in kinds]


def test_each_call_is_a_requester_of_its_own_and_says_so_in_every_request(peer, tmp_path):
    for folder in ("a", "b"):
        run_job(peer.address, request(), tmp_path / folder, job_id=JOB, timeout_s=60.0)
    for kind in (m.Submit, m.Attach, m.Ack):
        assert len(set(requesters_of(peer, kind))) == 2
    assert len(set(requesters_of(peer, m.Submit, m.Attach, m.Ack))) == 2
    assert {one.lease_s for one in peer.requests if type(one) in (m.Submit, m.Attach)} == {0.0}


def test_cancel_names_the_requester_and_does_not_wait_for_a_job_that_goes_on(peer, tmp_path):
    peer.final, peer.others = None, 1
    stop = threading.Event()
    with pytest.raises(JobCancelled, match="Stopped by the user"):
        run_job(
            peer.address,
            request(),
            tmp_path,
            job_id=JOB,
            on_event=lambda event: stop.set() if isinstance(event, Preview) else None,
            should_stop=stop.is_set,
            timeout_s=60.0,
        )
    assert requesters_of(peer, m.Cancel) == requesters_of(peer, m.Submit)[:1]
    attaches = peer.seen[m.Attach]
    assert peer.events[JOB][-1].kind != "CANCELLED" and attaches == len(requesters_of(peer, m.Attach))


def test_job_whose_results_are_gone_runs_again_and_its_new_run_is_fetched(peer, tmp_path):
    first = run_job(peer.address, request(), tmp_path / "a", job_id=JOB, timeout_s=60.0)
    peer.results.clear()
    seen = []
    second = run_job(peer.address, request(), tmp_path / "b", job_id=JOB, on_event=seen.append, timeout_s=60.0)
    assert_frames(second.frames, tmp_path / "b")
    assert first.job_id == JOB != second.job_id and list(peer.jobs) == [JOB, second.job_id]
    assert Log("The server no longer has all frames of the job; asking for it again.") in seen
    assert [one.again for one in peer.requests if type(one) is m.Submit][-1]


def test_frames_that_another_process_has_brought_meanwhile_are_taken_from_disk(peer, tmp_path):
    first = run_job(peer.address, request(), tmp_path / "a", job_id=JOB, timeout_s=60.0)
    images = [path.read_bytes() for path in first.frames]
    peer.results.clear()

    def another_process(message):
        if type(message) is m.Fetch and peer.seen[m.Ack] == 1:
            for path, image in zip(first.frames, images, strict=True):
                (tmp_path / "b" / path.name).write_bytes(image)

    (tmp_path / "b").mkdir()
    peer.on_request = another_process
    second = run_job(peer.address, request(), tmp_path / "b", job_id=JOB, timeout_s=60.0)
    assert second.job_id == JOB and list(peer.jobs) == [JOB]
    assert_frames(second.frames, tmp_path / "b")


def test_server_that_loses_results_again_and_again_is_left(peer, tmp_path):
    peer.on_request = lambda message: peer.results.clear() if type(message) is m.Fetch else None
    with pytest.raises(StorageError, match="is gone"):
        run_job(peer.address, request(), tmp_path, job_id=JOB, timeout_s=60.0)
    assert len(peer.jobs) == job_run._FETCH_ROUNDS and peer.seen[m.Ack] == 0


def test_lease_is_renewed_while_events_come_and_while_none_do(peer, tmp_path, monkeypatch):
    """With long heartbeats, only the lease makes the client speak."""
    monkeypatch.setattr(connection, "HEARTBEAT_S", 60.0)
    peer.final = None
    stop = threading.Event()

    def count(message):
        if peer.seen[m.Attach] >= 4:
            stop.set()
        elif type(message) is m.Attach and peer.events.get(JOB):
            peer.add_event(JOB, "PROGRESS", {"stage": "denoising", "step": 1, "of": 9, "elapsed_s": 0.1})

    peer.on_request = count
    with pytest.raises(JobCancelled):
        run_job(
            peer.address, request(), tmp_path, job_id=JOB, lease_s=0.3, should_stop=stop.is_set, timeout_s=20.0
        )
    attaches = [one for one in peer.requests if type(one) is m.Attach]
    assert {(one.requester, one.lease_s) for one in attaches} == {(requesters_of(peer, m.Submit)[0], 0.3)}


@pytest.mark.parametrize("lease_s", [0.0, 60.0])
def test_job_that_ended_without_our_asking_is_sent_again_only_where_a_lease_ran_out(peer, tmp_path, lease_s):
    peer.final = None

    def end(event):
        if isinstance(event, Preview) and peer.final is None:
            peer.final = "DONE"
            peer.add_event(JOB, "CANCELLED", {})

    def run():
        return run_job(
            peer.address, request(), tmp_path, job_id=JOB, lease_s=lease_s, on_event=end, timeout_s=60.0
        )

    if lease_s:
        assert_frames(run().frames, tmp_path)
        assert len(peer.jobs) == 2
    else:
        with pytest.raises(JobCancelled, match="was cancelled on the server"):
            run()


def test_server_of_the_first_version_is_given_an_id_of_this_call(peer, tmp_path):
    """It would answer for ever with the end of a job that was cancelled once."""
    peer.version = 1
    one, two = (run_job(peer.address, request(), tmp_path / name, job_id=JOB, timeout_s=60.0) for name in "ab")
    assert JOB not in peer.jobs and one.job_id != two.job_id
