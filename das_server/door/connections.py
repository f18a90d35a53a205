# SPDX-License-Identifier: GPL-3.0-or-later
"""The socket of the front door, and who is connected to it: how much each may make the server hold in memory.

ZeroMQ bounds the whole messages that wait for us or for a client, and the size of a frame.  It bounds neither the
number of connections nor a message that never ends, frame after frame; `Connections` does, by what the system says of
each connection.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import socket as sockets
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import recv_monitor_message

from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.messages import FETCH_CREDIT, FRAME_EXTRA_BYTES, MAX_FRAME_BYTES
from das_server.door.gate import Gate
from das_server.door.pressure import Pressure
from das_server.door.seldom import Seldom
from das_server.limits import (
    HANDSHAKE_MS,
    MAX_BACKLOG_BYTES,
    MAX_CONNECTIONS,
    MAX_FOLLOWED,
    MAX_SMALL_BACKLOG_BYTES,
    MAX_WAITING_BYTES,
    WAITING_IN,
    WAITING_OUT,
)

_log = logging.getLogger(__name__)

CURVE_BYTES = 33
"""What CURVE adds to a frame: its name, a nonce, flags and a tag (rfc.zeromq.org/spec/26)."""

SMALL_BYTES, MANY_SMALL = 1024, 2 * MAX_FOLLOWED
"""Where much waits, and so many messages of it, and no others, have fewer bytes, there are too many of them."""

EASY_BYTES, EASY_UPLOAD_BYTES = 1 << 16, FETCH_CREDIT * MAX_FRAME_BYTES * 5 // 4
"""Where all together have sent far too much, or too much, a connection of which this is to be read, as memory, is not
the reason."""

HEAVY_S = 0.1
"""For so long: what an upload's messages are like is known once some were read."""

MESSAGE_BYTES, NEWEST = 128, 0.1
"""About what a message takes beside its bytes, and how much the newest one counts for what all of them are like."""

MOST_PEERS = 64
"""Routing ids that are remembered of a connection: its own, and those of others before it that had its number and of
which something is still to be read."""

MOST_CUT = 1024
"""Connections that were cut are remembered, so that the rest of what they sent is thrown away unread."""

QUIET_S = 60.0
"""Where there are too many connections, one that has said nothing for so long may go; its client comes again."""

_BYTES_RECEIVED_AT = 128
"""Offset of ``tcpi_bytes_received`` in Linux' ``struct tcp_info`` (linux/tcp.h)."""


def open_door(context: zmq.Context, address: str, gate: Gate | None = None) -> zmq.Socket:
    """The bound ROUTER socket, behind the ``gate`` where there is one; raises `SettingsError` where that cannot be."""
    socket = context.socket(zmq.ROUTER)
    if gate is not None:
        gate.guard(socket)
    for option, value in {
        zmq.LINGER: 0,
        zmq.MAXMSGSIZE: MAX_FRAME_BYTES + FRAME_EXTRA_BYTES,  # a larger frame disconnects its sender
        zmq.HANDSHAKE_IVL: HANDSHAKE_MS,
        zmq.ROUTER_HANDOVER: 1,  # a client that is connected anew has the routing id that it had
        zmq.ROUTER_MANDATORY: 1,  # without it, replies to a full queue vanish silently
        # Nor a bound on what waits to be read, where `Connections` sees to that: where it is reached and its sender
        # breaks off, libzmq reads on in what it has of it and aborts at a ZMTP PING there (the same assertion).
        zmq.RCVHWM: 0 if hasattr(sockets, "TCP_INFO") else WAITING_IN,
        zmq.SNDHWM: WAITING_OUT,
        # Not ZeroMQ's own heartbeats: libzmq 4.3.5 aborts where one is due on a connection that broke while what it had
        # sent still waited for us ("Assertion failed: !_io_error"), so that a client could end the server.
        zmq.TCP_KEEPALIVE: 1,
        zmq.TCP_KEEPALIVE_IDLE: 15,
        zmq.TCP_KEEPALIVE_INTVL: 5,
        zmq.TCP_KEEPALIVE_CNT: 3,
        zmq.IPV6: int("[" in address),
    }.items():
        socket.setsockopt(option, value)
    try:
        socket.bind(address.replace("//localhost:", "//127.0.0.1:"))
    except zmq.ZMQError as error:
        socket.close(linger=0)
        if error.errno == zmq.EADDRINUSE:
            message = f"Another program already listens on {address}; stop it or choose another port with --bind."
        else:
            message = f"The server cannot listen on {address}: {error.strerror}."
        raise SettingsError(message, field="bind") from error
    return socket


