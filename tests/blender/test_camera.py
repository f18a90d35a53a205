# SPDX-License-Identifier: GPL-3.0-or-later
"""Cameras: the model agrees with Blender's own projection, and refuses what is neither pinhole nor orthographic."""

import itertools
import re

import bpy
import numpy as np
import pytest
from mathutils import Matrix

from das_blender_addon import api
from das_blender_addon.errors import SceneError
from das_blender_addon.scene.camera import (
    active_camera,
    blender_camera_values,
    camera_from_blender,
    join_cameras,
    render_size,
)
from tests.support.scenes import add_camera, link

PIXEL_TOLERANCE = 2e-3  # Blender computes its matrices in float32
SIZES = [(720, 480), (320, 500), (64, 64)]
ASPECTS = [(1.0, 1.0), (1.5, 1.0), (1.0, 2.0)]


def project(cameras, points, index=0):
    """Pixels [N,2] of world points [N,3] by the formula in `CameraPath`'s docstring."""
    local = points @ cameras.camera_from_world[index, :3, :3].T + cameras.camera_from_world[index, :3, 3]
    depth = 1.0 if cameras.virtual_distance is not None else -local[:, 2:]
    return cameras.principal_px[index] + cameras.focal_px[index] * local[:, :2] * (1, -1) / depth


def project_by_blender(camera, depsgraph, points, width, height, aspect):
    """The same by ``Object.calc_matrix_camera``."""
    clip_from_camera = camera.calc_matrix_camera(depsgraph, x=width, y=height, scale_x=aspect[0], scale_y=aspect[1])
    clip_from_world = np.array(clip_from_camera @ camera.matrix_world.normalized().inverted(), dtype=np.float64)
    clip = np.c_[points, np.ones(len(points))] @ clip_from_world.T
    return (clip[:, :2] / clip[:, 3:] * (0.5, -0.5) + 0.5) * (width, height)


@pytest.mark.parametrize("kind", ["PERSP", "ORTHO"])
@pytest.mark.parametrize("fit", ["AUTO", "HORIZONTAL", "VERTICAL"])
def test_camera_from_blender_agrees_with_blenders_projection(blank_scene, fit, kind):
    camera = add_camera(blank_scene, location=(3.0, -7.0, 2.0))
    camera.data.type, camera.data.ortho_scale = kind, 4.5
    camera.scale = (2.0, 0.5, 1.5)
    lens = camera.data
    lens.sensor_fit, lens.sensor_width, lens.sensor_height = fit, 30.0, 21.0
    points = np.random.default_rng(1).uniform(-1.5, 1.5, (20, 3))
    for mm, shift, (width, height), aspect in itertools.product(
        (24.0, 85.0), ((0.0, 0.0), (0.2, -0.1)), SIZES, ASPECTS
    ):
        lens.lens, (lens.shift_x, lens.shift_y) = mm, shift
        depsgraph = bpy.context.evaluated_depsgraph_get()
        evaluated = camera.evaluated_get(depsgraph)
        ours = project(camera_from_blender(evaluated, width, height, aspect=aspect), points)
        theirs = project_by_blender(evaluated, depsgraph, points, width, height, aspect)
        np.testing.assert_allclose(ours, theirs, atol=PIXEL_TOLERANCE)


@pytest.mark.parametrize("kind", ["PERSP", "ORTHO"])
@pytest.mark.parametrize("aspect", ASPECTS)
def test_blender_camera_values_undo_camera_from_blender(blank_scene, aspect, kind):
    camera = add_camera(blank_scene, location=(3.0, -7.0, 2.0))
    camera.data.type = kind
    camera.data.sensor_fit = "VERTICAL"
    camera.data.shift_x, camera.data.shift_y = 0.15, -0.07
    wanted = camera_from_blender(camera.evaluated_get(bpy.context.evaluated_depsgraph_get()), 320, 200, aspect=aspect)

    values = blender_camera_values(wanted, 0, lens_mm=35.0)
    twin = link(blank_scene, "Twin", bpy.data.cameras.new("Twin"))
    twin.matrix_world = Matrix(values.matrix_world)
    twin.data.lens, twin.data.sensor_fit, twin.data.sensor_width = 35.0, "HORIZONTAL", values.sensor_width
    twin.data.shift_x, twin.data.shift_y = values.shift_x, values.shift_y
    if values.ortho_scale is not None:
        twin.data.type, twin.data.ortho_scale = "ORTHO", values.ortho_scale
    evaluated = twin.evaluated_get(bpy.context.evaluated_depsgraph_get())
    found = camera_from_blender(evaluated, values.width, values.height, aspect=values.pixel_aspect)

    np.testing.assert_allclose(found.focal_px, wanted.focal_px, rtol=1e-6)
    np.testing.assert_allclose(found.principal_px, wanted.principal_px, atol=PIXEL_TOLERANCE)
    np.testing.assert_allclose(found.camera_from_world, wanted.camera_from_world, atol=1e-5)
    assert (found.virtual_distance is None) == (wanted.virtual_distance is None) == (kind == "PERSP")


