# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo scene has in it what a demo has to show, and is the same every time."""

import bpy
import numpy as np
import pytest

from das_blender_addon import api, compat, local_server
from das_blender_addon.protocol.png import decode_png
from das_blender_addon.scene.export import GeometryExport
from das_blender_addon.scene.walk import walk_in_render
from das_blender_addon.take import recent
from scripts import demo_in_blender, demo_scene
from scripts.demo_scene import NUM_FRAMES, build_demo_scene
from tests.blender.test_local_server import program  # noqa: F401

FRAMES = (1, 25, 49)


def geometry_of(scene, frames=FRAMES):
    exported = GeometryExport(72, 48)
    walk_in_render(scene, scene.view_layers[0].name, frames, exported.add)
    return exported.finish()


@pytest.fixture
def demo():
    return build_demo_scene()


def test_demo_scene_is_the_same_every_time(demo):
    first = geometry_of(demo)
    again = geometry_of(build_demo_scene())
    np.testing.assert_array_equal(first.vertices, again.vertices)
    np.testing.assert_array_equal(first.triangles, again.triangles)
    np.testing.assert_array_equal(first.cameras.camera_from_world, again.cameras.camera_from_world)


def test_demo_scene_deforms_by_bones_and_shape_keys_and_zooms(demo):
    objects = demo.objects
    assert objects["Creature"].modifiers["Armature"].object == objects["Bones"]
    assert len(objects["Ball"].data.shape_keys.key_blocks) == 3
    assert len(objects["Floor"].data.polygons) == len(objects["Wall"].data.polygons) == 2
    assert (demo.frame_start, demo.frame_end, demo.render.fps) == (1, NUM_FRAMES, 24)
    cameras = geometry_of(demo).cameras
    assert cameras.focal_px[2, 0] > cameras.focal_px[0, 0] * 1.05
    assert np.abs(cameras.camera_from_world[2] - cameras.camera_from_world[0]).max() > 0.1

    depsgraph = bpy.context.evaluated_depsgraph_get()
    for name in ("Creature", "Ball"):
        shapes = []
        for frame in FRAMES[:2]:
            demo.frame_set(frame)
            shape = objects[name].evaluated_get(depsgraph).data
            shapes.append(np.array([vertex.co[:] for vertex in shape.vertices]))
        assert np.abs(shapes[1] - shapes[0]).max() > 0.1, name


def test_demo_scene_hides_the_ball_behind_the_ring_and_shows_it_again(demo):
    everything = api.export_tracking(demo, frames=FRAMES, size=(144, 96))
    demo.objects["Ring"].hide_render = True
    without_ring = api.export_tracking(demo, frames=FRAMES, size=(144, 96))
    for name in ("Creature", "Floor", "Wall", "Eye", "Eye.001", "Pupil", "Pupil.001"):
        demo.objects[name].hide_render = True
    ball = api.export_tracking(demo, frames=FRAMES, size=(144, 96)).coverage
    in_front = (everything.video != without_ring.video).any(axis=-1) & ball
    hidden = in_front.sum(axis=(1, 2)) / ball.sum(axis=(1, 2))
    assert hidden[0] < 0.05 and hidden[1] > 0.2 and hidden[2] < hidden[1] / 2


def test_demo_scene_fills_the_picture_and_mostly_stays_in_it(demo):
    tracking = api.export_tracking(demo, frames=[1, 13, 25, 37, 49], size=(144, 96))
    assert tracking.coverage.all()
    assert tracking.first_frame_visible.mean(axis=(1, 2)).min() > 0.85


def test_demo_scene_renders_the_same_first_frame_every_time(demo, tmp_path):
    pictures = []
    for name in ("a", "b"):
        scene = build_demo_scene()
        scene.render.resolution_percentage = 10
        scene.cycles.samples = 4
        scene.render.filepath = str(tmp_path / f"{name}.png")
        bpy.ops.render.render(write_still=True)
        pictures.append(decode_png((tmp_path / f"{name}.png").read_bytes()))
    np.testing.assert_array_equal(*pictures)
    assert pictures[0].shape == (48, 72, 3) and pictures[0].std() > 30


def test_demo_scene_is_saved_where_it_is_asked_to(tmp_path):
    build_demo_scene(tmp_path / "deep" / "demo.blend")
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "deep" / "demo.blend"))
    assert bpy.context.scene.name == "Demo" and bpy.context.scene.camera is not None


def test_demo_scene_needs_no_active_object_of_the_context():
    """As right after another file was opened in a window, which has none until it is drawn."""
    build_demo_scene()
    with bpy.context.temp_override(object=None, active_object=None):
        assert not bpy.ops.object.mode_set.poll()
        bones = demo_scene._add_bones(bpy.data.scenes["Demo"])
    assert len(bones.data.bones) == demo_scene.CREATURE_BONES and bones.mode == "OBJECT"


@pytest.mark.any_blender
def test_demo_file_names_no_server_and_works_with_a_local_one(scene, program, tmp_path):  # noqa: F811
    demo_in_blender.build_file(tmp_path, seed=42, size="96x64", compat=compat)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "demo.blend"))
    scene = bpy.context.scene
    assert scene.das.server == "" and scene.render.engine == compat.ENGINE
    bpy.ops.das.start_local_server()
    scene.das.key_mode = "FIRST"
    scene.das.use_shot_range, scene.das.shot_start, scene.das.shot_end = True, 1, 2
    scene.das.first_frame_samples = 1
    bpy.ops.das.render_take()
    assert len(recent.last_take(scene).frames) == 2
    local_server.stop()
