# SPDX-License-Identifier: GPL-3.0-or-later
"""`Connection`: one ZeroMQ DEALER socket to one server, requests that survive lost messages, and the events that come.

Every request is idempotent.  One that is not answered in time is sent again on a new socket, after HELLO and ATTACH for
the jobs being followed (the "Lazy Pirate" pattern of the ZeroMQ guide, chapter 4), until nothing has been heard for
``timeout_s``.  ``should_stop`` is asked at least every 100 ms wherever a call waits; when it says True, the call raises
`JobCancelled`.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import zmq

from ..errors import (
    JobCancelled,
    ProtocolError,
    ServerUnreachable,
    TransportError,
    TransportTimeout,
    VersionMismatch,
    error_from_code,
)
from ..protocol import codec, messages
from ..protocol.identity import routing_id, user_token
from ..protocol.messages import (
    FINAL_EVENT_KINDS,
    FRAME_EXTRA_BYTES,
    HEARTBEAT_S,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSIONS,
)
from .address import is_loopback, normalise_address
from .handshake import Handshake
from .keys import ServerKeys, keys_for

log = logging.getLogger(__name__)

POLL_S = 0.1
"""Longest wait without asking ``should_stop``, seconds."""

ATTEMPT_S = 2.5
"""A request without an answer for this long is sent again on a new socket, seconds."""

GAP_S = 0.5
"""Events that are missing are asked for again at most this often, seconds."""

SILENT_S = 3
"""A server that owes an answer for this long is said to be silent, whole seconds."""

SOME_TIME_S = 10
"""From here on it is said every so many seconds, before that every second."""

ShouldStop = Callable[[], bool]


class Connection:
    """A conversation with the server at ``address``, from one thread; a context manager.

    ``timeout_s``: how long the server may stay silent before a call raises `ServerUnreachable` (it never answered) or
    `TransportTimeout` (it had answered before).  ``requester``: who wants the jobs (uuid4 hex; "": somebody unnamed).
    ``lease_s``: its jobs count as wanted no more when it is silent for so long; 0: never.  ``on_log`` is told in words
    what the user may want to know.  ``on_silence``: told for how many seconds the server has owed an answer, from
    `SILENT_S` on, and 0 when it is heard again.  ``welcome``: the server's last greeting.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 10.0,
        context: zmq.Context | None = None,
        name: str = "das-blender-addon",
        requester: str = "",
        lease_s: float = 0.0,
        on_log: Callable[[str], None] | None = None,
        on_silence: Callable[[int], None] | None = None,
        keys: ServerKeys | None = None,
        token: bytes | None = None,
    ):
        self.address = normalise_address(address)
        self.timeout_s = timeout_s
        self._keys = keys or keys_for(self.address)
        self._token = user_token() if token is None else token
        self._handshake: Handshake | None = None
        self.requester = requester
        self.lease_s = lease_s
        self.welcome: messages.Welcome | None = None
        self._name = name
        self._on_log = on_log
        self._on_silence = on_silence
        self._own_context = context is None
        self._context = context or zmq.Context()
        self._socket: zmq.Socket | None = None
        self._thread: int | None = None
        self._number = 0
        self._following: dict[str, int] = {}
        self._inbox: collections.deque[messages.Event] = collections.deque()
        self._heard = 0.0
        self._asked: float | None = None
        self._beats: set[int | None] = set()
        self._beat_at = 0.0
        self._gap = False
        self._unanswered_s: float | None = None
        self._attempt_s = min(ATTEMPT_S, timeout_s)
        self._owed_since: float | None = None
        self._silent_s = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket at once; unsent messages are dropped."""
        self._drop_socket()
        if self._own_context:
            self._context.term()

    # ── Events ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def next_event(self, timeout_s: float, should_stop: ShouldStop | None = None) -> messages.Event | None:
        """The next event of the jobs being followed, or None after ``timeout_s``.

        Asks the server again (ATTACH) when it is silent for `HEARTBEAT_S`, which also brings back whatever was lost,
        and reconnects when it does not answer; raises `TransportTimeout` after ``self.timeout_s`` of silence.
        """
        until = time.monotonic() + timeout_s
        while True:
            # 1. take all that is there
            while (received := self._receive(0.0)) is not None:
                if isinstance(received[0], messages.Failure) and received[0].request in self._beats:
                    self._expect(received[0])
            if self._inbox:
                return self._inbox.popleft()
            # 2. keep the connection alive
            now = time.monotonic()
            if self._asked is not None and now - self._asked > self._attempt_s:
                self._recover("the last question", self._unanswered_s or now, should_stop)
            elif self._asked is None and (
                now - self._heard > HEARTBEAT_S or (self._gap and now - self._beat_at > GAP_S) or self._is_lease_due()
            ):
                self._beat()
            # 3. wait a little
            self._tick(should_stop)
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._poll(min(POLL_S, left))

    def _beat(self) -> None:
        """Ask for the events since the last one seen; the answers are taken by `next_event`."""
        beats: list[Any] = [self._attach_to(job, after) for job, after in self._following.items()]
        self._beats = {self._send(beat, wait_s=0.0) for beat in beats or [messages.Ping(0)]}
        self._asked = self._beat_at = time.monotonic()
        self._gap = False
        self._unanswered_s = self._unanswered_s or self._asked

    def _attach_to(self, job: str, after: int) -> messages.Attach:
        return messages.Attach(0, job, after, self.requester, self.lease_s)

    def _is_lease_due(self) -> bool:
        """Whether it is time to say that the jobs are still wanted."""
        return bool(self.lease_s) and time.monotonic() - self._beat_at > self.lease_s / 3

    # ── One request ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _request(
        self,
        message: Any,
        *kinds: type,
        should_stop: ShouldStop | None = None,
        timeout_s: float | None = None,
        until: float | None = None,
        greet: bool = True,
    ) -> Any:
        """Send ``message`` until it is answered; the answer is one of ``kinds``, or the error that the server names."""
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        until = time.monotonic() + timeout_s if until is None else until
        while True:
            if greet and self._socket is None:
                self._greet(should_stop, timeout_s, until)
            left = until - time.monotonic()
            if left <= 0:
                raise self._silence(timeout_s)
            number = self._send(message, wait_s=left, should_stop=should_stop)
            if number is not None:
                answer = self._answer((number,), min(left, self._attempt_s), should_stop)
                if answer is not None:
                    return self._expect(answer[0], *kinds)
                self._drop_socket()

    def _greet(self, should_stop: ShouldStop | None, timeout_s: float, until: float | None = None) -> messages.Welcome:
        """HELLO, as the first message of a connection; then ATTACH for the jobs being followed."""
        hello = messages.Hello(0, list(PROTOCOL_VERSIONS), self._name)
        welcome = self._request(
            hello, messages.Welcome, should_stop=should_stop, timeout_s=timeout_s, until=until, greet=False
        )
        if welcome.version not in PROTOCOL_VERSIONS:
            raise VersionMismatch(
                f"The server at {self.address} answers in protocol version {welcome.version}, this side speaks "
                f"{', '.join(map(str, PROTOCOL_VERSIONS))}; install the same release on both sides."
            )
        self.welcome = welcome
        if self._following:
            self._beat()
        return welcome

    def _expect(self, answer: Any, *kinds: type) -> Any:
        if isinstance(answer, messages.Failure):
            raise error_from_code(answer.code, answer.message, field=answer.field or None)
        if not isinstance(answer, kinds):
            raise ProtocolError(
                f"The server at {self.address} answered with {type(answer).__name__} where "
                f"{' or '.join(kind.__name__ for kind in kinds)} was due; use the same release on both sides."
            )
        return answer

    def _recover(self, what: str, since: float, should_stop: ShouldStop | None) -> None:
        """Leave a silent connection for a new one; `TransportTimeout` if nothing has moved ``since`` too long."""
        if time.monotonic() - since > self.timeout_s:
            raise self._silence(self.timeout_s)
        text = f"No answer to {what} for {self._attempt_s:g} s; connecting to {self.address} again."
        log.info("%s", text)
        if self._on_log:
            self._on_log(text)
        self._drop_socket()
        self._greet(should_stop, self.timeout_s)

    def _silence(self, timeout_s: float) -> TransportError:
        refusal = self._handshake.why_nobody() if self._handshake is not None else None
        if refusal is not None:
            return refusal
        if not self._heard:
            return ServerUnreachable(
                f"No server answers at {self.address} after {timeout_s:g} s: start one with `das-server serve`, or "
                "correct the address in the add-on's preferences or in DAS_SERVER.",
                field="server",
            )
        return TransportTimeout(
            f"The server at {self.address} fell silent for {timeout_s:g} s: look whether it still runs, and render "
            "again to go on.",
            field="server",
        )

    # ── The socket ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open_socket(self) -> zmq.Socket:
        if self._thread not in (None, threading.get_ident()):
            raise RuntimeError("A DasClient belongs to one thread; make another one for this thread.")
        if self._socket is None:
            self._thread = threading.get_ident()
            socket = self._context.socket(zmq.DEALER)
            socket.linger = 0
            socket.setsockopt(zmq.IMMEDIATE, 1)
            socket.setsockopt(zmq.RECONNECT_IVL, 200)
            socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)
            socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
            socket.setsockopt(zmq.HANDSHAKE_IVL, 3000)
            socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES + FRAME_EXTRA_BYTES)
            socket.setsockopt(zmq.IPV6, int("[" in self.address))
            if self._keys is not None:
                socket.curve_serverkey = self._keys.server.encode()
                socket.curve_publickey, socket.curve_secretkey = self._keys.public.encode(), self._keys.secret.encode()
            elif (name := routing_id(self._token)) is not None and is_loopback(self.address):
                socket.setsockopt(zmq.ROUTING_ID, name)
            self._handshake = Handshake(socket, self.address, has_key=self._keys is not None)
            socket.connect(self.address)
            self._socket, self._asked = socket, None
        return self._socket

    def _drop_socket(self) -> None:
        if self._socket is not None:
            self._handshake.close()
            self._socket.close(linger=0)
            self._socket = None
        self._asked = None

    def _send(
        self,
        message: Any,
        blob: memoryview | None = None,
        *,
        wait_s: float = ATTEMPT_S,
        should_stop: ShouldStop | None = None,
    ) -> int | None:
        """Send ``message`` under a new number and return the number; None when nobody takes it within ``wait_s``."""
        self._number += 1
        self._owed_since = self._owed_since or time.monotonic()
        frames = codec.encode(dataclasses.replace(message, request=self._number), blob)
        socket, until = self._open_socket(), time.monotonic() + wait_s
        while True:
            self._tick(should_stop)
            try:
                socket.send_multipart(frames, zmq.NOBLOCK, copy=blob is None)
                return self._number
            except zmq.Again:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                socket.poll(int(1000 * min(POLL_S, left)) + 1, zmq.POLLOUT)

    def _answer(
        self, numbers: Any, wait_s: float, should_stop: ShouldStop | None
    ) -> tuple[Any, memoryview | None] | None:
        """The first answer to one of the request ``numbers``, or None after ``wait_s``; events go to the inbox."""
        until = time.monotonic() + wait_s
        while True:
            self._tick(should_stop)
            left = until - time.monotonic()
            received = self._receive(min(POLL_S, max(left, 0.0)))
            if received is None:
                if left <= 0:
                    return None
            elif isinstance(received[0], messages.Failure) and received[0].request == 0:
                self._expect(received[0])
            elif getattr(received[0], "request", 0) in numbers:
                return received

    def _receive(self, wait_s: float) -> tuple[Any, memoryview | None] | None:
        """One message within ``wait_s``, or None; events are also put into the inbox."""
        if not self._poll(wait_s):
            return None
        frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        message, blob = codec.decode([frame.buffer for frame in frames])
        self._heard, self._asked = time.monotonic(), None
        self._break_silence()
        if not isinstance(message, messages.Welcome):  # a greeting alone does not answer a question
            self._unanswered_s = None
        if isinstance(message, messages.Event):
            self._take_event(message)
        return message, blob

    def _poll(self, wait_s: float) -> bool:
        return bool(self._open_socket().poll(int(1000 * wait_s), zmq.POLLIN))

    def _take_event(self, event: messages.Event) -> None:
        """Keep an event of a followed job if it is the next; others were seen, or come again with the next ATTACH."""
        due = self._following.get(event.job, event.seq) + 1
        if event.seq != due:
            self._gap = self._gap or event.seq > due
            return
        self._following[event.job] = event.seq
        self._inbox.append(event)
        if event.kind in FINAL_EVENT_KINDS:
            del self._following[event.job]

    def _tick(self, should_stop: ShouldStop | None) -> None:
        """Wherever a call waits, at least every `POLL_S`: stop if asked to, and say for how long nobody answers."""
        if should_stop is not None and should_stop():
            raise JobCancelled("Stopped by the user.")
        if self._handshake is not None and self._socket is not None:
            self._handshake.check()
        if self._on_silence is None or self._owed_since is None:
            return
        silent_s = int(time.monotonic() - self._owed_since)
        silent_s -= silent_s % SOME_TIME_S if silent_s > SOME_TIME_S else 0
        if silent_s >= SILENT_S and silent_s != self._silent_s:
            self._silent_s = silent_s
            self._on_silence(silent_s)

    def _break_silence(self) -> None:
        self._owed_since = None
        if self._silent_s:
            self._silent_s = 0
            self._on_silence(0)
