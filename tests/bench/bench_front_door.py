# SPDX-License-Identifier: GPL-3.0-or-later
"""What the front door costs and how fast it promises: start, idle, SUBMIT under uploads, 10,000 waiting jobs.

Run: ``python tests/bench/bench_front_door.py [JOBS]``; ``bench_transport.py`` has what blobs take.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from das_blender_addon.client.client import DasClient  # noqa: E402
from tests.bench.bench_server import CLIENTS, uploading  # noqa: E402
from tests.support.jobs import job_id, job_inputs, job_spec  # noqa: E402
from tests.support.server import ServerProcess, running_server  # noqa: E402

NO_WORKER = {"DAS_SERVER_DEVICES": "cuda:0", "CUDA_VISIBLE_DEVICES": ""}
ROUNDS = 5
IDLE_S = 20.0


def say(name: str, text: str) -> None:
    print(f"{name:<46}{text}", flush=True)


def percentiles(found: list[float]) -> str:
    found = sorted(found)
    at = [found[min(len(found) - 1, int(share * len(found)))] * 1000 for share in (0.5, 0.99)]
    return f"p50 {at[0]:.1f} ms, p99 {at[1]:.1f} ms, max {found[-1] * 1000:.1f} ms of {len(found)}"


def memory_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def submits(client: DasClient, count: int, seconds: float = float("inf")) -> list[float]:
    """Durations of SUBMIT until its promise, whose inputs are there, seconds."""
    spec = job_spec()
    inputs, blobs = job_inputs(spec)
    for blob in blobs.values():
        client.upload(blob)
    found, until = [], time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        began = time.perf_counter()
        client.submit(job_id(), spec, inputs)
        found.append(time.perf_counter() - began)
    return found


def starts(folder: Path) -> None:
    found = []
    for number in range(ROUNDS):
        server = ServerProcess(folder / f"start-{number}", environment=NO_WORKER)
        began = time.perf_counter()
        server.start()
        with DasClient(server.address, timeout_s=60) as client:
            client.hello()
            found.append(time.perf_counter() - began)
        server.kill()
    say("cold start to WELCOME", percentiles(found))


def under_uploads(server: ServerProcess) -> None:
    with DasClient(server.address, timeout_s=60) as client:
        say("SUBMIT → Accepted, alone", percentiles(submits(client, 300)))
        with uploading(server.address, 12.0):
            time.sleep(2)
            say(f"SUBMIT → Accepted, {CLIENTS} clients upload", percentiles(submits(client, 100000, 8.0)))


def many_jobs(server: ServerProcess, count: int) -> None:
    before = memory_bytes(server.pid)
    with DasClient(server.address, timeout_s=60) as client:
        found = submits(client, count)
        say(f"{count} waiting jobs, SUBMIT: first 500", percentiles(found[:500]))
        say(f"{count} waiting jobs, SUBMIT: last 500", percentiles(found[-500:]))
        say("memory of the front door", f"{memory_bytes(server.pid) >> 20} MiB, before {before >> 20} MiB")


def idle(server: ServerProcess) -> None:
    time.sleep(3)
    before = processor_s(server.pid)
    time.sleep(IDLE_S)
    say("idle", f"{(processor_s(server.pid) - before) / IDLE_S * 100:.2f} % of a core")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    load = [", ".join(f"{one:.1f}" for one in os.getloadavg())]
    print(f"load of the machine before: {load[0]}; {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts(folder)
        with running_server(folder / "one", environment=NO_WORKER) as server:
            idle(server)
            under_uploads(server)
        with running_server(folder / "many", environment=NO_WORKER) as server:
            many_jobs(server, count)
    print(f"load of the machine after: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    main()
