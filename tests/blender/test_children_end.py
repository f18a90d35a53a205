# SPDX-License-Identifier: GPL-3.0-or-later
"""Every way in which a job's child Blender ends: cancelled, killed, or left by its Blender; and that nothing stays."""

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import addon_utils
import bpy
import pytest

from das_blender_addon import api, errors
from das_blender_addon.child import process, warm
from das_blender_addon.take import drive
from das_blender_addon.ui import session
from tests.blender.test_first_frame import ENDLESS
from tests.support.children import (
    child_blenders,
    kill_child_blenders,
    lives,
    scratch_folders,
    wait_until_gone,
)
from tests.support.window import JOBS, LIMIT_S, press, recipe_of, shown, tick_to_line, tick_to_the_end

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    """A temporary folder of this test's, and no child of an earlier one; nothing is left in it."""
    drive.wait_for_threads(LIMIT_S)
    warm.end_child()
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(session, "BUDGET_S", 0.0)  # one status a tick
    yield folder
    session.stop_job()
    drive.wait_for_threads(LIMIT_S)
    warm.end_child()
    assert child_blenders() == [] and scratch_folders() == []


@pytest.fixture
def slow(shot_scene, tmp_path):
    """A shot whose export takes seconds and whose first frame never ends."""
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    shot_scene.das.first_frame_samples = ENDLESS
    smooth = shot_scene.objects["Cube"].modifiers.new("Smooth", "SUBSURF")
    smooth.levels, smooth.render_levels = 0, 8
    return shot_scene


def make_quick(scene) -> None:
    scene.objects["Cube"].modifiers.clear()
    scene.das.first_frame_samples = 1


def assert_next_job_works(scene) -> None:
    make_quick(scene)
    tick_to_the_end(press("first frame", scene))
    assert shown().job_state == "DONE", shown().job_line


def assert_nothing_is_left() -> None:
    """But a child that is kept for the next job."""
    drive.wait_for_threads(LIMIT_S)
    assert scratch_folders("das-copy-*", "das-geometry-*", "das-clip-*") == []
    kept = child_blenders()
    assert len(kept) <= 1
    warm.end_child()
    assert child_blenders() == [] and scratch_folders() == []


STAGES = [
    ("preview", "Opening a copy"),
    ("preview", "Exporting frame 2"),
    ("first frame", "First frame"),
    ("take", "Asking"),
    ("take", "Exporting frame 2"),
    ("take", "Rendering the first frame"),
    ("take", "First frame"),
    ("clip", "Exporting frame 2"),
    ("clip", "Rendering frame"),
]


@pytest.mark.any_blender
@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_cancelled_job_leaves_nothing(slow, name, stage, tmp_path):
    if not stage.startswith("Exporting"):
        slow.objects["Cube"].modifiers.clear()
    job = press(name, slow, tmp_path / "clips")
    tick_to_line(job, stage)
    bpy.ops.das.cancel()
    assert job.tick() is None and not job.is_running
    assert shown().job_state == "CANCELLED"
    assert_nothing_is_left()


@pytest.mark.parametrize("name", JOBS)
def test_job_that_never_began_leaves_nothing(slow, name, tmp_path):
    recipe_of(name, slow, tmp_path / "clips").close()
    assert_nothing_is_left()


@pytest.mark.any_blender
def test_job_right_after_a_cancelled_export_works(slow):
    """The child of the first one is still at a frame."""
    slow.objects["Cube"].modifiers["Smooth"].render_levels = 9
    job = press("preview", slow)
    tick_to_line(job, "Exporting frame 2")
    session.stop_job()
    assert_next_job_works(slow)


def test_warm_child_serves_the_next_job(shot_scene, tmp_path, monkeypatch):
    """Whatever overrides the settings of a job."""
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    tick_to_the_end(press("preview", shot_scene))
    children = child_blenders()
    assert len(children) == 1
    for seed in (1, 2):
        monkeypatch.setenv("DAS_SEED", str(seed))
        tick_to_the_end(press("first frame", shot_scene))
        assert shown().job_state == "DONE" and child_blenders() == children
    assert scratch_folders("das-copy-*") == []


