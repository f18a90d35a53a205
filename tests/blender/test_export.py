# SPDX-License-Identifier: GPL-3.0-or-later
"""Scene → geometry: the right vertices in the right frames, outside a render and inside one.

One file, though long: one table of what Blender can put into a scene, with one export behind all of it.
"""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SceneError
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "blender"
POSITION_TOLERANCE = 1e-5  # Blender units; float32 matrices
GOLDEN_OBJECTS = ("Ground", "Cube", "Blob", "Arm", "Row", "BehindCamera")


def export(scene, frames=(1, 2, 3)):
    """As a job of a Blender without a window does."""
    return walked(scene, frames, GeometryExport(64, 48))


def walked(scene, frames, exported, visit=lambda frame: None):
    def read(frame, depsgraph):
        visit(frame)
        exported.add(frame, depsgraph)

    walk_in_render(scene, scene.view_layers[0].name, frames, read)
    return exported.finish()


def export_in_render(scene, frames):
    """The geometry as a render engine sees it."""
    exported = GeometryExport(64, 48)
    errors = []

    class DAS_TEST_engine(bpy.types.RenderEngine):
        bl_idname = "DAS_TEST"
        bl_label = "Test"

        def render(self, depsgraph):
            try:
                for frame in frames:
                    self.frame_set(frame, subframe=0.0)
                    exported.add(frame, depsgraph)
            except SceneError as error:
                errors.append(error)

    bpy.utils.register_class(DAS_TEST_engine)
    try:
        scene.render.engine = "DAS_TEST"
        bpy.ops.render.render()
    finally:
        bpy.utils.unregister_class(DAS_TEST_engine)
    if errors:
        raise errors[0]
    return exported.finish()


def cube_corners(location, size=1.0):
    half = size / 2
    corners = [(x, y, z) for x in (-half, half) for y in (-half, half) for z in (-half, half)]
    return np.array(corners) + location


def sorted_rows(points):
    points = np.asarray(points, dtype=np.float64).round(5) + 0.0
    return points[np.lexsort(points.T)]


def triangle_centres(geometry, index=0):
    """Sorted centres [M,3] of all triangles: the same for the same surface in any order of objects."""
    return sorted_rows(geometry.vertices[index][geometry.triangles].mean(axis=1))


# ── What a frame holds ──────────────────────────────────────────────────────────────────────────────────────────────


def test_export_gives_the_golden_scenes_vertices_and_cameras():
    bpy.ops.wm.open_mainfile(filepath=str(GOLDEN / "scene.blend"))
    golden = np.load(GOLDEN / "scene.npz")
    frames = tuple(range(1, 10))
    geometry = export(bpy.context.scene, frames)

    assert geometry.frames == frames
    for index in range(9):
        wanted = [golden[f"verts_{name}"][index][golden[f"tris_{name}"]].mean(axis=1) for name in GOLDEN_OBJECTS]
        np.testing.assert_allclose(
            triangle_centres(geometry, index), sorted_rows(np.concatenate(wanted)), atol=3 * POSITION_TOLERANCE
        )
    world_from_camera = np.linalg.inv(geometry.cameras.camera_from_world)
    np.testing.assert_allclose(world_from_camera, golden["camera_to_world"], atol=1e-5)
    scale = 64 / golden["size_hw"][1]
    np.testing.assert_allclose(geometry.cameras.focal_px[:, 0], golden["K"][0, 0] * scale, rtol=1e-6)
    np.testing.assert_allclose(geometry.cameras.clip_start, golden["clip"][0], rtol=1e-6)


def test_export_gives_world_positions_of_an_animated_object(blank_scene):
    add_camera(blank_scene)
    cube = add_cube(blank_scene)
    key(cube, "location", {1: (0, 0, 0), 3: (2, 0, 4)})
    geometry = export(blank_scene, (1, 3))
    assert geometry.vertices.dtype == np.float32 and geometry.triangles.dtype == np.int32
    assert geometry.vertices.shape == (2, 8, 3) and geometry.triangles.shape == (12, 3)
    np.testing.assert_allclose(geometry.vertices[0], cube_corners((0, 0, 0)), atol=POSITION_TOLERANCE)
    np.testing.assert_allclose(geometry.vertices[1], cube_corners((2, 0, 4)), atol=POSITION_TOLERANCE)


