# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's side of the talk with its server: one thread owns the socket, the main thread speaks through queues."""

from __future__ import annotations

import logging
import os
import queue
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from das_blender_addon.errors import DasError, JobCancelled
from das_server.workers import wire

_log = logging.getLogger(__name__)

SERVER_SILENCE_S = 60.0
"""A worker whose server says nothing for this long ends itself."""

LINGER_MS = 1000


class Link:
    """Everything but `start` is called from the main thread; nothing blocks but `next_order`.

    ``model`` is what the heartbeats report as loaded.
    """

    def __init__(self, address: str, routing_id: str, token: str, *, parent: int):
        self.name = routing_id.partition(".")[0]
        self.model = ""
        self._address = address
        self._routing_id = routing_id
        self._token = token
        self._parent = parent
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._words: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._bell, self._bell_end = socket.socketpair()
        self._lock = threading.Lock()
        self.ends = threading.Event()
        """The process is to end after the next step."""
        self._state = "starting"
        self._waiting: dict[str, dict[str, Any]] = {}
        self._current: dict[str, Any] = {}
        self._cancelled: set[str] = set()
        self._steps: list[float] = []
        self._stage = ""
        self._moved_s = time.monotonic()

    def start(self) -> None:
        """Connect and begin to beat."""
        threading.Thread(target=self._talk, name="link", daemon=True).start()

    # ── For the main thread ─────────────────────────────────────────────────────────────────────────────────────────

    def say(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        self._words.put({"kind": kind, **fields})
        self._bell.send(b"!")

    def end(self, problem: str, status: int) -> None:
        """Say what is wrong and end the process; never returns."""
        self.say("problem", message=problem)
        self.say("end", status=status)
        threading.Event().wait()

    @contextmanager
    def state(self, state: str) -> Iterator[None]:
        """What the heartbeats say meanwhile."""
        before, self._state = self._state, state
        try:
            yield
        finally:
            self._state = before

    def next_order(self) -> dict[str, Any]:
        """Wait for "load" or "run"."""
        while True:
            self._state = "ready"
            order = self._orders.get()
            if order["kind"] != "run":
                return order
            with self._lock:
                if self._waiting.pop(order["job"], None) is None:
                    continue  # cancelled before it began
                self._current = order
                self._steps, self._stage, self._moved_s = [], "", time.monotonic()
            self._state = "busy"
            return order

    @property
    def has_job(self) -> bool:
        """Whether a job is being worked on."""
        return bool(self._current)

    def is_cancelled(self, job: str) -> bool:
        """Whether the server has asked for the end of this job."""
        return job in self._cancelled

    def progress(self, order: dict[str, Any], fields: dict[str, Any]) -> None:
        """Tell of a step, and remember how long it took."""
        now = time.monotonic()
        with self._lock:
            if fields["stage"] == self._stage == "denoising":
                self._steps.append(now - self._moved_s)
            self._stage, self._moved_s = fields["stage"], now
        self.say("progress", **_of(order), fields=fields)

    def preview(self, order: dict[str, Any], step: int, artefact: dict[str, Any]) -> None:
        """Tell of a preview that is among the blobs."""
        self.say("preview", **_of(order), step=step, artefact=artefact)

    def retry(self, order: dict[str, Any], code: str, message: str) -> None:
        """Tell that the same attempt begins anew, and why; its clock, too, begins anew."""
        with self._lock:
            self._steps, self._stage, self._moved_s = [], "", time.monotonic()
        self.say("retry", **_of(order), code=code, message=message)

    def finish(self, order: dict[str, Any], artefacts: list[dict[str, Any]], report: dict[str, Any]) -> None:
        """Tell of success."""
        self._end(order)
        self.say("done", **_of(order), artefacts=artefacts, report=report)

    def fail(self, order: dict[str, Any], error: DasError) -> None:
        """Tell of failure."""
        self._end(order)
        self.say("failed", **_of(order), code=error.code, message=error.message, field=error.field or "")

    def _end(self, order: dict[str, Any]) -> None:
        with self._lock:
            self._current = {}
            self._cancelled.discard(order["job"])

    # ── The socket's thread ─────────────────────────────────────────────────────────────────────────────────────────

    def _talk(self) -> None:
        try:
            self._loop()
        except Exception:  # without its socket the process is of no use: end it, the server starts another
            _log.exception("the link to the server broke")
            os._exit(1)

    def _loop(self) -> None:
        dealer = zmq.Context.instance().socket(zmq.DEALER)
        dealer.setsockopt(zmq.ROUTING_ID, self._routing_id.encode())
        dealer.setsockopt(zmq.LINGER, LINGER_MS)
        dealer.connect(self._address)
        poller = zmq.Poller()
        poller.register(dealer, zmq.POLLIN)
        poller.register(self._bell_end, zmq.POLLIN)
        self._tell(dealer, {"kind": "hello", "pid": os.getpid()})
        next_beat_s = heard_s = time.monotonic()
        while True:
            ready = dict(poller.poll(max(0.0, next_beat_s - time.monotonic()) * 1000))
            if self._bell_end.fileno() in ready or self._bell_end in ready:
                self._bell_end.recv(4096)
            while not self._words.empty():
                self._tell(dealer, self._words.get())
            if dealer in ready:
                heard_s = time.monotonic()
                self._listen(dealer)
            now = time.monotonic()
            if now >= next_beat_s:
                next_beat_s = now + wire.HEARTBEAT_S
                self._tell(dealer, self._heartbeat(now))
                if now - heard_s > SERVER_SILENCE_S or (os.name == "posix" and os.getppid() != self._parent):
                    os._exit(0)

    def _tell(self, dealer: zmq.Socket, message: dict[str, Any]) -> None:
        if message["kind"] == "end":
            dealer.close()
            zmq.Context.instance().term()  # returns when all is said, or after the socket's linger
            os._exit(message["status"])
        dealer.send_multipart(wire.pack(self._token, message))

    def _listen(self, dealer: zmq.Socket) -> None:
        while True:
            try:
                message = wire.unpack(self._token, dealer.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return
            if message is None:
                continue
            if message["kind"] == "run":
                with self._lock:
                    self._waiting[message["job"]] = message
                if self._state != "ready":  # the model is still on its way
                    fields = {"stage": "loading", "step": 0, "of": 1, "elapsed_s": 0.0}
                    self._tell(dealer, {"kind": "progress", **_of(message), "fields": fields})
            if message["kind"] in ("run", "load"):
                self._orders.put(message)
            elif message["kind"] == "cancel":
                self._cancel(dealer, message["job"])

    def _cancel(self, dealer: zmq.Socket, job: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(job, None)
            if waiting is None and self._current.get("job") == job:
                self._cancelled.add(job)
        if waiting is not None:
            error = JobCancelled("The job was cancelled before it began.")
            self._tell(
                dealer, {"kind": "failed", **_of(waiting), "code": error.code, "message": error.message, "field": ""}
            )

    def _heartbeat(self, now: float) -> dict[str, Any]:
        with self._lock:
            current = _of(self._current) if self._current else {"job": "", "attempt": 0}
            step_s = statistics.median(self._steps) if len(self._steps) >= 2 else 0.0
            return {
                "kind": "heartbeat",
                "state": self._state,
                "model": self.model,
                **current,
                "stage": self._stage,
                "step_s": step_s,
                "since_progress_s": now - self._moved_s if self._current else 0.0,
                "memory_bytes": _memory_bytes(),
            }


def _of(order: dict[str, Any]) -> dict[str, Any]:
    return {"job": order["job"], "attempt": order["attempt"]}


def _memory_bytes() -> int:
    """Resident memory of this process, 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
