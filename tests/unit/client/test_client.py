# SPDX-License-Identifier: GPL-3.0-or-later
"""`DasClient` against a small peer that loses, damages and refuses messages.

One file, though long: one class, message by message, with one peer.
"""

import contextlib
import threading
import time

import msgpack
import pytest

from das_blender_addon.client import connection
from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import (
    JobCancelled,
    JobRejected,
    MessageTooLarge,
    ProtocolError,
    ServerUnreachable,
    StorageError,
    TransportTimeout,
    VersionMismatch,
)
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.frames import blob_sha
from tests.support.messages import JOB, SHA
from tests.support.peer import HEIGHT, NUM_FRAMES, WIDTH, Peer
from tests.support.running import wait_for

SPEC = m.JobSpec("mesh_to_video", "tiny", "", "", 7, 2, 1.0, NUM_FRAMES, NUM_FRAMES, WIDTH, HEIGHT)
BIG = bytes(range(256)) * 4096 * 6 + b"tail"  # 6 MiB and 4 bytes: seven pieces
FREE_PORT = "tcp://127.0.0.1:9"  # the discard service: nobody listens


@pytest.fixture
def patient():
    """For tests that count requests, or number answers: a machine that stalls must not make the client ask twice."""


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch, request):
    monkeypatch.setattr(connection, "ATTEMPT_S", 60.0 if "patient" in request.fixturenames else 0.3)
    monkeypatch.setattr(connection, "HEARTBEAT_S", 0.2)


@pytest.fixture
def client(peer):
    with DasClient(peer.address, timeout_s=60.0) as client:
        yield client


def events_until_final(client, timeout_s=60.0):
    events = []
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        event = client.next_event(0.1)
        if event is not None:
            events.append(event)
            if event.kind in m.FINAL_EVENT_KINDS:
                return events
    raise AssertionError(f"no final event after {timeout_s} s, only {events}")


# ── Small requests ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_hello_brings_the_capabilities(client):
    welcome = client.hello()
    assert welcome.server == "test-peer 1" and welcome.capabilities.default_model == "tiny"


def test_hello_is_the_first_message_of_a_connection(patient, peer, client):
    client.ping()
    client.ping()
    assert [type(request) for request in peer.requests] == [m.Hello, m.Ping, m.Ping]


def test_status_lists_the_jobs(peer, client):
    client.submit(JOB, SPEC, [])
    assert client.status().jobs == [{"job": JOB}]


def test_refused_request_is_the_error_that_the_server_names(peer, client):
    peer.say[m.Submit] = JobRejected("The seed is negative; use 0 or more.", field="seed")
    with pytest.raises(JobRejected, match="The seed is negative") as caught:
        client.submit(JOB, SPEC, [])
    assert caught.value.field == "seed"


def test_version_that_the_server_does_not_speak_is_a_mismatch(monkeypatch, client):
    monkeypatch.setattr(connection, "PROTOCOL_VERSIONS", (99,))
    with pytest.raises(VersionMismatch, match=f"speaks {m.PROTOCOL_VERSIONS[0]}"):
        client.hello()


def test_version_that_was_not_offered_is_a_mismatch(peer, client):
    welcome = {"type": "WELCOME", "request": 1, "version": 4, "server_id": "s", "server": "new"}
    capabilities = {"default_model": "", "models": [], "codecs": [], "max_blob_bytes": 1, "devices": []}
    peer.say[m.Hello] = [msgpack.packb(welcome | {"capabilities": capabilities})]
    with pytest.raises(VersionMismatch, match="version 4, this side speaks 3, 2, 1; install the same release"):
        client.hello()


@pytest.mark.parametrize(
    "frames",
    [[b"HTTP/1.1 400 Bad Request\r\n\r\n"], [b""], [b"\x00", b"\x01", b"\x02"], [msgpack.packb({"type": "NEWS"})]],
    ids=repr,
)
def test_answer_that_is_no_message_is_a_protocol_error(peer, client, frames):
    peer.say[m.Hello] = frames
    with pytest.raises(ProtocolError):
        client.hello()


