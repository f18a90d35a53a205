# SPDX-License-Identifier: GPL-3.0-or-later
"""`run_job` against a small peer that loses messages, falls silent, or is not there."""

import pytest

from das_blender_addon.client import connection, job_run
from das_blender_addon.client.client import DasClient
from das_blender_addon.client.take import Log, Preview, Progress, Silence, run_job
from das_blender_addon.errors import JobCancelled, ServerUnreachable, TransportTimeout
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.png import encode_png
from tests.support.background import BackgroundJob
from tests.support.peer import NUM_FRAMES, Peer, frame
from tests.support.running import wait_for
from tests.unit.client.test_take import assert_frames, request


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch):
    monkeypatch.setattr(connection, "ATTEMPT_S", 0.3)
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.2)


@pytest.fixture
def clients(monkeypatch):
    """The clients that are made: one that has begun its job with time can be given less."""
    made = []

    class Listed(DasClient):
        def __enter__(self):
            made.append(self)
            return super().__enter__()

    monkeypatch.setattr(job_run, "DasClient", Listed)
    return made


def test_lost_messages_of_every_kind_do_not_lose_the_job(peer, tmp_path):
    for kind in (m.Hello, m.Put, m.Submit, m.Attach, m.Fetch, m.Ack):
        peer.drop[kind] = 1
    outcome = run_job(peer.address, request(), tmp_path, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path)
    assert len(peer.jobs) == 1


def test_server_that_restarts_in_the_middle_goes_on(tmp_path):
    first = Peer()
    first.final = None
    with first:
        running = BackgroundJob(first.address, request(), tmp_path, timeout_s=60.0)
        wait_for(lambda: first.seen[m.Fetch])
    second = Peer(address=first.address)
    second.jobs, second.events, second.results = first.jobs, first.events, first.results
    with second:
        (job,) = second.jobs
        artefacts = [second.keep(encode_png(frame(i)), "frame", "image/png", i) for i in range(NUM_FRAMES - 1)]
        second.add_event(job, "RETRY", {"attempt": 2, "code": "job.worker_lost", "message": "The server restarted."})
        second.add_event(job, "DONE", {"artefacts": artefacts, "report": {}})
        outcome = running.result(60.0)
        assert_frames(outcome.frames, tmp_path)
    assert Log("Attempt 2: The server restarted.") in running.poll()


def test_stopping_while_nobody_answers_ends_soon(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(job_run, "CANCEL_WAIT_S", 3.0)  # many attempts
    peer.drop[m.Submit] = peer.drop[m.Cancel] = 1000
    with pytest.raises(JobCancelled):
        run_job(peer.address, request(), tmp_path, should_stop=lambda: peer.seen[m.Submit] > 0, timeout_s=3600.0)
    wait_for(lambda: peer.seen[m.Cancel])


def test_nobody_there_is_unreachable(tmp_path):
    with pytest.raises(ServerUnreachable, match="No server answers at tcp://127.0.0.1:9 after 0.3 s"):
        run_job("127.0.0.1:9", request(), tmp_path, timeout_s=0.3)


def test_server_that_dies_is_a_timeout_and_the_job_is_left_to_it(clients, peer, tmp_path):
    peer.final = None

    def die(event):
        if isinstance(event, Preview):
            clients[0].timeout_s = 0.6
            peer.drop.update({kind: 10_000 for kind in m.MESSAGES.values()})

    with pytest.raises(TransportTimeout, match="fell silent for 0.6 s"):
        run_job(peer.address, request(), tmp_path, on_event=die, timeout_s=60.0)
    assert peer.seen[m.Cancel] == 0


def test_silence_of_a_server_that_dies_is_told_while_it_lasts(clients, peer, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SILENT_S", 1)
    peer.final, seen = None, []

    def die(event):
        seen.append(event)
        if isinstance(event, Preview):
            seen.clear()  # of a slow machine's silence before
            clients[0].timeout_s = 2.5
            peer.drop.update({kind: 10_000 for kind in m.MESSAGES.values()})

    with pytest.raises(TransportTimeout):
        run_job(peer.address, request(), tmp_path, on_event=die, timeout_s=60.0)
    seconds = [event.seconds for event in seen if isinstance(event, Silence)]
    assert seconds and seconds[0] >= 1 and seconds == sorted(set(seconds))
    assert not any(isinstance(event, Progress) for event in seen[seen.index(Silence(seconds[0])) :])


def test_server_that_is_heard_again_is_not_silent_any_more(peer, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "SILENT_S", 1)
    peer.final, seen = None, []

    def pause(event):
        seen.append(event)
        if isinstance(event, Preview):
            peer.drop.update({kind: 10_000 for kind in m.MESSAGES.values()})
        elif isinstance(event, Silence) and peer.drop:
            peer.drop.clear()
            artefacts = [peer.keep(encode_png(frame(i)), "frame", "image/png", i) for i in range(NUM_FRAMES - 1)]
            peer.add_event(*peer.jobs, "DONE", {"artefacts": artefacts, "report": {}})

    outcome = run_job(peer.address, request(), tmp_path, on_event=pause, timeout_s=60.0)
    assert_frames(outcome.frames, tmp_path)
    after = seen[next(i for i, event in enumerate(seen) if isinstance(event, Silence)) :]
    assert after[0].seconds >= 1 and after.index(Silence(0)) < next(
        i for i, event in enumerate(after) if isinstance(event, Progress)
    )
    assert [event for event in after if isinstance(event, Silence)][-1] == Silence(0)
