# SPDX-License-Identifier: GPL-3.0-or-later
"""Upload and download through a real server and `DasClient`, beside what their parts allow in the same rounds.

Every round has a new blob, and everything takes that one, on the same disk, in turn, forwards and backwards: SHA-256
with one thread; writing and flushing, and reading, in pieces; a bare loop (`bare_loop.py`) that only moves them, and
one that hashes and stores them as well; and `DasClient`; with and without CURVE.  Ratios are of the quickest rounds,
which other work on the machine slows down least, and of each round by itself.  The worker has loaded its model and
waits: one that cannot start would be tried again all the time, each time with seconds of imports.

Run: ``python tests/bench/bench_transport.py [ROUNDS] [MEBIBYTES]``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from das_blender_addon.client.client import DasClient  # noqa: E402
from das_blender_addon.client.keys import ServerKeys  # noqa: E402
from das_blender_addon.protocol.messages import CHUNK_BYTES, FETCH_CREDIT  # noqa: E402
from das_server.store.keys import KeyRing  # noqa: E402
from tests.bench.bare_loop import BareLoop  # noqa: E402
from tests.support.server import running_server  # noqa: E402

QUIET_WORKER = {"DAS_SERVER_DEVICES": "cpu"}
AIM = 60

Work = Callable[[bytes, str], object]


def write_out(path: Path, blob: bytes) -> None:
    """A new file, flushed."""
    path.unlink(missing_ok=True)
    with open(path, "wb", buffering=0) as file:
        for at in range(0, len(blob), CHUNK_BYTES):
            file.write(memoryview(blob)[at : at + CHUNK_BYTES])
        os.fsync(file.fileno())


def read_in(path: Path) -> None:
    """All of it, in one piece of memory."""
    content = np.empty(path.stat().st_size, np.uint8)
    with open(path, "rb", buffering=0) as file:
        for at in range(0, len(content), CHUNK_BYTES):
            file.readinto(content[at : at + CHUNK_BYTES].data)



class Rounds:
    """Rates, MiB/s, by name, of each round."""

    def __init__(self, size_mib: int):
        self.size_mib = size_mib
        self.rates: dict[str, list[float]] = {}

    def take(self, works: dict[str, Work], count: int) -> None:
        """``count`` rounds, after one that does not count."""
        for number in range(count + 1):
            blob = secrets.token_bytes(self.size_mib << 20)
            sha = hashlib.sha256(blob).hexdigest()
            groups: dict[str, list[str]] = {}
            for name in works:  # what reads comes after what wrote
                groups.setdefault(name.partition(":")[0], []).append(name)
            for group in list(groups.values()) if number % 2 else reversed(groups.values()):
                for name in group:
                    began = time.perf_counter()
                    works[name](blob, sha)
                    rate = self.size_mib / (time.perf_counter() - began)
                    if number:
                        self.rates.setdefault(name, []).append(rate)

    def say(self) -> None:
        for name, rates in self.rates.items():
            print(f"{name:44}{statistics.median(rates):7.0f} MiB/s (best {max(rates):.0f}, worst {min(rates):.0f})")

    def compare(self, ours: str, *bounds: str) -> None:
        """Ours beside the least of the bounds."""
        best = max(self.rates[ours]) / min(max(self.rates[one]) for one in bounds)
        each = [
            our / min(theirs)
            for our, *theirs in zip(self.rates[ours], *(self.rates[one] for one in bounds), strict=True)
        ]
        words = " or ".join(bounds)
        print(f"{ours}: {100 * best:.0f} % of {words} (quickest), {100 * statistics.median(each):.0f} % (median)")


def works_of(stack: contextlib.ExitStack, folder: Path, *, curve: bool) -> dict[str, Work]:
    """What goes over a wire."""
    name, state = ("CURVE" if curve else "plain"), folder / f"server{curve}"
    if curve:
        KeyRing(state).create()
    server = stack.enter_context(running_server(state, *(["--curve"] if curve else []), environment=QUIET_WORKER))
    keys = ServerKeys(*KeyRing(state).admin_keys()) if curve else None
    client = stack.enter_context(DasClient(server.address, timeout_s=60, keys=keys))
    while client.status().workers[0]["state"] != "ready":
        time.sleep(0.2)
    bare = stack.enter_context(BareLoop(folder / f"bare{curve}", curve=curve))
    return {
        f"bare {name}: up": lambda blob, sha: bare.up(blob),
        f"bare {name}: down": lambda blob, sha: bare.down(len(blob)),
        f"bare {name}, kept: up": bare.up,
        f"bare {name}, kept: down": lambda blob, sha: bare.down(len(blob), sha),
        f"DasClient {name}: up": client.upload,
        f"DasClient {name}: down": lambda blob, sha: client.fetch(sha, len(blob)),
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    size_mib = int(sys.argv[2]) if len(sys.argv) > 2 else 64
    print(f"load of the machine before: {', '.join(f'{one:.1f}' for one in os.getloadavg())}; {os.cpu_count()} cores")
    print(f"{count} rounds of {size_mib} MiB, pieces of {CHUNK_BYTES >> 20} MiB, {FETCH_CREDIT} in flight, loopback")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        works: dict[str, Work] = {
            "SHA-256": lambda blob, sha: hashlib.sha256(blob).digest(),
            "disk: written": lambda blob, sha: write_out(folder / "disk", blob),
            "disk: read": lambda blob, sha: read_in(folder / "disk"),
        }
        works |= works_of(stack, folder, curve=False) | works_of(stack, folder, curve=True)
        rounds = Rounds(size_mib)
        rounds.take(works, count)
        rounds.say()
        rounds.compare("DasClient plain: up", "SHA-256", "disk: written")
        rounds.compare("DasClient plain: down", "SHA-256", "disk: read")
        rounds.compare("DasClient CURVE: up", "SHA-256", "bare CURVE: up")
        rounds.compare("DasClient CURVE: down", "SHA-256", "bare CURVE: down")
        for name in ("plain", "CURVE"):
            for way in ("up", "down"):
                rounds.compare(f"DasClient {name}: {way}", f"bare {name}, kept: {way}")
        print(f"aim: {AIM} % of the first four")
    print(f"load of the machine after: {', '.join(f'{one:.1f}' for one in os.getloadavg())}")


if __name__ == "__main__":
    main()
