# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames composed by several processes, as one of Python's uses little more than one processor core.  No Blender in
here, and none in the other processes: this one's Python, numpy, and what both read of the shot on disk.

They bring time and nothing else: where one cannot be started, or is lost, its frames are composed here, the same bytes.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import JobCancelled
from .pipe import receive, send

LOGGER = logging.getLogger(__name__)

MOST_HELPERS = 3
"""Processes beside this one: with each the memory of key pictures that are prepared grows, the gain does not."""
MOST_PIXELS = 4 << 20
"""Larger pictures are composed here alone: of each, prepared, a process holds 42 bytes a pixel."""
MOST_IN_MEMORY = 256 << 20
"""Bytes of a shot's geometry, where it is in memory and not on disk, that are handed over at most."""
ASKED_EVERY_S = 0.1
START_LIMIT_S = 30.0
_SCRIPT = Path(__file__).with_name("helper_start.py")
_PACKAGE = __package__.rpartition(".")[0]


class HelperLost(Exception):
    """It cannot be started, has ended, or failed: what it was asked for is left to do."""


def helpers_for(pixels: int, vertices: Any) -> int:
    """How many processes help with pictures of so many ``pixels`` and ``vertices`` of `GeometrySequence`."""
    if pixels > MOST_PIXELS or (isinstance(vertices, np.ndarray) and vertices.nbytes > MOST_IN_MEMORY):
        return 0
    return max(0, min(MOST_HELPERS, _cores() - 1))


def _cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Helper:
    """One process.  Several threads may ask; one at a time is served, the others are told that it is `busy`."""

    def __init__(self, *begin: Any):
        """``begin``: of `Detail`: geometry, plan, pictures.  It starts beside what goes on here."""
        self._begin, self._process, self._closed = begin, None, False
        self._said: queue.Queue[tuple | None] = queue.Queue()
        self._serving, self._meeting, self._writing = threading.Lock(), threading.Lock(), threading.Lock()
        self._is_ready, self._why, self._asked = False, "it has ended", 0

    def start(self) -> None:
        """Start it.  Raises `HelperLost`."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", os.fspath(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            raise HelperLost(f"{sys.executable} cannot be started ({error})") from error
        threading.Thread(target=self._read, name="das helper", daemon=True).start()
        threading.Thread(target=self._meet_early, name="das helper's start", daemon=True).start()

    def _read(self) -> None:
        try:
            while True:
                self._said.put(receive(self._process.stdout))
        except Exception:  # it has ended, or writes what is no message
            self._said.put(None)
        finally:
            self._process.stdout.close()

    def call(
        self,
        *request: Any,
        answer: Callable[..., Any],
        on_said: Callable[..., None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        stops_itself: bool = False,
    ) -> Any:
        """What it answers to ``request``: a kind, and what belongs to it.

        ``answer`` gives what it asks for meanwhile, ``on_said`` gets the rest of what it says.  When ``should_stop``
        says so, it is stopped; where it ``stops_itself`` what it has so far is the answer, else `JobCancelled` is
        raised.  Raises `HelperLost`, and what ``answer`` and ``on_said`` raise; it is of no more use then.
        """
        with self._serving:
            try:
                self._meet()
                return self._ask(request, answer, on_said or _nothing, should_stop, stops_itself)
            except BaseException:
                self.close()
                raise

    @property
    def is_busy(self) -> bool:
        """It serves somebody, or never will again."""
        return self._closed or self._serving.locked()

    def close(self) -> None:
        """End it, now."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            with self._writing, suppress(OSError, ValueError):  # what was not written yet is for nobody
                process.stdin.close()

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _meet_early(self) -> None:
        with suppress(HelperLost, OSError):  # whoever calls is told
            self._meet()

    def _meet(self) -> None:
        """Wait until it is there and has what it needs.  Raises `HelperLost`."""
        with self._meeting:
            if self._is_ready:
                return
            if self._closed:
                raise HelperLost(self._why)
            here = {"path": list(sys.path), "package": _PACKAGE, "folder": os.fspath(Path(__file__).parents[1])}
            try:
                self._write(lambda stream: stream.write(json.dumps(here).encode() + b"\n"))
                begin = ("begin", *self._begin)
                its = self._ask(begin, _no_answer, _nothing, lambda: self._closed, True, START_LIMIT_S)
                if its != np.__version__:
                    raise HelperLost(f"its numpy is {its} and this one's {np.__version__}")
            except HelperLost as lost:
                self._why = str(lost)
                self.close()
                raise
            self._begin, self._is_ready = (), True

    def _ask(self, request, answer, on_said, should_stop, stops_itself, limit_s=None) -> Any:
        self._send(request)
        self._asked += 1
        stopped, waited = False, 0.0
        while True:
            try:
                said = self._said.get(timeout=ASKED_EVERY_S)
            except queue.Empty:
                said, waited = (), waited + ASKED_EVERY_S
                if limit_s is not None and waited > limit_s:
                    raise HelperLost(f"it gave no answer in {limit_s:g} s") from None
            if should_stop() and not stopped:
                if not stops_itself:
                    raise JobCancelled("The take was cancelled.")
                stopped = True
                self._send(("stop", self._asked))
            if said is None:
                raise HelperLost("it has ended")
            if not said:
                continue
            kind, *rest = said
            if kind == "done":
                return rest[0]
            if kind == "failed":
                raise HelperLost(rest[0])
            if kind in ("light", "painted"):
                self._send(("answer", answer(kind, *rest)))
            else:
                on_said(*rest)

    def _send(self, message: Any) -> None:
        self._write(lambda stream: send(stream, message))

    def _write(self, write: Callable[[BinaryIO], Any]) -> None:
        try:
            with self._writing:
                write(self._process.stdin)
        except (OSError, ValueError) as error:
            raise HelperLost(f"it does not listen ({error})") from error
        except TypeError as error:
            raise HelperLost(f"the shot cannot be handed over: {error}") from error


def _nothing(*_said: Any) -> None:
    pass


def _no_answer(*_asked: Any) -> None:
    raise HelperLost("it asks for what it was given")