def test_export_follows_shape_keys_armatures_and_modifiers(blank_scene):
    add_camera(blank_scene)
    cube = add_cube(blank_scene)
    cube.shape_key_add(name="Basis")
    tall = cube.shape_key_add(name="Tall")
    for point in tall.data:
        point.co.z *= 3
    key(tall, "value", {1: 0.0, 2: 1.0})
    cube.modifiers.new("Array", "ARRAY").relative_offset_displace = (2, 0, 0)
    geometry = export(blank_scene, (1, 2))
    assert geometry.vertices.shape == (2, 16, 3)
    np.testing.assert_allclose(geometry.vertices[1][:, 2], geometry.vertices[0][:, 2] * 3, atol=POSITION_TOLERANCE)
    assert geometry.vertices[0][:, 0].max() == pytest.approx(2.5)


def test_export_takes_curves_and_text_once(blank_scene):
    add_camera(blank_scene)
    curve = bpy.data.curves.new("Tube", "CURVE")
    curve.dimensions, curve.bevel_depth, curve.bevel_resolution = "3D", 0.1, 1
    spline = curve.splines.new("POLY")
    spline.points.add(1)
    spline.points[1].co = (1, 0, 0, 1)
    link(blank_scene, "Tube", curve)
    depsgraph = bpy.context.evaluated_depsgraph_get()
    wanted = len(blank_scene.objects["Tube"].evaluated_get(depsgraph).to_mesh().vertices)
    assert export(blank_scene, (1,)).vertices.shape[1] == wanted > 0


def test_export_places_collection_instances_with_negative_scale(blank_scene):
    add_camera(blank_scene)
    parts = bpy.data.collections.new("Parts")
    cube = add_cube(blank_scene, size=1.0, location=(1, 0, 0))
    blank_scene.collection.objects.unlink(cube)
    parts.objects.link(cube)
    for name, x in (("Left", -5), ("Right", 5)):
        empty = link(blank_scene, name)
        empty.instance_type, empty.instance_collection = "COLLECTION", parts
        empty.location, empty.scale = (x, 0, 0), (-2, 1, 1)
    geometry = export(blank_scene, (1,))
    assert geometry.vertices.shape == (1, 16, 3)
    centres = sorted(geometry.vertices[0].reshape(2, 8, 3).mean(axis=1)[:, 0])
    np.testing.assert_allclose(centres, [-7, 3], atol=POSITION_TOLERANCE)
    assert np.ptp(geometry.vertices[0][:8, 0]) == pytest.approx(2.0)


def test_export_ignores_meshes_without_faces(blank_scene):
    add_camera(blank_scene)
    add_cube(blank_scene)
    wire = bpy.data.meshes.new("Wire")
    wire.from_pydata([(0, 0, 0), (1, 0, 0)], [(0, 1)], [])
    link(blank_scene, "Wire", wire)
    link(blank_scene, "Nothing", bpy.data.meshes.new("Nothing"))
    assert export(blank_scene).vertices.shape == (3, 8, 3)


def test_export_of_an_empty_scene_has_no_triangles(blank_scene):
    add_camera(blank_scene)
    geometry = export(blank_scene)
    assert geometry.triangles.shape == (0, 3) and geometry.vertices.shape == (3, 0, 3)


# ── What renders ────────────────────────────────────────────────────────────────────────────────────────────────────


