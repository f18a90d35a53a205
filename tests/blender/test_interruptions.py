# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes between a job and its end: undo, saving, another file, what is removed, a dying server, Esc."""

import os
import signal
import threading
import time

import addon_utils
import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat, engine
from das_blender_addon.errors import JobCancelled, SceneError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene import stepping_note, walking
from das_blender_addon.scene.stepping import stepping
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive, recent, recipes
from das_blender_addon.ui import job_operators, session
from tests.blender.test_engine import running_jobs
from tests.support.scenes import add_cube
from tests.support.server import running_server

LIMIT_S = 600.0
"""Longest time that a take of a test may need on a busy machine."""


def shown():
    return bpy.context.window_manager.das


@pytest.fixture
def exporting(shot_scene, monkeypatch):
    """A window's job in the middle of its export; the scene has a cube that is shown in renders only."""
    monkeypatch.setattr(session, "BUDGET_S", 0.0)  # one status a tick
    add_cube(shot_scene, "Hidden", location=(0.0, 2.0, 1.0)).hide_viewport = True
    eyed = add_cube(shot_scene, "Eye shut", location=(0.0, 2.0, -1.0))
    eyed.hide_set(True)
    cube = shot_scene.objects["Cube"]
    cube.modifiers.new("Smooth", "SUBSURF").levels = 0
    cube.select_set(True)
    bpy.context.view_layer.objects.active = cube
    shot_scene.frame_set(3)
    bpy.ops.ed.undo_push(message="before")
    shot_scene.das.prompt = "changed"
    bpy.ops.ed.undo_push(message="after")
    job = start_as_in_window(job_operators.DAS_OT_preview_tracking, preview_of(shot_scene))
    while "frame 5" not in shown().job_line:
        assert job.tick() is not None
    assert not bpy.data.objects["Hidden"].hide_viewport and shot_scene.frame_current != 3
    assert not eyed.hide_get() and cube.modifiers[0].levels == 2
    yield job
    session.stop_job()


def assert_as_it_was() -> None:
    scene = bpy.context.scene
    cube = scene.objects["Cube"]
    assert scene.frame_current == 3 and stepping_note.KEY not in scene
    assert scene.objects["Hidden"].hide_viewport and scene.objects["Eye shut"].hide_get()
    assert cube.modifiers[0].levels == 0 and cube.select_get() and bpy.context.view_layer.objects.active == cube


def assert_stopped_as_it_was(job, words: str) -> None:
    assert not job.is_running and job.tick() is None
    assert shown().job_state == "CANCELLED" and words in shown().job_line
    assert_as_it_was()


def test_undo_stops_an_export_and_finds_the_scene_as_it_was(exporting):
    bpy.ops.ed.undo()
    assert bpy.context.scene.das.prompt == ""
    assert_stopped_as_it_was(exporting, "undone or redone")


def test_saving_stops_an_export_and_keeps_the_scene_as_it_was(exporting, tmp_path):
    file = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file)
    assert_stopped_as_it_was(exporting, "was saved")
    bpy.ops.wm.open_mainfile(filepath=file)
    assert_as_it_was()


def test_undo_step_of_another_operator_during_an_export_comes_back_as_the_scene_was(exporting):
    bpy.ops.ed.undo_push(message="of another operator")
    while exporting.tick() is not None:
        time.sleep(0.01)
    assert shown().job_state == "DONE"
    assert_as_it_was()
    bpy.context.scene.das.prompt = "later"
    bpy.ops.ed.undo_push(message="later")
    bpy.ops.ed.undo()
    assert bpy.context.scene.das.prompt == "changed"
    assert_as_it_was()
    bpy.ops.ed.undo()
    bpy.ops.ed.redo()
    assert bpy.context.scene.das.prompt == "changed"
    assert_as_it_was()


def test_file_that_was_kept_without_asking_during_an_export_opens_as_the_scene_was(exporting, tmp_path):
    file = str(tmp_path / "kept.blend")
    bpy.data.libraries.write(file, {bpy.context.scene})  # as automatic saving, it calls nobody
    assert exporting.is_running
    bpy.ops.wm.open_mainfile(filepath=file)
    assert_as_it_was()


