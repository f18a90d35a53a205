# SPDX-License-Identifier: GPL-3.0-or-later
"""One worker of a cluster: the actor, what it has said, and where it stands.  Without Ray."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from das_server.workers.base import WorkerStatus
from das_server.workers.ray_places import Place


@dataclass
class Deaths:
    """What happened to the workers of one place."""

    count: int = 0
    failed_starts: int = 0
    start_at_s: float = 0.0
    problem: str = ""


@dataclass
class Member:
    """``after``: number of the last word that was taken in; ``words``: those that came since, with their numbers.
    ``unheard``: messages that it may not have got.
    ``is_held``: its job is one of before, and whoever talks with the server has not been told what is to become of it.
    """

    place: Place
    actor: Any
    model: str = ""
    lacks: tuple[str, ...] = ()
    state: str = "starting"
    job: str = ""
    attempt: int = 0
    restarts: int = 0
    is_held: bool = False
    is_let_go: bool = False
    begun: bool = False
    settled: bool = False
    after: int = 0
    words: deque[tuple[int, dict[str, Any]]] = field(default_factory=deque)
    unheard: list[dict[str, Any]] = field(default_factory=list)
    heard_s: float = field(default_factory=time.monotonic)
    ordered_s: float = 0.0
    cancelled_s: float = float("inf")
    grace_s: float = 0.0
    idle_since_s: float = field(default_factory=time.monotonic)
    ask_again_s: float = float("inf")
    pid: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    beat: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    doom: str = ""

    @property
    def name(self) -> str:
        return self.place.name

    def take_order(self, job: str, attempt: int) -> None:
        """It has a job from now on."""
        self.begun = self.begun and self.job == job
        self.job, self.attempt, self.ordered_s = job, attempt, time.monotonic()
        self.cancelled_s = float("inf")
        self.is_held = self.is_let_go = False
        self.state, self.beat = "busy", {}

    def has(self, order: dict[str, Any]) -> bool:
        """Whether this is its job."""
        return (self.job, self.attempt) == (order["job"], order["attempt"])

    def end_order(self) -> None:
        """Its job is over."""
        self.job, self.attempt, self.cancelled_s = "", 0, float("inf")
        self.is_held = self.is_let_go = False
        self.state, self.idle_since_s = "ready", time.monotonic()

    def hear_beat(self, beat: dict[str, Any]) -> None:
        """How it stands."""
        self.heard_s, self.beat = time.monotonic(), beat
        self.begun = self.begun or bool(self.job and beat["job"] == self.job)
        if self.is_let_go and beat["job"] != self.job:
            self.end_order()
        if self.about and beat["state"] == "ready":
            self.settled = True
        if not self.job and self.about:
            self.state = beat["state"]

    def hear_word(self, word: dict[str, Any]) -> bool:
        """Take in one word → whether it is about the job that the worker has."""
        kind = word["kind"]
        if kind == "ready":
            self.about, self.problem = word, ""
            self.state = "busy" if self.job else word["state"]
        elif kind == "problem":
            self.problem = word["message"]
        elif self.job and (word.get("job"), word.get("attempt")) == (self.job, self.attempt):
            self.begun = self.begun or kind != "progress" or word["fields"].get("stage") != "loading"
            return not self.is_held
        return False

    def status(self) -> dict[str, Any]:
        """A `WorkerStatus` as a map."""
        beat, label = self.beat, self.about.get("device_label", "")
        told = WorkerStatus(
            name=self.name,
            state=self.state,
            device=self.about.get("device", "cuda:0" if self.place.is_gpu else "cpu"),
            device_label=f"{label} at {self.place.host}" if label else "",
            pid=self.pid,
            model=beat.get("model", ""),
            job=self.job,
            attempt=self.attempt,
            restarts=self.restarts,
            step_s=beat.get("step_s", 0.0),
            since_progress_s=beat.get("since_progress_s", 0.0) if self.job else 0.0,
            memory_bytes=beat.get("memory_bytes", 0),
            problem=self.problem,
            lacks=self.lacks,
            versions=self.about.get("versions", {}),
        )
        return dataclasses.asdict(told)