def test_answer_of_another_kind_is_a_protocol_error(patient, peer, client):
    client.hello()
    peer.say[m.Ping] = [msgpack.packb({"type": "ACKED", "request": 2, "job": JOB})]
    with pytest.raises(ProtocolError, match="answered with Acked where Pong was due"):
        client.ping()


def test_refusal_of_a_message_that_the_server_could_not_read_is_raised(peer, client):
    client.hello()
    peer.say[m.Ping] = [msgpack.packb({"type": "FAILURE", "request": 0, "code": "protocol", "message": "Garbage."})]
    with pytest.raises(ProtocolError, match="Garbage"):
        client.ping()


def test_client_of_another_thread_is_refused(client):
    client.hello()
    caught = []

    def use():
        try:
            client.ping()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert "belongs to one thread" in str(caught[0])


# ── Lost messages ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_nobody_there_is_unreachable_in_a_sentence_that_helps():
    with DasClient(FREE_PORT, timeout_s=0.5) as client, pytest.raises(ServerUnreachable) as caught:
        client.hello()
    assert caught.value.message == (
        "No server answers at tcp://127.0.0.1:9 after 0.5 s: start one with `das-server serve`, or correct the address "
        "in the add-on's preferences or in DAS_SERVER."
    )


def test_server_that_falls_silent_is_a_timeout(peer):
    with DasClient(peer.address, timeout_s=60.0) as client:
        client.hello()
        client.timeout_s = 0.8
        peer.drop[m.Ping] = peer.drop[m.Hello] = 1000
        with pytest.raises(TransportTimeout, match="fell silent for 0.8 s"):
            client.ping()


def test_lost_request_is_sent_again_on_a_new_connection(peer, client):
    peer.drop[m.Ping] = 1
    client.ping()
    assert peer.seen[m.Ping] >= 2 and len(peer.connections) >= 2
    assert {type(requests[0]) for requests in peer.connections.values()} == {m.Hello}


def test_lost_greeting_is_sent_again(peer, client):
    peer.drop[m.Hello] = 2
    assert client.hello().server_id == "peer"


def test_late_answer_is_not_taken_for_another(peer, client):
    def be_late(message):
        """Answer once the client has given up and asked something else."""
        if type(message) is m.Ack and peer.seen[m.Ack] == 1:
            wait_for(lambda: client._number > message.request)

    client.hello()
    peer.on_request = be_late
    assert client.ack(JOB).job == JOB
    assert peer.seen[m.Ack] >= 2
    assert client.ping() > 0


def test_server_that_comes_back_at_the_address_is_found(peer):
    with Peer() as first:
        address = first.address
        client = DasClient(address, timeout_s=60.0)
        client.hello()
    with client, Peer(address=address) as second:
        assert client.ping() > 0
        pings = [[type(one) for one in requests].count(m.Ping) for requests in second.connections.values()]
        assert max(pings) == 1  # a slow machine may make it connect anew and ask there


@pytest.mark.parametrize(
    "call",
    [
        lambda client, stop: client.hello(should_stop=stop),
        lambda client, stop: client.submit(JOB, SPEC, [], should_stop=stop),
        lambda client, stop: client.upload(BIG, should_stop=stop),
        lambda client, stop: client.fetch(SHA, 5, should_stop=stop),
        lambda client, stop: client.attach(JOB, should_stop=stop),
    ],
    ids=["hello", "submit", "upload", "fetch", "attach"],
)
def test_waiting_ends_when_told_to_stop(call):
    asked = []

    def stop():
        asked.append(time.monotonic())
        return len(asked) > 3

    with DasClient(FREE_PORT, timeout_s=60.0) as client, pytest.raises(JobCancelled):
        call(client, stop)
    assert len(asked) == 4


# ── Bulk ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_upload_arrives_whole(patient, peer, client):
    steps = []
    sha = client.upload(BIG, on_progress=lambda done, of: steps.append((done, of)))
    assert bytes(peer.blobs[sha]) == BIG and sha == blob_sha(BIG)
    assert [done for done, _ in steps] == [min(n * m.CHUNK_BYTES, len(BIG)) for n in range(1, 8)]


