# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers as child processes of this machine, one per device: started, heard, replaced when they die or fall silent."""

from __future__ import annotations

import logging
import secrets
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zmq

from das_blender_addon.errors import JobCancelled
from das_server.store.endings import oom_kills, was_ended_by_others
from das_server.workers import wire
from das_server.workers.base import (
    Workers,
    WorkerStatus,
    WorkLost,
    WorkNews,
    WorkOrder,
)
from das_server.workers.devices import find_devices, model_to_load
from das_server.workers.patience import CANCELLED_STEPS, Patience
from das_server.workers.sockets import bind_local
from das_server.workers.spares import Spares
from das_server.workers.spawn import Spawner

_log = logging.getLogger(__name__)

BROKEN_AFTER_STARTS = 3
"""Deaths in a row before a worker had loaded the default model, after which it counts as broken."""

LONGEST_PAUSE_S = 30.0
STOP_S = 2.0
"""How long a worker may take to save a checkpoint and end before it is killed; longer where its steps are."""


@dataclass
class _Process:
    """One worker process and what is known of it; lives on through restarts."""

    name: str
    device: str
    environment: dict[str, str]
    process: subprocess.Popen | None = None
    generation: int = 0
    state: str = "starting"
    order: WorkOrder | None = None
    heard_s: float = 0.0
    ordered_s: float = 0.0
    cancel_deadline_s: float = float("inf")
    grace_s: float = 0.0
    settled: bool = False
    begun: bool = False
    oom_kills: int | None = None
    failed_starts: int = 0
    failed_forks: int = 0
    start_at_s: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)
    heartbeat: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    doom: str = ""

    @property
    def routing_id(self) -> bytes:
        return f"{self.name}.{self.generation}".encode()


