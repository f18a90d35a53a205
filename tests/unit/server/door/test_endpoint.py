# SPDX-License-Identifier: GPL-3.0-or-later
"""The front door by itself, on a real socket: what must not end it.  (Everything else about it: `tests/e2e`.)"""

import os
import threading
import time
from dataclasses import replace

import msgpack
import pytest

from das_blender_addon.errors import JobRejected, StorageError
from das_blender_addon.protocol import messages as m
from das_server.door.collect import Collector
from das_server.door.followers import Followers
from das_server.door.server import Guarded, known_models
from das_server.limits import MAX_FLYING
from das_server.store.blobs import DISK
from das_server.store.reading import EVENTS_AT_ONCE
from das_server.workers.room import Room
from tests.support.house import House
from tests.support.jobs import job_id, job_inputs, job_spec
from tests.support.wire import sha_of


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path)
    yield house
    house.close()


def test_every_request_has_somebody_who_answers_and_nothing_else_has(house):
    assert {*house.endpoint._requests._handlers, m.Pair, m.Hello} == set(m.REQUESTS)


def test_request_with_too_many_values_is_refused_before_it_is_looked_at(house):
    lists = [[1] * 4096] * 3
    house._dealer.send(msgpack.packb({"type": "PING", "request": 7, "unknown": lists}))
    house.receive()
    refusal = house.heard()
    assert (refusal.request, refusal.code) == (7, "protocol") and "8192 values" in refusal.message


def test_event_that_cannot_be_written_harms_no_other_follower(house, caplog):
    bad, good = house.submitted(), house.submitted()
    for request, job in ((1, bad), (2, good)):
        assert house.ask(m.Attach(request, job, 1)) == m.Attached(request, job, 1)
    fields = {"stage": "denoising", "step": 1, "of": 2, "elapsed_s": 0.5}
    house.store.progress(bad, fields | {"elapsed_s": float("nan")})
    house.store.progress(good, fields)
    house.endpoint.tell_followers()
    event = house.heard()
    assert (event.job, event.seq, event.fields) == (good, 2, fields)
    assert f"job {bad}: its events cannot be sent" in caplog.text


def test_nothing_is_looked_up_for_followers_of_jobs_without_news(house):
    jobs = [house.submitted() for _ in range(3)]
    for number, job in enumerate(jobs):
        assert house.ask(m.Attach(number, job, 1)) == m.Attached(number, job, 1)
    house.endpoint.tell_followers()
    asked = []
    house.store._db.set_trace_callback(asked.append)
    house.endpoint.tell_followers()
    assert asked == []
    house.store.tell_one_waiting(jobs[1], "It waits.")
    asked.clear()
    house.endpoint.tell_followers()
    house.endpoint.tell_followers()
    assert len(asked) == 1 and (house.heard().job, asked[0].count(jobs[1])) == (jobs[1], 1)


