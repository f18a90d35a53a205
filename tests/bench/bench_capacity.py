# SPDX-License-Identifier: GPL-3.0-or-later
"""How many workers one front door carries: what a job costs the door is measured, then 1 to 256 workers are simulated.

Measured: the door's own classes (socket, endpoint, job list, blobs, dispatcher) serve real clients, in a process of
their own, while workers that only say what real ones say bring news and results; processor time of the loop and of the
threads beside it, per job and phase.  Simulated: jobs of a trace arrive, wait for one of so many workers, and each of
their requests and news waits for the one loop, whose service times are those that were measured.

Run: ``python tests/bench/bench_capacity.py [JOBS]``; what a job takes on a device are parameters (`KINDS`).
"""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import zmq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from das_blender_addon.client.client import DasClient  # noqa: E402
from das_blender_addon.protocol.frames import blob_sha  # noqa: E402
from das_blender_addon.protocol.messages import Accepted, Artefact, JobInput, JobSpec  # noqa: E402
from das_server.door.beside import Beside  # noqa: E402
from das_server.door.connections import Connections, open_door  # noqa: E402
from das_server.door.endpoint import Endpoint  # noqa: E402
from das_server.door.server import known_models  # noqa: E402
from das_server.store.blobs import BlobStore  # noqa: E402
from das_server.store.jobs import JobStore  # noqa: E402
from das_server.workers.base import (  # noqa: E402
    WorkDone,
    Workers,
    WorkerStatus,
    WorkOrder,
    WorkPreviewed,
    WorkProgressed,
)
from das_server.workers.dispatch import Dispatcher  # noqa: E402
from tests.support.jobs import job_id, job_inputs, job_spec  # noqa: E402

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
FEW, MANY = 8, 256
Costs = dict[str, float]
"""Phase → processor seconds of the loop per job."""

SIMULATED_S = 600.0


@dataclass(frozen=True)
class Kind:
    """One kind of job.  ``takes_s``: on its device; bytes of one frame and one preview, and of the inputs together."""

    name: str
    takes_s: float
    steps: int
    num_frames: int
    frame_bytes: int
    preview_bytes: int
    input_bytes: int


KINDS = (
    Kind("das-preview 192x128 on two CPU cores (measured, 6.5 s)", 6.5, 20, 49, 30_000, 6_000, 700_000),
    Kind("das-preview on a GPU (guess, 1 s)", 1.0, 20, 49, 30_000, 6_000, 700_000),
    Kind("das-cogvideox-5b on an H100 (estimate, 100 s)", 100.0, 50, 49, 470_000, 80_000, 5_000_000),
)


# ── Measured ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Mouthpieces(Workers):
    """So many workers, who get their jobs once `go` is set, and at once say all that real ones say."""

    def __init__(self, blobs: BlobStore, kind: Kind, count: int):
        self.go = False
        self._kind, self._blobs, self._count = kind, blobs, count
        self._busy: dict[str, WorkOrder] = {}
        self._names = [f"worker-{i}" for i in range(count)]

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def status(self) -> list[WorkerStatus]:
        return [WorkerStatus(name, "busy" if name in self._busy else "ready", "cpu") for name in self._names]

    def free(self) -> list[WorkerStatus]:
        return [one for one in self.status() if one.state == "ready"] if self.go else []

    def run(self, worker: str, order: WorkOrder) -> None:
        self._busy[worker] = order

    def cancel(self, job: str) -> None: ...

    def news(self) -> list:
        said = [word for order in self._busy.values() for word in self._words(order)]
        self._busy = {}
        return said

    def _words(self, order: WorkOrder):
        job, attempt = order.job, order.attempt
        for step in range(self._kind.steps):
            fields = {"stage": "denoising", "step": step + 1, "of": self._kind.steps, "elapsed_s": 1.0}
            yield WorkProgressed(job, attempt, fields)
            if step % 5 == 0:
                artefact = self._artefact("preview", f"{job}{step}", self._kind.preview_bytes, "image/jpeg", 0)
                yield WorkPreviewed(job, attempt, step, artefact)
        frames = [
            self._artefact("frame", f"{job}f{i}", self._kind.frame_bytes, "image/png", i)
            for i in range(self._kind.num_frames)
        ]
        yield WorkDone(job, attempt, tuple(frames), {"model": "das-preview"})

    def _artefact(self, role: str, seed: str, size: int, media: str, index: int) -> Artefact:
        """A blob that lies where a worker would have put it; its making is the worker's."""
        content = random.Random(seed).randbytes(size)
        sha = blob_sha(content)
        path = self._blobs.path(sha)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return Artefact(role, sha, size, media, index=index)


