# SPDX-License-Identifier: GPL-3.0-or-later
"""All shots of a file: by the cameras that are bound to its markers, by all its cameras, by its scenes."""

import json

import bpy
import numpy as np
import pytest

from das_blender_addon import api, commands
from das_blender_addon.errors import SceneError, SettingsError
from das_blender_addon.jobs.measuring import worst_window_again
from das_blender_addon.jobs.shots import CAMERAS, MARKERS, scenes_with_engine, shots_of, shots_of_scenes
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.resolved import KeyChoice
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.shot.shot_folder import ensure_shot_id, shot_folder
from das_blender_addon.take.drive import finish
from das_blender_addon.take.library import differences, takes_of
from das_blender_addon.ui import take_shelf
from tests.support.scenes import add_camera
from tests.support.shots import pattern


@pytest.fixture
def two_cameras(shot_scene, tmp_path):
    """A second camera from the side, unicode in its name; the first one stays the scene's."""
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    shot_scene.frame_end = 6
    first = shot_scene.camera
    second = add_camera(shot_scene)
    second.name, second.location.x = "Seite ü", second.location.x + 1.0
    shot_scene.camera = first
    return first, second


def bind(scene, **frames):
    for name, (frame, camera) in frames.items():
        scene.timeline_markers.new(name, frame=frame).camera = camera


def frames_of(shots):
    return [(shot.name, shot.settings.frames) for shot in shots]


@pytest.mark.any_blender
def test_shots_by_markers_begin_where_blender_switches(two_cameras, shot_scene):
    first, second = two_cameras
    with pytest.raises(SettingsError, match="no marker with a camera"):
        shots_of(shot_scene)
    shot_scene.timeline_markers.new("no camera", frame=3)
    bind(shot_scene, B=(4, second), A=(2, first), late=(90, first))
    assert frames_of(shots_of(shot_scene)) == [("A", (1, 2, 3)), ("B", (4, 5, 6))]
    shot_scene.frame_step = 2
    assert frames_of(shots_of(shot_scene)) == [("A", (1, 3)), ("B", (5,))]
    second.hide_render = True
    assert frames_of(shots_of(shot_scene)) == [("A", (1, 3, 5))]
    bind(shot_scene, before=(-5, first))
    shot_scene.frame_step = 1
    assert frames_of(shots_of(shot_scene)) == [("before", (1,)), ("A", (2, 3, 4, 5, 6))]


@pytest.mark.any_blender
def test_pictures_of_ones_own_go_to_their_shot_only(two_cameras, shot_scene, tmp_path):
    first, second = two_cameras
    shot_scene.das.first_frame_path = str(tmp_path / "own.png")
    shot_scene.das.key_mode = "LIST"
    for frame in (2, 4, 6):
        key = shot_scene.das.key_pictures.add()
        key.frame, key.path = frame, str(tmp_path / f"{frame}.png")
    bind(shot_scene, A=(1, first), B=(4, second))
    one, other = (shot.settings for shot in shots_of(shot_scene))
    assert one.first_frame_path.endswith("own.png") and [key.frame for key in one.key_pictures] == [2]
    assert other.first_frame_path.endswith("4.png") and [key.frame for key in other.key_pictures] == [6]
    for marker in list(shot_scene.timeline_markers):
        shot_scene.timeline_markers.remove(marker)
    own, side = shots_of(shot_scene, CAMERAS)
    assert own.settings.camera == "" and own.settings.first_frame_path.endswith("own.png")
    assert (side.settings.camera, side.settings.first_frame_path) == ("Seite ü", "")
    assert [(key.frame, key.path) for key in side.settings.key_pictures] == [(2, ""), (4, ""), (6, "")]


