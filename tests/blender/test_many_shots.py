# SPDX-License-Identifier: GPL-3.0-or-later
"""Several takes by one command: a table of shots, and variations of one."""

import json

import bpy
import pytest

from das_blender_addon import commands
from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.shot.shot_folder import shot_folder
from das_blender_addon.take.library import takes_of
from das_blender_addon.ui import take_shelf

pytestmark = pytest.mark.any_blender  # which takes are made of a table: Blender only opens the files


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_table_of_shots(shot_scene, tmp_path, capsys):
    shot_scene.frame_end = 2
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    table = tmp_path / "shots.csv"
    table.write_text("file,seed,output\nshot.blend,1,one\nmissing.blend,1,none\nshot.blend,2,two\n")
    status = commands.main(["batch", str(table), "--json", "--frames", "1-2"])
    said = lines_of(capsys)
    assert status == SettingsError.exit_code == said[-1]["exit_code"]
    assert [row["exit_code"] for row in said[-1]["rows"]] == [0, SettingsError.exit_code, 0]
    for folder in ("one", "two"):
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == ["0001.png", "0002.png"]
    assert not (tmp_path / "none").exists()
    table.write_text("file,colour\nshot.blend,red\n")
    assert commands.main(["batch", str(table)]) == SettingsError.exit_code
    assert "'colour'" in capsys.readouterr().err


def test_variations_of_a_shot(shot_scene, tmp_path, capsys):
    shot_scene.frame_end = 2
    sheet, prompts = tmp_path / "sheet.png", tmp_path / "prompts.txt"
    prompts.write_text("a vase\na lamp\n")
    words = ["vary", "--seeds", "1-2", "--prompts", str(prompts), "--output", str(sheet), "--json"]
    assert commands.main(words) == 0
    done = lines_of(capsys)[-1]
    assert [(one["prompt"], one["seed"]) for one in done["takes"]] == [
        ("a vase", 1), ("a vase", 2), ("a lamp", 1), ("a lamp", 2)
    ]  # fmt: skip
    assert len({one["key"] for one in done["takes"]}) == 4 and decode_png(sheet.read_bytes()).shape[1] > 1500
    assert commands.main(["vary", "--seeds", "2-1"]) == SettingsError.exit_code
    # The button finds them all.
    text = bpy.data.texts.new("Prompts")
    text.write("a vase\na lamp\n")
    assert bpy.ops.das.variations(seeds="1-2", prompts="Prompts") == {"FINISHED"}
    assert bpy.data.images["DAS Variations"].size[0] > 1000
    with pytest.raises(RuntimeError, match="no text 'Nowhere'"):
        bpy.ops.das.variations(prompts="Nowhere")


def test_first_look_of_a_table_is_chosen_and_made_in_full(shot_scene, tmp_path, capsys):
    shot_scene.frame_end, shot_scene.das.steps, shot_scene.das.seed = 2, 2, 40
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    table = tmp_path / "Tabelle ü.csv"
    table.write_text("Seed;Prompt;guidance\n7-8;eine Vase, rot;3\n;lamp;\n", encoding="utf-8-sig")
    assert bpy.ops.das.variations(seeds="5", table=str(table), steps=1, size="72x48") == {"FINISHED"}
    found = takes_of(shot_folder(shot_scene, shot_scene.das.cache_folder))
    told = {(one.report["prompt"], one.report["seed"], one.report["guidance_scale"]) for one in found}
    assert {one[:2] for one in told} == {("eine Vase, rot", 7), ("eine Vase, rot", 8), ("lamp", 5)}
    assert {tuple(one.report["model_size"]) for one in found} == {(72, 48)}
    assert {one.report["num_inference_steps"] for one in found} == {1}
    chosen = next(one for one in found if one.report["seed"] == 8)
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    keys = [one.key for one in take_shelf.shelf.entries]
    bpy.context.window_manager.das_take_index = keys.index(chosen.key)
    assert bpy.ops.das.make_full() == {"FINISHED"}
    full = take_shelf.chosen_take(bpy.context)
    assert (full.report["prompt"], full.report["seed"], full.report["guidance_scale"]) == ("eine Vase, rot", 8, 3.0)
    assert (full.report["model_size"], full.report["num_inference_steps"]) == ([96, 64], 2)
    assert "Seed 8 with 2 steps at 96×64" in bpy.context.window_manager.das.job_line
    assert commands.main(["vary", "--full", chosen.key[:8], "--json"]) == 0
    (again,) = lines_of(capsys)[-1]["takes"]
    assert again["key"] == full.key and again["cached"], "the command makes the same"
    table.write_text("Seed;Farbe\n7;rot\n")
    with pytest.raises(RuntimeError, match="does not name its columns"):
        bpy.ops.das.variations(table=str(table))
