# SPDX-License-Identifier: GPL-3.0-or-later
"""How a job is driven: recipes are generators, so that one recipe serves a render call, a timer and a script.

A recipe yields often: a `Status` when there is something to say, None when it waits.  Work that takes time goes to a
thread through `in_thread`.  Whoever drives a recipe decides how to wait between two steps and when to stop: closing it
asks its thread to stop.  No Blender in here.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from ..errors import JobCancelled

LOGGER = logging.getLogger(__name__)
TICK_S = 0.04
"""Seconds between two looks at a waiting recipe, at most; well under the 100 ms within which a break must be seen."""
STOP_WAIT_S = 5.0
"""Seconds that a stopped job's thread gets to tell the server before the process ends; and to end a child Blender that
is killed once it has not stopped within its `process.STOP_LIMIT_S`.
"""
CANCELLED = "The job was cancelled."


@dataclass(frozen=True)
class Status:
    """What a running recipe has to say: a line for people, how much of all is done (0 to 1), and a preview picture
    (JPEG or PNG).
    """

    stage: str
    text: str
    fraction: float
    preview: bytes | None = None


@dataclass(frozen=True)
class OnThisThread:
    """Work that a recipe wants done by whoever drives it, on the driver's own thread, in one go: a walk inside a render
    of this Blender, say.

    ``work(should_stop, say)``: its result goes back into the recipe.  ``translate``: what is said → `Status`.
    """

    work: Callable[[ShouldStop, Say], Any]
    translate: Callable[[Any], Status | None]


ShouldStop = Callable[[], bool]
Say = Callable[[Any], None]
Recipe = Generator["Status | OnThisThread | None", Any, Any]


# ── Threads below recipes ───────────────────────────────────────────────────────────────────────────────────────────

_threads: set[threading.Thread] = set()
_news = threading.Event()
"""Some thread below a recipe has said something, or is done: whoever waits for it need not wait longer."""


_leaving = threading.Event()


def leave() -> None:
    """This Blender ends, or the extension does: what stops from now on is not cancelled on a server, which goes on."""
    _leaving.set()


def stay() -> None:
    """Take back `leave`: the extension is enabled again."""
    _leaving.clear()


def is_leaving() -> bool:
    """Whether jobs that stop now go on where they run."""
    return _leaving.is_set()


def in_thread(
    work: Callable[[Callable[[], bool], Callable[[Any], None]], Any],
    translate: Callable[[Any], Status | None] = lambda said: said,
) -> Recipe:
    """Run ``work(should_stop, say)`` in a thread; yield what it says (through ``translate``), or None; return its
    result.

    ``work`` must not touch Blender.  Closing the recipe makes ``should_stop()`` true; `wait_for_threads` waits for
    the end.
    """
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()
    outcome: list[tuple[Any, BaseException | None]] = []

    def say(something: Any) -> None:
        said.put(something)
        _news.set()

    def run():
        try:
            outcome.append((work(stopped.is_set, say), None))
        except BaseException as error:  # handed to the thread that waits for it
            outcome.append((None, error))
        _news.set()

    thread = threading.Thread(target=run, name="das job", daemon=True)
    _threads.add(thread)
    thread.start()
    try:
        while not outcome or not said.empty():
            try:
                yield translate(said.get_nowait())
            except queue.Empty:
                yield None
    finally:
        stopped.set()
        _threads.difference_update([old for old in _threads if not old.is_alive()])
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def wait_for_threads(timeout_s: float = STOP_WAIT_S) -> None:
    """Give stopped threads time to end, ``timeout_s`` at most."""
    deadline = time.monotonic() + timeout_s
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


def on_this_thread(
    work: Callable[[ShouldStop, Say], Any], translate: Callable[[Any], Status | None] = lambda said: said
) -> Recipe:
    """Have ``work(should_stop, say)`` done by the driver on its own thread; return its result."""
    return (yield OnThisThread(work, translate))


def advance(recipe: Recipe, should_stop: ShouldStop, show: Callable[[Status], None]) -> Status | None:
    """The next `Status` of ``recipe``, or None when it waits; work that it wants done on this thread is done before.

    Raises `StopIteration` with its result at the end, and whatever the recipe raises.
    """
    said = next(recipe)
    while isinstance(said, OnThisThread):
        wanted = said

        def say(event, wanted=wanted) -> None:
            status = wanted.translate(event)
            if status is not None:
                show(status)

        try:
            result = wanted.work(should_stop, say)
        except BaseException as error:  # the recipe's own: it may end what it began
            said = recipe.throw(error)
        else:
            said = recipe.send(result)
    return said


def finish(
    recipe: Recipe,
    *,
    on_status: Callable[[Status], None] | None = None,
    should_stop: ShouldStop | None = None,
    wait_s: float = STOP_WAIT_S,
) -> Any:
    """Drive a recipe to its end on this thread and return its result.

    ``should_stop`` is asked at least every `TICK_S`, also in the middle of long work; what a thread says or has done
    is seen at once.  Raises `JobCancelled` when it says so, and whatever the recipe raises; its thread gets up to
    ``wait_s`` seconds to tell the server.  A process that lives on waits 0 seconds: the thread ends by itself.
    """
    stop = should_stop or (lambda: False)
    show = on_status or (lambda _status: None)
    try:
        while True:
            if stop():
                raise JobCancelled(CANCELLED)
            _news.clear()  # before the look: what comes after it wakes the wait below
            try:
                status = advance(recipe, stop, show)
            except StopIteration as end:
                return end.value
            if status is None:
                _news.wait(TICK_S)
            else:
                show(status)
    except BaseException:
        recipe.close()
        wait_for_threads(wait_s)
        raise


class WithEnd(Generator):
    """``recipe``, and ``end(error)`` once when it is over, failed or closed, also where it never began.

    ``error``: what it ended with, None where it has a result; a `GeneratorExit` where it was closed.
    """

    def __init__(self, recipe: Recipe, end: Callable[[BaseException | None], None]):
        self._recipe, self._on_end = recipe, end
        self._is_over = False

    def send(self, value):
        return self._step(self._recipe.send, value)

    def throw(self, kind, value=None, traceback=None):
        return self._step(self._recipe.throw, kind if value is None else value)

    def close(self) -> None:
        try:
            self._recipe.close()
        finally:
            self._end(GeneratorExit())

    def _step(self, step, value):
        try:
            return step(value)
        except StopIteration:
            self._end(None)
            raise
        except BaseException as error:
            self._end(error)
            raise

    def _end(self, error: BaseException | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._on_end(error)


def log_status(status: Status) -> None:
    """A line for whoever reads the log of a headless render."""
    LOGGER.info("%3.0f%% %s", 100 * status.fraction, status.text)
