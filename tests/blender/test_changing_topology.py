# SPDX-License-Identifier: GPL-3.0-or-later
"""Meshes whose topology changes, and instances that come and go: what goes on keeps its place, others are new.

Every Blender bores its own hole through the wall, and its points are checked there; what else is asked of that shot is
about this project's own steps.
"""

import bpy
import numpy as np
import pytest

from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.drawn import DrawnSurfaces
from das_blender_addon.tracking.spool import SpoolWriter
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.scenes import CUBE_FACES, add_camera, add_cube, add_grid, key, link
from tests.support.waves import exported, kept_points, waving_suzanne

SIZE = (96, 64)
#: Pixels, where a flat surface was cut anew: float32 positions and weights.
FLAT_ERROR_PX = 0.02
#: Pixels around what is new, in which triangles are new in part: one triangle that was cut is two pixels long.
RIM_PX = 3
#: Of the pixels of a remeshed surface so many must be within a pixel of where they really were.
LEAST_KEPT = 0.95


def export(scene, frames, size=SIZE):
    return exported(scene, frames, size)


def places(geometry, index, other=0):
    """World places, at the frame ``other``, of the points that the frame ``index`` draws."""
    surfaces = DrawnSurfaces(geometry)
    return surfaces.points(surfaces.at(index), other)


def is_new(points):
    return np.isnan(points).any(axis=1)


# ── Surfaces ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_remeshed_wave_keeps_its_points(blank_scene):
    suzanne = waving_suzanne(blank_scene, voxel_size=0.08)
    geometry = export(blank_scene, range(1, 13))
    suzanne.modifiers.remove(suzanne.modifiers["Remesh"])
    kept = kept_points(geometry, export(blank_scene, range(1, 13)))
    assert geometry.changes is not None and kept.moved > 1.5
    assert kept.within_a_pixel >= LEAST_KEPT, kept.within_a_pixel


def bored_wall(scene, frames=(1, 2, 3)):
    """A block that turns, with a hole in it that moves sidewards."""
    add_camera(scene)
    block = add_cube(scene, "Block", size=3.0)
    key(block, "rotation_euler", {frames[0]: (0, 0, 0), frames[-1]: (0, 0, 0.3)})
    cutter = add_cube(scene, "Cutter")
    cutter.scale, cutter.hide_render, cutter.parent = (1, 6, 1), True, block
    key(cutter, "location", {frames[0]: (-0.6, 0, 0), frames[-1]: (0.6, 0, 0)})
    boolean = block.modifiers.new("Hole", "BOOLEAN")
    boolean.object, boolean.solver = cutter, "EXACT"
    return block


def test_wall_stays_exact_while_a_hole_moves_through_it(blank_scene):
    block = bored_wall(blank_scene)
    geometry = export(blank_scene, (1, 3))
    block.modifiers.clear()
    whole = export(blank_scene, (1, 3))
    video, truth = render_tracking_video(geometry), render_tracking_video(whole)
    pairs = zip(correspondences(geometry, [0]), correspondences(whole, [0]), strict=True)
    was_wall, wall = (frame.coverage & np.isclose(frame.depth, other.depth, rtol=1e-4) for frame, other in pairs)
    # What fills the hole of the first frame is new, but for a rim; everything else is where it was.
    then = truth.first_frame_xy[1]
    columns, rows = (np.clip(np.nan_to_num(then[..., axis]).astype(int), 0, SIZE[axis] - 1) for axis in (0, 1))
    was_hole = ~was_wall[rows, columns]
    beside = np.zeros_like(was_hole)  # triangles that are new in part
    for down in range(-RIM_PX, RIM_PX + 1):
        for across in range(-RIM_PX, RIM_PX + 1):
            beside |= np.roll(was_hole, (down, across), axis=(0, 1))
    error = np.linalg.norm(video.first_frame_xy[1] - then, axis=-1)
    assert (wall & was_hole).sum() > 50 and (wall & ~beside).sum() > 500
    assert (error < FLAT_ERROR_PX)[wall & ~beside].mean() > 0.98
    assert np.isnan(error)[wall & was_hole].mean() > 0.7


