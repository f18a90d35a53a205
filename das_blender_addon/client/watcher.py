# SPDX-License-Identifier: GPL-3.0-or-later
"""`JobWatcher`: `run_job` in one background thread, its events on a queue, for a timer that must never wait."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Any

from ..errors import DasError, TransportTimeout
from .take import JobEvent, JobOutcome, JobRequest, run_job

log = logging.getLogger(__name__)


class JobWatcher:
    """Runs ``request`` on the server at ``address`` in the background; see `run_job` for the options.

    All methods return at once (`result` waits only if told to).  The thread is a daemon: it never keeps the program
    open.
    """

    def __init__(self, address: str, request: JobRequest, frames_folder: Path, **options: Any):
        self._events: queue.SimpleQueue[JobEvent] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._outcome: JobOutcome | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(address, request, frames_folder, options), name="das-job", daemon=True
        )
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether the job is over, in whatever way; `poll` may still have events."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Ask the job to stop; `result` will raise `JobCancelled` soon."""
        self._stop.set()

    def poll(self) -> list[JobEvent]:
        """The events since the last call, oldest first."""
        events = []
        while True:
            try:
                events.append(self._events.get_nowait())
            except queue.Empty:
                return events

    def result(self, timeout_s: float | None = 0.0) -> JobOutcome:
        """The outcome, or the job's error raised again; `TransportTimeout` when it is not over after ``timeout_s``."""
        self._thread.join(timeout_s)
        if not self.done:
            raise TransportTimeout(f"The job is still running after {timeout_s:g} s; ask again later or cancel it.")
        if self._error is not None:
            raise self._error
        return self._outcome

    def _run(self, address: str, request: JobRequest, frames_folder: Path, options: dict[str, Any]) -> None:
        try:
            self._outcome = run_job(
                address,
                request,
                frames_folder,
                on_event=self._events.put,
                should_stop=self._stop.is_set,
                **options,
            )
        except DasError as error:
            self._error = error
        except BaseException as error:  # the thread's owner raises it again; here there is nobody to see it
            log.exception("the job's thread failed")
            self._error = error
