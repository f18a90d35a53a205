# SPDX-License-Identifier: GPL-3.0-or-later
"""What renders and is no mesh: hair and points cover the pixels that Cycles covers with them, and keep their places."""

import bpy
import numpy as np
import pytest

from das_blender_addon.protocol.png import alpha_of_png
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.passes import surface_passes
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.content import add_hair_curves, add_particle_hair, add_points
from tests.support.scenes import add_camera, add_grid, key, link

SIZE = (128, 96)
HAIR_AND_POINTS = 0.95
"""Least share of the pixels that either covers, that both cover."""


@pytest.fixture
def stage(blank_scene):
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_camera(scene, location=(0.0, -8.0, 2.0))
    key(camera, "location", {1: (0.0, -8.0, 2.0), 5: (3.0, -7.0, 3.0)})
    scene.frame_set(1)
    return scene


def exported(scene, frames=(1,), size=SIZE, sheets=None):
    export = GeometryExport(*size)
    walk_in_render(scene, scene.view_layers[0].name, list(frames), export.add)
    return export.finish(sheets)


def in_cycles(scene, folder, samples=1, whole_pixels=False) -> np.ndarray:
    """[H,W] u8: alpha of the centres of pixels, or of whole ones, by Cycles."""
    render = scene.render
    render.engine, render.film_transparent, render.dither_intensity = "CYCLES", True, 0.0
    scene.cycles.samples, scene.cycles.use_denoising = samples, False
    scene.cycles.pixel_filter_type, scene.cycles.filter_width = "BOX", 1.0 if whole_pixels else 0.01
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGBA"
    render.filepath = str(folder / "cycles.png")
    bpy.ops.render.render(write_still=True)
    return alpha_of_png((folder / "cycles.png").read_bytes())


def agreement(one, other) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


def assert_covers(scene, folder, least, **how) -> np.ndarray:
    frame = scene.frame_current
    video = render_tracking_video(exported(scene, (frame,)))
    truth = in_cycles(scene, folder, **how) > 127
    assert truth.any()
    assert agreement(video.coverage[0], truth) >= least, agreement(video.coverage[0], truth)
    return video.coverage[0]


# ── Hair ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("frame", [1, 5])
def test_hair_curves_cover_what_cycles_covers(stage, tmp_path, frame):
    hair = add_hair_curves(stage, 40)
    hair.rotation_euler, hair.scale = (0.3, 0.2, 0.5), (1.2, 1.2, 1.2)
    stage.frame_set(frame)
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_hair_that_is_squeezed_is_flat_as_in_cycles(stage, tmp_path):
    add_hair_curves(stage, 40).scale = (2.0, 1.0, 0.5)
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_hair_and_points_of_no_size_cover_nothing(stage):
    """They grow from nothing, which no matrix can be turned around for."""
    for shape in (add_hair_curves(stage, 5), add_points(stage)):
        key(shape, "scale", {1: (0.0, 0.0, 0.0), 5: (1.0, 1.0, 1.0)})
    geometry = exported(stage, (1, 5))
    assert np.isfinite(geometry.vertices).all()
    assert surface_passes(geometry, 1).depth.min() < 20.0 and np.isinf(surface_passes(geometry, 0).depth).all()


def test_poly_curves_cover_what_cycles_covers(stage, tmp_path):
    hair = add_hair_curves(stage, 40, points=6, bend=1.5)
    if not hasattr(hair.data, "set_types"):
        pytest.skip("scripts cannot make poly curves before Blender 4.5")
    hair.data.set_types(type="POLY")
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


@pytest.mark.parametrize("children", ["NONE", "SIMPLE", "INTERPOLATED"])
def test_particle_hair_covers_what_cycles_covers(stage, tmp_path, children):
    scalp, settings = add_particle_hair(stage)
    scalp.show_instancer_for_render = False
    scalp.rotation_euler = (0.2, 0.0, 0.3)
    settings.child_type, settings.rendered_child_count, settings.child_percent = children, 5, 1
    settings.child_length = 0.8
    settings.shape = 0.4
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_hair_of_a_hidden_emitter_and_of_a_copied_one_is_there(stage, tmp_path):
    """In a collection that is instanced twice, once larger."""
    scalp, settings = add_particle_hair(stage)
    scalp.show_instancer_for_render = False
    stage.collection.objects.unlink(scalp)
    parts = bpy.data.collections.new("Parts")
    parts.objects.link(scalp)
    for name, x, scale in (("Left", -1.3, 0.7), ("Right", 1.3, 1.1)):
        empty = link(stage, name)
        empty.instance_type, empty.instance_collection = "COLLECTION", parts
        empty.location, empty.scale = (x, 0, 0), (scale, scale, scale)
    covered = assert_covers(stage, tmp_path, HAIR_AND_POINTS)
    assert covered[:, :64].any() and covered[:, 64:].any()