@dataclass
class _Connection:
    """``read_bytes``: what we have read of it, framing included.  ``heard_s``: when that was, last.  ``message_bytes``:
    what its messages have, the newest above all.  ``num_small``: how many messages of few bytes, and no others, were
    read since more than a few were seen to wait; None: no such case.  ``heavy_since_s``: since when so much of it is to
    be read that it may have to go."""

    read_bytes: int = 0
    heard_s: float = 0.0
    message_bytes: float = 1.0
    heavy_since_s: float = math.inf
    num_small: int | None = None
    peers: dict[bytes, None] = field(default_factory=dict)
    is_cut: bool = False


class Connections:
    """Those of ``socket``, by what its monitor says; made before anybody can connect is best, but not needed."""

    def __init__(
        self, socket: zmq.Socket, *, most: int = MAX_CONNECTIONS, most_waiting_bytes: int = MAX_WAITING_BYTES
    ):
        self._most = most
        self._port = int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        # A handshake that failed is told as an error's number, which is no file's; that the connection went comes too.
        self.news = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        """For the loop's poller: readable means that somebody came or went, see `look_who_came`."""
        self._socket = socket
        self._extra = CURVE_BYTES if socket.getsockopt(zmq.MECHANISM) == zmq.CURVE else 0
        self._open: dict[int, _Connection] = {}
        self._hand = _Hand()
        self._pressure = Pressure(self._port, most_bytes=most_waiting_bytes)
        self._cut_peers: dict[bytes, None] = {}
        self._spoken: set[bytes] | None = None
        self._say = Seldom(_log)

    def __len__(self) -> int:
        return sum(not one.is_cut for one in self._open.values())

    def close(self) -> None:
        """Watch no more."""
        self._socket.disable_monitor()
        self.news.close(linger=0)
        self._hand.close()
        self._pressure.close()

    def is_ignored(self, peer: bytes) -> bool:
        """Whether what has this routing id is to be thrown away unread: it is of a connection that was cut, or, where
        all together have sent too much, of one that has gone or has not said a word before; its client asks again."""
        return peer in self._cut_peers or (self._spoken is not None and peer not in self._spoken)

    def heard(self, peer: bytes, frames: list[zmq.Frame]) -> bool:
        """A message with these frames was read → whether it is to be answered: not one of a connection that was cut."""
        fd = frames[-1].get(zmq.SRCFD) if frames else None
        if fd not in self._open:
            self.look_who_came()
        one = self._open.get(fd)
        if one is None:
            return True
        if peer not in one.peers:
            one.peers[peer] = None
            while len(one.peers) > MOST_PEERS:
                del one.peers[next(iter(one.peers))]
        if one.is_cut:
            self._remember_cut(one)
            return False
        one.heard_s = time.monotonic()
        sizes = [len(frame) + self._extra for frame in frames]
        one.read_bytes += sum(size + (9 if size > 255 else 2) for size in sizes)
        one.message_bytes += NEWEST * (max(1, sum(sizes)) - one.message_bytes)
        if one.num_small is not None:
            one.num_small = one.num_small + 1 if sum(sizes) < SMALL_BYTES else None
        return True

    def _remember_cut(self, one: _Connection) -> None:
        """By the name that ZeroMQ gave it, which no other gets; one that a client chose comes again with it."""
        self._cut_peers.update((peer, None) for peer in one.peers if peer.startswith(b"\0"))
        while len(self._cut_peers) > MOST_CUT:
            del self._cut_peers[next(iter(self._cut_peers))]

    def look_who_came(self) -> None:
        """Take in who came and went, and cut those that are too many."""
        while self.news.poll(0):
            event = recv_monitor_message(self.news)
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._open[event["value"]] = _Connection()
                if len(self) > self._most:
                    self._cut(self._one_too_many(), f"there are {self._most} connections already")
            else:
                self._open.pop(event["value"], None)

    def look(self) -> None:
        """The same, and cut those that owe the end of what they send, or, where all have sent too much, those that have
        sent most."""
        self.look_who_came()
        self._pressure.look(not self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
        owed = {}
        for fd, one in self._open.items():
            if one.is_cut:
                continue
            owed[fd] = waiting = (self._hand.received_bytes(fd) or 0) - one.read_bytes
            if waiting > MAX_BACKLOG_BYTES:
                self._cut(fd, f"it has sent {waiting >> 20} MiB more than was read, or no whole message")
            elif waiting <= MAX_SMALL_BACKLOG_BYTES:
                one.num_small = None
            elif one.num_small is None:
                one.num_small = 0
            elif one.num_small >= MANY_SMALL:
                self._cut(fd, f"it has sent {waiting >> 10} KiB of small messages more than was read")
        if self._pressure.is_high:
            self._cut_most(owed)
            self._spoken = {peer for one in self._open.values() if not one.is_cut for peer in one.peers}
        else:
            self._spoken = None

    def _cut_most(self, owed: dict[int, int]) -> None:
        """Under pressure all who take more memory than an upload does, for a while; where it is much more, all who take
        more than a question does."""
        memory, now = {}, time.monotonic()
        for fd, one in self._open.items():
            if fd in owed and not one.is_cut:
                memory[fd] = owed[fd] * (1 + MESSAGE_BYTES / one.message_bytes)
                one.heavy_since_s = min(one.heavy_since_s, now) if memory[fd] > EASY_UPLOAD_BYTES else math.inf
        if self._pressure.level > 2:
            most = [fd for fd in memory if memory[fd] > EASY_BYTES]
        else:
            most = [fd for fd in memory if now - self._open[fd].heavy_since_s > HEAVY_S]
        for fd in most:
            self._cut(fd, f"it has sent {owed[fd] >> 10} KiB more than was read, and all together too much")

    def _cut(self, fd: int, reason: str) -> None:
        """End a connection; ZeroMQ notices and takes no more of it."""
        self._open[fd].is_cut = True
        self._remember_cut(self._open[fd])
        try:
            with self._hand.holding(fd) as connection:
                if connection.getsockname()[1] != self._port:  # closed meanwhile, and its number used anew
                    return
                connection.shutdown(sockets.SHUT_RDWR)
                self._say(logging.WARNING, "the connection from %s is cut: %s", connection.getpeername()[0], reason)
        except OSError:  # it has gone by itself
            return

    def _one_too_many(self) -> int:
        """Of the connections that never said a word the oldest, else the one that has been quiet for very long, else
        the newest: nobody who speaks has to go for those who come and say nothing."""
        *there, newest = ((fd, one) for fd, one in self._open.items() if not one.is_cut)
        silent = next((fd for fd, one in there if not one.read_bytes), None)
        if silent is not None:
            return silent
        quietest, one = min(there, key=lambda one: one[1].heard_s, default=newest)
        is_quiet = quietest != newest[0] and time.monotonic() - one.heard_s > QUIET_S
        return quietest if is_quiet else newest[0]


class _Hand:
    """Takes hold of a connection that is ZeroMQ's, so that its number is nobody else's meanwhile; needs no new number
    for that, of which there may be none left."""

    def __init__(self) -> None:
        self._empty = os.open(os.devnull, os.O_RDONLY)
        self._fd = os.dup(self._empty)

    @contextlib.contextmanager
    def holding(self, fd: int) -> Iterator[sockets.socket]:
        """Raises `OSError` where it has gone."""
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):  # letting go of a file would let go of this process's locks on it
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        os.dup2(fd, self._fd, inheritable=False)
        connection = None
        try:
            connection = sockets.socket(fileno=self._fd)
            yield connection
        finally:
            if connection is not None:
                connection.detach()
            os.dup2(self._empty, self._fd, inheritable=False)

    def close(self) -> None:
        os.close(self._fd)
        os.close(self._empty)

    def received_bytes(self, fd: int) -> int | None:
        """What a TCP connection has brought since it began, None where the system does not say."""
        if not hasattr(sockets, "TCP_INFO"):
            return None
        try:
            with self.holding(fd) as connection:
                about = connection.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_INFO, 256)
        except OSError:
            return None
        return struct.unpack_from("Q", about, _BYTES_RECEIVED_AT)[0] if len(about) >= _BYTES_RECEIVED_AT + 8 else None
