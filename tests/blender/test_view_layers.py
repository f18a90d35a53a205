# SPDX-License-Identifier: GPL-3.0-or-later
"""View layers through Blender's own render operators: every layer that renders gets a take of its own."""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon import api, engine
from das_blender_addon.jobs.sources import facts_of, source_of
from das_blender_addon.protocol.png import decode_png, encode_png
from das_blender_addon.scene.appearance import shading_digest
from das_blender_addon.shot.settings import resolve_settings
from das_blender_addon.take import drive
from tests.blender.test_engine import assert_render_fails, written
from tests.blender.test_first_frame import glowing
from tests.support.exr import read_exr
from tests.support.scenes import add_cube, add_grid, key

FRONT, BACK = "ViewLayer", "Back"
FRAME = 5


@pytest.fixture
def layered(shot_scene, tmp_path):
    """Two layers: the first has the orange cube, the second a green one that moves the other way."""
    scene = shot_scene
    scene.das.cache_folder = str(tmp_path / "cache")
    green = add_cube(scene, "Green", size=1.2)
    green.data.materials.append(glowing((0.0, 1.0, 0.1)))
    key(green, "location", {1: 1.5, 9: -1.5}, index=0)
    for name, shape in (("Orange", bpy.data.objects["Cube"]), ("Green", green)):
        collection = bpy.data.collections.new(name)
        scene.collection.children.link(collection)
        scene.collection.objects.unlink(shape)
        collection.objects.link(shape)
    front, back = scene.view_layers[0], scene.view_layers.new(BACK)
    assert front.name == FRONT
    front.layer_collection.children["Green"].exclude = True
    back.layer_collection.children["Orange"].exclude = True
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    scene.render.filepath = str(tmp_path / "out" / "####")
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 1, 9
    scene.frame_start = scene.frame_end = FRAME
    return scene


def render(scene) -> dict[str, np.ndarray]:
    """The planes of the one frame that is rendered; nothing is left behind."""
    bpy.ops.render.render(animation=True)
    (path,) = written(scene)
    planes = read_exr(path)
    path.unlink()
    return planes


def plane(planes: dict[str, np.ndarray], layer: str, render_pass: str, letter: str) -> np.ndarray:
    return planes[f"{layer}.{render_pass}.{letter}"]


def combined(planes: dict[str, np.ndarray], layer: str) -> np.ndarray:
    return np.stack([plane(planes, layer, "Combined", letter) for letter in "RGB"], axis=-1)


def layers_in(planes: dict[str, np.ndarray]) -> set[str]:
    return {name.split(".")[0] for name in planes if engine.COVERAGE_PASS in name}


def frame_of(take) -> np.ndarray:
    return engine.linear_from_srgb(decode_png(take.frames[take.frame_numbers.index(FRAME)].read_bytes()))


def takes(scene) -> set[Path]:
    return set(Path(scene.das.cache_folder).glob("**/takes/*"))


def test_each_layer_holds_a_take_of_its_own(layered):
    planes = render(layered)
    assert layers_in(planes) == {FRONT, BACK} and len(takes(layered)) == 2
    for name, other in ((FRONT, BACK), (BACK, FRONT)):
        layered.view_layers[name].use, layered.view_layers[other].use = True, False
        tracking, take = api.export_tracking(layered), api.render_take(layered)
        coverage = tracking.coverage[FRAME - 1]
        assert take.cached and coverage.any()
        np.testing.assert_array_equal(plane(planes, name, engine.COVERAGE_PASS, "X") > 0.5, coverage)
        red = np.rint(plane(planes, name, engine.TRACKING_PASS, "R") * 255).astype(np.uint8)
        np.testing.assert_array_equal(red, tracking.video[FRAME - 1, ..., 0])
        np.testing.assert_array_equal(combined(planes, name), frame_of(take))
    orange, green = (combined(planes, name).mean(axis=(0, 1)) for name in (FRONT, BACK))
    assert orange[0] > 2 * orange[1] and green[1] > 2 * green[0]


def test_job_about_a_layer_has_its_geometry_and_no_other(layered):
    """In a child Blender, as jobs of a window, and in this one."""
    found = {}
    for layer in (FRONT, BACK):
        for in_child in (True, False):
            source = source_of(layered, layer, in_child=in_child)
            try:
                geometry = drive.finish(source.export((1, 9), (96, 64), lambda *_: None))
                assert geometry.frames == (1, 9)
                found[layer, in_child] = [np.array(vertices) for vertices in geometry.vertices]
            finally:
                source.close()
        np.testing.assert_array_equal(found[layer, True], found[layer, False])
    centres = {layer: [vertices.mean(axis=0)[0] for vertices in found[layer, True]] for layer in (FRONT, BACK)}
    np.testing.assert_allclose(centres[FRONT], [-1.5, 1.5], atol=1e-5)
    np.testing.assert_allclose(centres[BACK], [1.5, -1.5], atol=1e-5)


def test_layer_that_is_off_is_not_made(layered):
    layered.view_layers[FRONT].use = False
    planes = render(layered)
    assert layers_in(planes) == {BACK} and len(takes(layered)) == 1
    green = combined(planes, BACK).mean(axis=(0, 1))
    assert green[1] > 2 * green[0]