@pytest.mark.any_blender
def test_key_pictures_of_the_list_are_the_own_cameras_however_another_one_is_named(two_cameras, shot_scene, tmp_path):
    first, second = two_cameras
    picture = tmp_path / "2.png"
    picture.write_bytes(encode_png(pattern((96, 64))))
    key = shot_scene.das.key_pictures.add()
    key.frame, key.path = 2, str(picture)
    asked = {"DAS_KEY_PICTURES": "2", "DAS_FIRST_FRAME": "auto"}
    told = {}
    for camera in ("", first.name, second.name):
        told[camera] = resolve_settings(shot_scene, environment={**asked, "DAS_CAMERA": camera}).key_pictures
    assert told[""] == told[first.name] == (KeyChoice(2, str(picture)),) and told[second.name] == (KeyChoice(2),)


@pytest.mark.any_blender
def test_shots_of_scenes_are_of_those_with_the_engine(two_cameras, shot_scene):
    first, second = two_cameras
    other = bpy.data.scenes.new("Andere")
    with pytest.raises(SceneError, match="no camera"):
        other.render.engine = "DAS"
        shots_of_scenes(scenes_with_engine())
    other.collection.objects.link(second)
    other.camera, other.frame_end = second, 2
    bind(shot_scene, A=(1, first), B=(4, second))
    assert [(shot.scene, shot.name) for shot in shots_of_scenes(scenes_with_engine(), MARKERS)] == [
        ("Andere", "Andere"), ("Scene", "A"), ("Scene", "B"),
    ]  # fmt: skip
    other.render.engine = shot_scene.render.engine = "BLENDER_WORKBENCH"
    with pytest.raises(SettingsError, match="No scene of the file"):
        scenes_with_engine()


def seen(scene, **settings) -> np.ndarray:
    """Of the last take, the first frame."""
    take = api.render_take(scene, **settings)
    return decode_png(take.frames[0].read_bytes()).astype(int)


def test_every_camera_gets_its_take_and_the_scene_stays(two_cameras, shot_scene):
    first, second = two_cameras
    bind(shot_scene, A=(1, first))
    before = [(marker.frame, marker.camera.name) for marker in shot_scene.timeline_markers]
    assert bpy.ops.das.render_all_shots(by="CAMERAS") == {"FINISHED"}
    assert shot_scene.camera == first
    assert [(marker.frame, marker.camera.name) for marker in shot_scene.timeline_markers] == before
    folder = shot_folder(shot_scene, resolve_settings(shot_scene).cache_folder)
    entries = takes_of(folder)
    assert len(entries) == 2
    notes = {note for entry in entries for note in entry.report["notes"] if note.startswith("Seen by")}
    assert notes == {f"Seen by the camera {camera.name}." for camera in (first, second)}
    with pytest.raises(SceneError, match="no camera 'Drone'; there are"):
        api.render_take(shot_scene, camera="Drone")
    pictures = [seen(shot_scene, camera=camera.name) for camera in (first, second)]
    shot_scene.timeline_markers.clear()
    shot_scene.camera = second
    np.testing.assert_array_equal(pictures[1], seen(shot_scene))
    assert np.abs(pictures[0] - pictures[1]).max() > 50


@pytest.fixture
def two_takes(two_cameras, shot_scene, tmp_path):
    """Of each camera a take of two frames, by markers that are gone by now; the first one has a picture of its own."""
    first, second = two_cameras
    shot_scene.frame_end, shot_scene.das.size, shot_scene.das.steps = 4, "48x48", 1
    shot_scene.render.resolution_x = shot_scene.render.resolution_y = 48
    picture = tmp_path / "own.png"
    picture.write_bytes(encode_png(pattern((48, 48))))
    shot_scene.das.first_frame_path = str(picture)
    shot_scene.das.key_mode = "LIST"
    shot_scene.das.key_pictures.add().frame = 4
    bind(shot_scene, A=(1, first), B=(3, second))
    ensure_shot_id(shot_scene)  # as a window does
    assert bpy.ops.das.render_all_shots(by="MARKERS") == {"FINISHED"}
    shot_scene.timeline_markers.clear()
    take_shelf.shelf.forget()
    entries = takes_of(shot_folder(shot_scene, resolve_settings(shot_scene).cache_folder))
    return sorted(entries, key=lambda entry: entry.take.frame_numbers)


def choose(entry):
    take_shelf.shelf.forget()
    take_shelf.chosen_take(bpy.context)
    keys = [one.key for one in take_shelf.shelf.entries]
    bpy.context.window_manager.das_take_index = keys.index(entry.key)