def visibility_scene(scene):
    """One cube per way to be hidden; only those named "Shown …" are there.  A holdout is there, as a hole."""
    add_camera(scene)
    for index, name in enumerate(
        ["Shown", "Hidden render", "Shown hide_viewport", "Shown eye", "Hidden camera", "Shown holdout"]
    ):
        add_cube(scene, name=name, location=(3 * index, 0, 0))
    bpy.context.view_layer.update()  # hidden objects keep the matrices they have
    objects = scene.objects
    objects["Hidden render"].hide_render = True
    objects["Shown hide_viewport"].hide_viewport = True
    objects["Shown eye"].hide_set(True)
    objects["Hidden camera"].visible_camera = False
    objects["Shown holdout"].is_holdout = True
    for index, (name, prop, on_layer) in enumerate(
        [
            ("Hidden collection", "hide_render", False),
            ("Shown collection", "hide_viewport", False),
            ("Shown layer eye", "hide_viewport", True),
            ("Hidden excluded", "exclude", True),
            ("Hidden indirect", "indirect_only", True),
        ]
    ):
        collection = bpy.data.collections.new(name)
        scene.collection.children.link(collection)
        cube = add_cube(scene, name=name, location=(3 * index, 5, 0))
        scene.collection.objects.unlink(cube)
        collection.objects.link(cube)
        owner = bpy.context.view_layer.layer_collection.children[name] if on_layer else collection
        bpy.context.view_layer.update()
        setattr(owner, prop, True)
    return [
        shape.location[:2]
        for shape in bpy.data.objects
        if shape.type == "MESH" and shape.name.startswith("Shown")
    ]


def places_of_cubes(geometry):
    return sorted(tuple(centre[:2].round(3)) for centre in geometry.vertices[0].reshape(-1, 8, 3).mean(axis=1))


def test_export_holds_what_renders_when_outside_a_render(blank_scene):
    wanted = visibility_scene(blank_scene)
    assert places_of_cubes(export(blank_scene, (1,))) == sorted(wanted)


def test_export_holds_what_renders_when_inside_a_render(blank_scene):
    wanted = visibility_scene(blank_scene)
    assert places_of_cubes(export_in_render(blank_scene, (1,))) == sorted(wanted)


def make_instancer(scene, kind):
    """A grid that makes 25 (particles: 10) instances of the cube "Leaf" in one of Blender's ways."""
    host, leaf = add_grid(scene, "Host"), add_cube(scene, "Leaf", size=0.1)
    parts = bpy.data.collections.new("Parts")
    if kind.endswith("collection"):
        parts.objects.link(leaf)
    if kind in ("VERTS", "FACES"):
        leaf.parent, host.instance_type = host, kind
    elif kind.startswith("particles"):
        host.modifiers.new("Particles", "PARTICLE_SYSTEM")
        settings = host.particle_systems[0].settings
        settings.count, settings.frame_start, settings.frame_end, settings.lifetime = 10, 1, 1, 40
        settings.physics_type = "NO"  # no state that depends on the frames before
        settings.render_type = "COLLECTION" if kind.endswith("collection") else "OBJECT"
        settings.instance_object, settings.instance_collection = leaf, parts
    elif kind.startswith("nodes"):
        host.modifiers.new("Nodes", "NODES").node_group = instancing_nodes(leaf, parts if parts.objects else None)
    else:
        empty = link(scene, "Empty")
        empty.instance_type, empty.instance_collection = "COLLECTION", parts
    return leaf


def instancing_nodes(leaf, parts):
    """Geometry nodes: Instance on Points of an object, or of a collection."""
    tree = bpy.data.node_groups.new("Instances", "GeometryNodeTree")
    for direction in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=direction, socket_type="NodeSocketGeometry")
    start, end = tree.nodes.new("NodeGroupInput"), tree.nodes.new("NodeGroupOutput")
    spread = tree.nodes.new("GeometryNodeInstanceOnPoints")
    if parts is None:
        source = tree.nodes.new("GeometryNodeObjectInfo")
        source.inputs["Object"].default_value, source.inputs["As Instance"].default_value = leaf, True
    else:
        source = tree.nodes.new("GeometryNodeCollectionInfo")
        source.inputs["Collection"].default_value = parts
    output = next(socket for socket in source.outputs if socket.type == "GEOMETRY")
    tree.links.new(start.outputs[0], spread.inputs["Points"])
    tree.links.new(output, spread.inputs["Instance"])
    tree.links.new(spread.outputs[0], end.inputs[0])
    return tree