def test_upload_goes_on_where_an_earlier_one_stopped(patient, peer, client):
    sha = blob_sha(BIG)
    peer.blobs[sha] += BIG[: 5 * m.CHUNK_BYTES + 17]
    client.upload(BIG, sha)
    offsets = [request.offset for request in peer.requests if type(request) is m.Put]
    assert offsets == [0, 5 * m.CHUNK_BYTES + 17]
    assert bytes(peer.blobs[sha]) == BIG


def test_upload_of_what_is_there_sends_nothing(patient, peer, client):
    sha = blob_sha(BIG)
    peer.blobs[sha] += BIG
    client.upload(BIG)
    assert peer.seen[m.Put] == 1


def test_upload_survives_lost_pieces(peer, client):
    lost = iter([3, 5, 6, 9])

    def lose(message):
        if type(message) is m.Put and peer.seen[m.Put] == next_lost[0]:
            peer.drop[m.Put] = 1
            next_lost[0] = next(lost, 0)

    next_lost = [next(lost)]
    peer.on_request = lose
    sha = client.upload(BIG)
    assert bytes(peer.blobs[sha]) == BIG and next_lost == [0]


def test_upload_survives_a_server_that_lost_its_part(peer, client):
    def forget(message):
        if type(message) is m.Put and peer.seen[m.Put] == 5:
            peer.blobs[message.sha].clear()

    peer.on_request = forget
    sha = client.upload(BIG)
    assert bytes(peer.blobs[sha]) == BIG


def test_upload_that_arrived_damaged_is_sent_again_once(peer, client):
    damaged = ProtocolError("The upload is damaged; send it again.", field="sha")

    def refuse_once(message):
        peer.say.pop(m.Put, None)
        if type(message) is m.Put and peer.seen[m.Put] == 5:
            peer.blobs.clear()
            peer.say[m.Put] = damaged

    peer.on_request = refuse_once
    assert bytes(peer.blobs[client.upload(BIG)]) == BIG
    peer.on_request, peer.say[m.Put] = (lambda message: None), damaged
    with pytest.raises(ProtocolError, match="damaged"):
        client.upload(BIG[1:])


def test_upload_to_a_server_that_keeps_nothing_ends(peer, client):
    peer.on_request = lambda message: peer.blobs.clear()
    with pytest.raises(StorageError, match="keeps no more than"):
        client.upload(BIG)


def test_upload_over_the_servers_limit_is_refused_before_it_is_sent(client, peer):
    peer.capabilities = m.Capabilities("tiny", [], [], 1000, [])
    client.hello()
    with pytest.raises(MessageTooLarge, match="6291460 bytes is over the server's limit of 1000"):
        client.upload(BIG)
    assert peer.seen[m.Put] == 0


def test_upload_that_the_server_refuses_is_its_error(peer, client):
    peer.say[m.Put] = StorageError("The disk is full; free some space.")
    with pytest.raises(StorageError, match="The disk is full"):
        client.upload(BIG)


@pytest.mark.parametrize("size", [0, 1, m.CHUNK_BYTES - 1, m.CHUNK_BYTES, m.CHUNK_BYTES + 1, len(BIG)])
def test_blob_of_any_size_is_fetched_whole(peer, client, size):
    sha = blob_sha(BIG[:size])
    peer.results[sha] = BIG[:size]
    steps = []
    assert client.fetch(sha, size, lambda done, of: steps.append(done)) == BIG[:size]
    assert steps == sorted(steps) and (steps[-1:] or [0])[0] == size


def test_fetch_keeps_no_more_than_its_credit_in_flight(patient, peer, client):
    sha = blob_sha(BIG)
    peer.results[sha] = BIG
    client.hello()
    peer.drop[m.Fetch] = 1000
    asked_with_all = []

    def stop():
        if peer.seen[m.Fetch] >= m.FETCH_CREDIT:
            asked_with_all.append(True)
        return len(asked_with_all) > 2

    with pytest.raises(JobCancelled):
        client.fetch(sha, len(BIG), should_stop=stop)
    assert peer.seen[m.Fetch] == m.FETCH_CREDIT


def test_fetch_survives_lost_pieces(peer, client):
    sha = blob_sha(BIG)
    peer.results[sha] = BIG
    peer.drop[m.Fetch] = 3
    assert client.fetch(sha, len(BIG)) == BIG


