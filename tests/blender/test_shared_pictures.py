# SPDX-License-Identifier: GPL-3.0-or-later
"""One look for several cameras: what was painted for the scene's own camera, against Cycles' render of another one."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.jobs.shots import CAMERAS, shots_of
from das_blender_addon.jobs.sources import first_frame_file
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.shot.pictures import read_record
from das_blender_addon.shot.shot_folder import shot_folder
from das_blender_addon.take.cache import read_json
from tests.support.scenes import add_camera, add_grid

CLOSE, MOST_OF_IT = 20, 0.8
"""Levels of 255, and the share of the picture: the rest is edges of the pattern, which a picture that is carried mixes
otherwise, and what the other camera does not see."""


def rendered(scene, camera, path) -> np.ndarray:
    """[H,W,3] u8 by Cycles, as the scene is now."""
    before = scene.camera, scene.render.filepath
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 16, False
    scene.camera, scene.render.filepath = camera, str(path)
    bpy.ops.render.render(write_still=True)
    scene.camera, scene.render.filepath = before
    scene.render.engine = "DAS"
    return decode_png(path.read_bytes())


def patterned(scene, colour):
    """Everything glows in a pattern of ``colour`` and black, the same from everywhere."""
    material = bpy.data.materials["Orange"]
    tree = material.node_tree
    tree.nodes.clear()
    output, glow = tree.nodes.new("ShaderNodeOutputMaterial"), tree.nodes.new("ShaderNodeEmission")
    checker, place = tree.nodes.new("ShaderNodeTexChecker"), tree.nodes.new("ShaderNodeTexCoord")
    checker.inputs["Scale"].default_value = 0.9
    checker.inputs["Color1"].default_value = (*colour, 1.0)
    checker.inputs["Color2"].default_value = (0.1, 0.1, 0.1, 1.0)
    tree.links.new(place.outputs["Object"], checker.inputs["Vector"])
    tree.links.new(checker.outputs["Color"], glow.inputs["Color"])
    tree.links.new(glow.outputs["Emission"], output.inputs["Surface"])


def close(one, other) -> float:
    """The share of pixels that are the same."""
    return float((np.abs(one.astype(int) - other).max(axis=2) < CLOSE).mean())


@pytest.fixture
def two_views(shot_scene, tmp_path):
    """(the scene's own camera, another one from the side, what each sees in the look that is painted); the scene itself
    has another look."""
    first = shot_scene.camera
    wall = add_grid(shot_scene, "Wänd", cells=1, size=40)
    wall.rotation_euler.x, wall.location.y = 1.5707963, 4.0
    wall.data.materials.append(bpy.data.materials["Orange"])
    second = add_camera(shot_scene)
    second.name, second.location.x = "Seite ü", second.location.x + 1.5
    shot_scene.camera, shot_scene.frame_end, shot_scene.das.steps = first, 2, 1
    shot_scene.das.cache_folder = str(tmp_path / "cache")
    shot_scene.das.first_frame_samples = 4
    patterned(shot_scene, (0.1, 0.9, 0.2))
    painted = [rendered(shot_scene, camera, tmp_path / f"{camera.name}.png") for camera in (first, second)]
    patterned(shot_scene, (0.9, 0.1, 0.1))
    return first, second, painted


def first_picture(take) -> np.ndarray:
    """A key picture is its frame of the take, where detail is kept."""
    return decode_png(take.frames[0].read_bytes())


def origins(take) -> list[str]:
    return [key["origin"] for key in take.report["key_pictures"]]


@pytest.mark.any_blender
def test_what_was_painted_for_one_camera_is_seen_by_the_other(two_views, shot_scene, tmp_path):
    first, second, (own, truth) = two_views
    asked = {"camera": second.name, "first_frame_path": ""}
    plain = api.render_take(shot_scene, **asked)
    assert origins(plain) == ["rendered"], "there is nothing to share yet"
    same = rendered(shot_scene, first, tmp_path / "same.png")
    shot_scene.das.first_frame_path = str(tmp_path / "same.png")
    again = api.render_take(shot_scene, **asked)
    assert origins(again) == ["rendered"] and again.key == plain.key, "the same look: its own render is sharper"
    shot_scene.das.first_frame_path = str(tmp_path / f"{first.name}.png")
    assert shots_of(shot_scene, CAMERAS)[1].settings.first_frame_path == ""
    take = api.render_take(shot_scene, **asked)
    (note,) = [one for one in take.report["first_frame_notes"] if "takes over" in one]
    assert origins(take) == ["shared"] and f"{first.name}.png" in note
    assert note in read_json(take.folder / "take.json")["report"]["notes"]
    shared, without = first_picture(take), first_picture(plain)
    print(f"right: {close(shared, truth):.2f} of what is shared, {close(without, truth):.2f} of its own render")
    assert close(shared, truth) > MOST_OF_IT > 0.6 > close(without, truth) and close(same, own) < 0.6
    shot_scene.das.first_frame_path = str(tmp_path / "gone.png")
    assert api.render_take(shot_scene, **asked).key == plain.key, "a picture that is gone is not missed"


@pytest.mark.any_blender
def test_strokes_over_one_cameras_picture_reach_the_other_and_nothing_else_does(two_views, shot_scene):
    first, second, _ = two_views
    mine, plain = (api.render_take(shot_scene, camera=name) for name in ("", second.name))
    folder = shot_folder(shot_scene, shot_scene.das.cache_folder) / "first_frames"
    files = {read_record(file).get("camera", ""): file for file in folder.glob("*.png")}
    assert sorted(files) == ["", second.name]
    picture = decode_png(files[""].read_bytes()).copy()
    picture[40:, 60:90] = (30, 40, 250)
    files[""].write_bytes(encode_png(picture))
    take = api.render_take(shot_scene, camera=second.name)
    changed = np.abs(first_picture(take).astype(int) - first_picture(plain)).max(axis=2) > 0
    blue = first_picture(take)[..., 2].astype(int) - first_picture(take)[..., 0] > 100
    assert origins(take) == ["shared"] and blue.sum() > 300 and not changed[:30].any()
    rows, columns = np.nonzero(changed)
    assert columns.min() > 40 and columns.max() < 88, "further left, as the other camera stands further right"
    assert origins(api.render_take(shot_scene)) == ["painted"]
    files[""].write_bytes(encode_png(first_picture(mine)))  # as it was rendered
    own = decode_png(files[second.name].read_bytes()).copy()
    own[:10] = 255
    files[second.name].write_bytes(encode_png(own))
    assert origins(api.render_take(shot_scene, camera=second.name)) == ["painted"]
    assert api.render_take(shot_scene).key == mine.key, "what was painted for another camera is not this one's"
    assert first_frame_file(shot_scene) == files[""], "nor is it what the panel shows and opens"
    third = add_camera(shot_scene)
    third.name, third.location.x, shot_scene.camera = "3", second.location.x + 0.4, first
    picture[10:20] = 255
    files[""].write_bytes(encode_png(picture))
    seen = api.render_take(shot_scene, camera="3")
    notes = [note for note in seen.report["notes"] if "takes over" in note]
    assert origins(seen) == ["shared"] and "own camera" in notes[0] and "'Seite ü'" in notes[1] and len(notes) == 2
    rows = (first_picture(seen).min(axis=2) > 250)[:, 30:60].all(axis=1)
    assert rows[:2].all() and rows[5:15].all() and not rows[19:].any(), "the second's, below the own camera's"
    shot_scene.objects["Cube"].location.z += 0.1
    assert origins(api.render_take(shot_scene, camera="3")) == ["rendered"], "what they show is elsewhere now"
    shot_scene.objects["Cube"].location.z -= 0.1
    files[""].write_bytes(encode_png(first_picture(mine)))
    bpy.data.objects.remove(third)
    shot_scene.das.key_mode = "AUTO"
    (folder / "0002.png").write_bytes(encode_png(np.ascontiguousarray(255 - first_picture(mine))))
    files[second.name].write_bytes(encode_png(first_picture(plain)))  # as it was rendered
    auto = api.render_take(shot_scene, camera=second.name).report["key_pictures"]
    told = [(key["frame"], key["origin"]) for key in auto]
    assert told == [(1, "rendered"), (2, "shared")], "the painted frame is one of them"
    files[second.name].write_bytes(encode_png(own))
    shot_scene.das.key_mode = "FIRST"
    shot_scene.camera = second
    assert first_frame_file(shot_scene) == files[second.name]
    assert origins(api.render_take(shot_scene)) == ["painted"], "the camera is the scene's own now"
