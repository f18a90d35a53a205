# SPDX-License-Identifier: GPL-3.0-or-later
"""Small work about takes that is done beside the window, and beside the running job: sheets and comparisons, which read
and write many frames.  What is to be shown of it comes back on Blender's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bpy

from ..errors import JobCancelled
from .job_report import report_end

WAIT_S = 0.1
ShouldStop = Callable[[], bool]

_pool: ThreadPoolExecutor | None = None
_stopped = threading.Event()


class Beside:
    """``work(should_stop)`` in a thread; `look` calls ``done(result)``, or ``failed(error)``, once it is over."""

    def __init__(
        self, work: Callable[[ShouldStop], Any], done: Callable[[Any], None], failed: Callable[[BaseException], None]
    ):
        global _pool
        if _pool is None:
            _pool = ThreadPoolExecutor(1, thread_name_prefix="das beside")
        self._future = _pool.submit(work, _stopped.is_set)
        self._done, self._failed = done, failed

    def look(self) -> float | None:
        """Seconds until the next look, None when it is over (for `bpy.app.timers`)."""
        if not self._future.done():
            return WAIT_S
        try:
            self._done(self._future.result())
        except JobCancelled:  # Blender ends
            pass
        except Exception as error:  # the border: shown to the user
            self._failed(error)
        return None


def beside(name: str, work: Callable[[ShouldStop], Any], done: Callable[[Any], None]) -> None:
    """Do ``work(should_stop)`` in a thread and then ``done(result)`` on this one; what goes wrong is reported as that
    of ``name``.  Without a window both are done now, and errors raised.
    """
    if bpy.app.background:
        done(work(lambda: False))
        return
    one = Beside(work, done, lambda error: report_end(name, "", error))
    bpy.app.timers.register(one.look, first_interval=WAIT_S)


def register():
    """Nothing yet: a thread begins with the first work."""
    _stopped.clear()


def unregister():
    """End what is being done."""
    global _pool
    _stopped.set()
    if _pool is not None:
        _pool.shutdown(wait=False, cancel_futures=True)
        _pool = None
