# SPDX-License-Identifier: GPL-3.0-or-later
"""Key pictures in Blender: the list, its buttons, the command, and what a take makes of them."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import FirstFrameError, SettingsError
from das_blender_addon.jobs.sources import owner_of
from das_blender_addon.protocol.png import decode_png, decode_png_with_alpha, encode_png
from das_blender_addon.shot.settings import chosen_keys, resolve_settings
from das_blender_addon.ui import key_pictures, take_shelf, timeline
from das_blender_addon.ui.key_plot import AFTER, BEFORE, SIZE, plot
from tests.blender.test_panels import words
from tests.support.scenes import key

PAINT = (10, 200, 30)


@pytest.fixture
def turn_scene(shot_scene, tmp_path):
    """The shot with a camera that goes round the cube, and a cache of its own."""
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    cube = bpy.data.objects["Cube"]
    cube.animation_data_clear()
    key(cube, "rotation_euler", {1: 0.0, 9: 1.9}, index=2)
    shot_scene.das.key_mode = "LIST"
    return shot_scene


def frames_of(scene) -> list[int]:
    return [one.frame for one in scene.das.key_pictures]


def folder_of(scene):
    return api.shot_folder(scene, resolve_settings(scene).cache_folder)


# ── The list ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_add_here_keeps_the_list_in_order_and_remove_takes_the_chosen_one(turn_scene):
    for frame in (9, 5, 7):
        turn_scene.frame_set(frame)
        bpy.ops.das.add_key_picture()
    assert frames_of(turn_scene) == [5, 7, 9] and turn_scene.das.key_index == 1
    bpy.ops.das.remove_key_picture()
    assert frames_of(turn_scene) == [5, 9]
    turn_scene.frame_set(5)
    bpy.ops.das.add_key_picture()  # there already
    turn_scene.frame_set(1)
    bpy.ops.das.add_key_picture()  # the first frame always is one
    assert frames_of(turn_scene) == [5, 9]
    assert [choice.frame for choice in resolve_settings(turn_scene).key_pictures] == [5, 9]


def test_frame_outside_of_the_shot_is_refused_by_name(turn_scene):
    turn_scene.frame_end = 20
    turn_scene.frame_set(15)
    bpy.ops.das.add_key_picture()
    turn_scene.frame_end = 9
    with pytest.raises(SettingsError, match="key picture at frame 15 is not in the shot, 1 to 9"):
        resolve_settings(turn_scene)
    with pytest.raises(RuntimeError, match="frame 15"):
        bpy.ops.das.add_key_picture()
    turn_scene.das.key_pictures[0].frame = 5
    turn_scene.das.key_pictures.add().frame = 5
    with pytest.raises(SettingsError, match="Two key pictures are at frame 5"):
        resolve_settings(turn_scene)


@pytest.mark.parametrize(
    ("said", "frames"),
    [("auto", None), ("first", []), ("1,5,9", [5, 9]), (" 9 , 5 ", [5, 9]), ("1", []), ("", [7])],
)
def test_environment_goes_before_the_list(turn_scene, said, frames):
    turn_scene.das.key_pictures.add().frame = 7
    chosen = resolve_settings(turn_scene, {"DAS_KEY_PICTURES": said}).key_pictures
    assert (chosen if chosen is None else [choice.frame for choice in chosen]) == frames


@pytest.mark.parametrize("said", ["a", "1,", "1,5,5", "1;5", "99", "-1", "٣", "1" * 5000])
def test_environment_that_makes_no_sense_is_one_sentence(turn_scene, said):
    with pytest.raises(SettingsError) as refused:
        resolve_settings(turn_scene, {"DAS_KEY_PICTURES": said})
    assert refused.value.field == "key_pictures" and len(refused.value.message) < 300


@pytest.mark.any_blender
@pytest.mark.parametrize(
    "asked, frames",
    [((9, 4), [4, 9]), ([1, np.int64(9)], [9]), ((), []), ("4, 9", [4, 9]), ("first", []), ("auto", None)],
)
def test_callers_choose_frames_as_the_environment_does(turn_scene, asked, frames):
    chosen = chosen_keys(asked, turn_scene.das, resolve_settings(turn_scene).frames)
    assert chosen is None if frames is None else [one.frame for one in chosen] == frames


@pytest.mark.any_blender
@pytest.mark.parametrize("asked", [(4, 4), (4.5,), 4, "4,4", "last", (None,), ("4",), (99,)])
def test_frames_of_a_caller_that_make_no_sense_are_one_sentence(turn_scene, asked):
    with pytest.raises(SettingsError, match=r"key picture.*[.]$"):
        api.render_take(turn_scene, key_pictures=asked)


@pytest.mark.any_blender
def test_picture_of_the_list_at_the_first_frame_is_the_first_frame(turn_scene, tmp_path):
    line = turn_scene.das.key_pictures.add()
    line.frame, line.path = 1, str(tmp_path / "own.png")
    settings = resolve_settings(turn_scene)
    assert settings.first_frame_path == line.path and settings.key_pictures == ()
    assert [(one.frame, one.origin) for one in api.key_pictures(turn_scene)] == [(1, "own")]
    turn_scene.das.key_mode = "FIRST"
    assert not resolve_settings(turn_scene).first_frame_path
    turn_scene.das.key_mode, turn_scene.das.first_frame_path = "LIST", str(tmp_path / "other.png")
    with pytest.raises(SettingsError, match="Two key pictures are at frame 1"):
        resolve_settings(turn_scene)
    line.path = ""
    assert resolve_settings(turn_scene).first_frame_path.endswith("other.png")


def test_panel_draws_what_is_there(turn_scene):
    for mode in ("AUTO", "FIRST", "LIST"):
        turn_scene.das.key_mode = mode
        assert ("first frame" in words(key_pictures.DAS_PT_key_pictures)) is (mode == "LIST")
    turn_scene.das.key_pictures.add().frame = 99
    assert "not in the shot" in words(key_pictures.DAS_PT_key_pictures)


def test_diamonds_are_at_the_key_frames(turn_scene):
    turn_scene.das.key_pictures.add().frame = 7
    assert timeline.key_frames(turn_scene) == [1, 7]
    points, triangles = timeline.diamonds([10.0, 40.0], 2.0)
    assert len(points) == 8 and len(triangles) == 4 and max(map(max, triangles)) == 7
    assert np.mean([x for x, _ in points[:4]]) == 10.0 and np.mean([x for x, _ in points[4:]]) == 40.0


def test_plot_shows_both_curves():
    picture = plot((1, 5, 9), np.array([0.0, 0.5, 1.0]), np.zeros(3), 0.05)
    assert picture.shape == (SIZE[1], SIZE[0], 3)
    rows, columns = np.nonzero((picture == BEFORE).all(axis=2))
    assert columns.min() <= 1 and columns.max() == SIZE[0] - 1 and rows[columns == SIZE[0] - 1].min() < 3
    assert (picture[-2:] == AFTER).all(axis=2).any(axis=0).all()


# ── Their pictures ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_suggested_pictures_are_listed_and_rendered_by_one_child(turn_scene):
    turn_scene.das.key_most_unseen = 3.0
    bpy.ops.das.suggest_key_pictures()
    frames = frames_of(turn_scene)
    assert frames and set(frames) <= set(range(2, 10))
    states = api.key_pictures(turn_scene)
    assert [state.state for state in states] == ["missing"] * (len(frames) + 1)
    bpy.ops.das.render_key_pictures()
    states = api.key_pictures(turn_scene)
    assert [(state.origin, state.state) for state in states] == [("rendered", "fresh")] * len(states)
    before = {state.frame: state.path.stat().st_mtime_ns for state in states}
    bpy.ops.das.render_key_pictures()  # nothing is missing
    assert {state.frame: state.path.stat().st_mtime_ns for state in api.key_pictures(turn_scene)} == before


def test_take_shows_every_key_picture_at_its_frame_and_carries_it_between(turn_scene):
    for frame in (5, 9):
        turn_scene.das.key_pictures.add().frame = frame
    take = api.render_take(turn_scene)
    states = {state.frame: state for state in api.key_pictures(turn_scene)}
    for frame in (1, 5, 9):
        own = decode_png(states[frame].path.read_bytes())
        np.testing.assert_array_equal(decode_png(take.frames[frame - 1].read_bytes()), own)
    assert [one["frame"] for one in take.report["key_pictures"]] == [1, 5, 9]
    again = api.render_take(turn_scene)
    assert again.cached and again.key == take.key


@pytest.mark.any_blender
def test_painted_picture_is_used_and_changes_the_take(turn_scene, caplog):
    caplog.set_level("INFO")
    turn_scene.das.key_pictures.add().frame = 9
    first = api.render_take(turn_scene)
    state = next(state for state in api.key_pictures(turn_scene) if state.frame == 9)
    painted = decode_png(state.path.read_bytes()).copy()
    painted[20:40, 30:60] = PAINT
    state.path.write_bytes(encode_png(painted))
    assert next(one for one in api.key_pictures(turn_scene) if one.frame == 9).origin == "painted"
    take = api.render_take(turn_scene)
    assert take.key != first.key
    np.testing.assert_array_equal(decode_png(take.frames[8].read_bytes()), painted)
    assert "does not use it" not in caplog.text
    turn_scene.das.key_index = 0
    bpy.ops.das.render_key_pictures(chosen=True)
    assert list(state.path.parent.glob("*-kept-1.png")), "the painting is gone"
    assert next(one for one in api.key_pictures(turn_scene) if one.frame == 9).origin == "rendered"


@pytest.mark.any_blender
def test_carried_picture_is_transparent_only_where_no_picture_shows_the_surface(turn_scene):
    turn_scene.frame_set(9)
    bpy.ops.das.carry_key_picture()
    assert frames_of(turn_scene) == [9]
    state = api.key_pictures(turn_scene)[1]
    assert (state.origin, state.state) == ("carried", "fresh")
    picture = decode_png_with_alpha(state.path.read_bytes())
    holes = picture[..., 3] == 0
    assert picture.shape[2] == 4 and 0.0 < holes.mean() < 0.5
    take = api.render_take(turn_scene)
    frame = decode_png(take.frames[8].read_bytes())
    np.testing.assert_array_equal(frame[~holes], picture[~holes][:, :3])
    assert frame[holes].any(), "the holes are black"


def test_carrying_again_keeps_what_was_painted(turn_scene):
    turn_scene.frame_set(9)
    bpy.ops.das.carry_key_picture()
    path = api.key_pictures(turn_scene)[1].path
    painted = encode_png(np.full((64, 96, 3), PAINT, np.uint8))
    path.write_bytes(painted)
    bpy.ops.das.carry_key_picture()
    kept = list(path.parent.glob("*-kept-*.png"))
    assert [one.read_bytes() for one in kept].count(painted) == 1


def test_first_frame_cannot_be_carried(turn_scene):
    turn_scene.frame_set(1)
    with pytest.raises(RuntimeError, match="first frame is where all others are carried from"):
        bpy.ops.das.carry_key_picture()


@pytest.mark.any_blender
def test_frame_of_a_take_becomes_a_key_picture(turn_scene):
    bpy.ops.das.render_take()
    turn_scene.frame_set(6)
    bpy.ops.das.key_picture_from_take()
    assert frames_of(turn_scene) == [6]
    take = api.render_take(turn_scene)
    state = api.key_pictures(turn_scene)[1]
    assert state.origin == "painted" and state.path.read_bytes() == take.frames[5].read_bytes()


@pytest.mark.any_blender
def test_frame_that_is_added_in_automatic_keeps_the_takes_key_pictures(turn_scene, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))  # whose id stays
    for frame in (4, 9):
        turn_scene.das.key_pictures.add().frame = frame
    bpy.ops.das.render_take()
    for button in (bpy.ops.das.add_key_picture, bpy.ops.das.key_picture_from_take, bpy.ops.das.carry_key_picture):
        turn_scene.das.key_mode = "AUTO"
        turn_scene.das.key_pictures.clear()
        turn_scene.frame_set(6)
        take_shelf.shelf.forget()
        assert button() == {"FINISHED"}
        assert frames_of(turn_scene) == [4, 6, 9] and turn_scene.das.key_mode == "LIST", button
        assert turn_scene.das.key_index == 1, "the new one is chosen"
    turn_scene.das.key_pictures.clear()
    turn_scene.das.key_mode = "FIRST"
    bpy.ops.das.add_key_picture()
    assert frames_of(turn_scene) == [6]


@pytest.mark.any_blender
def test_frame_is_repaired_and_the_takes_other_key_pictures_stay(turn_scene):
    take = api.render_take(turn_scene, key_pictures=(4, 9))
    for frame in (3, 9):  # a list that does not count
        turn_scene.das.key_pictures.add().frame = frame
    turn_scene.das.key_mode = "AUTO"
    turn_scene.frame_set(6)
    take_shelf.shelf.forget()
    assert bpy.ops.das.repair_frame() == {"FINISHED"}
    assert frames_of(turn_scene) == [4, 6, 9] and turn_scene.das.key_mode == "LIST" and turn_scene.das.key_index == 1
    image = next(image for image in bpy.data.images if image.filepath.endswith("0006.png"))
    assert tuple(image.size) == (96, 64)
    image.pixels = [*(PAINT[0] / 255, PAINT[1] / 255, PAINT[2] / 255, 1.0)] * (96 * 64)
    image.save()
    again = api.render_take(turn_scene)
    assert again.key != take.key and take.frames[5].exists(), "nothing that was made is overwritten"
    assert np.abs(decode_png(again.frames[5].read_bytes()).astype(int) - PAINT).max() <= 1
    turn_scene.frame_set(300)
    with pytest.raises(RuntimeError, match="The take has no frame 300"):
        bpy.ops.das.repair_frame()
    assert frames_of(turn_scene) == [4, 6, 9]


@pytest.mark.parametrize("size", [(200, 100), (30, 90)])
def test_picture_of_another_size_is_fitted_and_said(turn_scene, tmp_path, caplog, size):
    picture = tmp_path / "own.png"
    picture.write_bytes(encode_png(np.full((size[1], size[0], 3), PAINT, np.uint8)))
    line = turn_scene.das.key_pictures.add()
    line.frame, line.path = 9, str(picture)
    take = api.render_take(turn_scene)
    assert f"{size[0]}×{size[1]} pixels and was fitted" in caplog.text
    assert np.abs(decode_png(take.frames[8].read_bytes()).astype(int) - PAINT).max() <= 1


def test_picture_that_is_missing_is_told(turn_scene, tmp_path):
    line = turn_scene.das.key_pictures.add()
    line.frame, line.path = 9, str(tmp_path / "gone.png")
    with pytest.raises(FirstFrameError, match=r"^The key picture of frame 9 .*gone\.png cannot be read: "):
        api.render_take(turn_scene)


def test_image_of_the_file_with_unsaved_strokes_is_a_key_picture(turn_scene):
    image = bpy.data.images.new("Own", 96, 64)
    image.pixels.foreach_set(np.tile(np.float32([0.0, 1.0, 0.0, 1.0]), 96 * 64))
    line = turn_scene.das.key_pictures.add()
    line.frame, line.image = 9, image
    assert api.key_pictures(turn_scene)[1].state == "unsaved"
    take = api.render_take(turn_scene)
    assert (decode_png(take.frames[8].read_bytes()) == (0, 255, 0)).all()


def test_shot_of_one_frame_has_one_picture(turn_scene):
    turn_scene.frame_end = 1
    turn_scene.das.key_mode = "AUTO"
    take = api.render_take(turn_scene)
    assert len(take.frames) == 1 and [one["frame"] for one in take.report["key_pictures"]] == [1]


@pytest.mark.any_blender
def test_key_picture_where_nothing_is_in_view_is_a_picture_like_any(turn_scene):
    cube = bpy.data.objects["Cube"]
    key(cube, "location", {8: 0.0, 9: 500.0}, index=0)
    turn_scene.das.key_pictures.add().frame = 9
    take = api.render_take(turn_scene)
    assert len(take.frames) == 9


# ── Command and settings ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.any_blender
def test_command_suggests_renders_and_lists(turn_scene, server, tmp_path, capsys):
    turn_scene.das.server = ""
    file = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file)
    shared = ["--server", server.address, "--cache", str(tmp_path / "keys"), "--json"]
    assert commands.main(["keys", file, "--suggest", *shared]) == 0
    said = json.loads(next(line for line in capsys.readouterr().out.splitlines() if '"event": "done"' in line))
    assert said["frames"][0] == 1 and len(said["unseen"]["before"]) == 9
    assert {one["state"] for one in said["pictures"]} == {"missing"}
    assert commands.main(["keys", file, "--key-pictures", "1,9", "--render", *shared]) == 0
    said = json.loads(next(line for line in capsys.readouterr().out.splitlines() if '"event": "done"' in line))
    assert [(one["frame"], one["state"]) for one in said["pictures"]] == [(1, "fresh"), (9, "fresh")]
    assert commands.main(["keys", file, "--key-pictures", "1,99", *shared]) == SettingsError.exit_code


def test_states_know_their_owner(turn_scene):
    """What a panel says must be what a job would find."""
    settings = resolve_settings(turn_scene)
    assert key_pictures.states_of(turn_scene)[0].frame == settings.frames[0]
    assert owner_of(turn_scene, folder_of(turn_scene)).start == 1


@pytest.mark.parametrize("said", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_part_of_the_windows_that_makes_no_sense_is_one_sentence(turn_scene, said):
    with pytest.raises(SettingsError, match="write 2/5 for the second of five"):
        resolve_settings(turn_scene, {"DAS_WINDOWS": said})


@pytest.mark.any_blender
def test_command_makes_parts_of_the_windows_and_the_whole_finds_them(turn_scene, server, tmp_path, capsys):
    turn_scene.das.server = ""
    turn_scene.frame_end, turn_scene.das.key_mode, turn_scene.das.size = 52, "FIRST", "48x48"
    turn_scene.render.resolution_x = turn_scene.render.resolution_y = 48
    file = str(tmp_path / "shot.blend")
    bpy.ops.wm.save_as_mainfile(filepath=file)
    words = ["render", file, "--server", server.address, "--cache", str(tmp_path / "parts"), "--json"]
    for part, windows in (("2/2", [2]), ("1/2", [1])):
        assert commands.main([*words, "--windows", part]) == 0
        said = json.loads(next(line for line in capsys.readouterr().out.splitlines() if '"event": "done"' in line))
        assert (said["windows"], said["of"]) == (windows, 2)
    assert commands.main(words) == 0
    said = capsys.readouterr().out
    assert '"stage": "composing"' in said and '"stage": "denoising"' not in said, "a window was made again"
    assert commands.main([*words, "--cache", str(tmp_path / "whole")]) == 0
    parts, whole = (sorted((tmp_path / name).glob("*/takes/*/frames/*.png")) for name in ("parts", "whole"))
    assert len(parts) == 52 and [path.read_bytes() for path in parts] == [path.read_bytes() for path in whole]