@pytest.mark.any_blender
def test_cancelled_export_keeps_its_child_warm(slow, monkeypatch):
    monkeypatch.setattr(process, "STOP_LIMIT_S", LIMIT_S)  # its frame takes long where other programs work
    job = press("preview", slow)
    tick_to_line(job, "Exporting frame 2")
    children = child_blenders()
    session.stop_job()
    drive.wait_for_threads(LIMIT_S)
    assert child_blenders() == children
    make_quick(slow)
    tick_to_the_end(press("preview", slow))
    assert shown().job_state == "DONE" and child_blenders() == children


@pytest.mark.any_blender
@pytest.mark.parametrize(
    ("name", "stage", "failed"),
    [
        ("preview", "Exporting frame 2", "The scene could not be exported"),
        ("first frame", "First frame", "The picture could not be rendered with CYCLES"),
        ("clip", "Rendering frame", "The picture could not be rendered with CYCLES"),
    ],
)
def test_job_whose_child_is_killed_says_so_and_the_next_one_works(slow, name, stage, failed, tmp_path):
    if name != "preview":
        slow.objects["Cube"].modifiers.clear()
    job = press(name, slow, tmp_path / "clips")
    tick_to_line(job, stage)
    assert len(kill_child_blenders()) == 1
    tick_to_the_end(job)
    assert (shown().job_state, shown().job_line) == (
        "FAILED",
        f"{failed}: the child Blender was killed (signal 9).",
    )
    assert scratch_folders() == [] and child_blenders() == []
    assert_next_job_works(slow)


@pytest.mark.any_blender
def test_child_that_dies_between_two_jobs_is_replaced(shot_scene, tmp_path):
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    tick_to_the_end(press("preview", shot_scene))
    (child,) = kill_child_blenders()
    assert wait_until_gone([child], LIMIT_S)
    assert_next_job_works(shot_scene)
    assert child not in child_blenders()


@pytest.mark.parametrize("answers", [True, False], ids=["answers", "stands still"])
def test_disabling_the_extension_ends_job_and_child(slow, answers):
    """Also one that does not see in time that it is to stop, and is killed."""
    job = press("preview", slow)
    tick_to_line(job, "Exporting frame 2")
    assert child_blenders()
    for pid in [] if answers else child_blenders():
        os.kill(pid, signal.SIGSTOP)
    addon_utils.disable("das_blender_addon")
    try:
        assert not job.is_running and job.tick() is None
        assert child_blenders() == [] and scratch_folders() == []
    finally:
        addon_utils.enable("das_blender_addon", default_set=True)
    assert shown().job_state != "RUNNING"


def test_full_temporary_folder_is_told(shot_scene, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(errors.StorageError, match="temporary folder"):
        recipe_of("preview", shot_scene, tmp_path)
    with pytest.raises(errors.StorageError, match="temporary folder"):
        api.export_tracking(shot_scene)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@pytest.mark.parametrize("stage", ["exporting", "first frame"])
def test_child_ends_with_its_blender(slow, own_temporary_folder, tmp_path, stage):
    """Also one that is killed: nothing is left running, and no copy of the scene."""
    if stage != "exporting":
        slow.objects["Cube"].modifiers.clear()
    file = tmp_path / "scene.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import bpy, addon_utils
        addon_utils.enable("das_blender_addon", default_set=True)
        bpy.ops.wm.open_mainfile(filepath={str(file)!r})
        from das_blender_addon.take import drive
        from tests.support.children import child_blenders
        from tests.support.window import recipe_of
        def killed(status):
            if status.stage == {stage!r} and " 2/" in status.text or status.stage == "first frame":
                children = child_blenders()
                if children:
                    print("CHILD", *children, flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
        drive.finish(recipe_of("take", bpy.context.scene, None), on_status=killed)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(own_temporary_folder), "BLENDER_USER_RESOURCES": str(tmp_path / "profile")},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    children = [int(pid) for pid in done.stdout.split("CHILD ")[1].split()]
    try:
        assert len(children) == 1 and wait_until_gone(children, LIMIT_S), "the child goes on"
    finally:
        for pid in filter(lives, children):
            os.kill(pid, signal.SIGKILL)