def test_fetch_gives_up_when_nothing_moves(peer):
    sha = blob_sha(BIG)
    peer.results[sha] = BIG
    peer.drop[m.Fetch] = 1000
    with DasClient(peer.address, timeout_s=60.0) as client:
        client.hello()
        client.timeout_s = 0.8
        with pytest.raises(TransportTimeout, match="fell silent for 0.8 s"):
            client.fetch(sha, len(BIG))


def test_damaged_fetch_is_repeated_once(peer, client):
    sha = blob_sha(BIG)
    peer.results[sha] = BIG
    peer.damage_fetches = 1
    assert client.fetch(sha, len(BIG)) == BIG
    peer.damage_fetches = 1000
    with pytest.raises(StorageError, match="arrived damaged twice"):
        client.fetch(sha, len(BIG))


def test_many_blobs_share_the_credit(patient, peer, client):
    blobs = [bytes([number]) * (number * 1000) for number in range(2 * m.FETCH_CREDIT)]
    for blob in blobs:
        peer.results[blob_sha(blob)] = blob
    client.hello()
    names = [(blob_sha(blob), len(blob)) for blob in blobs]
    steps = []
    images = client.fetch_each(names, lambda done, of: steps.append((done, of)))
    assert next(images) == blobs[0] == b""  # nothing had to travel for it
    assert next(images) == blobs[1]
    wait_for(lambda: peer.seen[m.Fetch] >= m.FETCH_CREDIT)
    assert peer.seen[m.Fetch] == m.FETCH_CREDIT  # those of the next blobs are on their way already
    assert list(images) == blobs[2:]
    assert peer.seen[m.Fetch] == len(blobs) - 1
    total = sum(map(len, blobs))
    assert steps[-1] == (total, total) and steps == sorted(steps)


def test_many_blobs_survive_loss_and_damage_of_one(peer, client):
    blobs = [BIG[:5], BIG, BIG[:7], BIG[7:90]]
    for blob in blobs:
        peer.results[blob_sha(blob)] = blob
    peer.drop[m.Fetch] = 2
    peer.damage_fetches = 1
    assert list(client.fetch_each([(blob_sha(blob), len(blob)) for blob in blobs])) == blobs


def test_other_requests_between_two_blobs_harm_neither(peer, client):
    blobs = [BIG[:5], BIG[:6], BIG[:7]]
    for blob in blobs:
        peer.results[blob_sha(blob)] = blob
    images = client.fetch_each([(blob_sha(blob), len(blob)) for blob in blobs])
    assert next(images) == blobs[0]
    client.ping()  # the answers that were on their way are asked for again
    assert list(images) == blobs[1:]


def test_fetch_of_a_blob_of_another_size_is_a_protocol_error(peer, client):
    sha = blob_sha(BIG)
    peer.results[sha] = BIG
    with pytest.raises(ProtocolError, match="of 6291460 of a blob where 0 onward of 5 was asked"):
        client.fetch(sha, 5)


def test_fetch_of_what_is_gone_is_the_servers_error(client):
    with pytest.raises(StorageError, match="The blob is gone"):
        client.fetch(SHA, 5)


# ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_events_come_in_order_each_once(peer, client):
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    events = events_until_final(client)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.kind for event in events][:2] == ["QUEUED", "STARTED"] and events[-1].kind == "DONE"
    assert client.next_event(0.0) is None


def test_events_after_a_number_are_all_that_comes(peer, client):
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    events_until_final(client)
    client.attach(JOB, after=4)
    assert [event.seq for event in events_until_final(client)] == [5, 6]


def test_job_that_is_not_known_cannot_be_followed(client):
    with pytest.raises(JobRejected, match="There is no such job") as caught:
        client.attach(JOB)
    assert caught.value.field == "job"


def test_events_that_come_during_other_requests_are_kept(peer, client):
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    for _ in range(3):
        client.ping()
    assert [event.seq for event in events_until_final(client)] == [1, 2, 3, 4, 5, 6]


