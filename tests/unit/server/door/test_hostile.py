# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that mean harm, at a real front door; after each an honest one is served.  (Values that no field takes:
`tests/e2e/test_hostile_messages.py`; memory of a connection: `test_connections.py`; keys: `test_keys.py`.)"""

import contextlib
import logging
import secrets
import sqlite3
import time
import zlib

import pytest
import zmq

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import DasError, JobRejected, MessageTooLarge, ProtocolError, StorageError
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.codec import encode
from das_blender_addon.protocol.frames import decode_array
from das_blender_addon.protocol.identity import TOKEN_BYTES, routing_id
from das_blender_addon.protocol.png import decode_png
from das_server.limits import MAX_UPLOADS
from das_server.tasks.base import LoadedInput
from tests.support.front_door import FrontDoor
from tests.support.jobs import first_frame, job_spec, png_input
from tests.support.wire import sha_of, submit
from tests.support.zmtp import RawClient

BLOB_BYTES, JOBS, SENT_BYTES, CONNECTIONS = 1 << 21, 6, 1 << 23, 24


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    limits = {"most": CONNECTIONS, "max_blob_bytes": BLOB_BYTES, "max_jobs": JOBS, "max_sent_bytes": SENT_BYTES}
    with FrontDoor(tmp_path_factory.mktemp("hostile"), **limits) as door:
        yield door


@pytest.fixture(autouse=True)
def honest(door):
    """Whatever the test did: an honest user uploads, submits and cancels."""
    yield
    with DasClient(door.address, timeout_s=60, token=secrets.token_bytes(TOKEN_BYTES)) as client:
        assert client.cancel(submit(client, seed=time.time_ns() % 10**9)).state == "CANCELLED"


@pytest.fixture
def eve(door):
    with DasClient(door.address, timeout_s=60, token=secrets.token_bytes(TOKEN_BYTES)) as client:
        yield client


# ── One over each limit ─────────────────────────────────────────────────────────────────────────────────────────────


def test_one_job_more_than_the_most_is_refused_until_one_is_over(eve):
    jobs = [submit(eve, seed=seed) for seed in range(JOBS)]
    with pytest.raises(JobRejected, match=f"{JOBS} jobs of yours"):
        submit(eve, seed=99)
    eve.cancel(jobs[0])
    submit(eve, seed=99)


def test_one_byte_more_than_the_share_is_refused(eve):
    for _ in range(SENT_BYTES // BLOB_BYTES):
        eve.upload(secrets.token_bytes(BLOB_BYTES))
    with pytest.raises(StorageError, match="over your share"):
        eve.upload(b"!")


def test_blob_over_the_limit_and_piece_over_a_chunk_are_refused(eve):
    eve.upload(secrets.token_bytes(BLOB_BYTES))
    with pytest.raises(MessageTooLarge):
        eve._ask_upload("0" * 64, BLOB_BYTES + 1, None)
    with pytest.raises(MessageTooLarge):
        eve._request(m.Fetch(0, "0" * 64, 0, m.CHUNK_BYTES + 1), m.Chunk)


def test_upload_more_than_the_most_lets_the_oldest_go(door, eve):
    begun = [sha_of(bytes([number])) for number in range(MAX_UPLOADS + 1)]
    for sha in begun:
        eve._request(m.Put(0, sha, 100, 0), m.Have)
        assert piece(eve, sha, 100, 0, b"x" * 10).received_bytes == 10
    counts = [eve._ask_upload(sha, 100, None) for sha in begun]
    assert counts.count(10) == MAX_UPLOADS and counts[-1] == 10


def piece(client, sha, size, offset, content):
    """Send one piece → what the server says."""
    number = client._send(m.Put(0, sha, size, offset), memoryview(content))
    return client._expect(client._answer((number,), 60.0, None)[0], m.Have)


# ── Bytes that are not what they should be ──────────────────────────────────────────────────────────────────────────


def test_pieces_that_are_truncated_shifted_or_of_another_blob_never_become_a_blob(eve):
    content = secrets.token_bytes(1000)
    sha = sha_of(content)
    assert piece(eve, sha, 1000, 500, content[500:]).received_bytes == 0
    assert piece(eve, sha, 1000, 0, content[:400]).received_bytes == 400
    assert piece(eve, sha, 1000, 0, content[:400]).received_bytes == 400  # said once more
    with pytest.raises(ProtocolError, match="outside"):
        piece(eve, sha, 1000, 999, b"xx")
    with pytest.raises(ProtocolError, match="damaged"):
        piece(eve, sha, 1000, 400, bytes(600))
    with pytest.raises(StorageError, match="does not have"):
        eve.fetch(sha, 1000)
    assert eve.upload(content) == sha and eve.fetch(sha, 1000) == content


@pytest.mark.parametrize("codec", ["zlib", "zstd", "delta-zlib"])
def test_bomb_is_refused_without_being_unpacked(codec):
    bomb = zlib.compress(bytes(1 << 26))
    if codec == "zstd":
        bomb = pytest.importorskip("zstandard").compress(bytes(1 << 26))
    with pytest.raises(ProtocolError, match="does not hold"):
        decode_array(bomb, "uint8", [9, 64, 96, 3], codec)
    with pytest.raises(ProtocolError, match="at most"):
        LoadedInput(m.JobInput("x", "0" * 64, 1, "array", "uint8", [1 << 20, 1 << 20, 9], codec), bomb).array()


def test_picture_that_says_it_is_huge_is_refused_before_it_is_unpacked():
    picture = bytearray(png_input(first_frame())[1])
    picture[16:24] = (1 << 30).to_bytes(4, "big") * 2
    picture[29:33] = zlib.crc32(picture[12:29]).to_bytes(4, "big")
    with pytest.raises(ProtocolError, match="pixels"):
        decode_png(bytes(picture))


# ── Connections ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_flood_of_connections_and_half_handshakes_ends_with_those_who_made_it(door):
    clients = []
    for number in range(2 * CONNECTIONS):
        with contextlib.suppress(OSError):
            clients.append(RawClient(door.address, greet=False))
            clients[-1].send(b"\xff" + bytes(number % 9))
    time.sleep(0.3)
    for client in clients:
        client.close()


def test_slow_loris_holds_no_more_than_its_connection(door):
    client = RawClient(door.address)
    frame = client.frame(encode(m.Ping(1))[0])
    with DasClient(door.address, timeout_s=60) as other:
        for byte in frame:
            client.send(bytes([byte]))
            other.ping()
    assert client.receive(1)
    client.close()


def test_client_that_never_reads_its_answers_costs_nobody_else(door, eve):
    client = RawClient(door.address)
    ask = client.frame(encode(m.Status(1))[0])
    client.socket.settimeout(0.2)
    with contextlib.suppress(OSError):
        for _ in range(2000):
            client.send(ask)
    assert eve.ping() < 60
    client.close()


def test_routing_id_of_another_client_gets_no_events_of_it(door, eve):
    """Where ZeroMQ gives a name to the newest connection, the name holds a secret that nobody else knows."""
    job = submit(eve, seed=70)
    eve.attach(job)
    context = zmq.Context()
    thief = context.socket(zmq.DEALER)
    thief.setsockopt(zmq.ROUTING_ID, routing_id(bytes(TOKEN_BYTES)))
    thief.connect(door.address)
    try:
        thief.send_multipart(encode(m.Attach(1, job, 0)))
        assert thief.poll(60_000) and b"job.rejected" in thief.recv()
        eve.cancel(job)
        assert not thief.poll(300)
    finally:
        thief.close(linger=0)
        context.term()
    assert eve.next_event(60.0).job == job


def test_log_holds_no_prompt_and_no_secret(door, caplog):
    caplog.set_level(logging.INFO)
    token = secrets.token_bytes(TOKEN_BYTES)
    with DasClient(door.address, timeout_s=60, token=token) as client:
        job = submit(client, prompt="a very private sentence")
        with pytest.raises(JobRejected):
            submit(client, prompt="another private sentence", num_inference_steps=3)
        client.cancel(job)
    assert f"job {job}: accepted" in caplog.text
    assert "private sentence" not in caplog.text and token.hex() not in caplog.text and repr(token) not in caplog.text


def test_program_that_changes_the_job_list_by_hand_keeps_nobody_waiting(door):
    with contextlib.closing(sqlite3.connect(door.folder / "jobs.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with DasClient(door.address, timeout_s=60) as client:
            with pytest.raises(StorageError, match="another program"):
                submit(client, seed=5)
            client.ping()
    with DasClient(door.address, timeout_s=60) as client:
        assert client.cancel(submit(client, seed=5)).state == "CANCELLED"


def test_replayed_and_foreign_requests_change_nothing(door, eve):
    spec = job_spec(seed=71)
    job = submit(eve, spec)
    for _ in range(3):
        assert submit(eve, spec, job) == job
    eve.cancel(job)
    eve.ack(job)
    for again in (eve.cancel, eve.ack):
        again(job)
    with pytest.raises(DasError):
        eve.ack("f" * 32)
