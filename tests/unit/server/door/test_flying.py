# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of blobs that wait for the disk: how much all connections together hold, and who goes on meanwhile."""

import contextlib
import secrets
import threading

import pytest
import zmq

from das_blender_addon.client.client import DasClient
from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol import messages as m
from das_blender_addon.protocol.codec import decode, encode
from das_blender_addon.protocol.identity import TOKEN_BYTES
from das_server.door.flying import Flying
from das_server.limits import MAX_FLYING
from tests.support.front_door import FrontDoor
from tests.support.wire import sha_of

PIECE, CONNECTIONS, MOST = 1 << 18, 12, 1 << 20
ANSWER_MS = 60_000
TOKEN = secrets.token_bytes(TOKEN_BYTES)


@pytest.fixture
def door(tmp_path):
    with FrontDoor(tmp_path, flying=Flying(most_bytes=MOST), max_sent_bytes=1 << 30) as door:
        yield door


@contextlib.contextmanager
def hostile_ones(door):
    """Sockets that know the protocol and no restraint."""
    with zmq.Context() as context, contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(CONNECTIONS):
            socket = stack.enter_context(context.socket(zmq.DEALER))
            socket.linger = 0
            socket.connect(door.address)
            sockets.append(socket)
        yield sockets


def send_all_that_may_fly(socket, content):
    for number in range(MAX_FLYING):
        put = m.Put(number + 1, sha_of(content), MAX_FLYING * PIECE, number * PIECE)
        socket.send_multipart(encode(put, content))


def heard(socket):
    assert socket.poll(ANSWER_MS)
    return decode(socket.recv_multipart())[0]


def upload(door, blob):
    with DasClient(door.address, timeout_s=60, token=TOKEN) as client:
        client.upload(blob)


def fetched(door, blob):
    with DasClient(door.address, timeout_s=60, token=TOKEN) as client:
        return client.fetch(sha_of(blob), len(blob))


def test_first_piece_of_a_connection_is_taken_and_more_while_there_is_room():
    flying = Flying(most=3, most_bytes=10)
    assert flying.takes(b"a", 8)
    flying.begin(b"a", 8)
    assert not flying.takes(b"a", 8) and flying.takes(b"a", 2) and flying.takes(b"b", 8)
    flying.begin(b"b", 8)
    flying.begin(b"a")
    flying.begin(b"a")
    with pytest.raises(JobRejected, match="More than 3 pieces"):
        flying.begin(b"a")
    assert flying.num_bytes == 16
    flying.end(b"b", 8)
    assert flying.num_bytes == 8 and flying.takes(b"b", 8) and not flying.takes(b"a", 8)
    flying.end(b"a")
    flying.begin(b"a")  # there is room for one more


def test_flood_holds_no_more_than_its_bound_and_honest_uploads_go_on(door):
    disk = threading.Event()
    door.beside.do(lambda: disk.wait(60), lambda *_: None)  # the disk hangs
    blob = secrets.token_bytes(1 << 22)
    with hostile_ones(door) as sockets:
        for number, socket in enumerate(sockets):
            send_all_that_may_fly(socket, bytes([number]) * PIECE)
            socket.send_multipart(encode(m.Ping(99)))
        for socket in sockets:
            assert heard(socket) == m.Pong(99)  # all that it sent was looked at
        assert CONNECTIONS * PIECE <= door.flying.num_bytes <= MOST + CONNECTIONS * PIECE
        uploads = threading.Thread(target=upload, args=(door, blob), daemon=True)
        uploads.start()
        disk.set()
        for socket in sockets:
            kept = [heard(socket).received_bytes for _ in range(MAX_FLYING)]
            assert kept == sorted(kept) and kept[0] == PIECE  # and each is told how much that is
        uploads.join(60)
        assert not uploads.is_alive()
    assert fetched(door, blob) == blob
    assert door.flying.num_bytes == 0


def test_upload_goes_on_in_the_middle_of_a_flood_that_never_ends(door):
    stop, begun, blob = threading.Event(), threading.Event(), secrets.token_bytes(1 << 22)

    def flood():
        with hostile_ones(door) as sockets:
            contents = [bytes([number]) * PIECE for number in range(CONNECTIONS)]
            for socket, content in zip(sockets, contents, strict=True):
                send_all_that_may_fly(socket, content)
            while not stop.is_set():
                for socket, content in zip(sockets, contents, strict=True):
                    if socket.poll(1):
                        socket.recv_multipart()
                        socket.send_multipart(encode(m.Put(1, sha_of(content), PIECE + 1, 0), content))
                        begun.set()

    hostile = threading.Thread(target=flood, daemon=True)
    hostile.start()
    try:
        assert begun.wait(60)
        upload(door, blob)
        assert fetched(door, blob) == blob
        assert hostile.is_alive()
    finally:
        stop.set()
        hostile.join(60)
    assert not hostile.is_alive()
