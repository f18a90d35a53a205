# SPDX-License-Identifier: GPL-3.0-or-later
"""The child Blender that is kept ready between two jobs of a session.  No Blender in here.

One at a time is kept: a job that comes while another has it starts one of its own, which ends with that job.  It is
not kept after `IDLE_LIMIT_S` without work, when it has grown over `MEMORY_LIMIT_BYTES`, or when its job broke it.
"""

from __future__ import annotations

import logging
import threading

from .process import ChildBlender, Launch

LOGGER = logging.getLogger(__name__)
IDLE_LIMIT_S = 600.0
MEMORY_LIMIT_BYTES = 2 << 30

_lock = threading.Lock()
_kept: ChildBlender | None = None
_timer: threading.Timer | None = None


def take_child(launched: Launch) -> tuple[ChildBlender, bool]:
    """The child that is ready, or a new one, the caller's until `give_back`; and whether it was kept from another job.

    Raises `ChildBroke`.
    """
    kept = _take()
    if kept is not None:
        if kept.is_running and kept.launched == launched:
            return kept, True
        kept.close()
    return ChildBlender(launched), False


def give_back(child: ChildBlender, memory_bytes: int = 0) -> None:
    """The caller needs ``child`` no more; it may have ended.  ``memory_bytes``: what it said it holds."""
    global _kept, _timer
    if not child.is_running or memory_bytes > MEMORY_LIMIT_BYTES:
        child.close()
        return
    with _lock:
        if _kept is None:
            _kept = child
            _timer = threading.Timer(IDLE_LIMIT_S, end_child)
            _timer.daemon = True
            _timer.start()
            return
    child.close()


def end_child() -> None:
    """End the child that is kept; harmless when there is none."""
    kept = _take()
    if kept is not None:
        kept.close()


def _take() -> ChildBlender | None:
    global _kept, _timer
    with _lock:
        kept, timer, _kept, _timer = _kept, _timer, None, None
    if timer is not None:
        timer.cancel()
    return kept
