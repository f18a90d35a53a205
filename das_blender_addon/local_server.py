# SPDX-License-Identifier: GPL-3.0-or-later
"""A `das-server` of this machine: found, started on a loopback port, watched, and stopped together with Blender.

Where another Blender of the same user runs one already, that is used: it belongs to the Blender that started it.
"""

from __future__ import annotations

import atexit
import collections
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import bpy

from .client.client import DasClient
from .errors import DasError, ServerUnreachable, SettingsError
from .local_server_files import BoundedLog, forget_address, note_address, noted_address
from .shot import machine

LOGGER = logging.getLogger(__name__)
PROGRAM = "das-server"
LOG_LINES = 200
STOP_WAIT_S = 10.0
GREETING_S = 2.0
"""A local server that does not say hello within this time is taken for gone."""
WATCH_S = 1.0
"""Seconds between two looks at a server of another Blender."""

_running: LocalServer | SharedServer | None = None
_ending: LocalServer | None = None
"""The one that was told to end and may still be at it."""


class LocalServer:
    """One server process, below a guard that ends it when Blender is gone.

    Its output goes to a log file and, the last lines, to `log_tail`.
    """

    is_own = True

    def __init__(self, executable: str, *, model: str = "", port: int = 0, state_folder: Path):
        self.address = f"tcp://127.0.0.1:{port or free_port()}"
        self._state_folder = state_folder
        self.log_path = state_folder / "server.log"
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        state_folder.mkdir(parents=True, exist_ok=True)
        arguments = [executable, "serve", "--bind", self.address, "--state", os.fspath(state_folder)]
        if model:
            arguments += ["--model", model]
        guard = os.fspath(Path(__file__).with_name("local_server_guard.py"))
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", guard, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise SettingsError(
                f"{executable} cannot be started ({error.strerror}); set the das-server program in the preferences.",
                field="server_executable",
            ) from error
        self._reader = threading.Thread(target=self._read_log, name="das-server log", daemon=True)
        self._reader.start()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    @property
    def log_tail(self) -> list[str]:
        """The last lines that the server wrote."""
        return list(self._lines)

    def wait_until_listening(self, timeout_s: float = 60.0) -> None:
        """Return when the port accepts a connection and other Blenders can find it.  Raises `ServerUnreachable` when
        the process ends or does not get there.
        """
        host, port = self.address.removeprefix("tcp://").split(":")
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.is_running:
                self._reader.join(1.0)
                raise ServerUnreachable(
                    f"The local server ended at once (status {self.process.returncode}): {self.last_words()}"
                )
            try:
                with socket.create_connection((host, int(port)), timeout=0.5):
                    if noted_address(self._state_folder) == self.address:
                        return
            except OSError:
                pass
            time.sleep(0.1)
        raise ServerUnreachable(
            f"The local server at {self.address} did not answer within {timeout_s:g} s; its log is {self.log_path}."
        )

    def last_words(self) -> str:
        """The last line of the log that says something."""
        return next((line for line in reversed(self._lines) if line.strip()), "it wrote nothing.")

    def begin_stop(self) -> None:
        """Let the guard end the server: it asks first and forces then (`local_server_guard`).  Returns at once."""
        if not self.process.stdin.closed:
            self.process.stdin.close()

    def stop(self) -> None:
        """End the server and wait until it is gone, `STOP_WAIT_S` at most."""
        self.begin_stop()
        try:
            self.process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            LOGGER.warning("The local server did not end within %g s and is killed.", STOP_WAIT_S)
            self.process.kill()
            self.process.wait()
        self._reader.join(1.0)

    def _read_log(self) -> None:
        log = BoundedLog(self.log_path)
        try:
            for line in self.process.stdout:
                self._lines.append(line.rstrip("\n"))
                log.write(line)
                if self.address in line and noted_address(self._state_folder) != self.address:
                    note_address(self._state_folder, self.address)  # it listens, so it has the folder for itself
        finally:
            log.close()
            forget_address(self._state_folder, self.address)


