# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers in a Ray cluster: what the server sees of them.  Ray itself is in another process (`ray_bridge`), which is
started anew when it ends and then finds the workers again, as a server does that is started anew.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import zmq

from das_blender_addon.errors import SettingsError
from das_server.config import is_loopback
from das_server.workers import wire
from das_server.workers.base import Workers, WorkerStatus, WorkLost, WorkNews, WorkOrder
from das_server.workers.patience import Patience
from das_server.workers.sockets import bind_local

_log = logging.getLogger(__name__)

NAMESPACE = "ray_namespace"
"""File in the state folder: under this name its server's workers are found again."""

DEMAND_S = 1.0
"""How often the workers' side is told what waits."""

BRIDGE_SILENCE_S = 180.0
"""How long the bridge may say nothing: Ray makes it wait for nodes and workers that do not answer."""

LONGEST_PAUSE_S = 30.0
STOP_S = 5.0


def cluster_address(workers: str) -> str:
    """"ray" → "", for a cluster of this machine alone; "ray://HOST:PORT" → "HOST:PORT".  Raises `SettingsError`."""
    found = re.fullmatch(r"ray(?:://([^/\s]+:\d+))?", workers)
    if not found:
        raise SettingsError(
            f"workers is {workers!r} but must be local, ray or ray://HOST:PORT, the address of a cluster's head.",
            field="workers",
        )
    address = found.group(1) or ""
    if importlib.util.find_spec("ray") is None:
        raise SettingsError(
            "Ray is not installed in this Python; install it with pip install 'diffusion-as-shader[cluster]', or start "
            "the server with --workers local.",
            field="workers",
        )
    is_here = not address or is_loopback(address.rpartition(":")[0])
    if not is_here and os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise SettingsError(
            f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']!r}: whoever reaches a port of the cluster at {address} "
            "could run programs there; start its nodes and this server with RAY_AUTH_MODE=token.",
            field="workers",
        )
    return address


