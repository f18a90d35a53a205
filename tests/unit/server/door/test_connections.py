# SPDX-License-Identifier: GPL-3.0-or-later
"""What one connection can make the front door hold in memory, on real sockets."""

import contextlib
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import zmq

from das_blender_addon.protocol.messages import FETCH_CREDIT, FRAME_EXTRA_BYTES, MAX_FRAME_BYTES
from das_server.door.connections import Connections, open_door
from das_server.door.pressure import Pressure
from das_server.limits import MAX_BACKLOG_BYTES, MAX_FOLLOWED, WAITING_OUT
from tests.support.server import ROOT
from tests.support.zmtp import RawClient

with contextlib.suppress(ImportError):
    import fcntl
    import resource
LINUX = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this system says nothing of connections")
MOST = 4
MOST_WAITING_BYTES = 32 << 20
ASKS_AGAIN_S = 5.0
WAIT_S = 120.0
"""Under pressure connections are not taken, and who connects tries again after 1, 2, 4, 8 and 16 s, 31 in all."""
FRAMES_A_TURN = 4
"""So many a flood sends between two looks of the door, whichever of the two a busy machine lets run."""


class Door:
    """A front door that answers every message with itself, as often as `turn` is called."""

    def __init__(self):
        self._context = zmq.Context()
        self.socket = open_door(self._context, "tcp://127.0.0.1:*")
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.connections = Connections(self.socket, most=MOST)
        self.turns = 0

    def turn(self, *, reads=True, answers=True, count=2000):
        self.turns += 1
        self.connections.look()
        with contextlib.suppress(zmq.ZMQError):
            for _ in range(count if reads else 0):
                peer, *frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
                if self.connections.is_ignored(peer.bytes):
                    continue
                if self.connections.heard(peer.bytes, frames) and answers:
                    self.socket.send_multipart([peer, *frames], zmq.NOBLOCK)

    def turn_until(self, condition, **options):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            self.turn(**options)
            time.sleep(0.005)

    def assert_serves(self):
        """An honest client is answered; as all do, it asks again where what it said was thrown away under pressure."""
        dealer = self._context.socket(zmq.DEALER)
        dealer.connect(self.address)
        asked_s = 0.0

        def is_answered() -> bool:
            nonlocal asked_s
            if time.monotonic() - asked_s > ASKS_AGAIN_S:
                asked_s = time.monotonic()
                dealer.send(b"hello")
            return bool(dealer.poll(0))

        self.turn_until(is_answered)
        assert dealer.recv() == b"hello"
        dealer.close(linger=0)

    def close(self):
        self.connections.close()
        self.socket.close(linger=0)
        self._context.destroy(linger=0)  # `term` waits for ever for what a test that failed has left open


@pytest.fixture
def door():
    door = Door()
    yield door
    door.close()


def flood(door, client, frame, count):
    """Send so many while the door turns, from a thread → (thread, list that holds how many were sent)."""
    sent, begun = [], door.turns

    def run():
        with contextlib.suppress(OSError):
            for number in range(count):
                while door.turns - begun < number // FRAMES_A_TURN:
                    time.sleep(0.001)
                client.send(frame)
                sent.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, sent


@LINUX
def test_message_without_an_end_is_cut(door):
    client = RawClient(door.address)
    thread, sent = flood(door, client, client.frame(bytes(MAX_FRAME_BYTES), more=True), 200)
    door.turn_until(lambda: not thread.is_alive())
    assert len(sent) * MAX_FRAME_BYTES < 4 * MAX_BACKLOG_BYTES < 200 * MAX_FRAME_BYTES and client.is_cut()
    door.assert_serves()


