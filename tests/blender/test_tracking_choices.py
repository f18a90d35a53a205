# SPDX-License-Identifier: GPL-3.0-or-later
"""How an object or a collection is tracked is the artist's choice: tracked, ignored, background, only silhouette."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.scene.appearance import appearance_digest
from das_blender_addon.ui import tracking_choices
from tests.blender.test_panels import words
from tests.support.scenes import add_camera, add_cube, add_grid, key

SIZE = (48, 32)
FRAMES = range(1, 6)


@pytest.fixture
def two_cubes(scene):
    """A small cube before a large one that moves, and a wall behind both."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.frame_end = FRAMES[-1]
    add_camera(scene)
    near = add_cube(scene, "Near", size=1.0, location=(0.0, -2.0, 0.0))
    far = add_cube(scene, "Far", size=3.0)
    key(far, "location", {1: (0.0, 0.0, 0.0), 5: (0.5, 0.0, 0.0)})
    wall = add_grid(scene, "Wall", size=12.0, location=(0.0, 4.0, 0.0))
    wall.rotation_euler.x = np.pi / 2
    return near, far, wall


def video(scene):
    return api.export_tracking(scene, frames=list(FRAMES))


def named(scene):
    return {finding.code: finding for finding in api.check_shot(scene).findings}


def test_what_is_ignored_is_as_if_it_were_not_there(scene, two_cubes):
    near, _, _ = two_cubes
    near.das.tracking = "IGNORE"
    ignored, finding = video(scene), named(scene)["scene.ignored"]
    assert finding.objects == ("Near",) and finding.level == "note"
    bpy.data.objects.remove(near)
    np.testing.assert_array_equal(ignored.video, video(scene).video)


def test_silhouette_hides_and_is_black(scene, two_cubes):
    near, far, wall = two_cubes
    tracked = video(scene)
    near.das.tracking = "SILHOUETTE"
    silhouette, finding = video(scene), named(scene)["scene.silhouette"]
    assert finding.objects == ("Near",) and finding.level == "note"
    np.testing.assert_array_equal(silhouette.coverage, tracked.coverage)
    near.das.tracking, far.hide_render, wall.hide_render = "TRACK", True, True
    shape = video(scene).coverage
    assert 20 < shape[0].sum() < shape[0].size / 2
    assert not silhouette.video[shape].any() and not silhouette.first_frame_visible[shape].any()
    assert np.isnan(silhouette.first_frame_xy[shape]).all()
    # What it hid in the first frame stays hidden, and all others stay where they were.
    np.testing.assert_array_equal(silhouette.first_frame_visible[~shape], tracked.first_frame_visible[~shape])
    np.testing.assert_array_equal(silhouette.first_frame_xy[~shape], tracked.first_frame_xy[~shape])


@pytest.mark.parametrize("lens", ["PERSP", "ORTHO"])
def test_background_is_behind_everything_and_keeps_its_points(scene, two_cubes, lens):
    near, far, wall = two_cubes
    scene.camera.data.type, scene.camera.data.ortho_scale = lens, 8.0
    wall.location.y = -3.0  # before all of it
    scene.camera.data.clip_end = 50.0
    alone = video(scene)
    assert (alone.coverage == 1).all()
    wall.das.tracking = "BACKGROUND"
    found = video(scene)
    near.das.tracking = far.das.tracking = "IGNORE"
    behind = video(scene)
    wall.hide_render = True
    near.das.tracking = far.das.tracking = "TRACK"
    before = video(scene)
    np.testing.assert_array_equal(found.first_frame_xy[before.coverage], before.first_frame_xy[before.coverage])
    seen = before.first_frame_visible & before.coverage
    np.testing.assert_array_equal(found.first_frame_visible[before.coverage], seen[before.coverage])
    rest = ~before.coverage
    np.testing.assert_array_equal(found.first_frame_xy[rest], behind.first_frame_xy[rest])
    assert not found.video[..., 2][rest].any(), "the far end of the depths"
    hidden_at_first = rest[1:] & before.coverage[:1] & ~found.first_frame_visible[1:]
    assert hidden_at_first.any(), "what the cube uncovers was not seen before"


def test_choice_of_an_object_goes_before_its_collections(scene, two_cubes):
    near, far, _ = two_cubes
    group, inner = bpy.data.collections.new("Group"), bpy.data.collections.new("Inner")
    scene.collection.children.link(group)
    group.children.link(inner)
    for shape in (near, far):
        inner.objects.link(shape)
    group.das.tracking = "IGNORE"
    told = {one.objects[0] for one in api.check_shot(scene).findings if one.code == "scene.ignored"}
    assert told == {"Near", "Far"}
    near.das.tracking = "SILHOUETTE"
    findings = [(one.code, one.objects) for one in api.check_shot(scene).findings if one.code.startswith("scene.")]
    assert ("scene.ignored", ("Far",)) in findings and ("scene.silhouette", ("Near",)) in findings
    assert ("scene.ignored", ("Near",)) not in findings