class LocalWorkers(Workers):
    """One child process per device, and, with ``spares``, one beside it that takes its place when it dies."""

    def __init__(
        self,
        context: zmq.Context,
        state: Path,
        *,
        devices: tuple[str, ...] = ("auto",),
        model: str = "",
        threads: int = 0,
        profile: str = "auto",
        attention_backend: str = "auto",
        compile_blocks: bool = False,
        float8: bool = False,
        speed: str = "exact",
        cancel_grace_s: float = 15.0,
        heartbeat_timeout_s: float = 30.0,
        stall_timeout_s: float = 3600.0,
        spares: bool = True,
        spare_after_s: float = 5.0,
    ):
        self._model = model
        arguments = ["--threads", str(threads), "--profile", profile, "--attention-backend", attention_backend]
        arguments += ["--compile"] if compile_blocks else []
        arguments += ["--float8"] if float8 else []
        arguments += ["--speed", speed]
        self._patience = Patience(cancel_grace_s, heartbeat_timeout_s, stall_timeout_s)
        self._token = secrets.token_hex(16)
        self._has_spares = spares
        self._news: list[WorkNews] = []
        self._processes = [_Process(f"worker-{i}", *one) for i, one in enumerate(find_devices(devices))]
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        address, self._folder = bind_local(self.socket, state / "workers.ipc")
        self._spawner = Spawner(address, self._token, state, tuple(arguments))
        self._spares = Spares(self._start_spare, after_s=spare_after_s)

    def start(self) -> None:
        for one in self._processes:
            self._spawn(one)

    def stop(self) -> None:
        self._spares.stop()
        running = [one.process for one in self._processes if one.process and one.process.poll() is None]
        for process in running:
            process.terminate()
        steps_s = max((one.heartbeat.get("step_s", 0.0) for one in self._processes if one.order), default=0.0)
        deadline = time.monotonic() + max(STOP_S, CANCELLED_STEPS * steps_s)
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for one in self._processes:
            one.state = "stopped"
        self.socket.close(linger=0)
        if self._folder:
            self._folder.close()

    def free(self) -> list[WorkerStatus]:
        takers = [one for one in self._processes if one.order is None and one.state in ("loading", "ready")]
        return [self._status_of(one) for one in sorted(takers, key=lambda one: one.state != "ready")]

    def run(self, worker: str, order: WorkOrder) -> None:
        one = next(one for one in self._processes if one.name == worker)
        if one.order is not None:
            raise ValueError(f"{worker} already runs job {one.order.job}")
        one.order, one.begun, one.oom_kills = order, False, oom_kills()
        one.ordered_s = time.monotonic()
        one.state = "busy"
        one.heartbeat = {}
        self._send(one, {"kind": "run", **asdict(order)})

    def cancel(self, job: str) -> None:
        for one in self._processes:
            if one.order and one.order.job == job and one.cancel_deadline_s == float("inf"):
                one.grace_s = self._patience.grace_s(one.heartbeat)
                one.cancel_deadline_s = time.monotonic() + one.grace_s
                self._send(one, {"kind": "cancel", "job": job})

    def news(self) -> list[WorkNews]:
        self._drain()
        now = time.monotonic()
        for one in self._processes:
            try:
                self._look_after(one, now)
            except Exception:  # a defect of ours must cost no more than this worker
                _log.exception("%s cannot be looked after", one.name)
        if self._has_spares:
            self._spares.look_after([one.name for one in self._processes if one.process and one.settled])
        news, self._news = self._news, []
        return news

    def bells(self) -> list[Any]:
        return [self.socket]

    def status(self) -> list[WorkerStatus]:
        return [self._status_of(one) for one in self._processes]

    # ── Life and death ──────────────────────────────────────────────────────────────────────────────────────────────

    def _look_after(self, one: _Process, now: float) -> None:
        if one.process is None:
            if now >= one.start_at_s:
                self._spawn(one)
        elif one.process.poll() is not None:
            self._drain()  # its last words may have come between the two looks
            self._bury(one)
        else:
            self._judge(one, now)

    def _spawn(self, one: _Process) -> None:
        """Start the process; where the system refuses one now, try again after a pause, for as long as it takes."""
        one.generation += 1
        one.state = "starting" if one.failed_starts < BROKEN_AFTER_STARTS else "broken"
        one.heard_s = time.monotonic()
        one.about, one.heartbeat, one.doom, one.settled = {}, {}, "", False
        routing_id = one.routing_id.decode()
        try:
            one.process = self._spares.take(one.name, routing_id)
            if one.process is None:
                one.process = self._spawner.start(routing_id, one.device, one.environment)
        except OSError as error:  # no process or file left for now
            one.failed_forks, one.generation = one.failed_forks + 1, one.generation - 1
            one.problem = f"The process of {one.name} cannot be started: {error.strerror or error}; it is tried again."
            one.start_at_s = time.monotonic() + min(0.25 * 2**one.failed_forks, LONGEST_PAUSE_S)
            _log.error("%s", one.problem)
            return
        one.problem = "" if one.failed_forks else one.problem
        one.failed_forks = 0
        _log.info("%s for %s is process %s", one.name, one.device, one.process.pid)

    def _start_spare(self, name: str) -> subprocess.Popen:
        one = next(one for one in self._processes if one.name == name)
        return self._spawner.start(f"{name}.spare", one.device, one.environment, is_spare=True)

    def _judge(self, one: _Process, now: float) -> None:
        """Kill a worker that is silent, stalled or disobedient; the next look finds it dead."""
        if one.doom:
            return
        wrong = self._patience.what_is_wrong(
            one.heartbeat,
            silent_s=now - one.heard_s,
            is_starting=not one.about,
            ordered_s=now - one.ordered_s if one.order else None,
            cancelled_s=now - one.cancel_deadline_s + one.grace_s,
            grace_s=one.grace_s,
        )
        if wrong:
            self._doom(one, wrong)

    def _doom(self, one: _Process, reason: str) -> None:
        _log.warning("%s (process %s) %s and is killed", one.name, one.process.pid, reason)
        one.doom = reason
        one.process.kill()

    def _bury(self, one: _Process) -> None:
        """Note a death, tell of the job it took with it, and plan the successor."""
        reason = f"The worker process {one.name} {one.doom or _how_it_ended(one.process.returncode)}"
        if one.process.returncode == wire.UNEXPECTED_STATUS and not one.doom:
            reason = f"The worker process {one.name} ended after an error that it did not expect: {one.problem}"
            reason = reason.rstrip(".")
        if not one.settled and one.about:
            reason += f" while it loaded {self._model}" if not one.begun else ""
        reason += "."
        _log.warning("%s%s", reason, f" It had job {one.order.job}." if one.order else "")
        if one.order:
            by_others = not one.doom and was_ended_by_others(one.process.returncode, one.oom_kills)
            begun = one.begun or one.settled
            self._news.append(WorkLost(one.order.job, one.order.attempt, reason, begun, by_others))
        got_there = one.settled or (one.order is not None and one.begun)
        one.failed_starts = 0 if got_there else one.failed_starts + 1
        one.problem = "" if got_there else reason if one.about else one.problem or reason
        one.process, one.order, one.cancel_deadline_s = None, None, float("inf")
        one.state = "broken" if one.failed_starts >= BROKEN_AFTER_STARTS else "starting"
        one.start_at_s = time.monotonic() + (0.0 if got_there else min(0.25 * 2**one.failed_starts, LONGEST_PAUSE_S))

    # ── Talking ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _send(self, one: _Process, message: dict[str, Any]) -> None:
        try:
            self.socket.send_multipart([one.routing_id, *wire.pack(self._token, message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.warning("%s does not take %s: %s", one.name, message["kind"], error)

    def _drain(self) -> None:
        while True:
            try:
                routing_id, *frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.unpack(self._token, frames)
            one = next((one for one in self._processes if one.routing_id == routing_id and one.process), None)
            if message is None or one is None:
                _log.warning("ignored a message from %r that is no worker of this server", routing_id[:40])
                continue
            one.heard_s = time.monotonic()
            try:
                self._hear(one, message)
            except Exception:  # as above; `_judge` sees to a worker that the server does not understand
                _log.exception("%s said something that cannot be understood: %s", one.name, message["kind"])

    def _hear(self, one: _Process, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "hello":
            if model := model_to_load(self._model, one.device, [other.device for other in self._processes]):
                self._send(one, {"kind": "load", "model": model})
        elif kind == "heartbeat":
            one.heartbeat = message
            one.begun = one.begun or bool(one.order and message.get("job") == one.order.job)
            if one.about and message["state"] == "ready":
                self._settle(one)
            if one.state != "broken" and one.order is None and one.about:
                one.state = message["state"]
            self._send(one, {"kind": "heartbeat"})
        elif kind == "ready":
            one.about = message
            if not self._model:
                self._settle(one)
            if one.state != "broken":
                one.problem = ""
                one.state = "busy" if one.order else message["state"]
        elif kind == "problem":
            one.problem = message["message"]
        elif one.order and (message.get("job"), message.get("attempt")) == (one.order.job, one.order.attempt):
            self._hear_of_work(one, message)

    def _settle(self, one: _Process) -> None:
        """The worker has loaded what it was to load at its start: it can work, and is not broken any more."""
        if not one.settled and one.state == "broken":
            one.state, one.problem = "ready", ""
        one.settled, one.failed_starts = True, 0

    def _hear_of_work(self, one: _Process, message: dict[str, Any]) -> None:
        kind = message["kind"]
        one.begun = one.begun or kind != "progress" or message["fields"].get("stage") != "loading"
        news = wire.news_of(message)
        if news is not None:
            self._news.append(news)
        if kind not in ("done", "failed"):
            return
        if kind == "failed" and message["code"] == JobCancelled.code:
            _log.info("job %s: %s stopped as asked", one.order.job, one.name)
        one.order, one.cancel_deadline_s = None, float("inf")
        one.state = "ready"

    def _status_of(self, one: _Process) -> WorkerStatus:
        beat = one.heartbeat
        return WorkerStatus(
            name=one.name,
            state=one.state,
            device=one.about.get("device", one.device),
            device_label=one.about.get("device_label", ""),
            pid=one.process.pid if one.process else 0,
            model=beat.get("model", ""),
            job=one.order.job if one.order else "",
            attempt=one.order.attempt if one.order else 0,
            restarts=max(0, one.generation - 1),
            step_s=beat.get("step_s", 0.0),
            since_progress_s=beat.get("since_progress_s", 0.0) if one.order else 0.0,
            memory_bytes=beat.get("memory_bytes", 0),
            problem=one.problem,
            versions=one.about.get("versions", {}),
        )


def _how_it_ended(code: int) -> str:
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    if code == wire.COMPANION_LOST_STATUS:
        return "ended because the process of another one of its devices had: the server's log says why"
    return f"ended by itself with exit status {code}"