class SharedServer:
    """The local server of another Blender, used as long as that one lets it run."""

    is_own = False

    def __init__(self, address: str):
        self.address = address
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="das-server watch", daemon=True).start()

    @property
    def is_running(self) -> bool:
        return not self._ended.is_set()

    def wait_until_listening(self, timeout_s: float = 60.0) -> None:
        """It has answered before this was made."""

    def last_words(self) -> str:
        """Why it is gone."""
        return f"The Blender that had started the server at {self.address} has ended it."

    def stop(self) -> None:
        """Use it no more; it goes on running."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(WATCH_S):
            if not _listens(self.address):
                self._ended.set()


def _listens(address: str) -> bool:
    host, port = address.removeprefix("tcp://").rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=GREETING_S):
            return True
    except (OSError, ValueError):
        return False


def _server_of_another_blender(state_folder: Path) -> SharedServer | None:
    """The server that uses ``state_folder`` already; None when there is none that answers."""
    address = noted_address(state_folder)
    if not address or not _listens(address):
        return None
    try:
        with DasClient(address, timeout_s=GREETING_S) as client:
            client.hello()
    except DasError as error:  # something else listens there by now
        LOGGER.info("The noted local server does not count: %s", error.message)
        return None
    return SharedServer(address)


# ── The one local server of the session ─────────────────────────────────────────────────────────────────────────────


def current() -> LocalServer | SharedServer | None:
    """The local server that this session uses, running or ended; None when none was started."""
    return _running


def address() -> str:
    """The address of the running local server, "" when none runs."""
    return _running.address if _running is not None and _running.is_running else ""


def start() -> LocalServer | SharedServer:
    """Start the local server, or return the one that runs, in another Blender of this user, too.  Raises
    `SettingsError` when there is no das-server program, or while the last server is still ending.
    """
    global _running
    if _running is not None and _running.is_running:
        return _running
    _check_ended()
    state_folder = machine.user_folder("server")
    shared = _server_of_another_blender(state_folder)
    if shared is not None:
        _running = shared
        return shared
    chosen = machine.machine_settings()
    _running = LocalServer(
        find_executable(),
        model=chosen.server_model,
        port=chosen.server_port,
        state_folder=state_folder,
    )
    return _running


def stop(*, wait: bool | None = None) -> None:
    """Stop the local server of this session; harmless when there is none.  One of another Blender goes on running.

    ``wait``: return when it is gone.  None: only where there is no window, which would stand still for so long.
    """
    global _running, _ending
    server, _running = _running, None
    if server is None:
        return
    if not server.is_own:
        server.stop()
        return
    if bpy.app.background if wait is None else wait:
        server.stop()
        return
    _ending = server
    server.begin_stop()
    threading.Thread(target=server.stop, name="das-server stop", daemon=True).start()


def _check_ended() -> None:
    """Raise `SettingsError` while the stopped server still holds its state folder and its port."""
    if _ending is not None and _ending.is_running:
        raise SettingsError("The local server is still ending; start it again in a few seconds.")


def find_executable() -> str:
    """The das-server program: DAS_SERVER_EXECUTABLE, the preferences, then the PATH.  Raises `SettingsError` with
    the remedy.
    """
    for chosen in (os.environ.get("DAS_SERVER_EXECUTABLE", ""), machine.machine_settings().server_executable):
        if chosen:
            path = bpy.path.abspath(chosen)
            if not os.access(path, os.X_OK) or os.path.isdir(path):
                raise SettingsError(
                    f"{path} is no program; set the das-server program in the preferences.", field="server_executable"
                )
            return path
    found = shutil.which(PROGRAM)
    if found is None:
        raise SettingsError(
            f"There is no {PROGRAM} on the PATH; install the server, or set the {PROGRAM} program in the preferences.",
            field="server_executable",
        )
    return found


def can_start() -> str:
    """ "" when a local server can be started, else the reason in one sentence."""
    try:
        _check_ended()
        find_executable()
    except SettingsError as error:
        return error.message
    return ""


def free_port() -> int:
    """A loopback TCP port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def register():
    """Stop the server when Blender ends, and let shots without a server of their own find it."""
    machine.ask_for_local_address(address)
    atexit.register(stop, wait=True)


def unregister():
    """Stop the server now."""
    atexit.unregister(stop)
    machine.ask_for_local_address(str)
    stop()
