# SPDX-License-Identifier: GPL-3.0-or-later
"""How a job of a window ends, whatever breaks: never as one that runs for ever in the panel; and Esc in a render."""

import os
import signal
import threading
import time

import bpy
import pytest

from das_blender_addon import engine
from das_blender_addon.errors import JobCancelled
from das_blender_addon.take import drive
from das_blender_addon.ui import job_operators, session, step_preview
from tests.blender.test_engine import ENDLESS_STEPS, running_jobs
from tests.support.server import running_server
from tests.support.window import LIMIT_S, press, shown, start_as_in_window, tick_to_the_end, tick_until

pytestmark = pytest.mark.usefixtures("one_status_a_tick")


def steps(*said):
    """A recipe that says ``said``."""
    yield from said


@pytest.mark.any_blender
def test_job_ends_when_its_result_cannot_be_shown(shot_scene, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such colour space")

    monkeypatch.setattr(job_operators, "show_image", broken)
    tick_to_the_end(press("preview", shot_scene))
    assert (shown().job_state, shown().job_line) == ("FAILED", "RuntimeError: no such colour space")


def test_job_ends_when_its_progress_cannot_be_shown(scene):
    ended = []

    def broken(_status):
        raise RuntimeError("the window is gone")

    job = session.SessionJob("test", steps(drive.Status("test", "one", 0.5)), broken, lambda *end: ended.append(end))
    session.start_job(job)
    tick_to_the_end(job)
    assert isinstance(ended[0][1], RuntimeError)


def test_job_ends_when_its_recipe_cannot_be_closed(scene):
    def stubborn():
        try:
            yield drive.Status("test", "one", 0.5)
            yield None
        finally:
            raise RuntimeError("it is stuck")

    job = start_as_in_window(job_operators.DAS_OT_test_connection, stubborn())
    job.tick()
    session.stop_job()
    assert not job.is_running and shown().server_state == "CANCELLED"


def test_preview_that_cannot_be_written_does_not_end_the_job(scene, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setattr(step_preview, "user_folder", lambda name: blocked / name)
    job = start_as_in_window(
        job_operators.DAS_OT_test_connection, steps(drive.Status("test", "one", 0.5, b"\xff\xd8"), None)
    )
    assert job.tick() is not None and shown().server_line == "one" and step_preview.preview_path() is None
    session.stop_job()


WORKING = ("Waiting", "Loading", "Encoding", "Denoising")
SILENT = "No answer from the server for"


@pytest.mark.any_blender  # a silent socket, waited for
def test_server_that_dies_ends_a_take(shot_scene, monkeypatch, tmp_path):
    monkeypatch.setenv("DAS_TIMEOUT_S", "20")
    with running_server(tmp_path / "server") as server:
        shot_scene.das.server, shot_scene.das.seed = server.address, 98
        job = press("take", shot_scene)
        tick_until(job, lambda: shown().job_line.startswith(WORKING))
        server.kill()
        tick_until(job, lambda: shown().job_line.startswith(SILENT))
        assert job.is_running and shown().job_line.endswith(" s") and shown().progress > 0.3
        tick_to_the_end(job)
    assert shown().job_state == "FAILED" and "fell silent" in shown().job_line


@pytest.mark.any_blender
def test_take_goes_on_with_a_server_that_was_silent(shot_scene, monkeypatch, tmp_path):
    lines = []
    with running_server(tmp_path / "server") as server:
        shot_scene.das.server, shot_scene.das.seed = server.address, 97
        job = press("take", shot_scene)
        tick_until(job, lambda: shown().job_line.startswith(WORKING))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            tick_until(job, lambda: shown().job_line.startswith(SILENT))
        finally:
            os.kill(server.pid, signal.SIGCONT)
        tick_until(job, lambda: lines.append(shown().job_line))
    spoken = [line for line in lines if not line.startswith(SILENT)]
    assert (
        shown().job_state == "DONE" and lines[0].startswith(SILENT) and spoken[0].startswith((*WORKING, "Receiving"))
    )


def test_stopped_job_does_not_wait_for_its_thread_unless_asked_to():
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work(should_stop, say):
        started.set()
        while not should_stop():
            time.sleep(0.01)
        release.wait(LIMIT_S)
        ended.set()

    with pytest.raises(JobCancelled):
        drive.finish(drive.in_thread(work), should_stop=started.is_set, wait_s=0.0)
    assert not ended.is_set()
    release.set()
    assert ended.wait(LIMIT_S)
    started.clear(), ended.clear()
    with pytest.raises(JobCancelled):
        drive.finish(drive.in_thread(work), should_stop=started.is_set, wait_s=LIMIT_S)
    assert ended.is_set()


class EnginesUser:
    """The engine's own code, called as Blender calls it, with a user who presses Esc: there is none without a window,
    where only Blender itself can make `test_break` true.
    """

    render = engine.DAS_RE_engine.render
    _render = engine.DAS_RE_engine._render
    _make_take = engine.DAS_RE_engine._make_take
    _warn = engine.DAS_RE_engine._warn
    _give = engine.DAS_RE_engine._give
    _step = engine.DAS_RE_engine._step

    def __init__(self, scene, esc: threading.Event):
        self.scene, self.test_break = scene, esc.is_set
        self.resolution_x, self.resolution_y = scene.render.resolution_x, scene.render.resolution_y
        self.reports, self.stats = [], []
        self.is_animation = False

    def report(self, kinds, words):
        self.reports.append((kinds, words))

    def frame_set(self, frame, subframe):
        self.scene.frame_set(frame, subframe=subframe)

    def update_progress(self, fraction):
        assert 0.0 <= fraction <= 1.0

    def update_stats(self, _title, words):
        self.stats.append(words)

    def begin_result(self, *_):
        raise AssertionError("a broken render gives pixels")


def test_esc_ends_a_render_without_pixels_or_error_and_cancels_its_job(shot_scene, server):
    esc, own_jobs = threading.Event(), server.new_jobs()
    shot_scene.das.size, shot_scene.das.seed, shot_scene.das.steps = "240x160", 97, ENDLESS_STEPS

    def press() -> None:
        server.wait_until(own_jobs, "the job started", LIMIT_S)
        esc.set()

    thread = threading.Thread(target=press)
    thread.start()
    user = EnginesUser(shot_scene, esc)
    user.render(bpy.context.evaluated_depsgraph_get())
    assert esc.is_set() and user.stats and not user.reports
    thread.join()
    server.wait_until(lambda status: not running_jobs(status), "the job stopped", LIMIT_S)
    assert [job["state"] for job in own_jobs(server.status())] == ["CANCELLED"]
    assert shot_scene.frame_current == 1
