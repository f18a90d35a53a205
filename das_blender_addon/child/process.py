# SPDX-License-Identifier: GPL-3.0-or-later
"""A child Blender as a process: started, asked, stopped, and ended together with this Blender.  No Blender in here.

Each way to end has one owner: `ChildBlender.ask` ends a child that broke or must be killed, `warm` one that nobody
needs any more, and the operating system one whose parent is gone (its standard input closes, see `host`).
"""

from __future__ import annotations

import itertools
import json
import logging
import secrets
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DasError, JobCancelled, error_from_code
from .scratch import Scratch
from .talk import Talk

LOGGER = logging.getLogger(__name__)
POLL_S = 0.04
"""Seconds between two looks at a working child; well under the 100 ms within which a stop must be seen."""
START_LIMIT_S = 120.0
"""A child that has not said hello by then does not start: a file server may be slow, Blender is not."""
HELLO_LIMIT_S = 20.0
"""Who has connected and not said hello by then is a stranger: a busy machine may pause a child between the two."""
STOP_LIMIT_S = 2.0
"""Seconds that a child that was asked to stop gets before it is killed."""
ENDING_S = 2.0
"""Seconds within which a child whose connection broke has ended."""
LOG_TAIL = 4000
"""Characters of the child's log that an error carries."""

OnMessage = Callable[[dict], None]
ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class Launch:
    """How to start a Blender of the same kind: its command line, and its environment."""

    command: tuple[str, ...]
    environment: dict[str, str]


class ChildBroke(Exception):
    """The child Blender ended, or does not answer; whoever asked says what that means for its job.

    ``detail``: the end of its log.
    """

    def __init__(self, why: str, detail: str = ""):
        super().__init__(why)
        self.detail = detail


class ChildBlender:
    """A running child Blender."""

    def __init__(self, launched: Launch):
        """Start it; `ask` waits until it is there.  Raises `ChildBroke` when it cannot be started."""
        self.launched = launched
        self._numbers = itertools.count(1)
        self._token = secrets.token_hex(16)
        self._talk: Talk | None = None
        self._scratch = Scratch("child")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._started = time.monotonic()
        self.log_path = Path(self._scratch.name) / "log.txt"
        try:
            with self.log_path.open("wb") as log:
                # It ends when its input closes, which it does even if we are killed.
                self.process = subprocess.Popen(
                    launched.command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=launched.environment,
                    cwd=self._scratch.name,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            meeting = {"port": self._listener.getsockname()[1], "token": self._token}
            self.process.stdin.write(json.dumps(meeting).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as refused:
            self._listener.close()
            self._scratch.cleanup()
            raise ChildBroke(f"Blender could not be started again ({launched.command[0]}: {refused})") from refused

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def ask(
        self,
        request: dict,
        *,
        on_message: OnMessage | None = None,
        should_stop: ShouldStop | None = None,
        cancelled: str = "The job was cancelled.",
        can_stop: bool = True,
    ) -> dict:
        """Let the child do ``request`` and return what it says at the end; any thread, one at a time.

        ``on_message`` gets what it says meanwhile.  When ``should_stop`` says so the child is asked to stop, where it
        ``can_stop`` between two steps, else killed.

        Raises `JobCancelled` with the words ``cancelled``, the error that the child names, or `ChildBroke`, whose
        ``detail`` is the end of its log.
        """
        self._meet(should_stop, cancelled)
        number = next(self._numbers)
        try:
            self._talk.send(id=number, **request)
            return self._listen(number, on_message, should_stop, cancelled, can_stop)
        except (OSError, EOFError) as error:
            raise self._broke(self._how_it_ended(error)) from error

    def close(self) -> None:
        """End it, now, and remove its log."""
        if self._talk is not None:
            self._talk.close()
        self._listener.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self._scratch.cleanup()

    def log(self) -> str:
        """All that it has written."""
        try:
            return self.log_path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _meet(self, should_stop: ShouldStop | None, cancelled: str) -> None:
        """Wait for the child's hello, the first time."""
        self._listener.settimeout(POLL_S)
        while self._talk is None:
            if should_stop is not None and should_stop():
                self.close()
                raise JobCancelled(cancelled)
            if not self.is_running:
                raise self._broke(f"it ended with {self.process.returncode} before it was ready")
            if time.monotonic() - self._started > START_LIMIT_S:
                raise self._broke(f"it was not ready after {START_LIMIT_S:g} s")
            try:
                connection, _ = self._listener.accept()
            except (TimeoutError, BlockingIOError):
                continue
            talk = Talk(connection)
            said = self._hello(talk, should_stop)
            if secrets.compare_digest(str(said.get("hello", "")), self._token):
                self._talk = talk
            else:  # somebody else's connection to the port
                talk.close()

    def _hello(self, talk: Talk, should_stop: ShouldStop | None) -> dict:
        """The first words of whoever has connected; none where it is silent, goes away, or nobody waits any more."""
        until = time.monotonic() + HELLO_LIMIT_S
        try:
            while time.monotonic() < until and self.is_running and not (should_stop is not None and should_stop()):
                if (said := talk.receive(POLL_S)) is not None:
                    return said
        except (OSError, EOFError):
            pass
        return {}

    def _listen(self, number: int, on_message, should_stop, cancelled: str, can_stop: bool) -> dict:
        asked_to_stop: float | None = None
        while True:
            words = self._talk.receive(POLL_S)
            if words is not None and words.get("id") == number:
                if "done" in words:
                    if asked_to_stop is not None:
                        raise JobCancelled(cancelled)
                    return words["done"]
                if "failed" in words:
                    raise self._failure(words["failed"], cancelled if asked_to_stop is not None else "")
                if on_message is not None and asked_to_stop is None:
                    on_message(words["said"])
            elif words is None and not self.is_running:
                raise EOFError(f"with status {self.process.returncode}")
            if asked_to_stop is None and should_stop is not None and should_stop():
                if not can_stop:
                    self.close()
                    raise JobCancelled(cancelled)
                asked_to_stop = time.monotonic()
                self._talk.send(stop=number)
            if asked_to_stop is not None and time.monotonic() - asked_to_stop > STOP_LIMIT_S:
                self.close()
                raise JobCancelled(cancelled)

    def _failure(self, said: dict, cancelled: str) -> DasError:
        if cancelled:
            return JobCancelled(cancelled)
        if not said["code"]:
            return self._broke(said["message"])
        return error_from_code(said["code"], said["message"], field=said["field"])

    def _how_it_ended(self, error: Exception) -> str:
        try:
            status = self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            return f"the child Blender does not answer ({error})"
        if status < 0:
            return f"the child Blender was killed (signal {-status})"
        return f"the child Blender ended with status {status}"

    def _broke(self, why: str) -> ChildBroke:
        log = self.log()[-LOG_TAIL:]
        self.close()
        return ChildBroke(why, detail=log)