class Door:
    """The front door in this thread, with the processor time of its loop, less that of `Mouthpieces`."""

    def __init__(self, folder: Path, kind: Kind, count: int):
        self.loop_s = self.workers_s = 0.0
        self._context = zmq.Context()
        self._socket = open_door(self._context, "tcp://127.0.0.1:*", None)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._beside = Beside()
        store, blobs = JobStore(folder), BlobStore(folder)
        self.workers = Mouthpieces(blobs, kind, count)
        self._timed_news()
        self._dispatcher = Dispatcher(store, blobs, self.workers)
        models = known_models()
        self._endpoint = Endpoint(
            self._socket, store, blobs, self.workers, self._dispatcher, models=lambda: models,
            default_model="das-preview", max_blob_bytes=1 << 26, connections=Connections(self._socket),
            beside=self._beside,
        )  # fmt: skip

    def _timed_news(self) -> None:
        inner = self.workers.news

        def news() -> list:
            began = time.thread_time()
            try:
                return inner()
            finally:
                self.workers_s += time.thread_time() - began

        self.workers.news = news

    def turn_until(self, stop: threading.Event) -> None:
        """As the server's loop."""
        poller = zmq.Poller()
        for one in (self._socket, self._beside.bell):
            poller.register(one, zmq.POLLIN)
        began = time.thread_time()
        steps = (self._endpoint.receive, self._endpoint.deliver, self._endpoint.look_at_connections)
        while not stop.is_set():
            poller.poll(20)
            for step in (*steps, self._dispatcher.tick, self._endpoint.tell_followers):
                step()
            self.loop_s = time.thread_time() - began - self.workers_s


def client_main(address: str, kind: Kind, num_jobs: int) -> None:
    """In a process of its own: phases "ask", "follow", "fetch", each after a line on stdin and answered by one."""
    spec = job_spec(num_inference_steps=kind.steps)
    inputs, blobs = job_inputs(spec)
    filler = os.urandom
    with DasClient(address, timeout_s=300) as client:
        sys.stdin.readline()
        jobs = []
        for _ in range(num_jobs):
            client.upload(filler(kind.input_bytes))  # what a real tracking video would weigh
            jobs.append(_submit(client, spec, inputs, blobs))
        print("asked", flush=True)
        sys.stdin.readline()
        for job in jobs:
            client.attach(job)
        ends: dict[str, list] = {}
        while len(ends) < num_jobs:
            event = client.next_event(1.0)
            if event is not None and event.kind in ("DONE", "FAILED"):
                ends[event.job] = event.fields["artefacts"]
        print("followed", flush=True)
        sys.stdin.readline()
        for job in jobs:
            for one in ends[job]:
                client.fetch(one["sha"], one["size_bytes"])
            client.ack(job)
        print("fetched", flush=True)


def _submit(client: DasClient, spec: JobSpec, inputs: list[JobInput], blobs: dict[str, bytes]) -> str:
    job = job_id()
    reply = client.submit(job, spec, inputs)
    if not isinstance(reply, Accepted):
        for sha in reply.shas:
            client.upload(blobs[sha])
        client.submit(job, spec, inputs)
    return job


def measured(kind: Kind, num_jobs: int, count: int) -> dict[str, tuple[float, float]]:
    """Phase → (processor seconds of the loop, of the threads beside it) per job."""
    with tempfile.TemporaryDirectory() as folder:
        door, stop = Door(Path(folder), kind, count), threading.Event()
        command = [sys.executable, __file__, "client", door.address, json.dumps(asdict(kind)), str(num_jobs)]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        costs: dict[str, tuple[float, float]] = {}

        def drive() -> None:
            for phase in ("ask", "follow", "fetch"):
                door.workers.go = phase == "follow"
                loop_s, others_s, all_s = door.loop_s, door.workers_s, time.process_time()
                client.stdin.write("go\n")
                client.stdin.flush()
                client.stdout.readline()
                time.sleep(0.3)
                loop = door.loop_s - loop_s
                beside = time.process_time() - all_s - loop - (door.workers_s - others_s)
                costs[phase] = loop / num_jobs, max(0.0, beside) / num_jobs
            stop.set()

        thread = threading.Thread(target=drive)
        thread.start()
        door.turn_until(stop)
        thread.join()
        client.wait(60)
        return costs