def test_single_layer_gets_the_take_that_it_has_among_others(layered):
    both = render(layered)
    layered.view_layers[FRONT].use = False
    planes = render(layered)
    assert layers_in(planes) == {BACK} and len(takes(layered)) == 2
    np.testing.assert_array_equal(combined(planes, BACK), combined(both, BACK))


@pytest.mark.any_blender
def test_layers_with_the_same_geometry_have_their_own_first_frames(layered):
    """A material override makes another picture of the same shot."""
    back = layered.view_layers[BACK]
    back.layer_collection.children["Orange"].exclude = False
    back.layer_collection.children["Green"].exclude = True
    back.material_override = glowing((0.0, 0.2, 1.0))
    planes = render(layered)
    orange, blue = (combined(planes, name).mean(axis=(0, 1)) for name in (FRONT, BACK))
    assert orange[0] > 2 * orange[2] and blue[2] > 2 * blue[0]
    again = render(layered)
    for name in (FRONT, BACK):
        np.testing.assert_array_equal(combined(again, name), combined(planes, name))
    assert len(takes(layered)) == 2


@pytest.mark.any_blender
def test_painted_first_frame_stays_with_its_layer(layered):
    planes = render(layered)
    first = layered.das.shot_start
    painted = api.first_frame_path(api.shot_folder(layered, layered.das.cache_folder, BACK), first)
    painted.write_bytes(encode_png(np.full((64, 96, 3), 90, np.uint8)))
    layered.view_layers[FRONT].use = False
    assert api.first_frame_path(api.shot_folder(layered, layered.das.cache_folder), first) == painted
    layered.view_layers[FRONT].use = True
    again = render(layered)
    np.testing.assert_array_equal(combined(again, FRONT), combined(planes, FRONT))
    assert (combined(again, BACK) != combined(planes, BACK)).any()


@pytest.mark.any_blender
def test_one_picture_for_several_layers_is_refused(layered, tmp_path):
    image = tmp_path / "first.png"
    image.write_bytes(encode_png(np.full((64, 96, 3), 90, np.uint8)))
    layered.das.first_frame_path = str(image)
    layered.render.use_single_layer = True  # which Blender without a window does not ask
    assert_render_fails(layered, "2 view layers .* turn off the other layers")
    layered.render.use_single_layer = False
    layered.view_layers[FRONT].use = False
    assert layers_in(render(layered)) == {BACK}


@pytest.mark.any_blender
@pytest.mark.parametrize("kind", ["path", "image"])
def test_one_key_picture_for_several_layers_is_refused(layered, tmp_path, kind):
    image = tmp_path / "later.png"
    image.write_bytes(encode_png(np.full((64, 96, 3), 90, np.uint8)))
    frame = layered.das.shot_start + 1
    layered.das.key_mode = "LIST"
    layered.das.key_pictures.add().frame = frame + 1  # rendered for each layer: no picture of its user's
    key = layered.das.key_pictures.add()
    key.frame = frame
    if kind == "path":
        key.path = str(image)
    else:
        key.image = bpy.data.images.load(str(image))
    assert_render_fails(layered, f"2 view layers render and the key picture of frame {frame} .*later.png is one")


def test_layer_without_a_surface_is_named(layered):
    layered.view_layers[BACK].layer_collection.children["Green"].exclude = True
    assert_render_fails(layered, "view layer 'Back'")


@pytest.mark.any_blender
def test_samples_of_a_layer_do_not_go_before_those_of_the_first_frame(layered, tmp_path):
    """A picture of one sample is another one than a picture of many: a lamp that is seen by its light."""
    sun = bpy.data.objects.new("Lamp", bpy.data.lights.new("Lamp", "POINT"))
    sun.data.energy, sun.data.shadow_soft_size, sun.location = 500.0, 3.0, (0.0, -4.0, 4.0)
    layered.collection.objects.link(sun)
    add_grid(layered, "Wall", cells=1, size=20.0, location=(0.0, 4.0, 0.0)).rotation_euler.x = 1.5
    layered.das.first_frame_samples = 1
    pictures = []
    for samples in (0, 64):
        layered.view_layers[0].samples = samples
        layered.das.cache_folder = str(tmp_path / f"cache {samples}")
        bpy.ops.das.render_first_frame()
        (file,) = Path(layered.das.cache_folder).rglob("first_frames/*.png")
        pictures.append(decode_png(file.read_bytes()))
        assert layered.view_layers[0].samples == samples
    np.testing.assert_array_equal(*pictures)


@pytest.mark.any_blender
def test_picture_of_a_layer_remembers_that_layers_shading(layered):
    other = bpy.data.materials.new("Override")
    layered.view_layers[BACK].material_override = other
    digests = {layer.name: shading_digest(layered, layer) for layer in layered.view_layers}
    assert digests[FRONT] != digests[BACK]
    for name, digest in digests.items():
        assert facts_of(layered, resolve_settings(layered), name).shading == digest
