# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy in a child Blender gives the same bytes as the scene itself, walked inside a render: triangles, vertices of
every frame, cameras; whatever makes the geometry, and wherever its file is.
"""

from pathlib import Path

import bpy
import numpy as np
import pytest

from das_blender_addon.child.copy import _why
from das_blender_addon.jobs.sources import source_of
from das_blender_addon.take import drive
from tests.blender.test_content import add_hair_curves, add_particle_hair, add_points
from tests.blender.test_export import make_instancer
from tests.support.scenes import add_camera, add_cube, add_grid, key, link

SIZE = (96, 64)
FRAMES = (1, 2, 5, 9)
ROUNDING = 1e-6  # float32, where a particle was read from a cache in place of being stepped there
CAMERA_ARRAYS = ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end")


@pytest.fixture
def stage(blank_scene):
    """A camera that moves and zooms, and nothing to see yet."""
    scene = blank_scene
    scene.frame_start, scene.frame_end = 1, 12
    camera = add_camera(scene, location=(0.0, -12.0, 4.0))
    key(camera, "location", {1: (0.0, -12.0, 4.0), 9: (2.0, -11.0, 5.0)})
    key(camera.data, "lens", {1: 40.0, 9: 55.0})
    return scene


def export(scene, frames, in_child: bool) -> tuple[dict[str, bytes], tuple, list[str]]:
    """Every array as bytes, the shape of the vertices, and what was simulated."""
    source = source_of(scene, scene.view_layers[0].name, in_child=in_child)
    try:
        geometry = drive.finish(source.export(tuple(frames), SIZE, lambda *_: None))
        vertices = np.asarray(geometry.vertices)
        arrays = {name: getattr(geometry.cameras, name).tobytes() for name in CAMERA_ARRAYS}
        arrays |= {"triangles": geometry.triangles.tobytes()}
        if geometry.changes is not None:
            arrays |= {"epochs": geometry.changes.epochs.tobytes()}
            arrays |= {f"array {number}": array.tobytes() for number, array in enumerate(geometry.changes.arrays)}
        arrays |= {f"frame {frame}": one.tobytes() for frame, one in zip(frames, vertices, strict=True)}
        return arrays, vertices, source.simulated()
    finally:
        source.close()


def assert_same(scene, frames=FRAMES, *, moves: bool = True, simulated: list[str] | None = None) -> np.ndarray:
    """Both sources give the same; the child first, which leaves nothing behind that helps the other."""
    child, vertices, names = export(scene, frames, in_child=True)
    own, _, own_names = export(scene, frames, in_child=False)
    assert sorted(name for name in own if own[name] != child[name]) == []
    assert names == own_names == (simulated or [])
    assert vertices.shape[1] > 0 and np.isfinite(vertices).any()
    assert (child[f"frame {frames[0]}"] != child[f"frame {frames[-1]}"]) is moves
    return vertices


# ── What makes geometry ─────────────────────────────────────────────────────────────────────────────────────────────


def screw(scene):
    add_grid(scene).modifiers.new("Screw", "SCREW").render_steps = 7


def ocean(scene):
    modifier = add_grid(scene).modifiers.new("Ocean", "OCEAN")
    if not modifier.is_property_readonly("time") and not bpy.app.build_options.mod_oceansim:
        pytest.skip("this Blender was built without the ocean")
    modifier.resolution = modifier.viewport_resolution = 3
    key(modifier, "time", {1: 1.0, 9: 3.0})


def subdivision(scene):
    cube = add_cube(scene)
    modifier = cube.modifiers.new("Smooth", "SUBSURF")
    modifier.levels, modifier.render_levels = 0, 3
    key(cube, "rotation_euler", {1: 0.0, 9: 1.0}, index=2)


def remesh(scene):
    cube = add_cube(scene, size=2.0)
    key(cube, "rotation_euler", {1: 0.0, 9: 1.0}, index=2)
    modifier = cube.modifiers.new("Wave", "WAVE")
    modifier.height, modifier.time_offset = 0.3, -20
    cube.modifiers.new("Remesh", "REMESH").voxel_size = 0.3


def drivers(scene):
    cube = add_cube(scene)
    cube.driver_add("location", 0).driver.expression = "frame * 0.25"
    wave = cube.driver_add("scale", 2).driver
    variable = wave.variables.new()
    variable.name, variable.targets[0].id, variable.targets[0].data_path = "x", scene.camera, "location.x"
    wave.expression = "1 + x"


def shape_keys(scene):
    cube = add_cube(scene)
    cube.shape_key_add(name="Basis")
    raised = cube.shape_key_add(name="Raised")
    raised.data[0].co.z += 2.0
    key(raised, "value", {1: 0.0, 9: 1.0})


def armature(scene):
    rig = link(scene, "Rig", bpy.data.armatures.new("Rig"))
    bpy.context.view_layer.objects.active = rig
    bpy.ops.object.mode_set(mode="EDIT")
    bone = rig.data.edit_bones.new("Bone")
    bone.tail = (0.0, 0.0, 1.0)
    bpy.ops.object.mode_set(mode="OBJECT")
    cube = add_cube(scene)
    cube.modifiers.new("Rig", "ARMATURE").object = rig
    cube.vertex_groups.new(name="Bone").add(range(8), 1.0, "REPLACE")
    posed = rig.pose.bones["Bone"]
    posed.rotation_mode = "XYZ"
    key(posed, "rotation_euler", {1: 0.0, 9: 1.0}, index=0)


def instances(kind):
    def build(scene):
        host = make_instancer(scene, kind)
        if host.animation_data is None:
            key(host, "location", {1: 0.0, 9: 1.0}, index=0)

    build.__name__ = f"instances_by_{kind.replace(' ', '_')}"
    return build


def hair_and_points(scene):
    """Strands, children of particle hair and points that turn."""
    add_hair_curves(scene, 20)
    scalp, settings = add_particle_hair(scene)
    settings.child_type, settings.rendered_child_count, settings.child_percent = "INTERPOLATED", 3, 1
    for shape in (scalp, add_points(scene)):
        key(shape, "rotation_euler", {1: 0.0, 9: 1.0}, index=2)


SHAPES = [
    hair_and_points,
    *(screw, ocean, subdivision, remesh, drivers, shape_keys, armature),
    *(instances(kind) for kind in ("VERTS", "FACES", "nodes", "nodes of a collection", "a collection")),
]


@pytest.mark.parametrize("build", SHAPES, ids=lambda build: build.__name__)
def test_child_gives_the_same_bytes(stage, build):
    build(stage)
    assert_same(stage, moves=build is not screw)


def test_child_starts_in_the_middle(stage):
    armature(stage)
    assert_same(stage, (5, 7, 9))


# ── Particles and simulations ───────────────────────────────────────────────────────────────────────────────────────


def particles(scene, kind: str):
    """Twenty particles with children, shown as cubes; or hair on a grid that moves."""
    host, leaf = add_grid(scene, "Host"), add_cube(scene, "Leaf", size=0.1, location=(0.0, 40.0, 0.0))
    host.modifiers.new("Particles", "PARTICLE_SYSTEM")
    settings = host.particle_systems[0].settings
    settings.type = "HAIR" if kind == "hair" else "EMITTER"
    settings.count, settings.render_type, settings.instance_object = 20, "OBJECT", leaf
    settings.particle_size = 1.0
    if kind == "emitter":
        settings.frame_start, settings.frame_end, settings.lifetime = 1.0, 1.0, 50.0
    settings.child_type = "SIMPLE"
    settings.child_percent, settings.rendered_child_count = 1, 3
    host.show_instancer_for_render = False
    if kind == "hair":
        key(host, "location", {1: 0.0, 9: 1.0}, index=0)


@pytest.mark.parametrize("kind", ["emitter", "hair"])
def test_child_gives_the_particles_and_children_of_a_render(stage, kind):
    particles(stage, kind)
    simulated = ["Particles of 'Host'"] if kind == "emitter" else []
    vertices = assert_same(stage, simulated=simulated)
    assert vertices.shape[1] >= 8 * 20 * 3, "three children each when it is rendered"


def rigid_bodies(scene):
    floor, ball = add_grid(scene, "Floor", size=6.0), add_cube(scene, "Ball", location=(0.0, 0.0, 2.0))
    for shape, kind in ((floor, "PASSIVE"), (ball, "ACTIVE")):
        bpy.context.view_layer.objects.active = shape
        bpy.ops.rigidbody.object_add(type=kind)
    scene.rigidbody_world.point_cache.frame_end = 12
    return scene.rigidbody_world.point_cache, "rigid bodies of the scene 'Scene'"


def cloth(scene):
    sheet = add_grid(scene, "Sheet", cells=6)
    modifier = sheet.modifiers.new("Cloth", "CLOTH")
    modifier.point_cache.frame_end = 12
    return modifier.point_cache, "Cloth of 'Sheet'"


def moving_particles(scene):
    particles(scene, "emitter")
    cache = scene.objects["Host"].particle_systems[0].point_cache
    cache.frame_end = 12
    return cache, "Particles of 'Host'"


def rising(scene):
    """A simulation zone that lifts a grid."""
    grid = add_grid(scene, "Rising", location=(1.5, 0.0, -1.0))
    tree = bpy.data.node_groups.new("Rise", "GeometryNodeTree")
    for in_out in ("INPUT", "OUTPUT"):
        tree.interface.new_socket("Geometry", in_out=in_out, socket_type="NodeSocketGeometry")
    kinds = ("NodeGroupInput", "GeometryNodeSimulationInput", "GeometryNodeSetPosition", "GeometryNodeSimulationOutput")
    nodes = [tree.nodes.new(kind) for kind in (*kinds, "NodeGroupOutput")]
    nodes[1].pair_with_output(nodes[3])
    nodes[2].inputs["Offset"].default_value = (0.0, 0.0, 0.2)
    for one, other in zip(nodes, nodes[1:], strict=False):
        tree.links.new(one.outputs["Geometry"], other.inputs["Geometry"])
    modifier = grid.modifiers.new("Rise", "NODES")
    modifier.node_group = tree
    return modifier


def bake(scene, cache) -> None:
    with bpy.context.temp_override(scene=scene, point_cache=cache):
        bpy.ops.ptcache.bake(bake=True)
    assert cache.is_baked


@pytest.mark.parametrize("frames", [FRAMES, (6, 9)], ids=["from the start", "from the middle"])
@pytest.mark.parametrize("build", [rigid_bodies, cloth, moving_particles], ids=lambda build: build.__name__)
def test_child_steps_what_is_not_baked_from_its_first_frame(stage, build, frames):
    _, name = build(stage)
    whole = assert_same(stage, FRAMES, simulated=[name])
    stage.frame_set(1)
    vertices = assert_same(stage, frames, simulated=[name])
    np.testing.assert_allclose(vertices[-1], whole[-1], atol=ROUNDING)


BAKED = [
    (rigid_bodies, "in memory"),  # Blender crashes when a script turns on the disk cache of rigid bodies
    *((build, place) for build in (cloth, moving_particles) for place in ("in memory", "on disk")),
]


@pytest.mark.parametrize(("build", "place"), BAKED, ids=[f"{build.__name__} {place}" for build, place in BAKED])
def test_child_plays_back_what_is_baked(stage, build, place, tmp_path):
    """A change after the bake shows that nothing was simulated again."""
    cache, _ = build(stage)
    _, expected, _ = export(stage, (6, 9), in_child=True)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    if place == "on disk":
        cache.use_disk_cache = True
    bake(stage, cache)
    bpy.ops.wm.save_mainfile()
    assert (tmp_path / "blendcache_work").is_dir() is (place == "on disk")
    stage.gravity = (9.0, 9.0, 9.0)
    assert_same(stage, (6, 9))
    _, baked, _ = export(stage, (6, 9), in_child=True)
    np.testing.assert_allclose(baked, expected, atol=ROUNDING)


def test_child_leaves_the_disk_cache_of_a_simulation_that_is_not_baked(stage, tmp_path):
    """What the artist's own playing has put there stays, although the copy is simulated another way."""
    cache, name = cloth(stage)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    cache.use_disk_cache = True
    for frame in range(1, 7):
        stage.frame_set(frame)
    bpy.ops.wm.save_mainfile()
    caches = tmp_path / "blendcache_work"
    before = {path.name: path.read_bytes() for path in caches.iterdir()}
    assert len(before) > 3
    stage.objects["Sheet"].modifiers["Cloth"].settings.mass = 2.0
    _, _, simulated = export(stage, FRAMES, in_child=True)
    assert simulated == [name]
    assert {path.name: path.read_bytes() for path in caches.iterdir()} == before


