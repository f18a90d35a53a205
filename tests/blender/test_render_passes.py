# SPDX-License-Identifier: GPL-3.0-or-later
"""Blender's own passes out of the geometry, beside those that Cycles renders at the pixels' centres."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat, engine
from das_blender_addon.errors import JobCancelled
from das_blender_addon.jobs.kept_sheets import forget_sheets, kept_sheets
from das_blender_addon.scene.blender_passes import (
    DEPTH,
    FAR_AWAY,
    MATERIAL_INDEX,
    NORMAL,
    OBJECT_INDEX,
    PASSES,
    VECTOR,
    render_passes,
    wanted_passes,
)
from tests.blender.test_child_export import cloth, moving_particles, rigid_bodies
from tests.support.content import add_material
from tests.support.exr import read_exr, said_of_mattes
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

FRAME = 5
NEAR_PX, NEAR_DEPTH, NEAR_NORMAL = 0.1, 1e-3, 5e-3
"""How far they may be from those of Cycles, which computes in single precision."""
MOST = 0.99
"""Of all pixels: at an outline a ray may miss what a rasteriser hits."""
SAMPLE_PX = 0.01
"""Cycles' smallest filter: its one sample lies that near the pixel's centre."""


@pytest.fixture
def moving(scene):
    """Things that turn, bend, are mirrored, flat and smooth, and a holdout, seen by a camera that moves; every one has
    an index.
    """
    camera = add_camera(scene, location=(0.0, -9.0, 2.0))
    key(camera, "location", {1: -0.6, 9: 0.6}, index=0)
    key(camera.data, "lens", {1: 38.0, 9: 44.0})
    ground = add_grid(scene, "Ground", cells=1, size=30.0, location=(0.0, 0.0, -1.3))
    cube = add_cube(scene, size=1.5, location=(-2.2, 0.0, 0.0))
    key(cube, "rotation_euler", {1: 0.0, 9: 1.6}, index=2)
    key(cube, "location", {1: -0.5, 9: 0.5}, index=2)
    cloth = add_grid(scene, "Cloth", cells=12, size=2.2, location=(0.3, 0.0, 0.2))
    cloth.rotation_euler[0] = 1.2
    for polygon in cloth.data.polygons:
        polygon.use_smooth = True
    cloth.shape_key_add(name="Basis")
    bent = cloth.shape_key_add(name="Bent")
    for point in bent.data:
        point.co.z += 0.5 * np.sin(3.0 * point.co.x) * np.cos(2.0 * point.co.y)
    key(bent, "value", {1: 0.0, 9: 1.0})
    mirrored = link(scene, "Mirrored", cloth.data)
    mirrored.location, mirrored.rotation_euler, mirrored.scale = (2.9, 0.4, 0.3), (1.0, 0.4, 0.2), (-0.7, 1.0, 0.6)
    key(mirrored, "rotation_euler", {1: -0.3, 9: 0.6}, index=1)
    for number, shape in enumerate((ground, cube, cloth, mirrored), 1):
        shape.pass_index = 10 * number
        if shape is not mirrored:
            material = bpy.data.materials.new(shape.name)
            material.pass_index = number
            shape.data.materials.append(material)
    hole = add_cube(scene, "Hole", size=0.9, location=(1.2, -1.5, 0.9))
    hole.is_holdout, hole.pass_index = True, 50
    for curve in [curve for action in bpy.data.actions for curve in curves_of(action)]:
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    return scene


def curves_of(action):
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    bags = [bag for layer in action.layers for strip in layer.strips for bag in strip.channelbags]
    return [curve for bag in bags for curve in bag.fcurves]


def ours(scene, frame=FRAME, wanted=PASSES, sheets=None, said=None) -> dict[str, np.ndarray]:
    """Inside a render, as the engine makes them for the first view layer."""
    found = {}

    class Engine(bpy.types.RenderEngine):
        bl_idname, bl_label = "DAS_TEST_PASSES", "Passes"

        def render(self, depsgraph):
            if depsgraph.view_layer.name != scene.view_layers[0].name:
                return

            def step(number):
                self.frame_set(frame if number is None else number, 0.0)

            size = (self.resolution_x, self.resolution_y)
            found.update(render_passes(depsgraph, size, wanted, step, sheets=sheets, said=said))
            assert depsgraph.scene.frame_current == frame

    bpy.utils.register_class(Engine)
    try:
        scene.render.engine = Engine.bl_idname
        scene.frame_set(frame)
        bpy.ops.render.render()
    finally:
        scene.render.engine = "CYCLES"
        bpy.utils.unregister_class(Engine)
    return found


def write_layers(scene, path):
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    scene.render.filepath = str(path)


def of_cycles(scene, folder, frame=FRAME) -> dict[str, np.ndarray]:
    layer = scene.view_layers[0]
    for one in PASSES:
        setattr(layer, one.setting, True)
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.max_bounces = 1, False, 0
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BLACKMAN_HARRIS", SAMPLE_PX
    write_layers(scene, folder / "cycles_")
    scene.frame_start = scene.frame_end = frame
    bpy.ops.render.render(animation=True)
    (path,) = folder.glob("cycles_*")
    planes = read_exr(path)
    return {one.name: np.stack([channel(planes, one, letter) for letter in one.channels], axis=2) for one in PASSES}


def channel(planes, one, letter):
    (found,) = [values for name, values in planes.items() if name.split(".")[-2:] == [one.name, letter]]
    return found


def inside(index: np.ndarray) -> np.ndarray:
    """[H,W] bool: a pixel whose neighbours see the same object."""
    same = np.ones(index.shape, bool)
    for axis in (0, 1):
        equal = np.moveaxis(np.diff(index, axis=axis) == 0, axis, 0)
        along = np.moveaxis(same, axis, 0)
        along[1:] &= equal
        along[:-1] &= equal
    return same


def cut_by_noise(name):
    material = add_material(name)
    tree, texture = material.node_tree, material.node_tree.nodes.new("ShaderNodeTexNoise")
    texture.inputs["Scale"].default_value = 4.0
    tree.links.new(texture.outputs[0], tree.nodes["Principled BSDF"].inputs["Alpha"])
    return material


def by_child(scene):
    kept = kept_sheets(scene, scene.view_layers[0].name)
    return lambda sheets: kept.render(sheets, lambda: False)


def hide(owner, shown: dict[int, bool]):
    key(owner, "hide_render", {frame: not is_shown for frame, is_shown in shown.items()})


@pytest.mark.parametrize("kind", ["PERSP", "ORTHO"])
def test_passes_are_those_of_cycles(moving, tmp_path, kind):
    lens = moving.camera.data
    lens.type, lens.ortho_scale = kind, 8.0
    if kind == "ORTHO":  # Cycles' own vectors are wrong where one moves
        lens.animation_data_clear()
        moving.camera.animation_data_clear()
    elif bpy.app.version < (4, 5):  # whose Cycles takes a zoom for none
        lens.animation_data_clear()
    found, expected = ours(moving), of_cycles(moving, tmp_path)
    index = expected[OBJECT_INDEX.name][..., 0]
    assert set(np.unique(index)) == {0, 10, 20, 30, 40} and np.ptp(expected[VECTOR.name], axis=(0, 1)).min() > 1.0
    for one in (OBJECT_INDEX, MATERIAL_INDEX):
        assert (found[one.name] == expected[one.name]).mean() > MOST
        same = inside(index)
        np.testing.assert_array_equal(found[one.name][same], expected[one.name][same])
    assert set(np.unique(found[MATERIAL_INDEX.name])) == {0, 1, 2, 3}
    assert same.mean() > 0.8
    if bpy.app.version < (5, 0) and kind == "PERSP":  # whose Cycles has no motion of the background
        sky = found[VECTOR.name][index == 0]
        assert abs(sky).max() < NEAR_PX if bpy.app.version < (4, 5) else np.ptp(sky, axis=0).min() > 0.5
        found[VECTOR.name][index == 0] = 0.0
    for one, near in ((DEPTH, NEAR_DEPTH), (NORMAL, NEAR_NORMAL), (VECTOR, NEAR_PX)):
        np.testing.assert_allclose(found[one.name][same], expected[one.name][same], rtol=0, atol=near, err_msg=one.name)


def test_vector_of_an_orthographic_camera_that_moves_is_its_way(moving):
    moving.camera.data.type, moving.camera.data.ortho_scale = "ORTHO", 8.0
    found = ours(moving, wanted=(VECTOR, OBJECT_INDEX))
    still = found[OBJECT_INDEX.name][..., 0] == 10.0
    way_px = 1.2 / 8 * 96 / 8.0
    np.testing.assert_allclose(found[VECTOR.name][still], np.tile([way_px, 0, way_px, 0], (still.sum(), 1)), atol=1e-3)


def test_what_is_there_in_one_frame_only_or_changes_has_a_vector_that_is_a_number(moving):
    cube, cloth = moving.objects["Cube"], moving.objects["Cloth"]
    hide(cube, {FRAME - 1: False, FRAME: True, FRAME + 1: False})
    build = cloth.modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 1, 20
    found = ours(moving)
    index, vector = found[OBJECT_INDEX.name][..., 0], found[VECTOR.name]
    assert (index == 20).sum() > 100 and (vector[index == 20] == 0).all()
    assert (index == 30).sum() > 20 and np.isfinite(vector).all() and (vector[index == 10] != 0).any()
    length = np.linalg.norm(found[NORMAL.name], axis=2)
    np.testing.assert_allclose(length, found[DEPTH.name][..., 0] < FAR_AWAY, atol=1e-5)


def test_hair_and_instances_have_the_index_of_their_object(moving):
    for name in ("Cube", "Mirrored"):
        bpy.data.objects.remove(moving.objects[name])
    seed = add_cube(moving, "Seed", size=0.3)
    seed.pass_index, seed.hide_render = 7, True
    empty = link(moving, "Swarm")
    empty.instance_type, empty.instance_collection = "COLLECTION", bpy.data.collections.new("Seeds")
    empty.instance_collection.objects.link(seed)
    seed.hide_render = False
    moving.collection.objects.unlink(seed)
    empty.location = (-2.0, -1.0, 0.5)
    key(empty, "location", {1: -2.4, 9: -1.6}, index=0)
    cloth = moving.objects["Cloth"]
    cloth.modifiers.new("Hair", "PARTICLE_SYSTEM")
    settings = cloth.particle_systems[0].settings
    settings.type, settings.count, settings.hair_length, settings.root_radius = "HAIR", 40, 0.6, 8.0
    found = ours(moving)
    index, vector = found[OBJECT_INDEX.name][..., 0], found[VECTOR.name]
    swarm = index == 7
    assert swarm.sum() > 20 and set(np.unique(index)) == {0, 7, 10, 30}
    assert np.ptp(vector[swarm], axis=0).max() < 1.0 and abs(vector[swarm]).max() > 0.1


def test_arrays_of_the_interface_are_the_passes_of_the_engine(moving):
    moving.frame_set(3)
    moving.frame_start, moving.frame_end = FRAME, FRAME + 2
    found = dict(api.surface_passes(moving))
    assert list(found) == [5, 6, 7] and moving.frame_current == 3
    expected, one = ours(moving), found[FRAME]
    depth, vector, index = (expected[of.name] for of in (DEPTH, VECTOR, OBJECT_INDEX))
    np.testing.assert_array_equal(np.minimum(one.depth, np.float32(FAR_AWAY)), depth[..., 0])
    hole = np.isnan(one.before).all(axis=2)
    assert hole.any() and not vector[hole].any()
    np.testing.assert_allclose(np.nan_to_num(one.before), vector[..., :2] * (1, -1), atol=1e-5)
    np.testing.assert_allclose(np.nan_to_num(one.after), vector[..., 2:] * (-1, 1), atol=1e-5)
    assert one.names == ("Cloth", "Cube", "Ground", "Hole", "Mirrored")
    np.testing.assert_array_equal(np.array([30, 20, 10, 50, 40, 0])[one.objects], index[..., 0])
    flat = inside(index[..., 0]) & np.isin(index[..., 0], (10, 20))
    np.testing.assert_allclose(one.normal[flat], expected[NORMAL.name][flat], atol=1e-5)
    ((frame, small),) = api.surface_passes(moving, frames=[9], size=(33, 21), motion=False)
    assert frame == 9 and small.depth.shape == (21, 33) and small.before is None
    with pytest.raises(JobCancelled):
        next(api.surface_passes(moving, should_stop=lambda: True))


@pytest.mark.any_blender
@pytest.mark.parametrize("build", [cloth, rigid_bodies, moving_particles], ids=lambda build: build.__name__)
def test_vector_of_the_last_frame_knows_where_a_simulation_goes_on(scene, build):
    """As it is of a longer shot.  What a render job simulates before it, nothing simulates within it."""
    build(scene)
    add_camera(scene, location=(0.0, -9.0, 3.0))
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 1, 6
    scene.frame_start, scene.frame_end = 1, 6
    scene.view_layers[0].use_pass_vector = True
    found = []
    for last in (6, 8):
        scene.das.shot_end, scene.render.engine = last, compat.ENGINE
        scene.frame_set(1)
        engine.forget_takes(scene)
        found.append(ours(scene, 6, (VECTOR,))[VECTOR.name])
        scene.render.engine = compat.ENGINE
        engine.release_takes(scene)
    assert np.abs(found[0][..., 2:]).max() > 0.1 and np.abs(found[0][..., :2]).max() > 0.1
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)


@pytest.mark.any_blender
def test_passes_are_cut_out_as_the_tracking_is_and_alpha_is_rendered_again_only_where_it_must(scene):
    """The camera comes near: what is larger than there was room for is rendered again."""
    camera = add_camera(scene, location=(0.0, -6.0, 0.0))
    key(camera, "location", {1: -6.0, 2: -5.9, 3: -2.5}, index=1)
    card = add_grid(scene, "Card", cells=3, size=4.0)
    card.rotation_euler.x, card.pass_index = 1.4, 7
    card.data.materials.append(cut_by_noise("Lace"))
    by, found = by_child(scene), []

    def counted(sheets):
        found.append(by(sheets))
        return found[-1]

    for frame in (1, 2, 3):
        passes = ours(scene, frame, (DEPTH, OBJECT_INDEX), counted)
        if frame == 2:
            continue
        tracked = api.export_tracking(scene, frames=[frame]).coverage[0]
        cut = passes[DEPTH.name][..., 0] < FAR_AWAY
        np.testing.assert_array_equal(passes[OBJECT_INDEX.name][..., 0] == 7, cut)
        assert 0.1 < cut.mean() and (cut == tracked).mean() > 0.998
    solid = ours(scene, 3, (DEPTH,))[DEPTH.name][..., 0] < FAR_AWAY
    assert (solid != tracked).mean() > 0.1
    ((_, arrays),) = api.surface_passes(scene, frames=[3], motion=False)
    np.testing.assert_array_equal(np.isfinite(arrays.depth), tracked)
    assert found[0] is found[1] and found[2] is not found[1]
    forget_sheets()


@pytest.mark.parametrize("border", [False, True])
def test_engine_gives_each_view_layer_the_passes_that_it_asks_for(shot_scene, tmp_path, border):
    """Also from the cache, the second time."""
    scene = shot_scene
    scene.objects["Cube"].pass_index = 3
    ground = add_grid(scene, "Ground", size=9.0, location=(0.0, 4.0, 0.0))
    ground.rotation_euler[0] = 1.3
    ground.data.materials.append(cut_by_noise("Ground"))
    first = scene.view_layers[0]
    second = scene.view_layers.new("Second")
    apart = bpy.data.collections.new("Apart")
    scene.collection.children.link(apart)
    scene.collection.objects.unlink(ground)
    apart.objects.link(ground)
    second.layer_collection.children["Apart"].exclude = True
    for one in (DEPTH, VECTOR, OBJECT_INDEX):
        setattr(first, one.setting, True)
    second.use_pass_normal = True
    first.use_pass_cryptomatte_object, first.pass_cryptomatte_depth, said = True, 2, {}
    expected = ours(scene, wanted=wanted_passes(scene, first), sheets=by_child(scene), said=said)
    matte = expected.pop("CryptoObject00")
    forget_sheets()
    scene.render.engine = compat.ENGINE
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 4, 6
    scene.frame_start, scene.frame_end = 5, 6
    part = (slice(None), slice(None))
    if border:
        scene.render.use_border = scene.render.use_crop_to_border = True
        scene.render.border_min_x, scene.render.border_max_x = 0.25, 0.75
        scene.render.border_min_y, scene.render.border_max_y = 0.5, 1.0
        part = (slice(0, 32), slice(24, 72))
    write_layers(scene, tmp_path / "out_")
    taken = []
    for _ in range(1 if border else 2):
        bpy.ops.render.render(animation=True)
        paths = sorted(tmp_path.glob("out_*"))
        taken.append([read_exr(path) for path in paths])
        assert said_of_mattes(paths[0]) == said and '"Ground"' in said["cryptomatte/542cafa/manifest"]
        for path in paths:
            path.unlink()
    planes = taken[0][0]
    for one in PASSES:
        for letter in one.channels:
            of_first = [name for name in planes if name.endswith(f"{first.name}.{one.name}.{letter}")]
            of_second = [name for name in planes if name.endswith(f"Second.{one.name}.{letter}")]
            assert len(of_first) == (one.name in expected) and len(of_second) == (one is NORMAL)
            if of_first:
                wanted = expected[one.name][part][..., one.channels.index(letter)]
                np.testing.assert_array_equal(planes[of_first[0]], wanted)
    for place, letter in enumerate("rgba"):
        (name,) = [one for one in planes if one.endswith(f"CryptoObject00.{letter}")]
        np.testing.assert_array_equal(planes[name], matte[part][..., place])
    assert expected[OBJECT_INDEX.name].max() == 3.0 and (expected[VECTOR.name] != 0).mean() > 0.1
    for once, again in zip(taken[0], taken[-1], strict=True):
        for name, values in once.items():
            np.testing.assert_array_equal(again[name], values, err_msg=name)
