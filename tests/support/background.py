# SPDX-License-Identifier: GPL-3.0-or-later
"""A job that runs in a thread, for tests that do something to it or to its server meanwhile."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from das_blender_addon.client.take import JobEvent, JobOutcome, JobRequest, run_job


class BackgroundJob:
    """`run_job` with ``options`` in a thread that keeps no program open."""

    def __init__(self, address: str, request: JobRequest, frames_folder: Path, **options: Any):
        self._events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._outcome: Future[JobOutcome] = Future()
        options |= {"on_event": self._events.put, "should_stop": self._stop.is_set}
        threading.Thread(target=self._run, args=(address, request, frames_folder), kwargs=options, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the job is over, in whatever way; `poll` may still have events."""
        return self._outcome.done()

    def cancel(self) -> None:
        """Ask the job to stop; `result` will raise `JobCancelled` soon."""
        self._stop.set()

    def poll(self) -> list[JobEvent]:
        """The events since the last call, oldest first."""
        events = []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def result(self, timeout_s: float) -> JobOutcome:
        """The outcome, or the job's error raised; `TimeoutError` when it is not over after ``timeout_s``."""
        return self._outcome.result(timeout_s)

    def _run(self, *arguments, **options) -> None:
        try:
            self._outcome.set_result(run_job(*arguments, **options))
        except BaseException as error:  # raised again by `result`
            self._outcome.set_exception(error)