# ── Where the file is ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a b.blend", "Würfel – 立方体.blend", "it's \"quoted\".blend", "#1 %20 $HOME;.blend"])
def test_child_opens_a_file_of_any_name(stage, tmp_path, name):
    subdivision(stage)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / name))
    assert_same(stage)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_child_opens_a_scene_of_any_name(stage):
    subdivision(stage)
    stage.name, stage.view_layers[0].name = "Szene „#1“ 'x'", 'Ebene "y"'
    assert_same(stage)


def test_child_writes_nothing_beside_a_file_in_a_folder_that_is_only_read(stage, tmp_path):
    folder = tmp_path / "read only"
    folder.mkdir()
    cache, name = cloth(stage)
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "work.blend"))
    before = (folder / "work.blend").read_bytes()
    folder.chmod(0o555)
    try:
        assert_same(stage, simulated=[name])
        assert [path.name for path in folder.iterdir()] == ["work.blend"]
        assert (folder / "work.blend").read_bytes() == before
    finally:
        folder.chmod(0o755)


def test_child_finds_a_library_by_its_relative_path(stage, tmp_path):
    library = tmp_path / "assets" / "cube.blend"
    library.parent.mkdir()
    shape = bpy.data.meshes.new("Linked")
    shape.from_pydata([(0, 0, 0), (1, 0, 0), (0, 1, 0)], [], [(0, 1, 2)])
    bpy.data.libraries.write(str(library), {shape}, fake_user=True)
    bpy.data.meshes.remove(shape)
    (tmp_path / "shots").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shots" / "work.blend"))
    with bpy.data.libraries.load(str(library), link=True, relative=True) as (_, wanted):
        wanted.meshes = ["Linked"]
    bpy.ops.file.make_paths_relative()
    key(link(stage, "User", bpy.data.meshes["Linked"]), "location", {1: 0.0, 9: 1.0}, index=0)
    assert bpy.data.libraries[0].filepath.startswith("//")
    vertices = assert_same(stage)
    assert vertices.shape[1] == 3


