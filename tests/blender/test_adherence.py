# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a take follow its animation?  By the interface, the commands and the buttons, in Blender with a real server."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import ModelError, ServerUnreachable, SettingsError
from das_blender_addon.jobs.measuring import best_of, worst_window_again
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from das_blender_addon.take.adherence import read_report
from das_blender_addon.take.library import takes_of
from das_blender_addon.ui import adherence, take_shelf
from tests.blender.test_panels import words
from tests.support.scenes import add_grid, key
from tests.support.server import running_server
from tests.support.shots import pattern

LONG = 58
"""Two windows of the preview model, 1 to 49 and 42 to 58."""


@pytest.fixture
def textured(shot_scene, tmp_path):
    """The cube moves before a wall, three frames; the first frame was painted all over and is the only key picture."""
    wall = add_grid(shot_scene, "Wänd", cells=1, size=40)
    wall.rotation_euler.x, wall.location.y = 1.5707963, 4.0
    shot_scene.frame_end = 3
    shot_scene.das.size, shot_scene.das.steps, shot_scene.das.key_mode = "96x64", 1, "FIRST"
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    picture = tmp_path / "painted.png"
    coarse = pattern((24, 16)).repeat(4, axis=0).repeat(4, axis=1)
    picture.write_bytes(encode_png(np.ascontiguousarray(coarse)))
    shot_scene.das.first_frame_path = str(picture)
    take_shelf.shelf.forget()
    return shot_scene


@pytest.fixture
def long_textured(textured, tmp_path):
    """The same for two windows of the model."""
    cube = bpy.data.objects["Cube"]
    cube.animation_data_clear()
    key(cube, "location", {1: -1.0, LONG: 1.0}, index=0)
    bpy.data.cameras[0].animation_data_clear()
    textured.frame_end = LONG
    textured.das.size = "48x48"
    textured.render.resolution_x = textured.render.resolution_y = 48
    picture = tmp_path / "painted.png"
    picture.write_bytes(encode_png(np.ascontiguousarray(pattern((24, 24)).repeat(2, axis=0).repeat(2, axis=1))))
    return textured


