# SPDX-License-Identifier: GPL-3.0-or-later
"""The one job that runs in the window: a timer drives its recipe while the user goes on working; and what the panels
show of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import bpy

from ..client import known_servers
from ..errors import DasError, JobCancelled
from ..take.drive import CANCELLED, TICK_S, Recipe, Status, advance
from .step_preview import forget_preview, show_preview

LOGGER = logging.getLogger(__name__)
BUDGET_S = 0.1
"""Seconds that a job may take of the window at once; every tick costs a redraw, so a frame a tick would be slow."""


class SessionJob:
    """A recipe that a timer drives while the user goes on working.

    ``show(status)`` is called on the main thread for every status, ``done(result, error)`` once at the end;
    ``error`` is a `JobCancelled` when `cancel` was called.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        show: Callable[[Status], None],
        done: Callable[[Any, BaseException | None], None],
    ):
        self.name = name
        self._recipe = recipe
        self._show = show
        self._done = done
        self._cancelled = ""
        self.is_running = True

    def cancel(self, words: str = CANCELLED) -> None:
        """Stop at the next tick of the timer, for the reason ``words``."""
        self._cancelled = words

    def tick(self) -> float | None:
        """Steps of the recipe for `BUDGET_S`; the seconds until the next tick, None at the end (for
        `bpy.app.timers`).
        """
        deadline = time.monotonic() + BUDGET_S
        while self.is_running:
            try:
                if self._cancelled:
                    raise JobCancelled(self._cancelled)
                status = advance(self._recipe, lambda: bool(self._cancelled), self._show)
                if status is not None:
                    self._show(status)
            except StopIteration as end:
                self._end(end.value, None)
                break
            except BaseException as error:  # the border: shown to the user by `done`
                self._end(None, error)
                break
            if status is None:
                return TICK_S
            if time.monotonic() > deadline:
                return 0.0
        return None

    def _end(self, result, error) -> None:
        self.is_running = False
        try:
            self._recipe.close()
        except Exception:  # it must not hide why the job ended, nor keep the panel from showing that it did
            LOGGER.exception("%s did not end cleanly", self.name)
        if error is not None and not isinstance(error, DasError):
            LOGGER.error("%s failed", self.name, exc_info=error)
        self._done(result, error)


_job: SessionJob | None = None
_files_opened = 0


def note_opened_file() -> None:
    """Another file is open from now on: scenes of one name are not the same scene."""
    global _files_opened
    _files_opened += 1


def files_opened() -> int:
    """How many files this session has opened; tells whether the file is still the one that it was."""
    return _files_opened


def running_job() -> SessionJob | None:
    """The job that runs in the window now, or None."""
    return _job if _job is not None and _job.is_running else None


def start_job(job: SessionJob) -> None:
    """Let a timer drive ``job``.  Only one runs at a time: ask `running_job` before."""
    global _job
    _job = job
    bpy.app.timers.register(job.tick, first_interval=0.0, persistent=True)


def stop_job(words: str = CANCELLED) -> None:
    """Cancel the running job now, for the reason ``words``; its thread tells the server and ends by itself."""
    job = running_job()
    if job is not None:
        job.cancel(words)
        job.tick()


# ── What `WindowManager.das` shows of it ────────────────────────────────────────────────────────────────────────────


_answers_before_failure = 0
"""How many answers of servers there were when the server line's last job failed."""


def server_failure(session, server: str) -> str:
    """Why ``server`` did not answer when it was asked, "" when it was not, or has answered since."""
    if session.server_state != "FAILED" or known_servers.has_answered_since(server, _answers_before_failure):
        return ""
    return session.server_line


def show_idle(session) -> None:
    """Nothing was asked for yet."""
    for line in ("job", "server"):
        _set_line(session, line, "IDLE", "")


def show_begin(session, name: str, line: str = "job") -> None:
    """A job begins; it is shown in the panel's ``line`` "job" or "server"."""
    forget_preview()
    _set_line(session, line, "RUNNING", name)


def show_status(session, status: Status, line: str = "job") -> None:
    """A step of the running job, and its preview if it has one."""
    _set_line(session, line, "RUNNING", status.text, status.fraction)
    if status.preview:
        show_preview(status.preview)


def show_end(session, words: str, error: BaseException | None, line: str = "job") -> None:
    """The job is over: what came of it, or why nothing did."""
    global _answers_before_failure
    forget_preview()
    if line == "server":
        _answers_before_failure = known_servers.num_answers()
    if error is None:
        _set_line(session, line, "DONE", words)
    elif isinstance(error, JobCancelled):
        _set_line(session, line, "CANCELLED", error.message)
    else:
        known = error.message if isinstance(error, DasError) else f"{type(error).__name__}: {error}"
        _set_line(session, line, "FAILED", known)


def _set_line(session, line: str, state: str, words: str, progress: float = 0.0) -> None:
    setattr(session, f"{line}_state", state)
    setattr(session, f"{line}_line", words)
    session.progress = progress
