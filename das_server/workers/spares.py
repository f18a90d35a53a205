# SPDX-License-Identifier: GPL-3.0-or-later
"""Spare workers: processes that have imported what a job needs and hold no model, each ready to take the place of one
that dies.  Where memory is short there are none.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable

from das_server.pipeline.host_memory import available_bytes

_log = logging.getLogger(__name__)

ROOM_BYTES = 4 << 30
"""Memory of the machine that must be free before a spare is started, which takes some 270 MB of it."""

SHORT_BYTES = 2 << 30
"""A spare ends where less than this is free."""

LOOK_EVERY_S = 2.0
PAUSE_S = 60.0
"""After a spare that ended by itself or could not be started."""


class Spares:
    """Spares by the name of the worker that they are for.

    ``start(name)`` starts one, see `Spawner.start`.  ``after_s``: how long a worker has to have worked before one is
    started beside it, so that neither waits for the other; ``free_bytes``: what the machine has.
    """

    def __init__(
        self,
        start: Callable[[str], subprocess.Popen],
        *,
        after_s: float = 5.0,
        free_bytes: Callable[[], int] = available_bytes,
    ):
        self._start = start
        self._after_s = after_s
        self._free_bytes = free_bytes
        self._spares: dict[str, subprocess.Popen] = {}
        self._since_s: dict[str, float] = {}
        self._not_before_s: dict[str, float] = {}
        self._look_at_s = 0.0

    def pids(self) -> dict[str, int]:
        """The spares that there are."""
        return {name: process.pid for name, process in self._spares.items()}

    def take(self, name: str, routing_id: str) -> subprocess.Popen | None:
        """The spare for this worker, which goes on as ``routing_id``; None where there is none."""
        self._since_s.pop(name, None)
        process = self._spares.pop(name, None)
        if process is None or process.poll() is not None:
            return None
        try:
            process.stdin.write(f"{routing_id}\n".encode())
            process.stdin.close()
        except OSError:  # it has just ended
            process.kill()
            process.wait()
            return None
        return process

    def look_after(self, working: list[str]) -> None:
        """See to the spares of the workers that are ``working``, now and then."""
        now = time.monotonic()
        if now < self._look_at_s:
            return
        self._look_at_s = now + min(LOOK_EVERY_S, self._after_s)
        for name in [name for name, process in self._spares.items() if process.poll() is not None]:
            _log.warning("the spare of %s ended with status %s", name, self._spares.pop(name).returncode)
            self._not_before_s[name] = now + PAUSE_S
        self._since_s = {name: self._since_s.get(name, now) for name in working}
        if self._free_bytes() < SHORT_BYTES:
            if self._spares:
                _log.info("memory is short: the spare workers end")
            self.stop()
            return
        for name, since_s in self._since_s.items():
            is_time = now >= max(since_s + self._after_s, self._not_before_s.get(name, 0.0))
            if is_time and name not in self._spares and self._free_bytes() >= ROOM_BYTES:
                self._start_one(name, now)

    def stop(self) -> None:
        """End them all."""
        spares, self._spares = self._spares, {}
        for process in spares.values():
            process.kill()  # they hold nothing
        for process in spares.values():
            process.wait()
            process.stdin.close()

    def _start_one(self, name: str, now: float) -> None:
        try:
            self._spares[name] = self._start(name)
            _log.info("process %s is the spare of %s", self._spares[name].pid, name)
        except OSError as error:
            _log.warning("%s gets no spare for now: %s", name, error.strerror or error)
            self._not_before_s[name] = now + PAUSE_S