def test_hair_that_does_not_render_is_not_there(stage):
    scalp, settings = add_particle_hair(stage)
    hair = add_hair_curves(stage, 3)
    assert exported(stage).vertices.shape[1] > 500
    hair.hide_render = True
    scalp.modifiers["Hair"].show_render = False
    assert exported(stage).vertices.shape[1] == 25
    scalp.modifiers["Hair"].show_render = True
    settings.render_type = "NONE"
    assert exported(stage).vertices.shape[1] == 25


def test_each_point_of_hair_keeps_its_place_on_its_strand(stage):
    """Under a camera and strands that move, a pixel knows where on its strand it was in the first frame."""
    hair = add_hair_curves(stage, 12, radius=0.06, bend=0.0)
    key(hair, "location", {1: (0.0, 0.0, 0.0), 5: (0.5, 0.0, 0.2)})
    key(hair, "rotation_euler", {1: 0.0, 5: 0.5}, index=1)
    geometry, local = exported(stage, (1, 5)), []
    for index, frame in enumerate((1, 5)):
        stage.frame_set(frame)
        matrix = np.array(hair.matrix_world)
        middle = geometry.vertices[index].reshape(-1, 2, 3).mean(axis=1)
        local.append((middle - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T)
    np.testing.assert_allclose(local[0], local[1], atol=1e-4)
    sides = geometry.vertices[:, 1::2] - geometry.vertices[:, ::2]
    assert (np.einsum("tpk,tpk->tp", sides[:1], sides[1:]) > 0.0).all(), "left stays left"


def test_thin_hair_covers_as_much_as_it_does_in_cycles(stage, tmp_path):
    """A tenth of a pixel thick: most strands have no width, and all keep a place."""
    hair = add_hair_curves(stage, 3000, radius=0.002, bend=0.2)
    geometry = exported(stage)
    sides = geometry.vertices[0].reshape(-1, 2, 3)
    width = np.linalg.norm(sides[:, 0] - sides[:, 1], axis=1)
    assert np.isfinite(geometry.vertices[0]).all() and 0.05 < np.mean(width > 0.0) < 0.6
    ours = render_tracking_video(geometry).coverage[0].mean()
    truth = in_cycles(stage, tmp_path, samples=16, whole_pixels=True).mean() / 255.0
    assert ours == pytest.approx(truth, rel=0.1), "share of the picture"
    assert hair.data.attributes["radius"].data[0].value < 0.003


@pytest.mark.any_blender
def test_hair_without_a_strand_and_a_cloud_without_a_point_are_nothing(stage):
    alone = exported(stage)
    link(stage, "Bald", bpy.data.hair_curves.new("Bald"))
    link(stage, "Nobody", bpy.data.pointclouds.new("Nobody"))
    geometry = exported(stage)
    assert len(geometry.triangles) == len(alone.triangles) and not geometry.notes


# ── Points ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("radius, scale", [(0.04, (1.5, 1.5, 1.5)), (0.5, (1.5, 1.5, 1.5)), (0.2, (2.0, 1.0, 0.5))])
def test_points_cover_what_cycles_covers(stage, tmp_path, radius, scale):
    points = add_points(stage, radius=radius)
    points.rotation_euler, points.scale = (0.4, 0.3, 0.2), scale
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_points_without_size_and_one_around_the_camera_are_not_seen(stage, tmp_path):
    """Radii from below 0 on; and the camera in a point of its own."""
    grid = add_points(stage, cells=3)
    tree = grid.modifiers["Points"].node_group
    points = next(node for node in tree.nodes if node.bl_idname == "GeometryNodeMeshToPoints")
    index, less, share = (tree.nodes.new(kind) for kind in ("GeometryNodeInputIndex", *["ShaderNodeMath"] * 2))
    less.operation, less.inputs[1].default_value = "SUBTRACT", 8.0
    share.operation, share.inputs[1].default_value = "MULTIPLY", 0.03
    tree.links.new(index.outputs[0], less.inputs[0])
    tree.links.new(less.outputs[0], share.inputs[0])
    tree.links.new(share.outputs[0], points.inputs["Radius"])
    around = add_points(stage, cells=1, radius=3.0)
    around.location = stage.camera.location
    covered = assert_covers(stage, tmp_path, HAIR_AND_POINTS)
    assert covered.mean() < 0.3


def test_many_points_cover_what_cycles_covers(stage, tmp_path):
    add_points(stage, cells=70, radius=0.012)
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_hair_and_points_cover_what_an_orthographic_camera_sees(stage, tmp_path):
    stage.camera.data.type, stage.camera.data.ortho_scale = "ORTHO", 5.0
    add_hair_curves(stage, 20)
    add_points(stage)
    assert_covers(stage, tmp_path, HAIR_AND_POINTS)


def test_points_keep_their_places_and_hide_what_is_behind_them(stage):
    points = add_points(stage, cells=1, radius=0.4)
    key(points, "location", {1: (0.0, 0.0, 0.0), 5: (1.0, 0.0, 0.0)})
    geometry = exported(stage, (1, 5))
    balls = geometry.vertices.reshape(2, 4, -1, 3)
    np.testing.assert_allclose(balls[1] - balls[0], np.broadcast_to((1.0, 0.0, 0.0), balls[0].shape), atol=1e-5)
    video = render_tracking_video(geometry)
    assert video.first_frame_visible[1].sum() > 0.8 * video.coverage[1].sum()


@pytest.mark.parametrize("has_ids", [True, False])
def test_points_that_come_and_go_keep_their_ids_and_their_places(stage, has_ids):
    """16 points; the first ones, as many as the frame's number, are not there in frames 1 to 3, and all are in 4."""
    grid = add_points(stage, radius=0.1)
    tree = grid.modifiers["Points"].node_group
    points = next(node for node in tree.nodes if node.bl_idname == "GeometryNodeMeshToPoints")
    end = next(node for node in tree.nodes if node.type == "GROUP_OUTPUT")
    ids, gone = tree.nodes.new("GeometryNodeSetID"), tree.nodes.new("GeometryNodeDeleteGeometry")
    time, compare = tree.nodes.new("GeometryNodeInputSceneTime"), tree.nodes.new("FunctionNodeCompare")
    index, modulo = tree.nodes.new("GeometryNodeInputIndex"), tree.nodes.new("ShaderNodeMath")
    compare.operation, modulo.operation, modulo.inputs[1].default_value = "LESS_THAN", "MODULO", 4.0
    tree.links.new(time.outputs["Frame"], modulo.inputs[0])
    tree.links.new(index.outputs[0], compare.inputs["A"])
    tree.links.new(modulo.outputs[0], compare.inputs["B"])
    tree.links.new(points.outputs[0], ids.inputs["Geometry"])
    tree.links.new((ids if has_ids else points).outputs[0], gone.inputs["Geometry"])
    tree.links.new(compare.outputs["Result"], gone.inputs["Selection"])
    tree.links.new(gone.outputs[0], end.inputs[0])
    geometry = exported(stage, (1, 2, 3, 4))
    balls = geometry.vertices.reshape(4, 16, 162, 3)
    there = np.isfinite(balls).all(axis=(2, 3))
    assert there.sum(axis=1).tolist() == [15, 14, 13, 16]
    middles = balls.mean(axis=2)
    moved = np.nanmax(np.linalg.norm(middles - middles[3], axis=2))
    assert bool(moved < 0.02) is has_ids, "without ids, points are told apart by their numbers"
    assert len(geometry.triangles) == 16 * 320


def test_curves_without_thickness_are_in_no_render_and_not_in_the_export(stage, tmp_path):
    tree = add_points(stage).modifiers["Points"].node_group
    curve = tree.nodes.new("GeometryNodeMeshToCurve")
    start, end = (next(node for node in tree.nodes if node.type == f"GROUP_{way}PUT") for way in ("IN", "OUT"))
    tree.links.new(start.outputs[0], curve.inputs["Mesh"])
    tree.links.new(curve.outputs[0], end.inputs[0])
    assert not in_cycles(stage, tmp_path).any()
    assert exported(stage).vertices.shape[1] == 0


def test_halos_and_lines_of_particles_are_in_no_render_and_not_in_the_export(stage, tmp_path):
    grid = add_grid(stage)
    grid.show_instancer_for_render = False
    grid.modifiers.new("Particles", "PARTICLE_SYSTEM")
    settings = grid.particle_systems[0].settings
    settings.count, settings.frame_start, settings.frame_end, settings.particle_size = 50, 1, 1, 0.3
    for kind in ("HALO", "LINE"):
        settings.render_type = kind
        assert not in_cycles(stage, tmp_path).any()
        assert exported(stage).vertices.shape[1] == 0