@pytest.mark.any_blender
def test_wall_is_followed_back_from_a_later_picture(blank_scene):
    bored_wall(blank_scene)
    geometry = export(blank_scene, (1, 2, 3))
    first = next(correspondences(geometry, [0, 2], frame_indices=[0]))
    last = list(correspondences(geometry, [0, 2]))[2]
    for frame, other in ((first, 1), (last, 0)):
        share = frame.visible[other][frame.coverage].mean()
        assert 0.6 < share < 1.0


def test_faces_that_are_built_are_new_and_others_stay(blank_scene):
    add_camera(blank_scene)
    grid = add_grid(blank_scene, "Wall", cells=6)
    key(grid, "location", {1: (0, 0, 0), 4: (0, 0, 1)})
    build = grid.modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 1, 6
    geometry = export(blank_scene, (2, 4))
    then, now = places(geometry, 1, 0), places(geometry, 1, 1)
    new = is_new(then)
    assert 0.2 < new.mean() < 0.8
    np.testing.assert_allclose((now - then)[~new][:, 2], (now - then)[~new][0, 2], atol=1e-5)
    np.testing.assert_allclose(then[~new][:, :2], now[~new][:, :2], atol=2.0 / 48)


def test_mesh_that_appears_from_nothing_is_new(blank_scene):
    add_camera(blank_scene)
    build = add_grid(blank_scene, "Wall").modifiers.new("Build", "BUILD")
    build.frame_start, build.frame_duration = 2, 4
    geometry = export(blank_scene, (1, 4, 9))
    assert is_new(places(geometry, 1, 0)).all() and not is_new(places(geometry, 1, 1)).any()


def swapped(scene, cube, other):
    """The shot of two frames in which the object ``cube`` has the mesh ``other`` in the second."""
    exported = GeometryExport(*SIZE)
    exported.add(1, bpy.context.evaluated_depsgraph_get())
    cube.data = other
    exported.add(2, bpy.context.evaluated_depsgraph_get())
    return exported.finish()


def test_other_faces_on_the_same_vertices_keep_all_points(blank_scene):
    add_camera(blank_scene)
    cube = add_cube(blank_scene)
    other = bpy.data.meshes.new("Other")
    other.from_pydata([vertex.co for vertex in cube.data.vertices], [], CUBE_FACES[1:] + CUBE_FACES[:1])
    geometry = swapped(blank_scene, cube, other)
    np.testing.assert_allclose(places(geometry, 1, 0), places(geometry, 1, 1), atol=1e-6)
    np.testing.assert_allclose(places(geometry, 0, 1), places(geometry, 0, 0), atol=1e-6)


def test_vertices_with_one_id_are_one_point_however_far_it_went(blank_scene):
    add_camera(blank_scene)
    cube, other = add_cube(blank_scene), bpy.data.meshes.new("Other")
    corners = np.array([vertex.co for vertex in cube.data.vertices])
    order = [3, 1, 0, 2, 7, 6, 5, 4]
    moved = (corners * (1.0, 1.0, 2.0) + (0.0, 0.0, 3.0))[order]
    other.from_pydata(moved.tolist(), [], [[order.index(corner) for corner in face] for face in CUBE_FACES])
    for mesh, ids in ((cube.data, range(100, 108)), (other, [100 + number for number in order])):
        mesh.attributes.new("id", "INT", "POINT").data.foreach_set("value", list(ids))
    geometry = swapped(blank_scene, cube, other)
    np.testing.assert_allclose(places(geometry, 1, 0)[:8], corners[order], atol=1e-6)


def test_metaballs_that_merge_keep_their_points(blank_scene):
    add_camera(blank_scene, location=(0, -5, 0))
    metas = [bpy.data.metaballs.new(name) for name in ("Ball", "Ball.001")]
    for meta in metas:
        meta.render_resolution = 0.15
        meta.elements.new().radius = 1.0
        link(blank_scene, meta.name, meta)
    key(blank_scene.objects["Ball.001"], "location", {1: (2.2, 0, 0), 6: (1.4, 0, 0)})
    blank_scene.objects["Ball"].location = (-0.4, 0, 0)
    geometry = export(blank_scene, range(1, 7))
    video = render_tracking_video(geometry)
    placed = np.isfinite(video.first_frame_xy[5, ..., 0])
    assert geometry.changes is not None
    assert placed[video.coverage[5]].mean() > 0.9


