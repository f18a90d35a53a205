# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes that a window answers at once while nothing has changed: one of each view layer; and what is a change."""

from dataclasses import replace

import bpy
import numpy as np
import pytest

from das_blender_addon.jobs import of_scene, unchanged
from das_blender_addon.protocol.png import blob_sha, encode_png
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from das_blender_addon.take.cache import Take
from das_blender_addon.take.finished import FinishedTake
from tests.support.scenes import add_camera, add_cube

FRONT, BACK = "ViewLayer", "Back"


@pytest.fixture
def layered(scene, tmp_path):
    """A scene with two layers, one of which, which no window shows, has a cube of its own; both have just been made."""
    unchanged.forget()
    add_camera(scene)
    add_cube(scene, "Front", size=1.0)
    hidden = bpy.data.collections.new("Hidden")
    scene.collection.children.link(hidden)
    cube = add_cube(scene, "Behind", size=1.0)
    scene.collection.objects.unlink(cube)
    hidden.objects.link(cube)
    scene.view_layers.new(BACK)
    scene.view_layers[FRONT].layer_collection.children["Hidden"].exclude = True
    (tmp_path / "first.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    scene.das.first_frame_path = str(tmp_path / "first.png")
    update()
    for layer in (FRONT, BACK):
        make(scene, layer, tmp_path)
    yield scene
    unchanged.forget()


def update() -> None:
    """What a window does after each step of its user."""
    bpy.context.view_layer.update()


def paint(path) -> None:
    path.write_bytes(encode_png(np.full((8, 8, 3), 90, np.uint8)))


def make(scene, layer: str, folder, meanwhile=lambda: None) -> None:
    """Make the take of ``layer``, now."""
    frame = folder / f"{layer}.png"
    frame.touch()
    first = (folder / "first.png").read_bytes()
    report = {"key_pictures": [{"frame": 1, "sha256": blob_sha(first)}]}
    take = Take(layer, folder, (frame,), (), (), (), folder / "first.png", (1,), "", report, {})
    asked = unchanged.now(scene, layer, resolve_settings(scene))
    meanwhile()
    unchanged.keep(asked, FinishedTake(take, None))


def found(scene) -> list[str]:
    """The layers whose takes are answered."""
    settings = resolve_settings(scene)
    takes = {layer.name: unchanged.find(scene, layer.name, settings) for layer in scene.view_layers}
    assert all(made is None or made.take.key == name for name, made in takes.items())
    return [name for name, made in takes.items() if made is not None]


def test_every_layer_is_answered_while_nothing_changes(layered):
    layered.frame_set(5)
    layered.objects["Front"].select_set(False)
    layered.objects["Front"].select_set(True)
    update()
    assert found(layered) == [FRONT, BACK]


@pytest.mark.parametrize(
    "change",
    [
        lambda scene: setattr(scene.objects["Front"].location, "x", 1.0),
        lambda scene: setattr(scene.objects["Behind"].location, "x", 1.0),
        lambda scene: scene.objects["Behind"].data.update(),
        lambda scene: setattr(scene.objects["Behind"], "hide_render", True),
        lambda scene: setattr(scene.das, "seed", 7),
    ],
    ids=["shown", "not shown", "mesh not shown", "hidden", "setting"],
)
def test_change_in_any_layer_is_a_change(layered, change):
    change(layered)
    update()
    assert found(layered) == []


def test_first_frame_that_is_painted_over_is_a_change(layered, tmp_path):
    paint(tmp_path / "first.png")
    assert found(layered) == []


def test_first_frame_that_is_painted_while_a_take_is_made_is_a_change(layered, tmp_path):
    make(layered, BACK, tmp_path, meanwhile=lambda: paint(tmp_path / "first.png"))
    assert found(layered) == []


def test_strokes_that_were_not_saved_are_a_change(layered, tmp_path):
    """Of a first frame that is open, or that is an image of the file: nobody tells of them."""
    image = bpy.data.images.load(str(tmp_path / "first.png"))
    image.use_fake_user = True
    assert found(layered) == [FRONT, BACK]
    layered.das.first_frame_path, layered.das.first_frame_image = "", image
    for layer in (FRONT, BACK):
        make(layered, layer, tmp_path)
    assert found(layered) == [FRONT, BACK]
    image.pixels[0] = 1.0
    assert image.is_dirty and found(layered) == []
    layered.das.first_frame_image, layered.das.first_frame_path = None, str(tmp_path / "first.png")
    make(layered, FRONT, tmp_path)
    assert found(layered) == []


def test_take_that_is_asked_for_anew_is_not_answered(layered):
    settings = replace(resolve_settings(layered), anew=True)
    assert unchanged.find(layered, FRONT, settings) is None


def test_change_while_a_take_is_made_is_a_change(layered, tmp_path):
    make(layered, FRONT, tmp_path, meanwhile=unchanged.forget)
    assert found(layered) == []


def test_take_of_the_button_answers_a_render(shot_scene):
    unchanged.forget()
    update()
    settings = resolve_settings(shot_scene)
    made = drive.finish(of_scene.only_take(shot_scene, settings, in_child=True))
    (layer,) = shot_scene.view_layers
    assert unchanged.find(shot_scene, layer.name, settings).take == made
    shot_scene.objects["Cube"].location.z += 0.1
    update()
    assert unchanged.find(shot_scene, layer.name, settings) is None
    unchanged.forget()


def test_take_whose_frames_are_gone_is_made_again(layered, tmp_path):
    (tmp_path / f"{BACK}.png").unlink()
    assert found(layered) == [FRONT]


def test_another_file_has_other_takes(layered):
    unchanged.forget()
    assert found(layered) == []


def test_what_is_kept_is_bounded(layered, tmp_path):
    names = [layered.view_layers.new(f"Layer {number}").name for number in range(unchanged.LIMIT)]
    update()
    for name in (FRONT, *names):
        make(layered, name, tmp_path)
    assert found(layered) == names