@pytest.mark.parametrize("hidden", ["no", "for render", "not in the scene", "by its collection", "in the viewport"])
@pytest.mark.parametrize(
    "kind",
    ["VERTS", "FACES", "particles", "particles of a collection", "nodes", "nodes of a collection", "a collection"],
)
def test_export_outside_a_render_holds_the_instances_of_a_render(blank_scene, kind, hidden):
    """Blender has its own rules for instances of hidden objects, other ones for each way to make them."""
    add_camera(blank_scene)
    leaf = make_instancer(blank_scene, kind)
    if hidden == "for render":
        leaf.hide_render = True
    elif hidden == "not in the scene":
        blank_scene.collection.objects.unlink(leaf)
    elif hidden == "by its collection":
        hiding = bpy.data.collections.new("Hiding")
        blank_scene.collection.children.link(hiding)
        blank_scene.collection.objects.unlink(leaf)
        hiding.objects.link(leaf)
        hiding.hide_render = True
    elif hidden == "in the viewport":
        leaf.hide_viewport = True
        leaf.hide_render = kind == "nodes"
    outside, inside = export(blank_scene, (2,)), export_in_render(blank_scene, (2,))
    np.testing.assert_array_equal(outside.vertices, inside.vertices)
    np.testing.assert_array_equal(outside.triangles, inside.triangles)


def test_export_shows_particles_when_they_are_born(blank_scene):
    add_camera(blank_scene)
    make_instancer(blank_scene, "particles").hide_render = True
    settings = blank_scene.objects["Host"].particle_systems[0].settings
    settings.frame_end, settings.lifetime = 9, 4
    outside, inside = export(blank_scene, (1, 5, 9)), export_in_render(blank_scene, (1, 5, 9))
    np.testing.assert_array_equal(outside.vertices, inside.vertices)
    absent = np.isnan(outside.vertices[..., 0]).sum(axis=1)
    assert len(set(absent)) > 1 and (absent % 8 == 0).all()


def test_export_outside_a_render_uses_render_settings_of_modifiers(blank_scene):
    add_camera(blank_scene)
    subsurf = add_cube(blank_scene).modifiers.new("Smooth", "SUBSURF")
    subsurf.levels, subsurf.render_levels = 0, 2
    add_cube(blank_scene, name="Twice", location=(4, 0, 0)).modifiers.new("Array", "ARRAY").show_viewport = False
    add_cube(blank_scene, name="Once", location=(8, 0, 0)).modifiers.new("Array", "ARRAY").show_render = False
    outside = export(blank_scene, (1, 2))
    inside = export_in_render(blank_scene, (1, 2))
    assert outside.vertices.shape == inside.vertices.shape == (2, 98 + 16 + 8, 3)
    np.testing.assert_array_equal(outside.vertices, inside.vertices)
    np.testing.assert_array_equal(outside.triangles, inside.triangles)
    assert (subsurf.levels, subsurf.render_levels) == (0, 2)


def test_export_follows_markers_to_another_camera(blank_scene):
    add_cube(blank_scene)
    first, second = add_camera(blank_scene, "First"), add_camera(blank_scene, "Second", location=(0.0, -20.0, 0.0))
    blank_scene.timeline_markers.new("a", frame=1).camera = first
    blank_scene.timeline_markers.new("b", frame=2).camera = second
    for exported in (export(blank_scene, (1, 2)), export_in_render(blank_scene, (1, 2))):
        places = np.linalg.inv(exported.cameras.camera_from_world)[:, :3, 3]
        np.testing.assert_allclose(places, [(0, -8, 0), (0, -20, 0)], atol=1e-5)