def rendered_during(exporting, folder, **arguments) -> list[np.ndarray]:
    """The pictures of a render by our engine that comes between two frames of the export, which then goes on."""
    scene = bpy.context.scene
    scene.render.filepath = str(folder / "####")
    compat.set_image_output(scene)
    standing = scene.frame_current
    bpy.ops.render.render(**arguments)
    assert exporting.is_running and scene.frame_current == standing != 3
    while exporting.tick() is not None:
        time.sleep(0.01)
    assert shown().job_state == "DONE"
    assert_as_it_was()
    return [decode_png(path.read_bytes()) for path in sorted(folder.iterdir())]


def test_still_during_an_export_is_of_the_frame_that_the_user_sees(exporting, tmp_path):
    (still,) = rendered_during(exporting, tmp_path, write_still=True)
    take = api.render_take(bpy.context.scene)
    assert take.cached  # the same tracking video, whatever the walk has changed
    np.testing.assert_array_equal(still, decode_png(take.frames[2].read_bytes()))
    assert len({path.read_bytes() for path in take.frames}) == len(take.frames)


def test_animation_during_an_export_has_every_frame_in_its_place(exporting, tmp_path):
    pictures = rendered_during(exporting, tmp_path, animation=True)
    take = api.render_take(bpy.context.scene)
    for picture, path in zip(pictures, take.frames, strict=True):
        np.testing.assert_array_equal(picture, decode_png(path.read_bytes()))


def test_copy_of_a_scene_made_during_an_export_carries_no_note_later(exporting):
    copy = bpy.context.scene.copy()
    session.stop_job()
    assert stepping_note.KEY not in copy
    assert_as_it_was()


def test_note_of_another_scene_is_not_followed(scene):
    cube = add_cube(scene, "Cube")
    with stepping(scene):
        note = scene[stepping_note.KEY]
    cube.hide_viewport = True
    scene.frame_set(7)
    for wrong in (note.replace('"Scene"', '"Another"'), "no note", "[]", "{}"):
        scene[stepping_note.KEY] = wrong
        stepping_note.set_back_noted()
        assert stepping_note.KEY not in scene and scene.frame_current == 7


def test_saving_leaves_a_job_alone_that_has_left_the_scene(shot_scene, tmp_path):
    job = session.SessionJob("test", drive.in_thread(lambda *_: time.sleep(0.2)), print, lambda *_: None)
    session.start_job(job)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "saved.blend"))
    assert job.is_running
    session.stop_job()


def test_what_is_removed_during_an_export_keeps_nothing_else_from_being_set_back(shot_scene):
    shown = [add_cube(shot_scene, name, location=(0.0, 2.0, 1.0)) for name in ("One", "Two", "Three")]
    for shape in shown:
        shape.hide_viewport = True
    shot_scene.frame_set(3)
    with stepping(shot_scene) as step:
        step(5)
        bpy.data.objects.remove(bpy.data.objects["Two"])
    assert bpy.data.objects["One"].hide_viewport and bpy.data.objects["Three"].hide_viewport
    assert shot_scene.frame_current == 3


def test_parts_that_are_removed_during_an_export_are_left_out(shot_scene):
    cube, hidden = shot_scene.objects["Cube"], bpy.data.collections.new("Hidden")
    for name in ("First", "Second"):
        cube.modifiers.new(name, "SUBSURF").levels = 0
    shot_scene.collection.children.link(hidden)
    bpy.context.view_layer.layer_collection.children["Hidden"].hide_viewport = True
    with stepping(shot_scene) as step:
        step(5)
        cube.modifiers.remove(cube.modifiers["First"])
        shot_scene.collection.children.unlink(hidden)
    assert [(one.name, one.levels) for one in cube.modifiers] == [("Second", 0)] and shot_scene.frame_current == 1


