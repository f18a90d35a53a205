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
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import JobCancelled
from .pipe import receive, send

LOGGER = logging.getLogger(__name__)

MOST_HELPERS = 3
"""Processes beside this one: with each the memory of key pictures that are prepared grows, the gain does not."""
MOST_PIXELS = 4 << 20
"""Larger pictures are composed here alone: of each, prepared, a process holds 42 bytes a pixel."""
MOST_IN_MEMORY = 256 << 20
"""Bytes that are handed over at most: of a shot's geometry, where it is in memory and not on disk, and its pictures."""
MOST_UNHEARD = 8
"""Messages of one process that wait for whoever takes its frames; then it waits itself."""
ASKED_EVERY_S = 0.1
START_LIMIT_S, STOP_LIMIT_S, SILENCE_LIMIT_S = 30.0, 15.0, 300.0
"""How long one may take until it is there, until it stops, and from one word to the next: one that hangs is ended."""
_SCRIPT = Path(__file__).with_name("helper_start.py")
_PACKAGE = __package__.rpartition(".")[0]


class HelperLost(Exception):
    """It cannot be started, is not there yet, serves somebody else, has ended, or failed: what it was asked for is left
    to do.
    """


def helpers_for(pixels: int, vertices: Any, pictures_bytes: int = 0) -> int:
    """How many processes help with pictures of so many ``pixels``, all together ``pictures_bytes``, and ``vertices`` of
    `GeometrySequence`.
    """
    handed_over = pictures_bytes + (vertices.nbytes if isinstance(vertices, np.ndarray) else 0)
    if pixels > MOST_PIXELS or handed_over > MOST_IN_MEMORY:
        return 0
    return max(0, min(MOST_HELPERS, _cores() - 1))


def _cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def command_line() -> list[str]:
    """What starts this Python without what the environment says to it: Blender does not hear that, either.

    Raises `HelperLost` where nobody knows where it is: then Blender says None, or what is no Python, perhaps itself.
    """
    program = os.fspath(sys.executable or "")
    if not os.path.basename(program).lower().startswith("python"):
        raise HelperLost(f"{program or 'nothing'} is no Python")
    kept = [f"-Xpycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
    return [program, "-I", *(["-B"] if sys.dont_write_bytecode else []), *kept, os.fspath(_SCRIPT)]


class Helper:
    """One process.  Several threads may ask; one at a time is served."""

    def __init__(self, *begin: Any):
        """``begin``: of `Detail`: geometry, plan, pictures.  It starts beside what goes on here."""
        self._begin, self._process, self._closed = begin, None, False
        self._said: queue.Queue[tuple | None] = queue.Queue(MOST_UNHEARD)
        self._to_say: queue.SimpleQueue[tuple | None] = queue.SimpleQueue()
        self._serving, self._met, self._why = threading.Lock(), threading.Event(), "it has ended"
        self._asked = 0

    def start(self) -> None:
        """Start it.  Raises `HelperLost`."""
        try:
            self._process = subprocess.Popen(
                command_line(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            for work in (self._write, self._read, self._meet):
                threading.Thread(target=work, name=f"das helper {work.__name__}", daemon=True).start()
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no thread can be started any more
            self.close()
            raise HelperLost(f"{sys.executable} cannot be started ({error})") from error

    def call(
        self,
        *request: Any,
        answer: Callable[..., Any],
        on_said: Callable[..., None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        stops_itself: bool = False,
        given_up: Callable[[], bool] = lambda: False,
    ) -> Any:
        """What it answers to ``request``: a kind, and what belongs to it.

        ``answer`` gives what it asks for meanwhile, ``on_said`` gets the rest of what it says.  When ``should_stop``
        says so, it is stopped; where it ``stops_itself`` what it has so far is the answer, else `JobCancelled` is
        raised.  ``given_up``: asked while it is not there yet.  Raises `HelperLost`, and what ``answer`` and
        ``on_said`` raise; it is of no more use then, but where it was not there yet or serves somebody else.
        """
        if not self._serving.acquire(blocking=False):
            raise HelperLost("it serves somebody else")
        try:
            while not self._met.wait(ASKED_EVERY_S):
                if given_up() or should_stop():
                    raise HelperLost("it is not there yet")
            try:
                return self._ask(request, answer, on_said or _nothing, should_stop, stops_itself, SILENCE_LIMIT_S)
            except BaseException:
                self.close()
                raise
        finally:
            self._serving.release()

    @property
    def is_busy(self) -> bool:
        """It serves somebody, or never will again."""
        return self._closed or self._serving.locked()

    def close(self) -> None:
        """End it, now."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._to_say.put(None)

    # ── Details ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _meet(self) -> None:
        """Wait until it is there and has what it needs."""
        try:
            begin, self._begin = ("begin", *self._begin), ()
            its = self._ask(begin, _no_answer, _nothing, lambda: False, False, START_LIMIT_S)
            if its != np.__version__:
                raise HelperLost(f"its numpy is {its} and this one's {np.__version__}")
        except HelperLost as lost:
            self._why = str(lost)
            self.close()
        finally:
            self._met.set()

    def _ask(self, request, answer, on_said, should_stop, stops_itself, limit_s) -> Any:
        if self._closed:
            raise HelperLost(self._why)
        self._to_say.put(request)
        self._asked += 1
        stopped, waited = False, 0.0
        while True:
            try:
                said, waited = self._said.get(timeout=ASKED_EVERY_S), 0.0
            except queue.Empty:
                said, waited = (), waited + ASKED_EVERY_S
                if waited > limit_s:
                    raise HelperLost(f"it has said nothing for {limit_s:g} s") from None
            if said is None or self._closed:
                raise HelperLost(self._why)
            kind, *rest = said or ("",)
            if kind == "done":
                return rest[0]
            if kind == "failed":
                raise HelperLost(rest[0])
            if not stopped and should_stop():
                if not stops_itself:
                    raise JobCancelled("The take was cancelled.")
                stopped, waited, limit_s = True, 0.0, STOP_LIMIT_S
                self._to_say.put(("stop", self._asked))
            if kind in ("light", "painted"):
                self._to_say.put(("answer", answer(kind, *rest)))
            elif kind:
                on_said(*rest)

    def _read(self) -> None:
        """Hear what it says.  A thread of its own, as is `_write`: whoever asks may stop waiting."""
        with suppress(Exception):  # it has ended, or writes what is no message
            while not self._closed:
                self._hear(receive(self._process.stdout))
        self._hear(None)
        self._process.stdout.close()

    def _hear(self, message: tuple | None) -> None:
        while not self._closed:
            with suppress(queue.Full):
                self._said.put(message, timeout=ASKED_EVERY_S)
                return

    def _write(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # else a pipe that nobody reads would end a Blender
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        stream, here = self._process.stdin, {"package": _PACKAGE, "folder": os.fspath(Path(__file__).parents[1])}
        try:
            stream.write(json.dumps({"path": list(sys.path), **here}).encode() + b"\n")
            while (message := self._to_say.get()) is not None:
                send(stream, message)
        except Exception as error:  # it does not listen, or the shot cannot be handed over
            self._why = f"it cannot be told ({error})"
            self._process.kill()
        finally:
            with suppress(OSError, ValueError):  # what was not written yet is for nobody
                stream.close()


def _nothing(*_said: Any) -> None:
    pass


def _no_answer(*_asked: Any) -> None:
    raise HelperLost("it asks for what it was given")
