# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of workers without a server around it: orders in, news out, whatever kind it is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

from das_server.models.revision import Revisions
from das_server.store.blobs import BlobStore
from das_server.workers.base import WorkDone, Workers, WorkerStatus, WorkFailed, WorkLost, WorkNews, WorkOrder
from das_server.workers.local import LocalWorkers
from das_server.workers.patience import Patience
from das_server.workers.ray import RayWorkers
from tests.support.jobs import job_id, job_inputs, job_spec

MODEL = "das-preview"
ABOUT = {"threads": 1, "profile": "auto", "attention_backend": "auto", "compile_blocks": False, "float8": False}
ABOUT |= {"speed": "exact"}
WAIT_S = 120.0
"""Longest time for anything here, on a busy machine."""

ENDS = (WorkDone, WorkFailed, WorkLost)


def local_workers(context: zmq.Context, state: Path) -> Workers:
    """One worker process of this machine."""
    return LocalWorkers(context, state, devices=("cpu",), model=MODEL, spares=False, **ABOUT)


def ray_workers(context: zmq.Context, state: Path, address: str, **options: Any) -> Workers:
    """Two workers in a cluster; "" for one of this machine alone."""
    revisions = Revisions(state)
    revisions.learn(MODEL)
    options = {"fewest": 2, "models": lambda: {MODEL: revisions.of(MODEL)}, "patience": Patience()} | options
    return RayWorkers(context, state, address=address, model=MODEL, **options, **ABOUT)


class Crowd:
    """A set of workers in ``state``, with what they have said so far.  A context manager."""

    def __init__(self, state: Path, make: Callable[[zmq.Context, Path], Workers]):
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        self.blobs = BlobStore(state)
        self._context = zmq.Context()
        self._make = make
        self.workers = make(self._context, state)
        self.said: list[WorkNews] = []

    def __enter__(self) -> Crowd:
        self.workers.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.workers.stop()
        self._context.term()

    def die_and_start_anew(self) -> None:
        """As if the server's machine had lost its power: nothing is said to the workers of a cluster."""
        self.workers._process.kill()
        self.workers._process.wait()
        self.workers.stop()
        self.said.clear()
        self.workers = self._make(self._context, self.state)
        self.workers.start()

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Hear the workers until ``condition()`` is true, and return that."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.said += self.workers.news()
            if found := condition():
                return found
            time.sleep(0.02)
        raise AssertionError(f"{what} did not happen; the workers are {self.workers.status()} and said {self.said}")

    def ready(self, name: str = "") -> WorkerStatus:
        """A worker, the one of this name, that has nothing to do."""

        def found() -> WorkerStatus | None:
            ready = [one for one in self.workers.free() if one.state == "ready" and one.pid]
            return next((one for one in ready if name in ("", one.name)), None)

        return self.wait(found, "a free worker")

    def order(self, job: str = "", attempt: int = 1, **changes: Any) -> WorkOrder:
        """An order for the smallest job, its inputs among the blobs."""
        spec = job_spec(**changes)
        inputs, blobs = job_inputs(spec)
        for blob in blobs.values():
            self.blobs.add(blob)
        return WorkOrder(job or job_id(), attempt, spec, tuple(inputs))

    def give(self, order: WorkOrder, worker: str = "") -> WorkerStatus:
        """Give it to a free worker, the one of this name."""
        one = self.ready(worker)
        self.workers.run(one.name, order)
        return one

    def of(self, order: WorkOrder) -> list[WorkNews]:
        """What was said of this attempt."""
        return [one for one in self.said if (one.job, one.attempt) == (order.job, order.attempt)]

    def steps(self, order: WorkOrder) -> list[int]:
        """The denoising steps that were told of this attempt, in order."""
        told = [one.fields for one in self.of(order) if hasattr(one, "fields")]
        return [fields["step"] for fields in told if fields["stage"] == "denoising"]

    def wait_for_step(self, order: WorkOrder, step: int = 1) -> None:
        """Until so many steps are done."""
        self.wait(lambda: max(self.steps(order), default=0) >= step, f"step {step}")

    def end(self, order: WorkOrder) -> WorkNews:
        """How this attempt ended."""
        return self.wait(lambda: next((one for one in self.of(order) if isinstance(one, ENDS)), None), "its end")

    def pixels(self, done: WorkNews) -> list[bytes]:
        """The frames of a finished job."""
        assert isinstance(done, WorkDone), done
        return [self.blobs.read_whole(one.sha) for one in done.artefacts]


def listening_addresses(pids: set[int]) -> set[str]:
    """Addresses (as the system writes them, in hex) on which these processes and those that they started listen."""
    sockets = set()
    for pid in family(pids):
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        except OSError:  # it has ended, or is none of ours
            continue
        sockets |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in sockets:
                found.add(words[1].rpartition(":")[0])
    return found


def family(pids: set[int]) -> set[int]:
    """These processes and all their descendants."""
    parents = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found