def test_camera_from_blender_refuses_a_panoramic_camera(blank_scene):
    camera = add_camera(blank_scene, name="Shooter")
    camera.data.type = "PANO"
    with pytest.raises(SceneError, match="'Shooter'.*PANO.*frame 7"):
        camera_from_blender(camera, 64, 64, frame=7)


def test_camera_from_blender_refuses_another_object(blank_scene):
    lamp = link(blank_scene, "Lamp", bpy.data.lights.new("Lamp", "POINT"))
    with pytest.raises(SceneError, match="'Lamp' is a LIGHT"):
        camera_from_blender(lamp, 64, 64)


def test_active_camera_says_that_there_is_none(blank_scene):
    with pytest.raises(SceneError, match="no camera"):
        active_camera(blank_scene, 1)


def test_active_camera_follows_markers_as_blender_does(blank_scene):
    cameras = [add_camera(blank_scene, name=name) for name in ("Unbound", "Late", "Early", "Hidden")]
    cameras[3].hide_render = True
    for name, frame in (("Late", 20), ("Early", 10), ("Hidden", 15)):
        blank_scene.timeline_markers.new(name, frame=frame).camera = bpy.data.objects[name]
    blank_scene.timeline_markers.new("Unused", frame=12)
    blank_scene.camera = cameras[0]
    for frame in (1, 10, 11, 15, 19, 20, 40):
        blank_scene.frame_set(frame)
        assert active_camera(blank_scene, frame) == blank_scene.camera, frame


@pytest.mark.parametrize(("old", "new"), [(100, 200), (200, 100), (100, 333), (7, 3), (100, 100)])
def test_active_camera_follows_markers_after_time_remapping_as_blender_does(blank_scene, old, new):
    for name, frame in (("First", -9), ("Second", 5), ("Third", 10)):
        blank_scene.timeline_markers.new(name, frame=frame).camera = add_camera(blank_scene, name=name)
    blank_scene.render.frame_map_old, blank_scene.render.frame_map_new = old, new
    seen = set()
    for frame in range(-30, 45):
        blank_scene.frame_set(frame)
        assert active_camera(blank_scene, frame) == blank_scene.camera, frame
        seen.add(blank_scene.camera.name)
    assert seen == {"First", "Second", "Third"}


def test_render_size_rounds_the_percentage_down(blank_scene):
    blank_scene.render.resolution_x, blank_scene.render.resolution_y = 101, 57
    blank_scene.render.resolution_percentage = 50
    assert render_size(blank_scene) == (50, 28)


def test_join_cameras_refuses_different_sizes(blank_scene):
    camera = add_camera(blank_scene).evaluated_get(bpy.context.evaluated_depsgraph_get())
    with pytest.raises(SceneError, match="one picture size"):
        join_cameras([camera_from_blender(camera, 64, 64), camera_from_blender(camera, 64, 48)])


@pytest.mark.any_blender
@pytest.mark.parametrize(("size", "percentage"), [((50, 50), 1), ((50, 400), 1), ((99, 99), 1)])
def test_render_without_a_pixel_is_refused_with_what_to_do(shot_scene, size, percentage):
    render = shot_scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = *size, percentage
    words = rf"{size[0]}×{size[1]} pixels at 1 % has 0×\d pixels; raise Output › Resolution or its percentage\.$"
    for button in (api.render_take, api.check_shot):
        try:
            said = [finding.words for finding in button(shot_scene).findings]
        except SceneError as error:
            said = [error.message]
        assert any(re.search(words, one) for one in said), said