@pytest.mark.parametrize("place", ["packed", "beside the file"])
def test_child_displaces_by_an_image(stage, tmp_path, place):
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    image = bpy.data.images.new("Heights", 8, 8)
    image.pixels.foreach_set(np.linspace(0.0, 1.0, 256, dtype=np.float32))
    image.filepath_raw, image.file_format = "//heights.png", "PNG"
    image.save()
    image.reload()  # a file of an image without alpha has none
    if place == "packed":
        image.pack()
        Path(tmp_path / "heights.png").unlink()
    texture = bpy.data.textures.new("Heights", "IMAGE")
    texture.image = image
    modifier = add_grid(stage, cells=4).modifiers.new("Displace", "DISPLACE")
    modifier.texture = texture
    vertices = assert_same(stage, moves=False)
    assert len(set(vertices[0, :, 2])) > 4


def test_child_exports_a_file_that_was_changed_since_it_was_saved(stage, tmp_path):
    cube = add_cube(stage)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "work.blend"))
    key(cube, "location", {1: 0.0, 9: 3.0}, index=0)
    add_cube(stage, "Later", location=(0.0, 0.0, 2.0))
    assert assert_same(stage).shape[1] == 16


@pytest.mark.parametrize("said", ["Error: Success", "Error: No such file or directory.", ""])
def test_disk_that_fills_up_while_blender_saves_the_copy_is_named(tmp_path, said):
    assert _why(RuntimeError(said), tmp_path) == "the disk is full"
    assert _why(RuntimeError("Error: Permission denied"), tmp_path) == "Permission denied"