def test_view_layer_that_is_removed_during_an_export_is_named(shot_scene):
    shot_scene.view_layers.new("Other")
    shot_scene.frame_set(3)
    with pytest.raises(SceneError, match="The view layer 'ViewLayer' is gone"):
        with stepping(shot_scene) as step:
            step(5)
            shot_scene.view_layers.remove(shot_scene.view_layers["ViewLayer"])
            step(6)
    assert shot_scene.frame_current == 3


# ── What must not leave a job running for ever in the panel ─────────────────────────────────────────────────────────


def start_as_in_window(operator, recipe) -> session.SessionJob:
    """As a click on the button does; timers do not run in the background, so the tests tick."""
    session.show_begin(shown(), operator.bl_label, operator.line)
    told = job_operators.shown_in_window(operator, bpy.context.scene.name)
    job = session.SessionJob(operator.bl_label, recipe, *told)
    session.start_job(job)
    return job


def tick_until(job, condition) -> None:
    """Tick the job until ``condition()``, or to its end."""
    deadline = time.monotonic() + LIMIT_S
    while not condition() and job.tick() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def tick_to_the_end(job) -> None:
    tick_until(job, lambda: False)
    assert not job.is_running and session.running_job() is None


def steps(*said):
    """A recipe that says ``said``."""
    yield from said


def preview_of(scene):
    return recipes.tracking_preview(scene, resolve_settings(scene))


def take_of(scene, monkeypatch):
    monkeypatch.setattr(session, "BUDGET_S", 0.0)  # one status a tick
    return start_as_in_window(
        job_operators.DAS_OT_render_take, recipes.take_outside_render(scene, resolve_settings(scene))
    )


def test_job_ends_when_its_result_cannot_be_shown(shot_scene, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such colour space")

    monkeypatch.setattr(job_operators, "show_image", broken)
    tick_to_the_end(start_as_in_window(job_operators.DAS_OT_preview_tracking, preview_of(shot_scene)))
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
    monkeypatch.setattr(session, "user_folder", lambda name: blocked / name)
    job = start_as_in_window(
        job_operators.DAS_OT_test_connection, steps(drive.Status("test", "one", 0.5, b"\xff\xd8"), None)
    )
    assert job.tick() is not None and shown().server_line == "one" and session.preview_path() is None
    session.stop_job()


def test_take_whose_scene_is_removed_says_so(shot_scene, monkeypatch):
    job = take_of(shot_scene, monkeypatch)
    tick_until(job, lambda: "Exporting" in shown().job_line)
    bpy.data.scenes.new("Other")
    bpy.data.scenes.remove(shot_scene)
    tick_to_the_end(job)
    assert shown().job_state == "FAILED" and "The scene 'Scene' was removed" in shown().job_line


def test_take_whose_scene_is_removed_before_its_export_says_so(shot_scene, monkeypatch):
    job = take_of(shot_scene, monkeypatch)
    tick_until(job, lambda: "Asking" in shown().job_line)
    bpy.data.scenes.new("Other")
    bpy.data.scenes.remove(shot_scene)
    tick_to_the_end(job)
    assert shown().job_state == "FAILED" and "removed or renamed" in shown().job_line


def test_undo_leaves_a_take_alone_that_has_left_the_scene(shot_scene, monkeypatch):
    bpy.ops.ed.undo_push(message="before")
    shot_scene.frame_end = 8
    bpy.ops.ed.undo_push(message="after")
    job = take_of(shot_scene, monkeypatch)
    tick_until(job, lambda: "Exporting frame 8" in shown().job_line)
    tick_until(job, lambda: "Exporting" not in shown().job_line)
    bpy.ops.ed.undo()
    assert job.is_running and bpy.context.scene.frame_end == 9
    tick_to_the_end(job)
    assert shown().job_state == "DONE" and "8 frames" in shown().job_line
    assert len(recent.last_take(bpy.context.scene).frames) == 8


def test_opening_a_file_ends_a_take(shot_scene, monkeypatch):
    job = take_of(shot_scene, monkeypatch)
    tick_until(job, lambda: "Exporting" in shown().job_line)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert not job.is_running and session.running_job() is None and job.tick() is None
    assert (shown().job_state, shown().job_line) == ("IDLE", "")


def test_disabling_the_extension_ends_a_take(shot_scene, monkeypatch):
    job = take_of(shot_scene, monkeypatch)
    tick_until(job, lambda: "Exporting frame 5" in shown().job_line)
    addon_utils.disable("das_blender_addon")
    try:
        assert not job.is_running and job.tick() is None and shot_scene.frame_current == 1
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)
    assert shown().job_state != "RUNNING"


