# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker's side of the talk with its server, whatever carries the words: orders in, news out, and how it stands."""

from __future__ import annotations

import os
import queue
import statistics
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from das_blender_addon.errors import DasError, JobCancelled


class Talk(ABC):
    """For the thread that runs jobs; nothing blocks but `next_order` and `end`.  Another thread calls `hear`.

    Orders and words are the maps of `wire`.  ``name``: the worker's; ``model``: what it tells as loaded.
    """

    def __init__(self, name: str):
        self.name = name
        self.model = ""
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
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

    @abstractmethod
    def say(self, kind: str, **fields: Any) -> None:
        """Send a message.  From any thread."""

    @abstractmethod
    def note_checkpoint(self, order: dict[str, Any], path: Path) -> None:
        """A checkpoint of the job is there."""

    @abstractmethod
    def end(self, problem: str, status: int) -> None:
        """Say what is wrong and end the process; never returns."""

    # ── For the thread that runs jobs ───────────────────────────────────────────────────────────────────────────────

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
                if self._waiting.get(order["job"]) is not order:
                    continue  # cancelled before it began; a later attempt at its job may wait behind it
                del self._waiting[order["job"]]
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

    # ── For the thread that hears the server ────────────────────────────────────────────────────────────────────────

    def hear(self, message: dict[str, Any]) -> None:
        """Take in one message of the server."""
        if message["kind"] == "run":
            with self._lock:
                self._waiting[message["job"]] = message
            if self._state != "ready":  # the model is still on its way
                fields = {"stage": "loading", "step": 0, "of": 1, "elapsed_s": 0.0}
                self.say("progress", **_of(message), fields=fields)
        if message["kind"] in ("run", "load"):
            self._orders.put(message)
        elif message["kind"] == "cancel":
            self._cancel(message["job"])

    def _cancel(self, job: str) -> None:
        with self._lock:
            waiting = self._waiting.pop(job, None)
            if waiting is None and self._current.get("job") == job:
                self._cancelled.add(job)
        if waiting is not None:
            error = JobCancelled("The job was cancelled before it began.")
            self.say("failed", **_of(waiting), code=error.code, message=error.message, field="")

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
