# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a server that was asked for it: no new jobs, those that run finish, or go on later from a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable

from das_blender_addon.errors import StorageError
from das_server.store.job import JobState
from das_server.store.jobs import JobStore

_log = logging.getLogger(__name__)

REASON = "it is being stopped, and goes on with its jobs when it runs again."

COUNT_EVERY_S = 0.1
"""Pause before running jobs are counted again."""


class Drain:
    """``clock``: seconds that nobody sets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._ends_s = float("inf")
        self.is_on = False

    def begin(self, within_s: float) -> None:
        """End when nothing runs any more, in ``within_s`` at the latest; a second call may only shorten that."""
        self._ends_s = min(self._ends_s, self._clock() + within_s)
        if not self.is_on:
            _log.info("the server is drained: no job starts any more")
        self.is_on = True

    def is_over(self, num_running: int) -> bool:
        """Whether the server may end, with so many jobs running."""
        return self.is_on and (not num_running or self._clock() >= self._ends_s)


class Ending:
    """When the server's loop ends: at once (``stop``), or when ``drain`` is over.  ``give_out_no_more`` is told the
    reason when it begins; ``drain_s``: how long running jobs have after SIGTERM.  ``clock``: as in `Drain`."""

    def __init__(
        self,
        drain: Drain,
        give_out_no_more: Callable[[str], None],
        store: JobStore,
        stop: threading.Event,
        drain_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._drain, self._give_out_no_more, self._store = drain, give_out_no_more, store
        self._stop, self._drain_s, self._clock = stop, drain_s, clock
        self._terminated, self._is_term_heeded, self._told = 0, False, False
        self._num_running, self._count_again_s = 1, 0.0

    def listen_to_signals(self) -> None:
        """SIGINT ends the server at once, and so does a second SIGTERM; the first drains it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, lambda *_: self._stop.set())
            signal.signal(signal.SIGTERM, self.terminate)

    def terminate(self, *_: object) -> None:
        """SIGTERM has come."""
        self._terminated += 1
        if self._terminated > 1:
            self._stop.set()

    def is_now(self) -> bool:
        """Asked once in every turn."""
        if self._stop.is_set():
            return True
        if self._terminated and not self._is_term_heeded:  # a drain that goes on already may get less time
            self._is_term_heeded = True
            self._drain.begin(self._drain_s)
        if not self._drain.is_on:
            return False
        if not self._told:
            self._told = True
            self._give_out_no_more(REASON)
        if self._clock() >= self._count_again_s:
            self._count_again_s = self._clock() + COUNT_EVERY_S
            self._count()
        return self._drain.is_over(self._num_running)

    def _count(self) -> None:
        try:
            self._num_running = self._store.counts().get(JobState.RUNNING.value, 0)
        except StorageError as error:  # what is not known runs, until its time is over
            _log.error("the server cannot tell whether jobs run: %s", error.message)
            self._num_running = 1