WORKING = ("Waiting", "Loading", "Encoding", "Denoising")
SILENT = "No answer from the server for"


def test_server_that_dies_ends_a_take(shot_scene, monkeypatch, tmp_path):
    monkeypatch.setenv("DAS_TIMEOUT_S", "8")
    with running_server(tmp_path / "server") as server:
        shot_scene.das.server, shot_scene.das.seed = server.address, 98
        job = take_of(shot_scene, monkeypatch)
        tick_until(job, lambda: shown().job_line.startswith(WORKING))
        server.kill()
        tick_until(job, lambda: shown().job_line.startswith(SILENT))
        assert job.is_running and shown().job_line.endswith(" s") and shown().progress > 0.3
        tick_to_the_end(job)
    assert shown().job_state == "FAILED" and "fell silent" in shown().job_line


def test_take_goes_on_with_a_server_that_was_silent(shot_scene, monkeypatch, tmp_path):
    lines = []
    with running_server(tmp_path / "server") as server:
        shot_scene.das.server, shot_scene.das.seed = server.address, 97
        job = take_of(shot_scene, monkeypatch)
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


def test_no_scene_is_walked_while_blender_renders(shot_scene, monkeypatch):
    rendering = True
    for module in (job_operators, walking):
        monkeypatch.setattr(module, "is_rendering", lambda: rendering)
    job = start_as_in_window(job_operators.DAS_OT_preview_tracking, preview_of(shot_scene))
    for _ in range(3):
        assert job.tick() == drive.TICK_S and shot_scene.frame_current == 1
    assert shown().job_line == "Waiting for Blender's render to end"
    session.stop_job()
    with pytest.raises(RuntimeError, match="Blender is rendering"):
        bpy.ops.das.preview_tracking()
    rendering = False
    tick_to_the_end(start_as_in_window(job_operators.DAS_OT_preview_tracking, preview_of(shot_scene)))
    assert shown().job_state == "DONE"


def test_stopped_job_does_not_wait_for_its_thread_unless_asked_to():
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work(should_stop, say):
        started.set()
        while not should_stop():
            time.sleep(0.01)
        release.wait(1.0)
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
    _wanted_frame = engine.DAS_RE_engine._wanted_frame
    _make_take = engine.DAS_RE_engine._make_take
    _warn = engine.DAS_RE_engine._warn
    _give = engine.DAS_RE_engine._give

    is_animation = False

    def __init__(self, scene, esc: threading.Event):
        self.scene, self.test_break = scene, esc.is_set
        self.resolution_x, self.resolution_y = scene.render.resolution_x, scene.render.resolution_y
        self.reports, self.stats = [], []

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


def test_esc_ends_a_render_without_pixels_or_error_and_cancels_its_job(shot_scene, tmp_path):
    esc = threading.Event()
    with running_server(tmp_path / "server") as server:
        shot_scene.das.server, shot_scene.das.size, shot_scene.das.seed = server.address, "240x160", 97

        def press() -> None:
            server.wait_until(running_jobs, "the job started", LIMIT_S)
            esc.set()

        thread = threading.Thread(target=press)
        thread.start()
        user = EnginesUser(shot_scene, esc)
        user.render(bpy.context.evaluated_depsgraph_get())
        assert esc.is_set() and user.stats and not user.reports
        thread.join()
        server.wait_until(lambda status: not running_jobs(status), "the job stopped", LIMIT_S)
        assert [job["state"] for job in server.status()["jobs"]] == ["CANCELLED"]
    assert shot_scene.frame_current == 1