def test_export_follows_constraints_and_animated_lenses(blank_scene):
    add_cube(blank_scene)
    camera = add_camera(blank_scene)
    rig = link(blank_scene, "Rig")
    camera.parent = rig
    key(rig, "location", {1: (0, 0, 0), 2: (0, -3, 0)})
    key(camera.data, "lens", {1: 50.0, 2: 100.0})
    geometry = export(blank_scene, (1, 2))
    np.testing.assert_allclose(np.linalg.inv(geometry.cameras.camera_from_world)[1, :3, 3], (0, -11, 0), atol=1e-5)
    np.testing.assert_allclose(geometry.cameras.focal_px[:, 0], 64 / 36 * np.array([50.0, 100.0]), rtol=1e-6)


# ── What changes over time ──────────────────────────────────────────────────────────────────────────────────────────


def test_export_parks_an_object_while_it_is_hidden(blank_scene):
    add_camera(blank_scene)
    late, always = add_cube(blank_scene, "Late"), add_cube(blank_scene, "Always", location=(3, 0, 0))
    key(late, "hide_render", {1: True, 2: False})
    for geometry in (export(blank_scene), export_in_render(blank_scene, (1, 2, 3))):
        assert geometry.vertices.shape == (3, 16, 3)
        absent = np.isnan(geometry.vertices).all(axis=2)
        assert absent[0].sum() == 8 and not absent[1:].any()
        np.testing.assert_allclose(geometry.vertices[0][~absent[0]], cube_corners(always.location), atol=1e-5)


def test_export_keeps_collection_instances_apart_when_one_is_hidden(blank_scene):
    add_camera(blank_scene)
    parts = bpy.data.collections.new("Parts")
    for name, x in (("A", 0), ("B", 3)):
        cube = add_cube(blank_scene, name, location=(x, 0, 0))
        blank_scene.collection.objects.unlink(cube)
        parts.objects.link(cube)
    key(bpy.data.objects["A"], "hide_render", {1: False, 2: True})
    empty = link(blank_scene, "Instancer")
    empty.instance_type, empty.instance_collection = "COLLECTION", parts
    for geometry in (export(blank_scene, (1, 2)), export_in_render(blank_scene, (1, 2))):
        assert geometry.vertices.shape == (2, 16, 3)
        staying = ~np.isnan(geometry.vertices[1, :, 0])
        assert staying.sum() == 8
        np.testing.assert_allclose(geometry.vertices[0][staying], geometry.vertices[1][staying])


def test_export_follows_instances_on_vertices(blank_scene):
    add_camera(blank_scene)
    host, cube = add_grid(blank_scene, "Host", cells=2), add_cube(blank_scene, size=0.1)
    cube.parent, host.instance_type = host, "VERTS"
    key(host, "rotation_euler", {1: (0, 0, 0), 2: (0, 0, 1.0)})
    geometry = export(blank_scene, (1, 2))
    distances = np.linalg.norm(geometry.vertices, axis=2)
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)
    assert geometry.vertices.shape[1] == 9 + 8 * 9


# ── Manners ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_export_says_that_edit_mode_is_in_the_way(blank_scene):
    add_camera(blank_scene)
    cube = add_cube(blank_scene)
    bpy.context.view_layer.objects.active = cube
    bpy.ops.object.mode_set(mode="EDIT")
    try:
        with pytest.raises(SceneError, match="'Cube' is in Edit Mode"):
            export(blank_scene)
    finally:
        bpy.ops.object.mode_set(mode="OBJECT")


def test_walk_ends_with_the_error_of_its_visitor_and_leaves_the_scene_where_it_was(blank_scene):
    add_camera(blank_scene)
    seen = []

    def visit(frame):
        seen.append(frame)
        if frame == 2:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled, match="enough"):
        walked(blank_scene, (1, 2, 3), GeometryExport(64, 48), visit)
    assert seen == [1, 2] and blank_scene.frame_current == 1


def test_export_of_no_frames_is_an_error(blank_scene):
    with pytest.raises(SceneError, match="no frames"):
        export(blank_scene, ())


def test_walk_reads_a_scene_that_is_not_the_active_one(blank_scene):
    other = bpy.data.scenes.new("Other")
    add_camera(other)
    add_cube(other, location=(0, 0, 5))
    geometry = export(other, (4, 5))
    np.testing.assert_allclose(geometry.vertices[1], cube_corners((0, 0, 5)), atol=POSITION_TOLERANCE)
    assert bpy.context.scene == blank_scene


