# SPDX-License-Identifier: GPL-3.0-or-later
"""The session's running job: recipes as generators, so that one recipe serves a render call, a timer and a script.

A recipe runs on the thread that may touch Blender and yields often: a `Status` when there is something to say, None
when it waits. Work that needs no Blender goes to a thread through `in_thread`.  Whoever drives a recipe decides how
to wait between two steps and when to stop: closing it asks its thread to stop.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from . import preferences
from .errors import DasError, JobCancelled
from .protocol.messages import Capabilities, Welcome

LOGGER = logging.getLogger(__name__)
TICK_S = 0.04
"""Seconds between two looks at a waiting recipe; well under the 100 ms within which a break must be seen."""
BUDGET_S = 0.1
"""Seconds that a job may take of the window at once; every tick costs a redraw, so a frame a tick would be slow."""
STOP_WAIT_S = 2.0
"""Seconds that a stopped job's thread gets to tell the server before the process ends."""
CANCELLED = "The job was cancelled."


@dataclass(frozen=True)
class Status:
    """What a running recipe has to say: a line for people, how much of all is done (0 to 1), and a preview picture
    (JPEG or PNG).
    """

    stage: str
    text: str
    fraction: float
    preview: bytes | None = None


Recipe = Generator["Status | None", None, Any]


# ── Threads below recipes ───────────────────────────────────────────────────────────────────────────────────────────

_threads: set[threading.Thread] = set()


def in_thread(
    work: Callable[[Callable[[], bool], Callable[[Any], None]], Any],
    translate: Callable[[Any], Status | None] = lambda said: said,
) -> Recipe:
    """Run ``work(should_stop, say)`` in a thread; yield what it says (through ``translate``), or None; return its
    result.

    ``work`` must not touch Blender.  Closing the recipe makes ``should_stop()`` true; `wait_for_threads` waits for
    the end.
    """
    said: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()
    outcome: list[tuple[Any, BaseException | None]] = []

    def run():
        try:
            outcome.append((work(stopped.is_set, said.put), None))
        except BaseException as error:  # handed to the thread that waits for it
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="das job", daemon=True)
    _threads.add(thread)
    thread.start()
    try:
        while thread.is_alive() or not said.empty():
            try:
                yield translate(said.get_nowait())
            except queue.Empty:
                yield None
    finally:
        stopped.set()
        _threads.difference_update([old for old in _threads if not old.is_alive()])
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def wait_for_threads(timeout_s: float = STOP_WAIT_S) -> None:
    """Give stopped threads time to end, ``timeout_s`` at most."""
    deadline = time.monotonic() + timeout_s
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))


def finish(
    recipe: Recipe,
    *,
    on_status: Callable[[Status], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    wait_s: float = STOP_WAIT_S,
) -> Any:
    """Drive a recipe to its end on this thread and return its result.

    ``should_stop`` is asked at least every `TICK_S`, also in the middle of long work in a thread.  Raises
    `JobCancelled` then, and whatever the recipe raises; its thread gets up to ``wait_s`` seconds to tell the server.  A
    process that lives on waits 0 seconds: the thread ends by itself.
    """
    try:
        while True:
            if should_stop is not None and should_stop():
                raise JobCancelled(CANCELLED)
            try:
                status = next(recipe)
            except StopIteration as end:
                return end.value
            if status is None:
                time.sleep(TICK_S)
            elif on_status is not None:
                on_status(status)
    except BaseException:
        recipe.close()
        wait_for_threads(wait_s)
        raise


# ── What this session knows (filled by whoever learns it, read by panels) ────────────────────────────────────────────

_welcomes: dict[str, Welcome] = {}
_last_server = ""
_last_takes: dict[str, Any] = {}


def remember_server(server: str, welcome: Welcome) -> None:
    """Keep what ``server`` said of itself for the panels."""
    global _last_server
    _welcomes[server] = welcome
    _last_server = server


def known_server(server: str | None = None) -> Welcome | None:
    """What ``server`` (None: whichever answered last) said when it was last asked; None when it never was.  No
    network.
    """
    return _welcomes.get(server if server is not None else _last_server)


def known_capabilities(server: str | None = None) -> Capabilities | None:
    """What `known_server` offers."""
    welcome = known_server(server)
    return welcome.capabilities if welcome is not None else None


def forget_servers() -> None:
    """As if none had been asked."""
    _welcomes.clear()


def words_of_server(welcome: Welcome) -> str:
    """One line for people: which server, on what."""
    return f"{welcome.server} on {', '.join(welcome.capabilities.devices)}"


def remember_take(scene, take) -> None:
    """Keep ``take`` as the last one of ``scene``."""
    _last_takes[scene.name] = take


def last_take(scene):
    """The last take of ``scene`` in this session, or None."""
    return _last_takes.get(scene.name)


def forget_takes() -> None:
    """Another file was opened: the scenes are other scenes."""
    _last_takes.clear()


# ── The one job that runs in the window ─────────────────────────────────────────────────────────────────────────────


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
                status = next(self._recipe)
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

_preview: Path | None = None


def show_idle(session) -> None:
    """Nothing was asked for yet."""
    for line in ("job", "server"):
        _set_line(session, line, "IDLE", "")


def show_begin(session, name: str, line: str = "job") -> None:
    """A job begins; it is shown in the panel's ``line`` "job" or "server"."""
    global _preview
    _preview = None
    _set_line(session, line, "RUNNING", name)


def show_status(session, status: Status, line: str = "job") -> None:
    """A step of the running job, and its preview if it has one."""
    global _preview
    _set_line(session, line, "RUNNING", status.text, status.fraction)
    if status.preview:
        suffix = ".jpg" if status.preview[:2] == b"\xff\xd8" else ".png"
        try:
            path = preferences.user_folder("previews") / f"step{suffix}"
            path.write_bytes(status.preview)
        except OSError as error:  # the take needs no preview
            LOGGER.warning("The step preview cannot be written: %s", error)
        else:
            _preview = path


def show_end(session, words: str, error: BaseException | None, line: str = "job") -> None:
    """The job is over: what came of it, or why nothing did."""
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


def preview_path() -> Path | None:
    """The picture of the running job's last step, or None."""
    return _preview


def log_status(status: Status) -> None:
    """A line for whoever reads the log of a headless render."""
    LOGGER.info("%3.0f%% %s", 100 * status.fraction, status.text)