@pytest.mark.any_blender
def test_changing_shots_come_back_from_the_disk_as_they_are(blank_scene, tmp_path):
    bored_wall(blank_scene)
    spool = SpoolWriter(tmp_path)
    on_disk = GeometryExport(*SIZE, spool=spool)
    walk_in_render(blank_scene, blank_scene.view_layers[0].name, (1, 2, 3), on_disk.add)
    spooled, kept = on_disk.finish(), export(blank_scene, (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(spooled.vertices), kept.vertices)
    for frame, other in zip(correspondences(spooled, [0, 2]), correspondences(kept, [0, 2]), strict=True):
        assert frame.xy.tobytes() == other.xy.tobytes() and frame.visible.tobytes() == other.visible.tobytes()


@pytest.mark.any_blender
def test_first_frame_of_a_changing_shot_is_that_frame_alone(blank_scene):
    bored_wall(blank_scene)
    alone, shot = export(blank_scene, (1,)), export(blank_scene, (1, 2, 3))
    there = np.isfinite(shot.vertices[0]).all(axis=1)
    np.testing.assert_array_equal(shot.vertices[0][there], alone.vertices[0])


# ── Instances ───────────────────────────────────────────────────────────────────────────────────────────────────────


def centres(geometry, count=8):
    """[T,I,3] the middles of all instances of a cube."""
    return geometry.vertices.reshape(geometry.num_frames, -1, count, 3).mean(axis=2)


def instancer(scene, steps, *, ids=None):
    """The object "Host", a mesh of single vertices with a cube on each; ``steps``: {frame: places}; and a way to show
    each of its frames.
    """
    add_camera(scene)
    cube = add_cube(scene, "Leaf", size=0.1)
    host = link(scene, "Host", bpy.data.meshes.new("Host"))
    cube.parent, host.instance_type = host, "VERTS"
    exported = GeometryExport(*SIZE)
    for frame, points in steps.items():
        mesh = bpy.data.meshes.new("Points")
        mesh.from_pydata(list(points), [], [])
        host.data = mesh
        exported.add(frame, bpy.context.evaluated_depsgraph_get())
    return exported.finish()


ROW = [(0.5 * number, 0.0, 0.0) for number in range(6)]


def test_instances_that_go_leave_the_others_who_they_are(blank_scene):
    geometry = instancer(blank_scene, {1: ROW, 2: ROW[2:], 3: [*ROW[2:4], ROW[5]]})
    middles = centres(geometry)
    assert middles.shape[1] == 6
    for index, there in enumerate((range(6), range(2, 6), (2, 3, 5))):
        assert np.flatnonzero(np.isfinite(middles[index, :, 0])).tolist() == list(there)
        np.testing.assert_allclose(middles[index, list(there)], np.array(ROW)[list(there)], atol=1e-6)


def test_instances_that_come_are_new_ones(blank_scene):
    geometry = instancer(blank_scene, {1: ROW[:3], 2: [(9.0, 0.0, 0.0), *ROW[:3]], 3: [(9.0, 0.0, 0.1), *ROW[:3]]})
    middles = centres(geometry)
    assert middles.shape[1] == 4
    assert np.isfinite(middles[:, :, 0]).sum(axis=1).tolist() == [3, 4, 4]
    stays = np.isfinite(middles[0, :, 0])
    np.testing.assert_allclose(middles[2, stays], middles[0, stays], atol=1e-6)


def test_instances_that_move_on_are_followed_when_some_go(blank_scene):
    def at(step, first=0):
        return [(x + 0.3 * step, 0.0, 0.0) for x, _, _ in ROW[first:]]

    middles = centres(instancer(blank_scene, {1: at(0), 2: at(1), 3: at(2, 2), 4: at(3, 2)}))
    assert middles.shape[1] == 6
    steps = np.diff(middles[:, :, 0], axis=0)
    np.testing.assert_allclose(steps[np.isfinite(steps)], 0.3, atol=1e-5)


def node_instances(scene, *, with_ids):
    """Geometry nodes: a cube on every point that is left of x = 1.2 then of 0.7, from the last on."""
    add_camera(scene)
    leaf, host = add_cube(scene, "Leaf", size=0.1), link(scene, "Host", bpy.data.meshes.new("Host"))
    leaf.hide_render = True
    host.data.from_pydata(ROW[::-1], [], [])
    tree = bpy.data.node_groups.new("Some", "GeometryNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    names = {
        "start": "NodeGroupInput", "end": "NodeGroupOutput", "delete": "GeometryNodeDeleteGeometry",
        "spread": "GeometryNodeInstanceOnPoints", "leaf": "GeometryNodeObjectInfo",
        "place": "GeometryNodeInputPosition",
        "apart": "ShaderNodeSeparateXYZ", "far": "FunctionNodeCompare", "id": "GeometryNodeSetID",
        "index": "GeometryNodeInputIndex", "times": "ShaderNodeMath",
    }  # fmt: skip
    nodes = {name: tree.nodes.new(kind) for name, kind in names.items()}
    nodes["leaf"].inputs["Object"].default_value, nodes["leaf"].inputs["As Instance"].default_value = leaf, True
    nodes["far"].data_type, nodes["far"].operation = "FLOAT", "GREATER_THAN"
    nodes["times"].operation, nodes["times"].inputs[1].default_value = "MULTIPLY_ADD", 7.0
    nodes["times"].inputs[2].default_value = 100.0

    def join(source, output, target, name):
        tree.links.new(nodes[source].outputs[output], nodes[target].inputs[name])

    join("index", 0, "times", 0)
    join("start", 0, "id", "Geometry")
    join("times", 0, "id", "ID")
    join("id" if with_ids else "start", 0, "delete", "Geometry")
    join("place", 0, "apart", 0)
    join("apart", 0, "far", 0)
    join("far", 0, "delete", "Selection")
    join("delete", 0, "spread", "Points")
    join("leaf", "Geometry", "spread", "Instance")
    join("spread", 0, "end", 0)
    limit = nodes["far"].inputs[1]
    for frame, value in ((1, 2.6), (2, 1.2), (3, 0.7)):
        limit.default_value = value
        limit.keyframe_insert("default_value", frame=frame)
    for curve in (curve for layer in _fcurves(tree) for curve in layer):
        for point in curve.keyframe_points:
            point.interpolation = "CONSTANT"
    host.modifiers.new("Nodes", "NODES").node_group = tree
    return host


def _fcurves(tree):
    action = tree.animation_data.action
    if hasattr(action, "fcurves"):
        return [action.fcurves]
    return [bag.fcurves for layer in action.layers for strip in layer.strips for bag in strip.channelbags]


@pytest.mark.parametrize("with_ids", [False, True])
def test_instances_of_geometry_nodes_keep_who_they_are(blank_scene, with_ids):
    host = node_instances(blank_scene, with_ids=with_ids)
    if with_ids:  # what has ids may go anywhere
        key(host, "location", {1: (0, 0, 0), 2: (0, 5, 0), 3: (0, -5, 0)})
    middles = centres(export(blank_scene, (1, 2, 3)))
    assert middles.shape[1] == 6
    assert np.isfinite(middles[:, :, 0]).sum(axis=1).tolist() == [6, 3, 2]
    for index in (1, 2):
        there = np.isfinite(middles[index, :, 0])
        np.testing.assert_allclose(middles[index, there, 0], middles[0, there, 0], atol=1e-5)


def test_nested_instances_with_hidden_members_are_told_apart(blank_scene):
    add_camera(blank_scene)
    inner, outer = (bpy.data.collections.new(name) for name in ("Inner", "Outer"))
    for name, x in (("A", 0.0), ("B", 0.5)):
        cube = add_cube(blank_scene, name, size=0.1, location=(x, 0, 0))
        blank_scene.collection.objects.unlink(cube)
        inner.objects.link(cube)
    key(bpy.data.objects["A"], "hide_render", {1: False, 2: True, 3: False})
    for x in (0.0, 2.0):
        empty = bpy.data.objects.new("Inner of", None)
        empty.instance_type, empty.instance_collection, empty.location = "COLLECTION", inner, (x, 0, 0)
        outer.objects.link(empty)
    empty = link(blank_scene, "Outer of")
    empty.instance_type, empty.instance_collection = "COLLECTION", outer
    middles = centres(export(blank_scene, (1, 2, 3)))
    assert np.isfinite(middles[:, :, 0]).sum(axis=1).tolist() == [4, 2, 4]
    np.testing.assert_array_equal(middles[0], middles[2])
    there = np.isfinite(middles[1, :, 0])
    np.testing.assert_array_equal(middles[1, there], middles[0, there])