def test_walk_goes_through_the_layer_that_it_is_told(blank_scene):
    """Others that render, too, are left out, and render afterwards as before."""
    add_camera(blank_scene)
    cube = add_cube(blank_scene)
    blank_scene.view_layers.new("Other")
    blank_scene.view_layers.new("Off").use = False
    seen = []

    def visit(frame, depsgraph):
        seen.append((depsgraph.view_layer.name, frame, depsgraph.id_eval_get(cube).name))

    for name in ("ViewLayer", "Other"):
        walk_in_render(blank_scene, name, (1, 2), visit)
        assert seen == [(name, 1, "Cube"), (name, 2, "Cube")]
        assert [layer.use for layer in blank_scene.view_layers] == [True, True, False]
        seen.clear()
    with pytest.raises(SceneError, match="view layer 'Off' .* turn on its Use for Rendering"):
        walk_in_render(blank_scene, "Off", (1,), lambda *_: None)
    assert [layer.use for layer in blank_scene.view_layers] == [True, True, False]


def test_walk_leaves_the_scene_as_it_was(blank_scene):
    visibility_scene(blank_scene)
    blank_scene.view_layers.new("Other")
    cube = blank_scene.objects["Shown"]
    key(cube, "location", {1: (0, 0, 0), 9: (5, 5, 5)})
    cube.modifiers.new("Smooth", "SUBSURF").render_levels = 3
    cube.data.materials.append(bpy.data.materials.new("Paint"))
    cube.select_set(True)
    hidden = blank_scene.objects["Hidden render"]
    hidden.select_set(True)
    bpy.context.view_layer.objects.active = hidden
    second = add_camera(blank_scene, "Second")
    blank_scene.timeline_markers.new("cut", frame=5).camera = second
    blank_scene.camera = blank_scene.objects["Camera"]
    blank_scene.frame_set(3, subframe=0.25)
    blank_scene.camera = blank_scene.objects["Camera"]

    before = describe_session(blank_scene)
    export(blank_scene, (4, 5, 6))
    assert describe_session(blank_scene) == before
    cube.modifiers.new("Build", "BUILD")
    before = describe_session(blank_scene)
    export(blank_scene, (4, 50))
    assert describe_session(blank_scene) == before
    key(second, "scale", {4: (1, 1, 1), 6: (1, 1, 0)})
    before = describe_session(blank_scene)
    with pytest.raises(SceneError, match="looks nowhere"):
        export(blank_scene, (4, 6))
    assert describe_session(blank_scene) == before


def describe_session(scene):
    """Everything of a session that an export could have changed."""
    layer = scene.view_layers[0]
    collections = [layer.layer_collection, *layer.layer_collection.children]
    return {
        "frame": (scene.frame_current, scene.frame_subframe, scene.camera.name),
        "layers": [(one.name, one.use) for one in scene.view_layers],
        "data": {
            kind: sorted(item.name for item in getattr(bpy.data, kind) if item.name != "Render Result")
            for kind in ("objects", "meshes", "materials", "cameras", "images", "collections", "scenes", "actions")
        },
        "objects": [
            (
                shape.name,
                shape.hide_viewport,
                shape.hide_render,
                shape.name in layer.objects and shape.hide_get(),
                shape.name in layer.objects and shape.select_get(),
                [tuple(round(value, 5) for value in row) for row in shape.matrix_world],
                [slot.name for slot in shape.material_slots],
                [
                    (modifier.name, modifier.show_viewport, modifier.show_render, getattr(modifier, "levels", None))
                    for modifier in shape.modifiers
                ],
            )
            for shape in scene.objects
        ],
        "active": layer.objects.active.name,
        "collections": [(child.name, child.exclude, child.hide_viewport) for child in collections],
        "hidden collections": [(item.name, item.hide_viewport, item.hide_render) for item in bpy.data.collections],
        "render": (scene.render.engine, scene.render.resolution_x, scene.render.filepath),
    }
