# SPDX-License-Identifier: GPL-3.0-or-later
"""What Blender's own *Save a Copy* would leave behind, and what a job may not change of what is its user's."""

import os

import bpy
import numpy as np
import pytest

from das_blender_addon import compat
from das_blender_addon.child.copy import write_copy
from das_blender_addon.child.pictures import Changes, set_output
from das_blender_addon.errors import SceneError
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.take import drive
from tests.blender.test_child_export import assert_same, export, rising
from tests.support.scenes import add_camera, add_cube, add_grid


@pytest.fixture
def stage(blank_scene):
    blank_scene.frame_start, blank_scene.frame_end = 1, 12
    camera = add_camera(blank_scene, location=(0.0, -12.0, 4.0))
    camera.data.lens = 45.0
    return blank_scene


@pytest.mark.parametrize("place", ["beside the file", "in a folder of its own"])
def test_child_plays_back_a_baked_simulation_zone(stage, place, tmp_path):
    modifier = rising(stage)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    (bake,) = modifier.bakes
    if hasattr(bake, "bake_target"):
        bake.bake_target = "DISK"
    if place != "beside the file":
        bake.use_custom_path, bake.directory = True, "//bakes"
    shape = modifier.id_data
    with bpy.context.temp_override(scene=stage, active_object=shape, object=shape, selected_objects=[shape]):
        bpy.ops.object.geometry_node_bake_single(
            session_uid=shape.session_uid, modifier_name=modifier.name, bake_id=bake.bake_id
        )
    modifier.node_group.nodes["Set Position"].inputs["Offset"].default_value = (0.0, 0.0, 9.0)
    bpy.ops.wm.save_mainfile()
    vertices = assert_same(stage, (6, 9))
    np.testing.assert_allclose(np.diff(vertices[:, :, 2], axis=0), 0.6, atol=1e-5)


@pytest.mark.skipif(bpy.app.version < (4, 5, 0), reason="has no nodes that import files")
@pytest.mark.parametrize("given_by", ["the node", "the modifier"])
def test_child_finds_the_file_of_an_import_node(stage, tmp_path, given_by):
    (tmp_path / "shape.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    tree = bpy.data.node_groups.new("Import", "GeometryNodeTree")
    path = tree.interface.new_socket("Path", in_out="INPUT", socket_type="NodeSocketString")
    path.subtype = "FILE_PATH"
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    kinds = ("NodeGroupInput", "GeometryNodeImportOBJ", "GeometryNodeRealizeInstances", "NodeGroupOutput")
    given, node, real, output = (tree.nodes.new(kind) for kind in kinds)
    tree.links.new(node.outputs[0], real.inputs[0])
    tree.links.new(real.outputs[0], output.inputs[0])
    modifier = add_grid(stage, cells=4).modifiers.new("Import", "NODES")
    modifier.node_group = tree
    if given_by == "the node":
        node.inputs["Path"].default_value = "//shape.obj"
    else:
        tree.links.new(given.outputs[0], node.inputs["Path"])
        compat.give_modifier_input(modifier, path.identifier, "//shape.obj")
        modifier.id_data.update_tag()
    assert assert_same(stage, moves=False).shape[1] == 3
    assert compat.modifier_input(modifier, path.identifier) == ("" if given_by == "the node" else "//shape.obj")


@pytest.mark.any_blender
def test_child_leaves_the_cache_of_a_fluid_that_is_replayed(stage, tmp_path):
    """Blender as a module knows half of fluids, but it does write their configurations."""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    modifier = add_cube(stage).modifiers.new("Fluid", "FLUID")
    modifier.fluid_type = "DOMAIN"
    domain = modifier.domain_settings
    domain.domain_type, domain.resolution_max, domain.cache_directory = "LIQUID", 8, "//fluid"
    assert domain.cache_type == "REPLAY"
    source = source_of(stage, stage.view_layers[0].name, in_child=True)
    try:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fluid").rglob("*")}
        assert [path.name for path in before if path.is_file()] == ["config_0001.uni"]
        drive.finish(source.export((1, 2, 3), (48, 32), lambda *_: None))
        assert "Fluid of 'Cube'" in source.simulated()
    finally:
        source.close()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "fluid").rglob("*")} == before


@pytest.mark.any_blender
def test_library_that_went_while_its_file_was_open_is_refused_by_name(stage, tmp_path):
    library = tmp_path / "props.blend"
    prop = add_cube(stage, "Prop")
    bpy.data.libraries.write(str(library), {prop}, fake_user=True)
    bpy.data.objects.remove(prop)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    with bpy.data.libraries.load(str(library), link=True, relative=True) as (_, wanted):
        wanted.objects = ["Prop"]
    stage.collection.objects.link(wanted.objects[0])
    _, vertices, _ = export(stage, (1, 2), in_child=True)
    library.rename(tmp_path / "elsewhere.blend")
    with pytest.raises(SceneError, match=r"'props.blend'.* missing on the disk.*make what is linked local"):
        export(stage, (1, 2), in_child=True)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "work.blend"))  # which lacks it from the beginning, and is warned
    scene = bpy.context.scene
    add_cube(scene)
    assert export(scene, (1, 2), in_child=True)[1].shape == vertices.shape


@pytest.mark.any_blender
def test_image_whose_file_went_travels_with_its_pixels(stage, tmp_path):
    image = bpy.data.images.new("Paint", 2, 2)
    image.filepath_raw, image.file_format = str(tmp_path / "paint.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    seen, unseen = (bpy.data.images.load(str(tmp_path / "paint.png")) for _ in range(2))
    for one in (seen, unseen):
        one.use_fake_user = True
    assert len(seen.pixels) == 16 and not unseen.has_data
    copy = write_copy(stage, stage.view_layers[0].name)
    assert copy.images == []
    copy.close()
    (tmp_path / "paint.png").unlink()
    copy = write_copy(stage, stage.view_layers[0].name)
    assert [one["name"] for one in copy.images] == [seen.name]
    copy.close()


@pytest.mark.any_blender
def test_render_that_is_only_a_walk_or_a_picture_leaves_the_cached_result(stage, tmp_path):
    """*Output › Cache Result* keeps the last render of a scene in a folder of the user's."""
    paths, kept, chosen = bpy.context.preferences.filepaths, tmp_path / "kept", Changes()
    kept.mkdir()
    before, paths.render_cache_directory = paths.render_cache_directory, f"{kept}{os.sep}"
    stage.render.use_render_cache = True
    picture = {"size": (16, 8), "pixel_aspect": (1.0, 1.0), "view_layer": stage.view_layers[0].name, "look": {}}
    try:
        walk_in_render(stage, stage.view_layers[0].name, (1, 2), lambda *_: None)
        set_output(stage, picture, chosen)
        assert not stage.render.use_render_cache
    finally:
        paths.render_cache_directory = before
        chosen.undo()
    assert list(kept.iterdir()) == [] and stage.render.use_render_cache


@pytest.mark.any_blender
def test_copy_packs_nothing_into_the_open_file(stage, tmp_path):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    image = bpy.data.images.new("Heights", 8, 8)
    image.filepath_raw, image.file_format = str(tmp_path / "heights.png"), "PNG"
    image.save()
    bpy.data.images.remove(image)
    image = bpy.data.images.load(str(tmp_path / "heights.png"))
    image.use_fake_user = True
    bpy.data.use_autopack = True
    try:
        write_copy(stage, stage.view_layers[0].name).close()
        assert image.packed_file is None and bpy.data.use_autopack
    finally:
        bpy.data.use_autopack = False
