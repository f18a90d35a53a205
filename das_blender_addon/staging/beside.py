# SPDX-License-Identifier: GPL-3.0-or-later
"""A plate is made beside the user's work: in a thread, and only what needs Blender on the thread that may touch it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import JobCancelled
from ..take.drive import CANCELLED, Recipe, ShouldStop, Status, in_thread

T = TypeVar("T")
POLL_S = 0.05
STAGE = "importing"
_here = threading.local()


class _Part:
    """Work that a thread wants done by whoever drives its recipe."""

    def __init__(self, work: Callable[[], Any]):
        self._work = work
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        self._done = threading.Event()

    def do(self) -> None:
        try:
            self._outcome = (self._work(), None)
        except BaseException as error:  # handed to the thread that waits for it
            self._outcome = (None, error)
        self._done.set()

    def result(self, should_stop: ShouldStop) -> Any:
        while not self._done.wait(POLL_S):
            if should_stop():
                raise JobCancelled(CANCELLED)
        result, error = self._outcome
        if error is not None:
            raise error
        return result


def in_blender(work: Callable[[], T]) -> T:
    """The result of ``work()``, which touches Blender: done by the driver of `beside_blender` where that runs the
    caller, else at once.  Raises what ``work`` raises, `JobCancelled`.
    """
    ask = getattr(_here, "ask", None)
    return work() if ask is None else ask(work)


def tell(words: str, fraction: float) -> None:
    """Say what is done now, and how much of all is (0 to 1), where anybody listens."""
    say = getattr(_here, "say", None)
    if say is not None:
        say(Status(STAGE, words, fraction))


def beside_blender(work: Callable[[ShouldStop], Any], is_free: Callable[[], bool] = lambda: True) -> Recipe:
    """Run ``work(should_stop)`` in a thread; what it asks for by `in_blender` is done between two steps of the recipe,
    once ``is_free()`` says that nothing else is at work in the scene.  Returns its result, raises what it raises.
    """

    def run(should_stop: ShouldStop, say):
        def ask(part_work):
            part = _Part(part_work)
            say(part)
            return part.result(should_stop)

        _here.ask, _here.say = ask, say
        return work(should_stop)

    recipe = in_thread(run)
    try:
        while True:
            try:
                said = next(recipe)
            except StopIteration as end:
                return end.value
            if isinstance(said, _Part):
                while not is_free():
                    yield None
                said.do()
                said = None
            yield said
    finally:
        recipe.close()
