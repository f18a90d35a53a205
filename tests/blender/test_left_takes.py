# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that a Blender began and left: found again by the window and the command, and gone on with."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bpy
import pytest

from das_blender_addon import api, commands
from das_blender_addon.client.take import Named
from das_blender_addon.errors import JobCancelled, ServerUnreachable, SettingsError
from das_blender_addon.jobs import noted
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.shot.shot_folder import shot_folder
from das_blender_addon.take import drive, fates
from das_blender_addon.take.pending import Note, PendingTake, pending_takes
from das_blender_addon.ui import kept_jobs, session, takes
from tests.blender.test_panels import drawn, words
from tests.support.window import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys, bpy, addon_utils
sys.path.insert(0, sys.argv[1])
addon_utils.enable("das_blender_addon", default_set=True)
bpy.ops.wm.open_mainfile(filepath=sys.argv[2])
bpy.context.scene.das.server = sys.argv[3]
print("begun", flush=True)
eval(sys.argv[4])
"""


@pytest.fixture
def saved(shot_scene, tmp_path):
    """Four frames in a file with a cache of its own."""
    shot_scene.frame_end = 4
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    path = tmp_path / "shot ä.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    yield path
    session.queue.clear()
    session.stop_job()
    drive.wait_for_threads(60.0)


def press_and_kill(file: Path, server, press: str) -> None:
    """A Blender that presses a button and is killed as soon as its first job is there."""
    command = [sys.executable, "-c", CHILD, str(ROOT), str(file), server.address, press]
    known = server.new_jobs()
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        server.wait_until(known, "the job came", LIMIT_S)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait(LIMIT_S)


def killed_in_the_middle(file: Path, server, press: str, steps: int) -> list:
    """A Blender that begins a take and is killed as soon as its job has a name; what it left."""
    bpy.context.scene.das.steps = steps
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    folder = shot_folder(bpy.context.scene, bpy.context.scene.das.cache_folder)
    press_and_kill(file, server, press)
    bpy.ops.wm.open_mainfile(filepath=str(file))
    bpy.context.scene.das.server = server.address
    return pending_takes(folder)


def fetch(press=None):
    """Press *Fetch* of the first one that is listed, as a window does, and wait for its end."""
    (left, *_) = kept_jobs.kept.look(bpy.context.scene, wait=True)
    assert bpy.ops.das.fetch_left_take(key=left.note.key) == {"FINISHED"}


def frames_of(take) -> list[bytes]:
    return [path.read_bytes() for path in take.frames]


@pytest.mark.any_blender
def test_take_of_a_killed_blender_is_fetched_and_its_job_made_once(saved, server, capsys, tmp_path):
    own = server.new_jobs()
    press = "bpy.ops.das.render_take()"
    (note,) = killed_in_the_middle(saved, server, press, steps=40)
    scene = bpy.context.scene
    assert note.kind == "take" and note.scene == "Scene" and len(note.jobs) == 1
    assert commands.main(["takes", "list", "--json"]) == 0
    (begun,) = json.loads(capsys.readouterr().out.splitlines()[-1])["begun"]
    assert begun["jobs"] == list(note.jobs.values()) and begun["state"] in ("running", "finished")
    scene.das.seed, scene.das.prompt = 77, "something else"  # what was noted counts
    server.wait_until(lambda status: all(one["state"] == "DONE" for one in own(status)), "it went on alone", LIMIT_S)
    (left,) = kept_jobs.KeptJobs().look(scene, wait=True)
    assert left.fate == fates.FINISHED and "finished on the server" in left.words
    kept_jobs.kept.look(scene, wait=True)
    assert "A take finished while you were away" in words(takes.DAS_PT_takes)
    assert {"das.fetch_left_take", "das.forget_left_take"} <= set(drawn(takes.DAS_PT_takes))
    fetch()
    assert len(own(server.status())) == 1 and pending_takes(note.path.parents[1]) == []
    fetched = api.render_take(scene, seed=0, prompt="")
    assert fetched.cached and fetched.job_id == note.jobs[0, 0]
    assert kept_jobs.KeptJobs().look(scene, wait=True) == []
    elsewhere = api.render_take(scene, seed=0, prompt="", folder=tmp_path / "elsewhere")
    assert frames_of(elsewhere) == frames_of(fetched)


@pytest.mark.any_blender
def test_variations_of_a_killed_blender_are_fetched_all_and_a_changed_scene_refuses(saved, server):
    own = server.new_jobs()
    press = "bpy.ops.das.variations(seeds='5,6')"
    (note,) = killed_in_the_middle(saved, server, press, steps=40)
    scene = bpy.context.scene
    assert note.kind == "variations" and [one.seed for one in note.settings] == [5, 6]
    place = scene.objects["Cube"].location.z
    scene.objects["Cube"].location.z += 1.0
    kept_jobs.kept.look(scene, wait=True)
    with pytest.raises(RuntimeError, match="not what it was when this take was begun"):
        fetch()
    assert len(own(server.status())) == 1 and pending_takes(note.path.parents[1]) != []
    scene.objects["Cube"].location.z = place
    kept_jobs.kept.forget()
    fetch()
    assert sorted(job["seed"] for job in own(server.status())) == [5, 6]
    assert pending_takes(note.path.parents[1]) == []


@pytest.mark.any_blender
def test_note_is_there_while_it_is_made_and_goes_with_the_end(saved, shot_scene, monkeypatch):
    monkeypatch.setattr(session, "BUDGET_S", 0.0)
    settings, folder = resolve_settings(shot_scene), shot_folder(shot_scene, shot_scene.das.cache_folder)
    for ends in ("finished", "cancelled", "refused", "lost", "left"):
        away = replace(settings, server="tcp://127.0.0.1:9", timeout_s=1.0, seed=5)
        asked = away if ends == "lost" else settings
        recipe, note = noted.noted_takes(shot_scene, noted.TAKE, [asked], in_child=True)
        assert note.path.is_file() and pending_takes(folder) == []  # this process makes it
        if ends == "finished":
            drive.finish(recipe)
        elif ends == "cancelled":
            recipe.close()  # before it began
        elif ends == "left":
            drive.leave()
            recipe.close()
            drive.stay()
        elif ends == "lost":
            with pytest.raises(ServerUnreachable):
                drive.finish(recipe)
        else:
            next(recipe)
            with pytest.raises(SettingsError):
                recipe.throw(SettingsError("no"))
        assert note.path.is_file() == (ends in ("lost", "left")), ends
        for left in pending_takes(folder):
            assert left.settings == (asked,) and left.jobs == {}
            left.path.unlink()


@pytest.mark.any_blender
def test_take_that_is_made_anew_goes_on_with_its_own_job(saved, shot_scene, server):
    settings = resolve_settings(shot_scene)
    own = server.new_jobs()
    drive.finish(noted.noted_takes(shot_scene, noted.TAKE, [settings])[0])
    anew = replace(settings, anew=True)
    recipe, note = noted.noted_takes(shot_scene, noted.TAKE, [anew])
    drive.leave()
    try:
        with pytest.raises(JobCancelled):
            drive.finish(recipe, should_stop=lambda: json.loads(note.path.read_text())["jobs"] != [])
    finally:
        drive.stay()
    (left,) = pending_takes(note.path.parents[1])
    assert left.settings[0].anew_as and len(left.jobs) == 1
    drive.finish(noted.found_takes(shot_scene, left)[0])
    assert len(own(server.status())) == 2


@pytest.mark.any_blender
def test_note_of_another_server_or_of_nobody_knows_what_is_not_asked(saved, shot_scene):
    settings = resolve_settings(shot_scene)
    folder = shot_folder(shot_scene, shot_scene.das.cache_folder)
    drive.leave()
    recipe, note = noted.noted_takes(shot_scene, noted.TAKE, [settings])
    recipe.close()
    drive.stay()
    said = json.loads(note.path.read_text())
    said["settings"][0]["server"], said["jobs"] = "tcp://10.0.0.9:5599", [[0, 0, "a" * 32]]
    note.path.write_text(json.dumps(said))
    (left,) = kept_jobs.KeptJobs().look(shot_scene, wait=True)
    assert left.fate == fates.NOT_ASKED
    with pytest.raises(SettingsError, match="begun at the server tcp://10.0.0.9:5599"):
        noted.found_takes(shot_scene, left.note)
    said["settings"][0]["server"] = "tcp://127.0.0.1:9"
    note.path.write_text(json.dumps(said))
    shot_scene.das.server = "tcp://127.0.0.1:9"
    assert fates.left_takes(folder, lambda _server: "")[0].fate == fates.AWAY
    for broken in ("", "[]", "{}", json.dumps({**said, "jobs": [[3, 0, "b"]]}), json.dumps({**said, "settings": [{}]})):
        note.path.write_text(broken or " ")
        assert pending_takes(folder) == []
    note.path.write_text(json.dumps(said))
    kept_jobs.kept.look(shot_scene, wait=True)
    kept_jobs.kept.forget()
    (left,) = kept_jobs.kept.look(shot_scene, wait=True)
    assert bpy.ops.das.forget_left_take(key=left.note.key) == {"FINISHED"}
    assert pending_takes(folder) == [] and not note.path.exists()


@pytest.mark.any_blender
@pytest.mark.parametrize(
    ("jobs", "windows", "whole"),
    [
        ({(0, 0): "a"}, {0: 1}, True),
        ({(0, 0): "a"}, {0: 3}, False),  # its next window begins with a frame of this one
        ({(0, 2): "c"}, {0: 3}, True),  # the first two were there
        ({(0, 0): "a"}, {}, True),  # as an earlier release noted it
        ({(0, 0): "a", (1, 0): "b"}, {0: 1, 1: 1}, False),  # the third take was not begun
        ({(0, 0): "a", (1, 0): "b", (2, 0): "c"}, {0: 1, 1: 1, 2: 1}, True),
    ],
)
def test_take_of_which_a_window_was_not_sent_is_finished_in_part(scene, tmp_path, jobs, windows, whole):
    count = 3 if (1, 0) in jobs else 1
    note = PendingTake(tmp_path, "TAKE", "Scene", 0.0, (resolve_settings(scene),) * count, jobs, windows)
    assert note.is_wholly_sent is whole
    assert fates.fate_of(["DONE"], note.is_wholly_sent) == (fates.FINISHED if whole else fates.PARTLY)
    assert fates.fate_of(["RUNNING"], note.is_wholly_sent) == fates.RUNNING


def test_number_of_windows_is_noted(shot_scene, tmp_path):
    note = Note(tmp_path, "TAKE", "Scene", [resolve_settings(shot_scene)])
    note.hear(0, Named(1, "ab" * 16, 3))
    note.over(ServerUnreachable("gone"))
    (found,) = pending_takes(tmp_path)
    assert found.jobs == {(0, 1): "ab" * 16} and found.windows == {0: 3} and not found.is_wholly_sent


@pytest.mark.parametrize(
    ("states", "fate"),
    [
        (["DONE", "DONE"], fates.FINISHED),
        (["DONE", "RUNNING"], fates.RUNNING),
        (["QUEUED"], fates.RUNNING),
        (["DONE", "FAILED"], fates.FAILED),
        (["CANCELLED"], fates.FAILED),
        (["DONE", ""], fates.FORGOTTEN),
    ],
)
@pytest.mark.any_blender
def test_fate_of_a_take_is_that_of_its_jobs(states, fate):
    assert fates.fate_of(states) == fate
