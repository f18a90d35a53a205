# SPDX-License-Identifier: GPL-3.0-or-later
"""A real ``das-server serve`` process on a free loopback port, for tests.  Needs no torch where it is imported.

``DAS_SERVER_PYTHON`` names the Python that has the server's packages; without it, the running one is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from das_blender_addon.client.client import DasClient

ROOT = Path(__file__).resolve().parents[2]
IMPATIENT = {"DAS_SERVER_CANCEL_GRACE_S": "3", "DAS_SERVER_HEARTBEAT_TIMEOUT_S": "20"}
"""Environment of a server that gives up on its workers soon, so that tests need not wait.  On a busy machine a worker
that starts is silent for longer than 5 s, and one that is to stop may take longer than 3 s: this is for servers whose
workers fall silent or do not stop on purpose.
"""

START_S = 120.0
STOP_S = 120.0
"""Longest times on a busy machine: what is right takes a second or two."""


def reserved_port() -> tuple[socket.socket, int]:
    """A free loopback port and what keeps it from all who ask for any free one, but not from who names it: Linux lets a
    program that shares addresses (``SO_REUSEADDR``, as ZeroMQ does) listen where nobody else listens.
    """
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper, keeper.getsockname()[1]


class ServerProcess:
    """One server with its state folder; `kill` and `start` again keep state and address.

    On Linux its port stays its own between the two: suites that run at the same time take free ports all the time.
    """

    def __init__(
        self,
        state: Path,
        *,
        environment: Mapping[str, str] | None = None,
        flags: tuple[str, ...] = (),
        module: str = "das_server",
    ):
        self.state = state
        self._module = module
        self.address = ""
        self.ready_line = ""
        self._environment = dict(environment or {})
        self._flags = flags
        self._bind = "tcp://127.0.0.1:*"
        if sys.platform == "linux":
            self._keeper, port = reserved_port()
            self._bind = f"tcp://127.0.0.1:{port}"
        self._lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server and its workers wrote to stderr."""
        return "\n".join(self._lines)

    def start(self) -> ServerProcess:
        """Start the process and wait for its ready line."""
        command = [
            server_python(),
            "-m",
            self._module,
            "serve",
            "--bind",
            self._bind,
            "--state",
            str(self.state),
            *self._flags,
        ]
        environment = server_environment() | self._environment
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._collect, args=(self._process,), daemon=True).start()
        self.ready_line = self._process.stdout.readline().strip()
        found = re.search(r"tcp://\S+:\d+", self.ready_line)
        if not found:
            self._process.wait(START_S)
            raise RuntimeError(f"the server did not start: {self.ready_line} {self.log}")
        self.address = self._bind = found.group()
        return self

    def stop(self) -> int:
        """End it as a user would; returns its exit status."""
        return self._end(signal.SIGTERM if os.name == "posix" else signal.CTRL_BREAK_EVENT)

    def kill(self) -> None:
        """End it without a chance to clean up."""
        self._process.kill()
        self._process.wait(STOP_S)

    def wait(self) -> int:
        """Wait until it ends by itself; returns its exit status."""
        return self._process.wait(STOP_S)

    def interrupt(self) -> int:
        """Ctrl-C; returns its exit status."""
        return self._end(signal.SIGINT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stored_blobs(self) -> set[str]:
        """SHAs of the blobs in its state folder."""
        return {path.name for path in (self.state / "blobs").glob("??/*")}

    def status(self) -> dict[str, Any]:
        """What ``das-server status --json`` prints, asked for without a process."""
        with DasClient(self.address, timeout_s=STOP_S) as client:
            return dataclasses.asdict(client.status())

    def wait_until(self, condition: Any, what: str, timeout_s: float = START_S) -> Any:
        """Ask ``condition(status)`` until it is true, and return that."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = condition(self.status())
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s; the server's log:\n{self.log}")

    def new_jobs(self) -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
        """A function of a status: its jobs that the server does not have yet."""
        known = {job["job"] for job in self.status()["jobs"]}
        return lambda status: [job for job in status["jobs"] if job["job"] not in known]

    def _end(self, number: int) -> int:
        self._process.send_signal(number)
        return self._process.wait(STOP_S)

    def _collect(self, process: subprocess.Popen[str]) -> None:
        for line in process.stderr:
            self._lines.append(line.rstrip())


@contextlib.contextmanager
def running_server(
    state: Path, *flags: str, environment: Mapping[str, str] | None = None, module: str = "das_server"
) -> Iterator[ServerProcess]:
    """A started server that is stopped at the end, whatever happens; ``module``: what is run as it."""
    server = ServerProcess(state, environment=environment, flags=flags, module=module)
    try:
        yield server.start()
    finally:
        if server.is_running():
            server.kill()


def run_das_server(*arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float = START_S):
    """Run ``das-server`` to its end; returns the `subprocess.CompletedProcess`."""
    command = [server_python(), "-m", "das_server", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=server_environment() | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def server_python() -> str:
    """The Python that runs the server."""
    return os.environ.get("DAS_SERVER_PYTHON") or sys.executable


def server_environment() -> dict[str, str]:
    """The environment of a test's server: one thread, no spare workers, no settings of the user who runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAS_SERVER_")}
    for name in ("PYTHONPATH", "PYTHONHOME"):  # those of another Python would be in the way
        inherited.pop(name, None)
    return inherited | {
        "DAS_SERVER_THREADS": "1",
        "DAS_SERVER_SPARES": "no",
        "OMP_NUM_THREADS": "1",
        "XDG_CONFIG_HOME": str(ROOT / "tests" / "no-config"),
    }


@contextlib.contextmanager
def running_painter(folder: Path) -> Iterator[ServerProcess]:
    """A server that has, beside the embedded model, a tiny random one of Wan VACE under the published one's name; its
    state and models are in ``folder``."""
    models = folder / "models"
    command = [server_python(), "-m", "tests.support.wan", str(models / "wan-vace-1.3b")]
    subprocess.run(command, cwd=ROOT, env=server_environment(), capture_output=True, timeout=START_S, check=True)
    environment = {"DAS_SERVER_MODELS": str(models)}
    with running_server(folder / "state", "--model", "wan-vace-1.3b", environment=environment) as server:
        yield server