@LINUX
def test_pieces_in_flight_are_read_to_their_end_and_never_cut(door):
    client = RawClient(door.address)
    piece, word = client.frame(bytes(MAX_FRAME_BYTES)), client.frame(b"a word")
    read = [0]
    answered = door.connections.heard
    door.connections.heard = lambda peer, frames: read.append(len(frames)) or answered(peer, frames)
    for _ in range(2 * MAX_BACKLOG_BYTES // MAX_FRAME_BYTES // FETCH_CREDIT):
        read.clear()
        client.send(word * MAX_FOLLOWED + piece * FETCH_CREDIT)
        door.turn(reads=False)
        door.turn_until(lambda: len(read) == MAX_FOLLOWED + FETCH_CREDIT, answers=False)
    assert len(door.connections) == 1


@LINUX
@pytest.mark.parametrize(("size", "reads"), [(MAX_FRAME_BYTES, True), (MAX_FRAME_BYTES, False), (400, True)])
def test_what_waits_to_be_read_is_bounded(door, size, reads):
    client = RawClient(door.address)
    frames = client.frame(bytes(size)) * (MAX_FRAME_BYTES // size)
    thread, sent = flood(door, client, frames, 4 * MAX_BACKLOG_BYTES // MAX_FRAME_BYTES)
    if size == MAX_FRAME_BYTES and reads:  # then all of it may be read
        door.turn_until(lambda: not thread.is_alive(), answers=False)
    else:
        door.turn_until(lambda: len(door.connections) == 0, reads=reads, answers=False)
        most = MAX_BACKLOG_BYTES if not reads else MAX_BACKLOG_BYTES // 2
        assert len(sent) * MAX_FRAME_BYTES < 2 * most
        door.turn_until(lambda: not thread.is_alive(), reads=reads, answers=False)
    client.close()
    door.assert_serves()


def test_replies_that_are_not_read_are_not_kept(door):
    client = RawClient(door.address)
    client.send(client.frame(b"who am I"))
    peer = door.socket.recv_multipart()[0]
    with pytest.raises(zmq.Again):
        for _ in range(4 * WAITING_OUT):
            door.socket.send_multipart([peer, bytes(MAX_FRAME_BYTES)], zmq.NOBLOCK)
    door.assert_serves()


def test_frame_over_the_protocols_limit_ends_its_connection_and_one_at_it_does_not(door):
    for size, is_cut in ((MAX_FRAME_BYTES, False), (MAX_FRAME_BYTES + FRAME_EXTRA_BYTES + 1, True)):
        client = RawClient(door.address)
        with contextlib.suppress(OSError):
            client.send(client.frame(bytes(size)))
        client.socket.settimeout(1.0 if not is_cut else 60.0)
        assert client.is_cut() is is_cut
        client.close()
    door.assert_serves()


def speaking(door, count):
    """Connections that have said a word, with its answer read."""
    clients = [RawClient(door.address) for _ in range(count)]
    for client in clients:
        client.send(client.frame(b"a word"))
        door.turn_until(lambda client=client: client.socket.recv(1 << 10, socket.MSG_PEEK) if readable(client) else b"")
        assert client.receive(8).endswith(b"a word")
    return clients


def readable(client):
    return bool(select.select([client.socket], [], [], 0)[0])


def test_connection_more_than_the_most_is_ended(door):
    honest = speaking(door, MOST)
    more = RawClient(door.address)
    more.socket.settimeout(0.05)
    door.turn_until(more.is_cut)
    assert not any(one.socket.settimeout(0.05) or one.is_cut() for one in honest)
    honest.pop().close()
    door.turn_until(lambda: len(door.connections) == MOST - 1)
    door.assert_serves()


def test_connections_that_say_nothing_keep_nobody_out(door):
    honest = speaking(door, 1)[0]
    silent = [RawClient(door.address) for _ in range(MOST - 1)]
    door.turn_until(lambda: len(door.connections) == MOST)
    newcomer = speaking(door, 1)[0]
    for one in (*silent, honest, newcomer):
        one.socket.settimeout(0.05)
    door.turn_until(silent[0].is_cut)
    assert not any(one.is_cut() for one in (*silent[1:], honest, newcomer))


def test_quiet_connection_goes_for_a_new_one_only_after_long(door, monkeypatch):
    quiet, *others = speaking(door, MOST)
    monkeypatch.setattr("das_server.door.connections.QUIET_S", 0.0)
    newcomer = speaking(door, 1)[0]
    for one in (quiet, *others, newcomer):
        one.socket.settimeout(0.05)
    door.turn_until(quiet.is_cut)
    assert not any(one.is_cut() for one in (*others, newcomer))


@LINUX
def test_too_many_connections_are_cut_where_no_file_can_be_opened(door):
    """A flood may have taken the last number of a file before it is noticed."""
    clients = [RawClient(door.address) for _ in range(MOST + 1)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(50):
            door.turn()
            time.sleep(0.005)
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    clients[0].socket.settimeout(60.0)
    assert clients[0].is_cut() and len(door.connections) == MOST


BREAKING_OFF = """
import contextlib, socket, struct, time, zmq
from das_server.door.connections import open_door
from tests.support.server import ROOT
from tests.support.zmtp import RawClient
ping = bytes([4, 7]) + b"\\x04PING\\0\\1"
door = open_door(zmq.Context(), "tcp://127.0.0.1:*")
client = RawClient(door.getsockopt_string(zmq.LAST_ENDPOINT))
client.socket.settimeout(0.2)
with contextlib.suppress(OSError):
    for _ in range(50):
        client.send(client.frame(b"word") * 100 + ping)
door.poll(60_000)  # the server has taken some, however long it had to wait for its turn
time.sleep(0.3)
client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()  # while more waits than the server has taken
time.sleep(0.2 + 1.2 * door.getsockopt(zmq.HEARTBEAT_IVL) / 1000)
read = 0
while door.poll(200):
    read += len(door.recv_multipart()) == 2
print(read > 100)
"""


def test_client_that_breaks_off_while_the_server_is_busy_does_not_end_it():
    """libzmq aborts the process where a heartbeat of its own is due then, or one of the client's is found."""
    done = subprocess.run([sys.executable, "-c", BREAKING_OFF], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@LINUX
def test_handshake_that_breaks_makes_no_other_connection_forgotten(door):
    taken = [os.open(os.devnull, os.O_RDONLY)]
    if taken[0] > errno.ECONNRESET - 3 or os.path.exists(f"/proc/self/fd/{errno.ECONNRESET}"):
        pytest.skip("a file has the number already")
    while taken[-1] < errno.ECONNRESET - 1:
        taken.append(os.open(os.devnull, os.O_RDONLY))
    for number in (taken.pop(), taken.pop(0)):  # for the client, and for the server
        os.close(number)
    os.dup2(taken[0], errno.ECONNRESET - 1)
    honest = RawClient(door.address)
    for number in (*taken, errno.ECONNRESET - 1):
        os.close(number)
    door.turn_until(lambda: errno.ECONNRESET in door.connections._open)
    breaks_off = RawClient(door.address, greet=False)
    breaks_off.send(b"\xff")
    door.turn_until(lambda: len(door.connections) == 2)
    breaks_off.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    breaks_off.close()
    door.turn_until(lambda: len(door.connections) < 2)
    assert list(door.connections._open) == [errno.ECONNRESET]
    honest.close()


COMING_AGAIN = """
import contextlib, sys
from tests.support.zmtp import RawClient
print("begins", flush=True)
while True:
    with contextlib.suppress(OSError):
        client = RawClient(sys.argv[1])
        client.socket.settimeout(1.0)
        words = (client.frame(b"x") * 900 + client.frame(bytes(1100))) * 20
        while True:
            client.send(words)
"""


@LINUX
def test_clients_that_are_cut_and_come_again_are_bounded_all_together(door):
    pressure, before = Pressure(door.connections._port, most_bytes=MOST_WAITING_BYTES), memory_bytes()
    door.connections._pressure.close()
    door.connections._pressure = pressure
    honest = door._context.socket(zmq.DEALER)
    honest.connect(door.address)
    honest.send(b"hello")
    door.turn_until(lambda: honest.poll(0))
    honest.recv()
    command = [sys.executable, "-c", COMING_AGAIN, door.address]
    floods = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(2)]
    try:
        for flood in floods:
            flood.stdout.readline()
        door.turn_until(lambda: pressure.is_high, count=20)
        with socket.socket() as newcomer:
            newcomer.setblocking(False)
            newcomer.connect_ex(("127.0.0.1", int(door.address.rpartition(":")[2])))
            assert not select.select([], [newcomer], [], 0)[1]
        sent = [b"still here", *[bytes(MAX_FRAME_BYTES)] * FETCH_CREDIT]
        for _ in range(3):  # whoever was there before is answered all the same, and may upload
            for one in sent:
                honest.send(one)
            for one in sent:
                door.turn_until(lambda: honest.poll(0), count=100)
                assert honest.recv() == one
            assert memory_bytes() - before < 4 * MOST_WAITING_BYTES
    finally:
        for flood in floods:
            flood.kill()
            flood.wait()
            flood.stdout.close()
        honest.close(linger=0)
    door.turn_until(lambda: not pressure.is_high, count=20_000)
    door.assert_serves()


def memory_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_half_handshake_is_ended(door):
    client = RawClient(door.address, greet=False)
    client.send(b"\xff")
    assert client.is_cut()
    door.assert_serves()


ASKS_FOR_THE_LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


@LINUX
def test_looking_for_sockets_lets_go_of_no_lock_on_a_file(door, tmp_path):
    """Closing any number of a file ends a process's locks on it, by which SQLite knows that the job list is open."""
    path = tmp_path / "locked"
    path.touch()
    with path.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Pressure(1).close()  # nobody listens there: every number is looked at
        with pytest.raises(OSError, match="ocket"), door.connections._hand.holding(file.fileno()):
            pass
        asked = subprocess.run([sys.executable, "-S", "-c", ASKS_FOR_THE_LOCK, path], stderr=subprocess.PIPE, text=True)
        assert asked.returncode == 1 and "BlockingIOError" in asked.stderr
