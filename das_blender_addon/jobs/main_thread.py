# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on Blender's main thread, asked for by a render that runs beside it.

A render of a window runs in a thread of its own while its user goes on working.  A timer does the work between two
events, and not while an operator holds the scene: a brush stroke or a transform is finished first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import bpy

from ..errors import JobCancelled

POLL_S = 0.05
AGAIN_S = 0.1
RENDER_OPERATORS = {"RENDER_OT_render", "RENDER_OT_view_show", "RENDER_OT_view_cancel", "SCREEN_OT_animation_step"}
"""Modal operators that do not hold the scene."""


def on_main_thread(work: Callable[[], Any], should_stop: Callable[[], bool]) -> Any:
    """The result of ``work()``, done on Blender's main thread; directly where this is it.

    Raises what ``work`` raises, and `JobCancelled` when ``should_stop`` says so before it was done.
    """
    if bpy.app.background or threading.current_thread() is threading.main_thread():
        return work()
    outcome: list[tuple[Any, BaseException | None]] = []
    is_wanted = True

    def timer() -> float | None:
        if not is_wanted:
            return None
        if is_scene_held():
            return AGAIN_S
        try:
            outcome.append((work(), None))
        except BaseException as error:  # handed to the thread that waits for it
            outcome.append((None, error))
        return None

    bpy.app.timers.register(timer, first_interval=0.0)
    while not outcome:
        if should_stop():
            is_wanted = False
            raise JobCancelled("The render was cancelled.")
        time.sleep(POLL_S)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def is_scene_held() -> bool:
    """Whether an operator is at work in a window: a stroke, a transform, a file browser it is not."""
    for window in bpy.context.window_manager.windows:
        running = getattr(window, "modal_operators", ())
        if any(operator.bl_idname not in RENDER_OPERATORS for operator in running):
            return True
    return False
