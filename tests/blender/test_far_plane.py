# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies beyond the camera's far plane is not in the tracking video, as it is not in Blender's own picture."""

import bmesh
import bpy
import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.errors import SceneError
from das_blender_addon.protocol.png import decode_png
from tests.blender.test_first_frame import glowing
from tests.support.scenes import add_camera, add_cube, add_grid, link

SIZE = (96, 64)
EDGE_SHARE = 0.01
"""Pixels on the edge of a shape that Blender's samples and pixel centres may see differently."""


@pytest.fixture
def far_scene(blank_scene):
    """A green cube before the camera and a red dome around everything, beyond the far plane."""
    scene = blank_scene
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    scene.view_settings.view_transform = "Standard"
    scene.render.dither_intensity = 0.0
    scene.frame_start, scene.frame_end = 1, 2
    camera = add_camera(scene, location=(0.0, -8.0, 1.0))
    camera.data.clip_end = 50.0
    add_cube(scene, size=2.0).data.materials.append(glowing((0.0, 1.0, 0.0)))
    mesh = bpy.data.meshes.new("Dome")
    shape = bmesh.new()
    bmesh.ops.create_icosphere(shape, subdivisions=3, radius=200.0)
    shape.to_mesh(mesh)
    shape.free()
    mesh.materials.append(glowing((1.0, 0.0, 0.0)))
    link(scene, "Dome", mesh)
    return scene


def lit(scene, folder) -> np.ndarray:
    """[H,W] bool: where Cycles sees something that glows."""
    scene.render.engine, scene.cycles.samples = "CYCLES", 16
    scene.render.filepath = str(folder / "picture.png")
    scene.render.image_settings.color_mode = "RGB"
    bpy.ops.render.render(write_still=True)
    return decode_png((folder / "picture.png").read_bytes()).max(axis=2) > 128


def assert_same_pixels(scene, folder) -> np.ndarray:
    coverage, seen = api.export_tracking(scene, size=SIZE).coverage[0], lit(scene, folder)
    assert (coverage != seen).mean() < EDGE_SHARE
    return coverage


def test_dome_beyond_the_far_plane_is_sky_in_blender_and_nothing_in_the_tracking_video(far_scene, tmp_path):
    coverage = assert_same_pixels(far_scene, tmp_path)
    assert 0.02 < coverage.mean() < 0.5, "the cube alone"
    far_scene.camera.data.clip_end = 1000.0
    assert assert_same_pixels(far_scene, tmp_path).all()


def test_floor_ends_where_blenders_picture_of_it_ends(far_scene, tmp_path):
    floor = add_grid(far_scene, "Floor", cells=1, size=400.0)
    floor.location.z = -2.0
    floor.data.materials.append(glowing((0.0, 0.0, 1.0)))
    coverage = assert_same_pixels(far_scene, tmp_path)
    assert 0.2 < coverage.mean() < 0.9


def test_far_plane_is_animated(far_scene):
    lens = far_scene.camera.data
    for frame, end in ((1, 50.0), (2, 1000.0)):
        lens.clip_end = end
        lens.keyframe_insert("clip_end", frame=frame)
    coverage = api.export_tracking(far_scene, size=SIZE).coverage
    assert not coverage[0].all() and coverage[1].all()


def test_shot_with_everything_beyond_the_far_plane_shows_nothing(far_scene):
    far_scene.camera.data.clip_end = 2.0
    with pytest.raises(SceneError, match="No surface is in view"):
        api.export_tracking(far_scene, size=SIZE)
