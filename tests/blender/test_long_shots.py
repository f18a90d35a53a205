# SPDX-License-Identifier: GPL-3.0-or-later
"""Shots that are longer than the model's window, and how much of the key pictures their frames keep, in Blender."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat
from das_blender_addon.errors import SettingsError
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.settings import resolve_settings
from tests.support.scenes import add_grid, key

LAST_FRAME = 58
"""Two windows of the preview model, 1 to 49 and 42 to 58."""


@pytest.fixture
def long_shot(shot_scene, tmp_path):
    """The cube moves slowly before a wall, for longer than the model's window; its first frame was painted."""
    add_grid(shot_scene, "Wall", cells=1, size=40).rotation_euler.x = 1.5707963
    bpy.data.objects["Wall"].location.y = 4.0
    cube = bpy.data.objects["Cube"]
    cube.animation_data_clear()
    key(cube, "location", {1: -1.5, LAST_FRAME: 1.5}, index=0)
    shot_scene.frame_end = LAST_FRAME
    shot_scene.das.size, shot_scene.das.steps = "48x48", 1
    shot_scene.render.resolution_x = shot_scene.render.resolution_y = 64
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    rows, columns = np.mgrid[:64, :64]
    picture = tmp_path / "painted.png"
    picture.write_bytes(encode_png(np.stack([columns * 3, rows * 3, columns + rows], axis=-1).astype(np.uint8)))
    shot_scene.das.first_frame_path = str(picture)
    return shot_scene


def pictures(paths) -> np.ndarray:
    return np.stack([decode_png(path.read_bytes()) for path in paths]).astype(float)


@pytest.mark.any_blender
def test_long_shot_is_one_take_without_a_jump_where_windows_meet(long_shot, tmp_path):
    take = api.render_take(long_shot)
    assert take.frame_numbers == tuple(range(1, LAST_FRAME + 1)) and take.report["num_frames"] == 49
    assert "in 2 windows, 1 to 49, 42 to 58" in " ".join(take.report["notes"])
    for paths in (take.frames, take.model_frames):
        change = np.abs(np.diff(pictures(paths), axis=0)).mean(axis=(1, 2, 3))
        assert change[40:50].max() <= change[:40].max()
    given = decode_png((tmp_path / "painted.png").read_bytes())
    np.testing.assert_array_equal(decode_png(take.frames[0].read_bytes()), given)

    long_shot.render.filepath = str(tmp_path / "out" / "####")
    compat.set_image_output(long_shot)
    bpy.ops.render.render(animation=True)
    written = sorted((tmp_path / "out").iterdir())
    np.testing.assert_array_equal(pictures(written), pictures(take.frames))
    assert len(list(take.folder.parent.iterdir())) == 1, "the engine has made another take"


@pytest.mark.any_blender
def test_longer_shot_uses_the_windows_that_were_made(long_shot):
    """The first window is the same, so its frames are not rendered again."""
    first = api.render_take(long_shot)
    again = api.render_take(long_shot, frames=range(1, LAST_FRAME + 8))
    windows = [json.loads((take.folder / "take.json").read_text())["windows"] for take in (first, again)]
    assert windows[0][0]["job_id"] == windows[1][0]["job_id"] and again.job_id == first.job_id
    assert windows[0][1]["job_id"] != windows[1][1]["job_id"]


@pytest.mark.parametrize(
    ("chosen", "said", "keeps"),
    [
        ("AUTO", "", None),
        ("ON", "", True),
        ("OFF", "", False),
        ("FINE", "", "fine"),
        ("OFF", "1", True),
        ("ON", "no", False),
        ("ON", "Fine", "fine"),
        ("FINE", "whole", True),
        ("ON", "auto", None),
    ],
)
def test_detail_is_kept_as_the_scene_or_the_environment_says(scene, chosen, said, keeps):
    scene.das.compose = chosen
    assert resolve_settings(scene, {"DAS_COMPOSE": said}).compose is keeps


def test_numbers_of_the_choice_are_those_that_older_files_hold(scene):
    """Once it was a switch, of which a file holds 0 or 1."""
    items = scene.das.bl_rna.properties["compose"].enum_items
    assert (items["OFF"].value, items["ON"].value, items["AUTO"].value) == (0, 1, 2)


@pytest.mark.any_blender
def test_frames_are_the_models_own_where_no_detail_is_kept(long_shot):
    long_shot.frame_end = 9
    long_shot.render.resolution_x = long_shot.render.resolution_y = 48
    own = api.render_take(long_shot, compose=False)
    assert [path.read_bytes() for path in own.frames] == [path.read_bytes() for path in own.model_frames]
    kept = api.render_take(long_shot)
    assert kept.key != own.key and kept.report["keep_detail"] and not own.report["keep_detail"]
    fine = api.render_take(long_shot, compose="fine")
    assert fine.key not in (kept.key, own.key) and fine.report["keep_detail"] and fine.report["fine_detail_only"]
    assert api.render_take(long_shot, compose="whole").cached and api.render_take(long_shot, compose="auto").cached
    with pytest.raises(SettingsError, match="cannot be kept 'most'"):
        api.render_take(long_shot, compose="most")


def test_frames_from_the_environment_take_the_pictures_of_the_list(scene, tmp_path):
    for frame, path in ((3, ""), (7, str(tmp_path / "own.png"))):
        line = scene.das.key_pictures.add()
        line.frame, line.path = frame, path
    scene.das.key_mode = "LIST"
    assert [choice.frame for choice in resolve_settings(scene, {}).key_pictures] == [3, 7]
    chosen = resolve_settings(scene, {"DAS_KEY_PICTURES": "7, 5"}).key_pictures
    assert [(choice.frame, choice.path) for choice in chosen] == [(5, ""), (7, str(tmp_path / "own.png"))]
    with pytest.raises(SettingsError, match="frame 4 is not in the shot, 1 to 9 in steps of 2"):
        resolve_settings(scene, {"DAS_KEY_PICTURES": "4", "DAS_FRAMES": "1-9x2"})


def test_key_picture_of_the_list_outside_of_the_frames_that_are_asked_for_is_refused(scene):
    scene.das.key_mode = "LIST"
    scene.das.key_pictures.add().frame = 7
    with pytest.raises(SettingsError, match="key picture at frame 7 is not in the shot, 1 to 5: move or remove it"):
        resolve_settings(scene, {"DAS_FRAMES": "1-5"})
