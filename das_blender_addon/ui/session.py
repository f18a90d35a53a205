# SPDX-License-Identifier: GPL-3.0-or-later
"""The one job that runs in the window: a timer drives its recipe while the user goes on working; and what the panels
show of it.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bpy

from ..child.scratch import held_bytes
from ..client import known_servers
from ..errors import DasError, JobCancelled
from ..take.drive import CANCELLED, TICK_S, Recipe, Status, advance
from ..take.pending import Note
from .step_preview import forget_preview, show_preview
from .words import said

LOGGER = logging.getLogger(__name__)
MOST_WAITING, MOST_FAILED = 32, 8
COPIES_SHARE = 0.25
"""Of the room in the temporary folder, for the copies of waiting jobs."""
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
        *,
        begin: Callable[[], None] = lambda: None,
        note: Note | None = None,
        scene: str = "",
        title: str = "",
    ):
        """``begin``: called when it starts, which may be after others.  ``note``: of the takes that it makes, of the
        scene called ``scene``.
        """
        self.name, self.note, self.scene, self.title = name, note, scene, title
        self.file = files_opened()
        self.words = ""
        self.begin = begin
        self._recipe = recipe
        self._show = show
        self._done = done
        self._cancelled = ""
        self.is_running = True

    @property
    def about(self) -> str:
        """What tells it from others of its name."""
        if self.note is None:
            return self.title
        first, count = self.note.settings[0], len(self.note.settings)
        what = said("seed {seed}", seed=first.seed) if count == 1 else said("{count} takes", count=count)
        return " · ".join(filter(None, (self.title, what, first.prompt)))

    def drop(self) -> None:
        """Close it before it began."""
        self.is_running = False
        self._recipe.close()

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
        try:
            self._done(result, error)
        finally:
            _after(self, error)


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
    """Let a timer drive ``job``.  Only one runs at a time: ask `running_job` before, or use `add_job`."""
    global _job
    _job = job
    job.begin()
    bpy.app.timers.register(job.tick, first_interval=0.0, persistent=True)


def stop_job(words: str = CANCELLED) -> None:
    """Cancel the running job now, for the reason ``words``; its thread tells the server and ends by itself."""
    job = running_job()
    if job is not None:
        job.cancel(words)
        job.tick()


# ── The queue ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Queue:
    """The jobs that wait for the running one, in their order, and those that failed and can be had again."""

    waiting: list[SessionJob] = field(default_factory=list)
    failed: list[SessionJob] = field(default_factory=list)
    is_paused: bool = False

    def move(self, place: int, by: int) -> None:
        """Let the job at ``place`` wait ``by`` places later, earlier where that is negative; not beyond the ends."""
        job = self.waiting.pop(place)
        self.waiting.insert(max(0, min(len(self.waiting), place + by)), job)

    def clear(self) -> None:
        """Nothing waits any more."""
        while self.waiting:
            self.waiting.pop().drop()
        self.failed.clear()
        self.is_paused = False


queue = Queue()


def add_job(job: SessionJob) -> int:
    """Start ``job`` now, or let it wait its turn; how many start before it."""
    if running_job() is None and not (queue.is_paused or queue.waiting):
        start_job(job)
        return 0
    queue.waiting.append(job)
    return len(queue.waiting)


def no_room() -> str:
    """Why no further job can wait, "" where one can.

    Each has a copy of the file on the disk, and no Blender of its own until it starts.
    """
    if len(queue.waiting) >= MOST_WAITING:
        return said("{count} jobs wait already: wait for some of them, or cancel some", count=MOST_WAITING)
    held, free = held_bytes("copy"), shutil.disk_usage(tempfile.gettempdir()).free
    if queue.waiting and held > COPIES_SHARE * (held + free):
        return said(
            "The copies of the file for the waiting jobs take {size:.1f} GB of the temporary folder: wait for some of "
            "them, or cancel some",
            size=held / 1e9,
        )
    return ""


def follow_notes(old: Path, new: Path) -> None:
    """The shot in the folder ``old`` is the one in ``new`` now, as its file was saved under another name."""
    running = running_job()
    for job in [*queue.waiting, *([] if running is None else [running])]:
        if job.note is not None and job.note.path.is_relative_to(old):
            job.note.follow(new)


def start_next() -> None:
    """Start the job that waits longest, unless one runs or the queue is paused."""
    if queue.waiting and not queue.is_paused and running_job() is None:
        start_job(queue.waiting.pop(0))


def _after(job: SessionJob, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, JobCancelled) and job.note is not None:
        job.words = error.message if isinstance(error, DasError) else f"{type(error).__name__}: {error}"
        queue.failed = [*queue.failed, job][-MOST_FAILED:]
    start_next()


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
