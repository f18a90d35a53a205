# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the front door lets a small request wait: PING alone, and while clients upload.

A real server whose worker never starts (so that torch takes no part), one client that pings without a pause, and 8
processes that upload blobs of 8 MiB.  Run: ``python tests/bench/bench_server.py [SECONDS]``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
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


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    print(f"load of the machine before: {', '.join(f'{one:.1f}' for one in os.getloadavg())}; {os.cpu_count()} cores")
    print(f"{'PING, ms':<24}{'count':>8}{'p50':>9}{'p99':>9}{'p99.9':>9}{'max':>9}")
    with tempfile.TemporaryDirectory() as folder:
        environment = {"DAS_SERVER_DEVICES": "cuda:0", "CUDA_VISIBLE_DEVICES": ""}
        with running_server(Path(folder) / "state", environment=environment) as server:
            server.wait_until(
                lambda status: status["workers"][0]["state"] == "broken", "a worker that cannot start", 300
            )
            print(row("alone", pings(server.address, seconds)))
            command = [sys.executable, "-c", UPLOADER, server.address, str(seconds), str(BLOB_BYTES)]
            clients = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]
            print(row(f"{CLIENTS} clients upload", pings(server.address, seconds)))
            count = sum(int(client.communicate()[0]) for client in clients)
            print(f"uploaded {count * (BLOB_BYTES >> 20) / seconds:.0f} MiB/s")


if __name__ == "__main__":
    main()