def test_follower_that_reads_nothing_costs_one_look_now_and_then(house, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(house.endpoint._slow, "_clock", lambda: now[0])
    jobs = [house.submitted() for _ in range(20)]
    for job in jobs:
        for step in range(150):
            house.store.progress(job, {"stage": "denoising", "step": step, "of": 150, "elapsed_s": 0.5})
    for number, job in enumerate(jobs):
        assert house.ask(m.Attach(number, job, 0)) == m.Attached(number, job, 151)
    for _ in range(30):
        house.endpoint.tell_followers()
    assert not house.endpoint.has_told_all  # it may just be busy
    asked = []
    house.store._db.set_trace_callback(asked.append)
    looks = []
    for _ in range(100):
        now[0] += 0.01
        asked.clear()
        house.endpoint.tell_followers()
        looks.append(len(asked))
    assert max(looks) == 1 and sum(looks) < 12 and house.endpoint.has_told_all
    house.store._db.set_trace_callback(None)
    heard = dict.fromkeys(jobs, 0)
    deadline = time.monotonic() + 60
    while min(heard.values()) < 151 and time.monotonic() < deadline:
        now[0] += 0.2
        house.endpoint.tell_followers()
        while house._dealer.poll(0):
            event = house.heard()
            assert event.seq == heard[event.job] + 1
            heard[event.job] = event.seq
    assert set(heard.values()) == {151}


def test_follower_with_a_long_past_is_told_all_of_it(house, monkeypatch):
    job = house.submitted()
    for step in range(EVENTS_AT_ONCE + 5):
        house.store.progress(job, {"stage": "denoising", "step": step, "of": 2, "elapsed_s": 0.5})
    house.ask(m.Attach(1, job, 0))
    told = 0
    while told < EVENTS_AT_ONCE + 6:
        house.endpoint.tell_followers()
        told = house.heard().seq
    house.endpoint.tell_followers()
    assert house.endpoint.has_told_all


def test_one_job_more_than_a_peer_may_follow_is_refused_until_one_is_over():
    followers = Followers(most=2)
    for job in ("a", "b", "a"):
        followers.follow(b"eve", job, 0)
    with pytest.raises(JobRejected, match="2 jobs already"):
        followers.follow(b"eve", "c", 0)
    followers.follow(b"ada", "c", 0)
    followers.leave(b"eve", "a")
    followers.follow(b"eve", "c", 0)


def test_followers_that_are_gone_are_forgotten():
    followers = Followers(most_peers=3)
    for peer in (b"1", b"2", b"3"):
        followers.follow(peer, "a", 0)
        followers.follow(peer, "b", 0)
    followers.heard(b"1")
    followers.follow(b"4", "a", 0)
    assert len(followers) == 5 and followers.follows(b"1", "a") and not followers.follows(b"2", "a")
    followers.take_due()
    followers.has_news(["a"])
    assert sorted(followers.take_due()) == [(b"1", "a", 0), (b"3", "a", 0), (b"4", "a", 0)]


def test_job_list_that_cannot_be_read_does_not_end_the_front_door(house, caplog):
    job = house.submitted()
    house.ask(m.Attach(1, job, 1))
    house.store.close()  # its disk is gone
    house.endpoint.tell_followers()
    assert "its events cannot be sent" in caplog.text
    assert house.ask(m.Attach(2, job, 1)).code == "job.storage"
    assert house.ask(m.Ping(3)) == m.Pong(3)


def test_step_that_fails_does_not_end_the_loop_and_is_told_once(caplog):
    turns = []

    def step():
        turns.append(len(turns))
        raise OSError("no process left") if len(turns) < 4 else KeyError("another")

    guarded = Guarded(step)
    for _ in range(5):
        guarded()
    assert turns == [0, 1, 2, 3, 4]
    assert caplog.text.count("a step of the server failed") == 2
    assert "no process left" in caplog.text and "another" in caplog.text


def test_folders_of_models_that_hang_make_nobody_wait_but_who_asks_for_them(tmp_path):
    goes_on, looks = threading.Event(), []

    def models():
        looks.append(goes_on.wait(20))
        return known_models()

    house = House(tmp_path, models)
    for request in range(1, 5):
        house.send(m.Hello(request, [m.PROTOCOL_VERSIONS[-1]], "a test"))
    assert house.ask(m.Ping(90)) == m.Pong(90)
    goes_on.set()
    welcomed, deadline = {}, time.monotonic() + 60
    while len(welcomed) < 4 and time.monotonic() < deadline:
        house.endpoint.deliver()
        if house._dealer.poll(20):
            welcome = house.heard()
            welcomed[welcome.request] = welcome.capabilities
    assert sorted(welcomed) == [1, 2, 3, 4] and all(one == welcomed[1] for one in welcomed.values())
    assert {one.name for one in welcomed[1].models} == {*known_models()}
    assert len(looks) <= 2  # the first one's, and one for all who came while it went on
    house.send(m.Hello(5, [m.PROTOCOL_VERSIONS[-1]], "a test"))
    while not house._dealer.poll(20) and time.monotonic() < deadline:
        house.endpoint.deliver()
    before = len(looks)
    assert house.heard().request == 5 and before == len(looks) >= 2  # what was seen before is not told again
    house.close()


def test_event_list_that_fails_in_any_way_harms_no_other_follower(house, caplog):
    bad, good = house.submitted(), house.submitted()
    house.endpoint._followers.follow(b"somebody", bad, 1 << 63)  # more than the job list takes: an OverflowError
    house.ask(m.Attach(1, good, 0))
    house.endpoint.tell_followers()
    assert house.heard().job == good
    assert f"job {bad}: its events cannot be sent" in caplog.text
    house.endpoint.tell_followers()
    assert house.ask(m.Ping(2)) == m.Pong(2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a named pipe here")
def test_disk_that_hangs_makes_nobody_else_wait(house):
    sha, content = sha_of(b"piece"), b"piece"
    part = house.folder / "incoming" / f"{sha}.part"
    os.mkfifo(part)  # opened for writing it hangs until somebody reads
    for request in range(1, MAX_FLYING + 1):
        house.send(m.Put(request, sha, len(content), 0), content)
    assert house.ask(m.Ping(90)) == m.Pong(90)
    house.send(m.Put(91, sha, len(content), 0), content)
    refused = house.heard()
    assert (refused.request, refused.code) == (91, "job.rejected") and str(MAX_FLYING) in refused.message
    reader = os.open(part, os.O_RDONLY | os.O_NONBLOCK)
    deadline = time.monotonic() + 60
    answered = set()
    while len(answered) < MAX_FLYING and time.monotonic() < deadline:
        house.endpoint.deliver()
        if house._dealer.poll(20):
            answered.add(house.heard().request)
    os.close(reader)
    assert answered == set(range(1, MAX_FLYING + 1))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a named pipe here")
def test_results_that_are_looked_at_make_nobody_else_wait(house):
    job, spec = job_id(), job_spec()
    inputs, _ = job_inputs(spec)
    house.store.submit(job, spec, inputs, requester="a" * 32)
    house.store.start(job, worker="worker-0", device="cpu")
    sha, size_bytes = house.blobs.add(b"a frame")
    house.store.finish(job, [m.Artefact("frame", sha, size_bytes, "image/png")], {})
    house.blobs.path(sha).unlink()
    os.mkfifo(house.blobs.path(sha))  # opened for reading it hangs until somebody writes
    house.send(m.Submit(1, job, spec, inputs, requester="b" * 32, again=True))
    assert house.ask(m.Ping(2)) == m.Pong(2)
    os.close(os.open(house.blobs.path(sha), os.O_WRONLY))  # and is no frame then
    deadline = time.monotonic() + 60
    while not house._dealer.poll(20) and time.monotonic() < deadline:
        house.endpoint.deliver()
    assert house.heard() == m.Need(1, job, [one.sha for one in inputs])


def test_new_jobs_are_refused_before_the_list_of_jobs_has_no_room_and_the_others_go_on(house):
    spec = job_spec()
    inputs, blobs = job_inputs(spec)
    for content in blobs.values():
        house.store.own_blob(house.blobs.add(content)[0], "", 1)
    known, over = house.submitted(), house.submitted()
    house.store.fail(over, code="error", message="It failed.")
    house.endpoint._requests._dispatcher._room = Room(house.folder, 100, free_bytes=lambda: 49)
    for request in (m.Submit(1, job_id(), spec, inputs), m.Requeue(1, over)):
        refused = house.ask(request)
        assert isinstance(refused, m.Failure) and (refused.code, refused.field) == ("job.storage", DISK)
    house.send(m.Submit(2, known, spec, inputs))
    until(house, lambda: house._dealer.poll(0))
    assert house.heard() == m.Accepted(2, known, True, 0)
    assert isinstance(house.ask(m.Attach(3, known, 0)), m.Attached)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a file that hangs is a named pipe here")
def test_results_that_are_acknowledged_are_deleted_while_nobody_waits(house):
    job, hanging = house.submitted(), "0" * 64
    house.store.start(job, worker="worker-0", device="cpu")
    sha, size_bytes = house.blobs.add(b"a frame")
    house.store.finish(job, [m.Artefact("frame", sha, size_bytes, "image/png")], {})
    house.blobs.path(hanging).parent.mkdir(exist_ok=True)
    os.mkfifo(house.blobs.path(hanging))
    house.store.own_blob(hanging, "", 1)
    house.send(m.Fetch(1, hanging, 0, 1))  # the disk hangs
    house.send(m.Ack(2, job))
    until(house, lambda: house._dealer.poll(0))
    assert house.heard() == m.Acked(2, job) and house.blobs.size_bytes(sha) == size_bytes
    os.close(os.open(house.blobs.path(hanging), os.O_WRONLY))
    until(house, lambda: house.blobs.size_bytes(sha) is None)


def until(house, is_so):
    """Deliver what is done until ``is_so()``."""
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        house.endpoint.deliver()
        time.sleep(0.005)
    assert is_so()


def test_old_jobs_and_blobs_are_collected_in_steps_and_those_in_use_stay(house):
    sha, _ = house.blobs.add(b"kept")
    gone, _ = house.blobs.add(b"gone")
    house.store.submit(job_id(), job_spec(), [replace(job_inputs(job_spec())[0][0], sha=sha)])
    over = [house.submitted() for _ in range(50)]
    for job in over:
        house.store.request_cancel(job)
    for one in (sha, gone):
        os.utime(house.blobs.path(one), (1000, 1000))
    collector = Collector(house.store, house.blobs, house.beside, keep_s=0.0)
    deadline = time.monotonic() + 60
    while house.blobs.size_bytes(gone) is not None and time.monotonic() < deadline:
        collector.step()
        house.endpoint.deliver()
        time.sleep(0.01)
    assert all(house.store.find(job) is None for job in over)
    assert house.blobs.read(sha) == b"kept" and house.blobs.size_bytes(gone) is None


def settled(house, collector, is_so):
    """Let ``collector`` work until ``is_so()``."""
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        collector.step()
        house.endpoint.deliver()
        time.sleep(0.01)
    assert is_so()


def test_unused_blobs_go_sooner_where_there_are_too_many_and_what_is_needed_stays(house):
    needed, _ = house.blobs.add(b"n" * 100)
    house.store.submit(job_id(), job_spec(), [replace(job_inputs(job_spec())[0][0], sha=needed)])
    oldest, older, young = (house.blobs.add(letter * 100)[0] for letter in (b"a", b"b", b"c"))
    for number, sha in enumerate((needed, oldest, older)):
        os.utime(house.blobs.path(sha), (1000 + number, 1000 + number))
    about = {"keep_s": 1e10, "max_kept_bytes": 300}
    collector = Collector(house.store, house.blobs, house.beside, **about)
    settled(house, collector, lambda: house.blobs.size_bytes(oldest) is None)
    assert all(house.blobs.size_bytes(sha) == 100 for sha in (needed, older, young)) and not house.blobs.full

    collector = Collector(house.store, house.blobs, house.beside, **about | {"max_kept_bytes": 150})
    settled(house, collector, lambda: house.blobs.full and house.blobs.size_bytes(older) is None)
    assert house.blobs.size_bytes(needed) == house.blobs.size_bytes(young) == 100  # used just now
    with pytest.raises(StorageError, match="more than its limit of 0 MiB"):
        house.blobs.put("0" * 64, 10, 0, b"x")
    house.blobs.path(young).unlink()
    collector = Collector(house.store, house.blobs, house.beside, **about | {"max_kept_bytes": 150})
    settled(house, collector, lambda: not house.blobs.full)


def test_the_servers_own_speed_is_the_first_of_those_that_a_model_has():
    assert known_models()["das-preview"].speeds == ["exact", "fast", "preview"]
    models = known_models(speed="fast")
    assert models["das-preview"].speeds == ["fast", "exact", "preview"]
    assert models["wan-vace-1.3b"].speeds == ["exact"]