class RayWorkers(Workers):
    """Between ``fewest`` and ``most`` workers (0: as many as there are devices), each an actor on one device.

    ``waiting()``: how many jobs wait, by model; ``models()``: the server's models and their revisions.
    """

    def __init__(
        self,
        context: zmq.Context,
        state: Path,
        *,
        address: str = "",
        devices: tuple[str, ...] = ("auto",),
        model: str = "",
        fewest: int = 1,
        most: int = 0,
        waiting: Callable[[], Mapping[str, int]] = dict,
        models: Callable[[], Mapping[str, str]] = dict,
        patience: Patience | None = None,
        **worker: Any,
    ):
        if not set(devices) <= {"auto", "cpu"}:
            raise SettingsError(
                f"devices is {', '.join(devices)!r}, but in a cluster it is auto or cpu: Ray chooses the GPUs.",
                field="devices",
            )
        self._waiting, self._models = waiting, models
        patience = patience or Patience()
        level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
        worker |= {"log_level": level, "stall_timeout_s": patience.stall_timeout_s}
        self._options = {"state": str(state), "cluster": address, "namespace": _namespace(state), "devices": devices}
        self._options |= {"model": model, "fewest": fewest, "most": most, "worker": worker}
        self._options["patience"] = asdict(patience)
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen | None = None
        self._generation = 0
        self._failures = 0
        self._start_at_s = self._started_s = self._heard_s = self._tell_at_s = 0.0
        self._problem = ""
        self._is_met = False
        self._statuses: dict[str, WorkerStatus] = {}
        self._orders: dict[str, WorkOrder] = {}
        self._held: dict[str, str] | None = None
        self._cancelled: set[str] = set()
        self._news: list[WorkNews] = []
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._bound, self._folder = bind_local(self._socket, state / "ray.ipc")

    def start(self) -> None:
        self._spawn()

    def stop(self) -> None:
        """The workers of a cluster that lives on live on, too, and end by themselves if no server comes back."""
        if self._process is not None and self._process.poll() is None:
            self._send({"kind": "stop"})
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._statuses, self._is_met = {}, False
        self._socket.close(linger=0)
        if self._folder:
            self._folder.close()

    def free(self) -> list[WorkerStatus]:
        kept = {*self._orders, *(self._held or {}).values()}
        takers = [one for one in self._statuses.values() if one.state in ("loading", "ready") and one.name not in kept]
        return sorted(takers, key=lambda one: (one.state != "ready", one.name)) if self._is_met else []

    def held(self) -> dict[str, str]:
        return dict(self._held or {}) if self._is_met else {}

    def run(self, worker: str, order: WorkOrder) -> None:
        if worker in self._orders:
            raise ValueError(f"{worker} already runs job {self._orders[worker].job}")
        self._orders[worker] = order
        (self._held or {}).pop(order.job, None)
        self._send_order(worker, order)

    def _send_order(self, worker: str, order: WorkOrder) -> None:
        plain = asdict(order)
        plain["spec"]["model_revision"] = self._models().get(order.spec.model, "")  # of what the server has, by content
        self._send({"kind": "run", "worker": worker, "order": plain})

    def cancel(self, job: str) -> None:
        is_let_go = (self._held or {}).pop(job, None) is not None
        if any(order.job == job for order in self._orders.values()):
            self._cancelled.add(job)
        if self._is_met:  # or it is said when the cluster is met again
            self._send({"kind": "let_go" if is_let_go else "cancel", "job": job})

    def news(self) -> list[WorkNews]:
        self._drain()
        self._look_after_bridge()
        news, self._news = self._news, []
        return news

    def bells(self) -> list[Any]:
        return [self._socket]

    def status(self) -> list[WorkerStatus]:
        """All workers; where there is none, one that stands for the cluster and says why."""
        found = [self._with_order(one) for one in self._statuses.values()]
        if found:
            return found
        state = "broken" if self._problem else "starting"
        return [WorkerStatus("ray", state, "auto", problem=self._problem)]

    def _with_order(self, one: WorkerStatus) -> WorkerStatus:
        order = self._orders.get(one.name)
        return one if order is None else replace(one, state="busy", job=order.job, attempt=order.attempt)

    # ── The bridge ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _spawn(self) -> None:
        self._generation += 1
        self._started_s = self._heard_s = time.monotonic()
        self._is_met = False
        root = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH")
        environment = os.environ | {wire.TOKEN_VARIABLE: self._token}
        environment["PYTHONPATH"] = root + (os.pathsep + inherited if inherited else "")
        command = [sys.executable, "-P", "-m", "das_server.workers.ray_bridge", "--address", self._bound]
        command += ["--routing-id", self._routing_id.decode(), "--parent", str(os.getpid())]
        command += ["--options", json.dumps(self._options)]
        group = {"process_group": 0} if os.name == "posix" else {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **group
            )
        except OSError as error:
            self._ended(f"The process that talks with Ray cannot be started: {error.strerror or error}")
            return
        _log.info("the process that talks with Ray is %s", self._process.pid)

    @property
    def _routing_id(self) -> bytes:
        return f"ray.{self._generation}".encode()

    def _look_after_bridge(self) -> None:
        now = time.monotonic()
        if self._process is None:
            if now >= self._start_at_s:
                self._spawn()
        elif self._process.poll() is not None:
            self._drain()
            status = self._process.returncode
            self._ended(self._problem or f"The process that talks with Ray ended with exit status {status}.")
        elif now - self._heard_s > BRIDGE_SILENCE_S:
            _log.warning("the process that talks with Ray is silent and is killed")
            self._process.kill()
        elif self._is_met and now >= self._tell_at_s:
            self._tell_at_s = now + DEMAND_S
            self._send({"kind": "demand", "waiting": dict(self._waiting()), "models": dict(self._models())})

    def _ended(self, problem: str) -> None:
        """Its jobs go on without it; another one finds them."""
        _log.error("%s", problem)
        self._process, self._problem, self._is_met = None, problem, False
        lived_s = time.monotonic() - self._started_s
        self._failures = 1 if lived_s > LONGEST_PAUSE_S else self._failures + 1
        self._start_at_s = time.monotonic() + min(0.25 * 2**self._failures, LONGEST_PAUSE_S)
        if self._failures > 3:
            self._statuses = {}

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send_multipart([self._routing_id, *wire.pack(self._token, message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            _log.warning("the process that talks with Ray does not take %s: %s", message["kind"], error)

    def _drain(self) -> None:
        while True:
            try:
                routing_id, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            message = wire.unpack(self._token, frames)
            if message is None or routing_id != self._routing_id:
                _log.warning("ignored a message from %r that is not the one that talks with Ray", routing_id[:40])
                continue
            self._heard_s = time.monotonic()
            try:
                self._hear(message)
            except Exception:  # a defect of ours must cost no more than this message
                _log.exception("the process that talks with Ray said something that cannot be understood")

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "problem":
            self._problem = message["message"]
        elif kind == "status":
            self._hear_status(message)
        elif kind != "hello":
            order = self._orders.get(message["worker"])
            news = wire.news_of(message)
            if order is None or news is None or (news.job, news.attempt) != (order.job, order.attempt):
                return
            self._news.append(news)
            if kind in ("done", "failed", "lost"):
                self._end_order(message["worker"])
                one = self._statuses.get(message["worker"])
                if one is not None:
                    self._statuses[one.name] = replace(one, state="ready" if kind != "lost" else "starting", job="")

    def _end_order(self, worker: str) -> None:
        self._cancelled.discard(self._orders.pop(worker).job)

    def _hear_status(self, message: dict[str, Any]) -> None:
        told = [WorkerStatus(**one | {"lacks": tuple(one["lacks"])}) for one in message["workers"]]
        self._statuses = {one.name: one for one in told}
        self._problem = message["problem"]
        if self._is_met:
            return
        self._is_met, self._tell_at_s = True, 0.0
        if self._held is None:  # the first word of the cluster since this server started
            self._held = {one.job: one.name for one in told if one.job}
        else:
            self._meet_again(told)

    def _meet_again(self, told: list[WorkerStatus]) -> None:
        """Say again what whoever talked with the cluster before has taken along: orders, then what is not wanted."""
        for name, order in list(self._orders.items()):
            one = self._statuses.get(name)
            if one is not None and one.job == order.job:
                self._send_order(name, order)  # it goes on
            else:
                self._end_order(name)
                reason = f"The worker {name} was lost while nobody talked with the cluster."
                self._news.append(WorkLost(order.job, order.attempt, reason, by_others=True))
        for job in self._cancelled:
            self._send({"kind": "cancel", "job": job})
        for one in told:  # a worker keeps its last result until its next job
            if one.job and one.name not in self._orders and one.job not in (self._held or {}):
                self._send({"kind": "let_go", "job": one.job})


def _namespace(state: Path) -> str:
    path = state / NAMESPACE
    if not path.exists():
        path.write_text(f"das-{secrets.token_hex(8)}", encoding="ascii")
    return path.read_text(encoding="ascii").strip()