# ── Simulated ───────────────────────────────────────────────────────────────────────────────────────────────────────


def arrivals(trace: str, rate: float, chance: random.Random) -> list[float]:
    """When jobs arrive in `SIMULATED_S`.  ``rate``: jobs per second that all workers together make."""
    if trace == "night":  # more than can be made waits from the beginning
        return [0.0] * int(1.1 * rate * SIMULATED_S + 1)
    times, now = [], 0.0
    while now < SIMULATED_S:  # "day": seven tenths of what can be made, in bursts of four (the windows of a shot)
        now += chance.expovariate(0.7 * rate / 4)
        times += [now] * 4
    return [when for when in times if when < SIMULATED_S]


def between(few: Costs, many: Costs, workers: int) -> Costs:
    """What was measured with `FEW` and with `MANY` workers, for so many: a turn of the loop looks at each of them."""
    share = (workers - FEW) / (MANY - FEW)
    return {name: max(0.0, few[name] + share * (many[name] - few[name])) for name in few}


def simulate(kind: Kind, costs: Costs, workers: int, trace: str) -> tuple[float, ...]:
    """(jobs made per hour, share of the time that workers work, that the loop works, p99 of waiting for the loop in s).

    A job's "ask" is one piece of work for the loop at its arrival, "follow" a piece at each step of its worker, "fetch"
    one for each of 16 pieces after its end; the loop does one after the other.
    """
    chance = random.Random(7)
    follow_s, fetch_s = costs["follow"] / kind.steps, costs["fetch"] / 16
    pieces: list[tuple[float, float]] = []
    free = [0.0] * workers
    heapq.heapify(free)
    made, worked_s = 0, 0.0
    for when in arrivals(trace, workers / kind.takes_s, chance):
        if trace == "day":
            pieces.append((when, costs["ask"]))
        begin = max(when, heapq.heappop(free))
        if begin >= SIMULATED_S:
            break
        takes_s = kind.takes_s * chance.uniform(0.9, 1.1)
        end = begin + takes_s
        heapq.heappush(free, end)
        worked_s += min(end, SIMULATED_S) - begin
        made += end <= SIMULATED_S
        pieces += [(begin + takes_s * (step + 1) / kind.steps, follow_s) for step in range(kind.steps)]
        pieces += [(end + 0.01 * i, fetch_s) for i in range(16)]
    waits, idle_at, busy_s = [], 0.0, 0.0
    for when, cost_s in sorted(piece for piece in pieces if piece[0] < SIMULATED_S):
        start = max(when, idle_at)
        waits.append(start - when)
        idle_at, busy_s = start + cost_s, busy_s + cost_s
    waits.sort()
    p99 = waits[int(0.99 * len(waits))] if waits else 0.0
    return made * 3600 / SIMULATED_S, worked_s / workers / SIMULATED_S, busy_s / SIMULATED_S, p99


def main() -> None:
    num_jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"load of the machine before: {load}; {os.cpu_count()} cores; {num_jobs} jobs for each measurement")
    for kind in KINDS:
        print(f"\n{kind.name}")
        loops = []
        for count in (FEW, MANY):
            costs = measured(kind, num_jobs, count)
            loops.append({phase: loop for phase, (loop, _) in costs.items()})
            words = ", ".join(f"{phase} {1000 * a:.1f} + {1000 * b:.1f}" for phase, (a, b) in costs.items())
            print(f"  processor ms per job with {count} workers, loop + beside it: {words}")
        print(f"  {'workers':>8}{'night: jobs/h':>15}{'workers':>9}{'loop':>7}{'p99 ms':>9}"
              f"{'day: jobs/h':>14}{'workers':>9}{'loop':>7}{'p99 ms':>9}")  # fmt: skip
        for workers in WORKERS:
            words = f"  {workers:>8}"
            for trace, width in (("night", 15), ("day", 14)):
                per_hour, worked, busy, p99 = simulate(kind, between(*loops, workers), workers, trace)
                delay = f"{1000 * p99:.1f}" if busy < 1 else "grows"
                words += f"{per_hour:>{width}.0f}{worked:>9.0%}{busy:>7.1%}{delay:>9}"
            print(words, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client_main(sys.argv[2], Kind(**json.loads(sys.argv[3])), int(sys.argv[4]))
    else:
        main()
