# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the front door lets a small request wait: PING alone, and while clients upload.

A real server whose worker has loaded its model and waits, one client that pings without a pause, and 8 processes that
upload blobs of 8 MiB, which have started before.  *Round trip* is what that client sees, with the time that its own
process, the threads of ZeroMQ and all others wait for a core; *handlers* is what the server's loop takes for each
request, in wall time and in processor time (`timed_server.py`): from a message that was read to an answer that was
sent, or to work that another thread was given, and from that work's end to the answer.  *turns* is all that the loop
does between two looks at its sockets.  Run: ``python tests/bench/bench_server.py [SECONDS]``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from das_blender_addon.client.client import DasClient  # noqa: E402
from tests.support.server import running_server  # noqa: E402

CLIENTS = 8
BLOB_BYTES = 8 << 20

UPLOADER = """
import os, sys, time
from das_blender_addon.client.client import DasClient
with DasClient(sys.argv[1], timeout_s=60) as client:
    client.hello()
    print("ready", flush=True)
    sys.stdin.readline()
    until, count = time.monotonic() + float(sys.argv[2]), 0
    while time.monotonic() < until:
        client.upload(os.urandom(int(sys.argv[3])))
        count += 1
print(count)
"""


def pings(address: str, seconds: float) -> list[float]:
    """Durations of round trips, seconds, sorted."""
    with DasClient(address, timeout_s=60) as client:
        client.hello()
        until, found = time.monotonic() + seconds, []
        while time.monotonic() < until:
            found.append(client.ping())
    return sorted(found)


def row(name: str, found: list[float]) -> str:
    """One line of the table: milliseconds at some percentiles."""
    at = [found[min(len(found) - 1, int(share * len(found)))] * 1000 for share in (0.5, 0.99, 0.999)]
    return f"{name:<24}{len(found):>8}" + "".join(f"{one:>9.2f}" for one in (*at, found[-1] * 1000))


@contextlib.contextmanager
def uploading(address: str, seconds: float) -> Iterator[list[int]]:
    """While these run, `CLIENTS` clients upload for so long; filled at the end: how many blobs each has sent."""
    command = [sys.executable, "-c", UPLOADER, address, str(seconds), str(BLOB_BYTES)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    clients = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(CLIENTS)]
    for client in clients:
        assert client.stdout.readline() == "ready\n"
    for client in clients:
        client.stdin.write("\n")
        client.stdin.flush()
    counts: list[int] = []
    yield counts
    counts += [int(client.communicate()[0]) for client in clients]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print(f"load of the machine before: {', '.join(f'{one:.1f}' for one in os.getloadavg())}; {os.cpu_count()} cores")
    print(f"{'ms':<24}{'count':>8}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>9}")
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        environment = {"DAS_SERVER_DEVICES": "cpu", "BENCH_TIMES": str(times)}
        where = {"environment": environment, "module": "tests.bench.timed_server"}
        with running_server(Path(folder) / "state", **where) as server:
            server.wait_until(lambda status: status["workers"][0]["state"] == "ready", "a worker that waits", 300)
            print(row("round trip, alone", pings(server.address, seconds)))
            with uploading(server.address, seconds) as counts:
                began_s = time.perf_counter()
                print(row(f"round trip, {CLIENTS} upload", pings(server.address, seconds)))
                until_s = time.perf_counter()
            print(f"uploaded {sum(counts) * (BLOB_BYTES >> 20) / seconds:.0f} MiB/s")
            server.stop()
        for name, noted in json.loads(times.read_text()).items():
            found = [one for one in noted if began_s <= one[0] < until_s]
            print(row(f"{name}, wall", sorted(one[1] for one in found)))
            print(row(f"{name}, processor", sorted(one[2] for one in found)))
    print(f"load of the machine after: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    main()
