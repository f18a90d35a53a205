# SPDX-License-Identifier: GPL-3.0-or-later
"""Upload and download through a real server and `DasClient`, beside a bare ZeroMQ chunk loop in the same run.

The bare loop moves pieces of the same size with the same number in flight between two processes and does nothing else:
no checksum, no disk.  Run: ``python tests/bench/bench_transport.py [MEBIBYTES]``.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from das_blender_addon.client.client import DasClient  # noqa: E402
from das_blender_addon.protocol.frames import blob_sha  # noqa: E402
from das_blender_addon.protocol.messages import CHUNK_BYTES, FETCH_CREDIT  # noqa: E402
from tests.support.server import running_server  # noqa: E402

ROUNDS = 5
MEBIBYTE = 1 << 20

BARE_SERVER = """
import sys, zmq
chunk = bytes(int(sys.argv[1]))
socket = zmq.Context().socket(zmq.ROUTER)
socket.bind("tcp://127.0.0.1:*")
print(socket.getsockopt_string(zmq.LAST_ENDPOINT), flush=True)
while True:
    who, word, *piece = socket.recv_multipart(copy=False)
    socket.send_multipart([who, b"ok"] if piece else [who, b"chunk", chunk], copy=False)
"""


def bare_loop(socket: zmq.Socket, count: int, request: list[bytes]) -> float:
    """Seconds for ``count`` requests with `FETCH_CREDIT` of them in flight."""
    start = time.perf_counter()
    sent = received = 0
    while received < count:
        while sent < count and sent - received < FETCH_CREDIT:
            socket.send_multipart(request, copy=False)
            sent += 1
        socket.recv_multipart(copy=False)
        received += 1
    return time.perf_counter() - start


def bare_rates(count: int) -> tuple[list[float], list[float]]:
    """MiB/s of the bare loop, up and down."""
    process = subprocess.Popen([sys.executable, "-c", BARE_SERVER, str(CHUNK_BYTES)], stdout=subprocess.PIPE, text=True)
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    try:
        socket.connect(process.stdout.readline().strip())
        bare_loop(socket, 8, [b"fetch"])
        up, down = [], []
        for _ in range(ROUNDS):
            up.append(count / bare_loop(socket, count, [b"put", bytes(CHUNK_BYTES)]))
            down.append(count / bare_loop(socket, count, [b"fetch"]))
        return up, down
    finally:
        socket.close()
        context.term()
        process.kill()
        process.wait()


def client_rates(size_mib: int, folder: Path) -> tuple[list[float], list[float], list[float], list[float]]:
    """MiB/s of `DasClient`: up, up again (nothing to send), down; and MiB per CPU second of the client, up and down."""
    up, again, down, cpu = [], [], [], []
    with running_server(folder) as server, DasClient(server.address) as client:
        while client.status().workers[0]["state"] in ("starting", "loading"):  # a worker that loads takes the cores
            time.sleep(0.5)
        for _ in range(ROUNDS):
            blob = os.urandom(size_mib * MEBIBYTE)
            sha = blob_sha(blob)
            cpu_start = time.process_time()
            for rates in (up, again):
                start = time.perf_counter()
                client.upload(blob, sha)
                rates.append(size_mib / (time.perf_counter() - start))
            start = time.perf_counter()
            fetched = client.fetch(sha, len(blob))
            down.append(size_mib / (time.perf_counter() - start))
            cpu.append(2 * size_mib / (time.process_time() - cpu_start))
            assert fetched == blob
    return up, again, down, cpu


def disk_rate(size_mib: int, folder: Path) -> float:
    """MiB/s of writing and flushing a file, as the server must before it acknowledges."""
    blob = os.urandom(size_mib * MEBIBYTE)
    start = time.perf_counter()
    with open(folder / "disk", "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    return size_mib / (time.perf_counter() - start)


def sha_rate(size_mib: int) -> float:
    """MiB/s of SHA-256, which both sides compute."""
    blob = os.urandom(size_mib * MEBIBYTE)
    start = time.perf_counter()
    hashlib.sha256(blob).digest()
    return size_mib / (time.perf_counter() - start)


def main() -> None:
    size_mib = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    with tempfile.TemporaryDirectory() as folder:
        bare_up, bare_down = bare_rates(size_mib)
        up, again, down, cpu = client_rates(size_mib, Path(folder) / "state")
        rates = {
            "bare loop, up": bare_up,
            "bare loop, down": bare_down,
            "DasClient, upload": up,
            "DasClient, upload of what is there": again,
            "DasClient, download": down,
            "DasClient, per CPU second of its own": cpu,
            "SHA-256": [sha_rate(size_mib) for _ in range(ROUNDS)],
            "write and flush to disk": [disk_rate(size_mib, Path(folder)) for _ in range(ROUNDS)],
        }
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        f"{size_mib} MiB in pieces of {CHUNK_BYTES >> 20} MiB, {FETCH_CREDIT} in flight, over loopback; {ROUNDS} rounds"
    )
    for name, values in rates.items():
        print(f"{name:36s} {statistics.median(values):9.0f} MiB/s   (best {max(values):.0f}, worst {min(values):.0f})")
    for name, ours, bare in (("upload", up, bare_up), ("download", down, bare_down)):
        print(f"{name}: {100 * statistics.median(ours) / statistics.median(bare):.0f} % of the bare loop")


if __name__ == "__main__":
    main()