def das(*words, capsys):
    """What the command said at last, as JSON."""
    assert commands.main([*words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1]


@pytest.mark.any_blender
def test_take_is_measured_when_asked_and_tells_its_objects(textured, capsys):
    take = api.render_take(textured)
    assert read_report(take.folder) is None
    report = api.adherence(textured, take)
    assert report == read_report(take.folder) == api.adherence(textured, "last")
    assert {one["name"] for one in report["objects"]} == {"Cube", "Wänd"}
    assert [one["frame"] for one in report["frames"]] == [1, 2, 3] and report["height"] == 64
    assert report["frames"][0]["mean_px"] is not None and report["seen"] > 0.8
    again = api.render_take(textured, seed=4, measure=True)
    assert read_report(again.folder)["take"] == again.key
    done = das("report", "2", capsys=capsys)
    assert done["adherence"] == report and done["key"] == take.key
    assert [decode_png(open(file, "rb").read()).shape for file in done["heat_maps"]] == [(64, 96, 3)] * 3
    assert commands.main(["report", take.key[:8]]) == 0
    said = capsys.readouterr().out
    assert "Wänd" in said and "error" in said and "right by construction" in said


@pytest.mark.any_blender
def test_take_that_the_scene_would_not_make_any_more_is_not_measured(textured):
    take = api.render_take(textured)
    key(bpy.data.objects["Cube"], "location", {1: -1.5, 3: 0.5}, index=0)
    with pytest.raises(SettingsError, match=f"not what it was when the take {take.key[:8]} was made"):
        api.adherence(textured, take)
    assert [entry.key for entry in takes_of(take.folder.parent.parent)] == [take.key], "nothing else was made"


@pytest.mark.any_blender
def test_without_a_server_that_measures_one_sentence_says_what_is_to_be_done(textured, capsys, monkeypatch):
    take = api.render_take(textured)
    monkeypatch.setenv("DAS_TIMEOUT_S", "1")
    textured.das.server = "tcp://127.0.0.1:9"
    with pytest.raises(ServerUnreachable):
        api.adherence(textured, take)
    assert commands.main(["report"]) == ServerUnreachable.exit_code
    assert commands.main(["report", "1", "2"]) == SettingsError.exit_code
    assert "das report is about one take" in capsys.readouterr().err


@pytest.mark.any_blender
def test_server_without_opencv_is_told_before_any_work(textured, tmp_path):
    hidden = tmp_path / "hidden" / "cv2"
    hidden.mkdir(parents=True)
    (hidden.parent / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'cv2' else find(name, *rest)\n"
    )
    with running_server(tmp_path / "state", environment={"PYTHONPATH": str(hidden.parent)}) as bare:
        with pytest.raises(ModelError, match="pip install opencv-python-headless") as refused:
            api.render_take(textured, server=bare.address, measure=True, seed=99)
        assert refused.value.code == "model"
        assert bare.status()["jobs"] == []


@pytest.mark.any_blender
def test_best_of_several_seeds_comes_first(textured, capsys):
    done = das("vary", "--seeds", "1-2", "--best", capsys=capsys)
    found = [one["adherence"] for one in done["takes"]]
    assert sorted(one["seed"] for one in done["takes"]) == [1, 2] and all(found)
    textured.das.seed = 1
    assert bpy.ops.das.best_of(count=2) == {"FINISHED"}
    assert take_shelf.chosen_take(bpy.context).key == done["takes"][0]["key"]
    assert "Best: seed" in bpy.context.window_manager.das.job_line


@pytest.mark.any_blender
def test_best_of_is_of_the_scene_as_it_was_whatever_file_is_opened_meanwhile(textured):
    recipe = best_of(textured, resolve_settings(textured), (1, 2), in_child=True)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    assert [one.settings.seed for one in drive.finish(recipe)] == [1, 2]


@pytest.mark.any_blender
def test_worst_window_gets_another_seed_and_the_other_stays_byte_for_byte(long_textured, capsys):
    take = api.render_take(long_textured)
    done = das("report", "last", "--reroll", capsys=capsys)
    told, made = done["rerolled"], done["adherence"]
    assert told["of"] == take.key and done["key"] != take.key and [one["number"] for one in made["windows"]] == [1, 2]
    entry = takes_of(take.folder.parent.parent)[0]
    assert entry.key == done["key"] and entry.report["seed"] == take.report["seed"]
    assert entry.report["window_seeds"] == {str(told["window"]): told["seed"]}
    assert f"window {told['window']}: {told['seed']}" in entry.words()
    for number in (1, 2):
        before, after = (
            [path.read_bytes() for path in sorted((folder / f"windows/{number:02d}").glob("*.png"))]
            for folder in (take.folder, entry.take.folder)
        )
        assert len(before) == len(after) > 10 and (before == after) == (number != told["window"])
    both = [json.loads((folder / "take.json").read_text())["windows"] for folder in (take.folder, entry.take.folder)]
    kept = 2 - told["window"]
    assert both[0][kept]["job_id"] == both[1][kept]["job_id"]
    take_shelf.shelf.forget()
    assert bpy.ops.das.reroll_worst_window() == {"FINISHED"}, "of the take that was re-rolled"
    assert len(takes_of(take.folder.parent.parent)) == 3


@pytest.mark.any_blender
def test_worst_window_is_of_the_scene_as_it_was_whatever_file_is_opened_meanwhile(long_textured):
    take = api.render_take(long_textured)
    (entry,) = takes_of(take.folder.parent.parent)
    assert entry.adherence is None, "it is measured first"
    recipe = worst_window_again(long_textured, entry, resolve_settings(long_textured), in_child=True)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    made, number, seed = drive.finish(recipe)
    assert made.report["window_seeds"] == {str(number): seed} and made.key != take.key


@pytest.mark.any_blender
def test_buttons_measure_and_show_where_it_is_off(textured):
    take = api.render_take(textured)
    take_shelf.shelf.forget()
    assert not bpy.ops.das.open_heat_maps.poll() and "das.measure_take" in words(adherence.DAS_PT_adherence)
    assert bpy.ops.das.measure_take() == {"FINISHED"}
    assert bpy.ops.das.open_heat_maps() == {"FINISHED"}
    image = bpy.data.images[f"DAS Heat {take.key[:8]}"]
    assert image.source == "SEQUENCE" and image.filepath == str(take.folder / "adherence" / "0001.png")
    curve = adherence.curve_of(read_report(take.folder))
    assert decode_png(curve.read_bytes()).shape[1] == 256
    drawn = words(adherence.DAS_PT_adherence)
    assert "das.open_heat_maps" in drawn and "px off on average" in drawn and "Wänd: " in drawn
    with pytest.raises(RuntimeError, match="one window only"):
        bpy.ops.das.reroll_worst_window()


@pytest.mark.any_blender
def test_seed_of_a_window_that_is_not_there_is_refused(textured, capsys):
    with pytest.raises(SettingsError, match="There is no window 3 to have a seed of its own: the shot has 1"):
        api.render_take(textured, window_seeds=((3, 5),))