def test_instances_have_the_choice_of_their_object_or_instancer(scene, two_cubes):
    near, _, _ = two_cubes
    group = bpy.data.collections.new("Group")
    scene.collection.objects.unlink(near)
    group.objects.link(near)
    empty = bpy.data.objects.new("Instances", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    scene.collection.objects.link(empty)
    tracked = video(scene)
    ways = []
    for owner in (near, empty, group):
        owner.das.tracking = "IGNORE"
        ways.append(video(scene).video)
        owner.das.tracking = "TRACK"
    assert (ways[0] != tracked.video).any()
    for other in ways[1:]:
        np.testing.assert_array_equal(ways[0], other)


def test_choice_survives_the_file_and_its_panels_draw(scene, two_cubes, tmp_path):
    near, _, _ = two_cubes
    near.das.tracking = "BACKGROUND"
    scene.render.engine = "DAS"
    assert all(panel.poll(bpy.context) for panel in tracking_choices.CLASSES[1:2])
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert bpy.data.objects["Near"].das.tracking == "BACKGROUND"
    assert bpy.data.objects["Far"].das.tracking == "TRACK"


def test_choice_changes_the_tracking_and_not_how_the_first_frame_looks(scene, two_cubes):
    near, _, _ = two_cubes
    group = bpy.data.collections.new("Group")
    scene.collection.children.link(group)
    bpy.context.view_layer.update()
    digest = lambda: appearance_digest(bpy.context.evaluated_depsgraph_get())  # noqa: E731
    before = digest()
    for owner in (near, group):
        owner.das.tracking = "SILHOUETTE"
    assert digest() == before


# ── What is seen through glass ──────────────────────────────────────────────────────────────────────────────────────


def glass(name="Glass", transmission=1.0):
    material = bpy.data.materials.new(name)
    if material.node_tree is None:  # always there since Blender 5.0
        material.use_nodes = True
    material.node_tree.nodes["Principled BSDF"].inputs["Transmission Weight"].default_value = transmission
    return material


def test_glass_is_its_surface_until_somebody_chooses_what_is_behind(scene, two_cubes):
    near, far, _ = two_cubes
    near.data.materials.append(glass())
    surface, found = video(scene), named(scene)
    assert found["scene.glass"].objects == ("Near",) and "Transmission" in found["scene.glass"].remedy
    near.das.transmission = far.das.transmission = "BEHIND"  # of the far one nothing lets light through
    behind, found = video(scene), named(scene)
    assert (surface.video != behind.video).any() and "scene.glass" not in found
    assert found["scene.see_through"].objects == ("Near",) and found["scene.see_through"].level == "note"
    bpy.data.objects.remove(near)
    np.testing.assert_array_equal(behind.video, video(scene).video)


def test_choice_for_glass_is_each_objects_own_though_they_share_a_mesh(scene, two_cubes):
    near, _, _ = two_cubes
    near.data.materials.append(glass())
    twin = bpy.data.objects.new("Twin", near.data)
    scene.collection.objects.link(twin)
    twin.location = (2.0, -2.0, 0.0)
    whole = video(scene)
    twin.das.transmission = "BEHIND"
    one = video(scene)
    twin.hide_render = True
    np.testing.assert_array_equal(one.video, video(scene).video)
    assert (one.video != whole.video).any() and named(scene)["scene.glass"].objects == ("Near",)


def test_only_the_faces_of_glass_are_seen_through(scene, two_cubes):
    """A cube whose front is glass: its back is tracked through it."""
    near, far, wall = two_cubes
    for other in (far, wall):
        bpy.data.objects.remove(other)
    frame = bpy.data.materials.new("Frame")
    near.data.materials.append(frame)
    near.data.materials.append(glass())
    front = min(near.data.polygons, key=lambda face: face.center.y)
    front.material_index = 1
    surface = video(scene)
    near.das.transmission = "BEHIND"
    behind = video(scene)
    np.testing.assert_array_equal(surface.coverage, behind.coverage)
    assert surface.inverse_depth_range[1] > behind.inverse_depth_range[1], "the back is farther away"


def test_instances_see_through_what_their_object_does(scene, two_cubes):
    near, _, _ = two_cubes
    near.data.materials.append(glass())
    group = bpy.data.collections.new("Group")
    scene.collection.objects.unlink(near)
    empty = bpy.data.objects.new("Instances", None)
    scene.collection.objects.link(empty)
    without = video(scene)
    group.objects.link(near)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    assert (video(scene).video != without.video).any()
    near.das.transmission = "BEHIND"
    np.testing.assert_array_equal(video(scene).video, without.video)


def test_choice_for_glass_is_in_the_objects_panel_and_in_the_file(scene, two_cubes, tmp_path):
    near, _, _ = two_cubes
    bpy.context.view_layer.objects.active = near
    scene.render.engine = "DAS"
    shown = words(tracking_choices.DAS_PT_object_tracking)
    assert "transmission" in shown and "tracking" in shown
    near.das.transmission = "BEHIND"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert bpy.data.objects["Near"].das.transmission == "BEHIND"
    assert bpy.data.objects["Far"].das.transmission == "SURFACE"