def test_lost_events_are_asked_for_again(patient, peer, client):
    peer.final = None
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    assert [client.next_event(60.0).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    follower = peer.followers.pop(JOB)  # the peer forgets whom to tell
    peer.add_event(JOB, "DONE", {"artefacts": [], "report": {}})
    assert events_until_final(client)[0].seq == 6
    assert peer.followers[JOB] == follower


def test_events_lost_in_the_middle_are_asked_for_again(peer, client):
    peer.final = None
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    assert [client.next_event(60.0).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    follower = peer.followers.pop(JOB)
    for step in range(3):
        peer.add_event(JOB, "PROGRESS", {"stage": "decoding", "step": step, "of": 3, "elapsed_s": 1.0})
    until = time.monotonic() + 60
    while len(peer.events[JOB]) < 8 and time.monotonic() < until:
        time.sleep(0.005)
    peer.followers[JOB] = follower
    peer.add_event(JOB, "DONE", {"artefacts": [], "report": {}})
    assert [event.seq for event in events_until_final(client)] == [6, 7, 8, 9]


def test_events_of_an_earlier_question_are_not_taken_out_of_turn(peer, client):
    peer.final = None
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    assert [client.next_event(60.0).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    peer.add_event(JOB, "DONE", {"artefacts": [], "report": {}})
    client.attach(JOB, after=2)
    assert [event.seq for event in events_until_final(client)] == [3, 4, 5, 6]


def test_server_that_restarts_goes_on_telling():
    """It is away until the client has noticed that: a time would be too short or too long on a busy machine."""
    with Peer() as first:
        first.final = None
        client = DasClient(first.address, timeout_s=30.0)
        client.submit(JOB, SPEC, [])
        client.attach(JOB)
        seen = [client.next_event(30.0) for _ in range(5)]
    running, again = contextlib.ExitStack(), []

    def come_back(_noticed):
        if not again:
            again.append(Peer(address=first.address))
            again[0].jobs, again[0].events = first.jobs, first.events
            running.enter_context(again[0])
            again[0].add_event(JOB, "DONE", {"artefacts": [], "report": {}})

    client._on_log = come_back
    with client, running:
        seen += events_until_final(client, 30.0)
    assert [event.seq for event in seen] == [1, 2, 3, 4, 5, 6]
    asked = [request for request in again[0].requests if type(request) is not m.Hello]
    assert type(again[0].requests[0]) is m.Hello
    assert type(asked[0]) is m.Attach and asked[0].after == 5


def test_server_that_stays_away_while_events_are_awaited_is_a_timeout(peer):
    peer.final = None
    with DasClient(peer.address, timeout_s=60.0) as client:
        client.submit(JOB, SPEC, [])
        client.attach(JOB)
        client.timeout_s = 0.8
        peer.drop[m.Attach] = peer.drop[m.Hello] = 10_000
        with pytest.raises(TransportTimeout):
            events_until_final(client)


def test_server_that_greets_and_says_nothing_else_is_a_timeout(peer):
    peer.final = None
    with DasClient(peer.address, timeout_s=60.0) as client:
        client.submit(JOB, SPEC, [])
        client.attach(JOB)
        client.timeout_s = 0.8
        peer.drop[m.Attach] = 10_000
        with pytest.raises(TransportTimeout, match="fell silent for 0.8 s"):
            events_until_final(client)


def test_job_that_the_server_forgot_is_told_while_events_are_awaited(peer, client):
    peer.final = None
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    assert [client.next_event(60.0).seq for _ in range(5)] == [1, 2, 3, 4, 5]
    peer.jobs.clear()
    with pytest.raises(JobRejected) as caught:
        events_until_final(client)
    assert caught.value.field == "job"


def test_waiting_for_events_ends_when_told_to_stop(peer, client):
    peer.final = None
    client.submit(JOB, SPEC, [])
    client.attach(JOB)
    stop_at = time.monotonic() + 0.3
    with pytest.raises(JobCancelled):
        while True:
            client.next_event(60.0, lambda: time.monotonic() > stop_at)


def test_connection_without_a_job_is_kept_alive_by_pings(peer, client):
    client.hello()
    until = time.monotonic() + 60
    while not peer.seen[m.Ping]:
        assert time.monotonic() < until and client.next_event(0.6) is None