@pytest.mark.any_blender
def test_take_of_another_camera_is_measured_and_repaired_by_that_camera(two_takes, shot_scene, capsys):
    one, other = two_takes
    assert [entry.report["cameras"] for entry in two_takes] == [[[1, "Camera"]], [[3, "Seite ü"]]]
    assert [key["origin"] for entry in two_takes for key in entry.report["key_pictures"]] == [
        "given", "rendered", "rendered",
    ]  # fmt: skip
    for entry in two_takes:
        report = api.adherence(shot_scene, entry.take)
        assert [frame["frame"] for frame in report["frames"]] == list(entry.take.frame_numbers)
    with pytest.raises(SettingsError, match="one window only"):
        finish(worst_window_again(shot_scene, other, resolve_settings(shot_scene)))
    choose(other)
    assert bpy.ops.das.repair_region(by="OBJECT", shape="Cube", seed=3) == {"FINISHED"}
    made = [entry for entry in takes_of(other.take.folder.parents[1]) if "region" in entry.report]
    assert [entry.report["region"]["of"] for entry in made] == [other.key]
    assert [name for name, *_ in differences(one, other)][-2:] == ["key_pictures", "frame_numbers"]
    assert ("cameras", "Camera", "Seite ü") in differences(one, other)


@pytest.mark.any_blender
def test_take_of_a_camera_that_is_no_more_what_it_was_says_so(two_takes, shot_scene):
    one, other = two_takes
    choose(other)
    shot_scene.frame_set(3)
    with pytest.raises(RuntimeError, match="was made by the camera 'Seite ü', and the scene is seen by 'Camera'"):
        bpy.ops.das.repair_frame()
    shot_scene.camera = shot_scene.objects["Seite ü"]
    assert bpy.ops.das.key_picture_from_take() == {"FINISHED"}
    shot_scene.camera.location.x += 0.25
    with pytest.raises(SettingsError, match="was made before its camera 'Seite ü' was moved or changed: put it back"):
        api.adherence(shot_scene, other.take)
    shot_scene.render.resolution_x = 64
    with pytest.raises(SettingsError, match="its geometry, key pictures or settings differ"):
        api.adherence(shot_scene, other.take)
    shot_scene.render.resolution_x = 48
    shot_scene.camera.name = "Drohne"
    with pytest.raises(SettingsError, match="made by the camera 'Seite ü', and the shot is seen by 'Drohne'"):
        api.adherence(shot_scene, other.take)


@pytest.mark.any_blender
def test_batch_of_a_file_by_markers_cameras_and_scenes(two_cameras, shot_scene, tmp_path, capsys):
    first, second = two_cameras
    shot_scene.frame_end = 3
    bind(shot_scene, A=(1, first), B=(3, second))
    shot_scene.das.key_mode = "LIST"
    shot_scene.das.key_pictures.add().frame = 2
    file, out = tmp_path / "shots.blend", tmp_path / "out"
    bpy.ops.wm.save_as_mainfile(filepath=str(file))
    assert commands.main(["batch", str(file), "--output", str(out), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")][-1]["rows"]
    assert [row["exit_code"] for row in rows] == [0, 0]
    assert {path.name: len(list(path.iterdir())) for path in out.iterdir()} == {"Scene-A": 2, "Scene-B": 1}
    assert commands.main(["batch", str(file), "--cameras", "--scenes", "--output", str(tmp_path / "all")]) == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["Scene-Camera", "Scene-Seite_ü"]
    files = [tmp_path / "all" / name / "0002.png" for name in ("Scene-Camera", "Scene-Seite_ü")]
    one, other = (decode_png(file.read_bytes()) for file in files)
    assert np.abs(one.astype(int) - other).max() > 50
    table = tmp_path / "shots.csv"
    table.write_text("file\nshots.blend\n")
    assert commands.main(["batch", str(table), "--cameras"]) == SettingsError.exit_code
    assert commands.main(["batch", str(file), "--scene", "None"]) == SettingsError.exit_code
