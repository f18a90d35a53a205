# SPDX-License-Identifier: GPL-3.0-or-later
"""Several jobs of one take: their order, and their progress as that of the take.  No Blender in here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import replace

from ..client.take import JobEvent, OnEvent, Progress

LOOK_S = 0.1
"""Seconds between two looks whether to go on waiting."""


class Shares:
    """Passes the events of ``count`` jobs on to ``on_event``, one at a time: `Progress` is what the first job does that
    is not over, with the fraction of all.

    ``jobs``: the part of all that the jobs are, 0 to 1; what is left is composing.
    """

    def __init__(self, on_event: OnEvent | None, count: int, jobs: float):
        self._on_event, self._jobs = on_event, jobs
        self._fractions = [0.0] * count
        self._last: dict[int, Progress] = {}
        self._lock = threading.Lock()

    def of(self, number: int) -> OnEvent:
        """What gets the events of the job ``number``."""

        def tell(event: JobEvent) -> None:
            with self._lock:
                if isinstance(event, Progress):
                    self._fractions[number], self._last[number] = event.fraction, event
                    first = next((job for job, done in enumerate(self._fractions) if done < 1.0), number)
                    shown = self._last.get(first, event)
                    event = replace(shown, fraction=self._jobs * sum(self._fractions) / len(self._fractions))
                self._pass_on(event)

        return tell

    def event(self, event: JobEvent) -> None:
        """Something that is of the take and of no job."""
        with self._lock:
            self._pass_on(event)

    @property
    def composing(self) -> Callable[[int, int], None]:
        """What is told how many frames of the shot are composed."""

        def tell(done: int, of: int) -> None:
            with self._lock:
                self._pass_on(Progress("composing", done, of, self._jobs + (1.0 - self._jobs) * done / of))

        return tell

    def _pass_on(self, event: JobEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)


class Turns:
    """Lets numbered threads do something one after the other."""

    def __init__(self):
        self._over: set[int] = set()
        self._changed = threading.Condition()

    def wait_for(self, others: Collection[int], should_stop: Callable[[], bool]) -> bool:
        """Wait until all ``others`` have done it; False when ``should_stop`` came first."""
        with self._changed:
            while not self._over.issuperset(others):
                if should_stop():
                    return False
                self._changed.wait(LOOK_S)
        return True

    def over(self, number: int) -> None:
        """``number`` has done it, or never will; harmless when it is told again."""
        with self._changed:
            self._over.add(number)
            self._changed.notify_all()
