# SPDX-License-Identifier: GPL-3.0-or-later
"""The window's queue: jobs that wait are of the moment of the press; order, pause, cancel, and failed ones again."""

import tempfile

import bpy
import pytest

from das_blender_addon.child import scratch
from das_blender_addon.jobs import noted
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive, recent
from das_blender_addon.take.pending import pending_takes
from das_blender_addon.ui import job_operators, queue_panel, saving, session
from tests.blender.test_panels import drawn, words
from tests.support.window import shown, tick_until

TAKE = job_operators.DAS_OT_render_take


@pytest.fixture(autouse=True)
def empty_queue(monkeypatch):
    monkeypatch.setattr(session, "BUDGET_S", 0.0)
    yield
    session.queue.clear()
    session.stop_job()
    drive.wait_for_threads(60.0)


def steps(name: str, done: list, *, fails: bool = False):
    """A recipe that says two things, and that ``name`` is done."""
    yield drive.Status("test", name, 0.5)
    yield drive.Status("test", name, 0.7)
    if fails:
        raise RuntimeError("no")
    done.append(name)
    return name


def add(name: str, done: list, **how) -> session.SessionJob:
    recipe = steps(name, done, **how)
    job = session.SessionJob(name, recipe, lambda _status: None, lambda *_end: None)
    session.add_job(job)
    return job


def press_take(scene) -> int:
    recipe, note = noted.noted_takes(scene, noted.TAKE, [resolve_settings(scene)], in_child=True)
    return job_operators.begin(TAKE, scene, recipe, note)


def run_all() -> None:
    """Tick whatever runs, until nothing does."""
    while (job := session.running_job()) is not None:
        tick_until(job, lambda: False)


def names() -> list[str]:
    return [job.name for job in session.queue.waiting]


@pytest.mark.any_blender
def test_jobs_start_in_their_order_which_can_be_changed(scene):
    done = []
    for name in "abcd":
        add(name, done)
    assert session.running_job().name == "a" and names() == ["b", "c", "d"]
    assert bpy.ops.das.queue_move(place=2, by=-1) == {"FINISHED"} and names() == ["b", "d", "c"]
    assert bpy.ops.das.queue_move(place=0, by=-1) == {"FINISHED"} and names() == ["b", "d", "c"]
    assert bpy.ops.das.queue_cancel(place=0) == {"FINISHED"} and names() == ["d", "c"]
    assert bpy.ops.das.queue_cancel(place=7) == {"CANCELLED"} and names() == ["d", "c"]
    run_all()
    assert done == ["a", "d", "c"] and not session.queue.waiting


@pytest.mark.any_blender
def test_paused_queue_starts_nothing_and_a_failure_or_a_cancel_does_not_stop_it(scene):
    done = []
    add("a", done, fails=True), add("b", done), add("c", done), add("d", done)
    assert bpy.ops.das.queue_pause() == {"FINISHED"} and session.queue.is_paused
    run_all()
    assert done == [] and names() == ["b", "c", "d"]
    assert add("e", done).is_running and names()[-1] == "e"  # also when nothing runs
    assert bpy.ops.das.queue_pause() == {"FINISHED"} and session.running_job().name == "b"
    assert bpy.ops.das.cancel() == {"FINISHED"}
    run_all()
    assert done == ["c", "d", "e"]


def test_waiting_take_is_that_of_the_press(shot_scene, tmp_path):
    """Settings and scene; the note of each is there until it ends, and its copy of the file goes with it."""
    scene = shot_scene
    scene.frame_end, scene.das.cache_folder = 3, str(tmp_path / "cache")
    held = scratch.held_bytes("copy")
    scene.das.prompt = "first"
    assert press_take(scene) == 0
    scene.das.prompt, scene.das.seed, scene.frame_end = "second", 9, 4
    assert press_take(scene) == 1
    (waiting,) = session.queue.waiting
    assert waiting.about == "seed 9 · second" and scratch.held_bytes("copy") > held
    assert TAKE.poll(bpy.context) and not job_operators.DAS_OT_test_connection.poll(bpy.context)
    bpy.data.objects.remove(scene.objects["Cube"])
    scene.das.prompt = "third"
    run_all()
    take = recent.last_take(scene)
    assert (take.report["prompt"], take.report["seed"], take.frame_numbers) == ("second", 9, (1, 2, 3, 4))
    assert shown().job_state == "DONE" and scratch.held_bytes("copy") == held
    assert pending_takes(take.folder.parents[1]) == [] and not list(take.folder.parents[1].glob("pending/*"))


@pytest.mark.any_blender
def test_failed_take_is_listed_with_its_reason_and_made_again(shot_scene, tmp_path):
    scene = shot_scene
    scene.frame_end, scene.das.cache_folder, scene.das.seed = 3, str(tmp_path / "cache"), 4
    scene.camera.location.x += 100.0
    press_take(scene)
    scene.das.seed = 5
    run_all()
    (failed,) = session.queue.failed
    assert shown().job_state == "FAILED" and failed.words == shown().job_line and failed.about == "seed 4"
    scene.camera.location.x -= 100.0
    recipe, note = noted.noted_takes(scene, failed.note.kind, failed.note.settings)
    recipe.close()
    assert bpy.ops.das.queue_retry(place=0) == {"FINISHED"}
    run_all()
    assert recent.last_take(scene).report["seed"] == 4 and not session.queue.failed
    scene.camera.location.x += 100.0
    press_take(scene)
    run_all()
    assert bpy.ops.das.queue_dismiss(place=0) == {"FINISHED"} and not session.queue.failed


def test_queue_is_bounded_by_number_and_by_disk(shot_scene, monkeypatch):
    done = []
    add("a", done), add("b", done)
    assert session.no_room() == ""
    monkeypatch.setattr(session, "MOST_WAITING", 1)
    assert "1 jobs wait already" in session.no_room()
    monkeypatch.setattr(session, "MOST_WAITING", 9)
    folder = scratch.Scratch("copy")
    with open(f"{folder.name}/large", "wb") as file:
        file.truncate(1 << 30)
    monkeypatch.setattr(session, "COPIES_SHARE", 1e-6)
    assert "1.1 GB of the temporary folder" in session.no_room()
    folder.cleanup()
    assert tempfile.gettempdir() and session.no_room() == ""


def test_note_of_a_waiting_take_goes_where_its_file_is_saved(shot_scene, tmp_path):
    scene = shot_scene
    scene.das.cache_folder = ""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a" / "work.blend"))
    add("first", [])
    press_take(scene)
    (job,) = session.queue.waiting
    assert job.note.path.is_relative_to(tmp_path / "a")
    saving.begin_saving()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "work.blend"))
    saving.end_saving()
    assert job.note.path.is_relative_to(tmp_path / "b") and job.note.path.is_file()
    assert not list((tmp_path / "a").rglob("pending/*.json"))
    assert bpy.ops.das.queue_cancel(place=0) == {"FINISHED"} and not job.note.path.exists()


def test_panel_is_there_while_there_is_something_to_show(shot_scene):
    assert not queue_panel.DAS_PT_queue.poll(bpy.context)
    add("a", []), add("b", [])
    press_take(shot_scene)
    assert queue_panel.DAS_PT_queue.poll(bpy.context)
    session.queue.is_paused = True
    session.queue.failed.append(session.queue.waiting[1])
    told = words(queue_panel.DAS_PT_queue)
    assert "1. b" in told and "2. Render Take · seed 0" in told and "Paused" in told and "Render Take failed" in told
    assert {"das.queue_move", "das.queue_cancel", "das.queue_retry"} <= set(drawn(queue_panel.DAS_PT_queue))
