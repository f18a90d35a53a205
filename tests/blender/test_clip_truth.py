# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracking video of a clip's plate against that of the true scene, whose pictures, depth, camera and tracks it was
made from: motion transfer, a new camera, a thing that moves otherwise.
"""

from dataclasses import replace

import bmesh
import bpy
import numpy as np
import pytest
from mathutils import Matrix

from das_blender_addon import api
from das_blender_addon.footage.paths import camera_path
from das_blender_addon.staging.clip_stage import ClipShot, stage_clip
from das_blender_addon.staging.motion import key_camera, key_thing
from tests.support.filmed import film
from tests.support.rooms import add_room
from tests.support.scenes import key, link

COUNT = 5
FRAMES = [1, 3, 5]
SIZE = (144, 96)
MEDIAN_PX = 1.0
"""Pixels between where the plate and where the true scene say that a pixel's point lay in the first picture."""
OVERLAP = 0.97
"""Of what the first picture sees: shown by both over shown by either."""


def add_ball(scene, name: str, radius: float, location):
    mesh, shape = bpy.data.meshes.new(name), bmesh.new()
    bmesh.ops.create_uvsphere(shape, u_segments=48, v_segments=32, radius=radius)
    shape.to_mesh(mesh)
    shape.free()
    ball = link(scene, name, mesh)
    ball.location = location
    return ball


@pytest.fixture
def filmed(scene):
    """A room with a ball, in which a box and the ball move and turn before a camera that moves, too; and its film."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_room(scene)
    ball = add_ball(scene, "Ball", 0.7, (-0.9, 3.6, 1.2))
    parcel = scene.objects["Parcel"]
    key(parcel, "location", {1: (0.2, 4.0, 0.5), COUNT: (0.6, 4.2, 0.75)})
    key(parcel, "rotation_euler", {1: (0.0, 0.0, 0.4), COUNT: (0.1, 0.0, 0.6)})
    key(ball, "location", {1: (-0.9, 3.6, 1.2), COUNT: (-0.75, 3.4, 1.3)})
    key(ball, "rotation_euler", {1: (0.0, 0.0, 0.0), COUNT: (0.2, 0.1, 0.3)})
    key(camera, "location", {1: camera.location[:], COUNT: (0.15, 0.2, 1.65)})
    key(camera, "rotation_euler", {1: camera.rotation_euler[:], COUNT: (np.pi / 2, 0.01, -0.03)})
    made = film(scene, COUNT, thing="Parcel")
    assert {"Parcel", "Ball", "Wall", "Floor"} <= set(made.names[0].ravel())
    return scene, camera, made.plate


def compared(scene, stage) -> tuple[float, float, float]:
    """(median of the distances in pixels, overlap, share of the frames that the first picture does not see)."""
    true = api.export_tracking(scene, frames=FRAMES, size=SIZE)
    ours = api.export_tracking(stage.scene, frames=FRAMES, size=SIZE)
    assert ours.coverage[0].all() and ours.first_frame_visible[0].mean() > 0.999, "no gap in the first picture"
    known, shown = true.first_frame_visible[1:], ours.first_frame_visible[1:]
    both = known & shown
    apart = np.linalg.norm(true.first_frame_xy[1:][both] - ours.first_frame_xy[1:][both], axis=1)
    return float(np.median(apart)), float(both.sum() / (known | shown).sum()), float(1.0 - known.mean())


def checked(words: str, scene, stage) -> None:
    median, overlap, unseen = compared(scene, stage)
    print(f"{words}: median {median:.4f} px, overlap {overlap:.4f}, {unseen:.1%} not in the first picture")
    assert median <= MEDIAN_PX and overlap >= OVERLAP


def staged(plate, tmp_path):
    return stage_clip(plate, ClipShot("Clip", tmp_path, every=1))


@pytest.mark.parametrize("solved", [False, True])
def test_motion_of_a_clip_is_that_of_what_was_filmed(filmed, tmp_path, solved):
    scene, _, plate = filmed
    plate = replace(plate, masks={}, cameras=plate.cameras if solved else None)
    checked(f"transfer, camera {'solved' if solved else 'kept'}", scene, staged(plate, tmp_path))


@pytest.mark.any_blender
@pytest.mark.parametrize("words", ["orbit:10", "dolly:0.6; tilt:-4", "trans 0.3 0 0.2; rot y 4"])
def test_new_camera_sees_what_it_would_have_filmed(filmed, tmp_path, words):
    scene, camera, plate = filmed
    stage = staged(replace(plate, masks={}), tmp_path)
    path = camera_path(words, COUNT, distance=4.0)
    own = np.linalg.inv(plate.cameras[0]) @ plate.cameras
    for one, first in ((camera, plate.cameras[0]), (stage.camera, stage.plate.world_from_camera)):
        one.animation_data_clear()
        one.matrix_world = Matrix(first.tolist())
        key_camera(one, own @ path, 1)
    checked(f"camera {words}", scene, stage)


@pytest.mark.any_blender
def test_thing_that_moves_otherwise_adds_to_how_it_moved(filmed, tmp_path):
    scene, _, plate = filmed
    stage = staged(plate, tmp_path)
    thing, parcel = stage.things["Parcel"], scene.objects["Parcel"]
    key_thing(thing, by=(0.4, 0.3, 0.2), rotate_degrees=(0, 10, 30), scale=1.2, frame_start=1, frame_end=COUNT)
    poses = []
    for frame in range(1, COUNT + 1):
        scene.frame_set(frame)
        stage.scene.frame_set(frame)
        middle = Matrix.Translation(thing.parent.location)
        poses.append(middle @ thing.matrix_basis @ middle.inverted() @ parcel.matrix_world)
    parcel.animation_data_clear()
    for number, pose in enumerate(poses):
        parcel.location, turn, parcel.scale = pose.decompose()
        parcel.rotation_euler = turn.to_euler()
        for name in ("location", "rotation_euler", "scale"):
            parcel.keyframe_insert(name, frame=1 + number)
    checked("moved", scene, stage)


@pytest.mark.any_blender
def test_comparison_notices_tracks_that_are_wrong(filmed, tmp_path):
    scene, _, plate = filmed
    late = replace(plate, masks={}, tracks=plate.tracks[[0, 0, 0, 1, 2]], cameras=plate.cameras)
    assert compared(scene, staged(late, tmp_path))[0] > MEDIAN_PX


def test_clip_without_tracks_stands_still_before_its_camera(filmed, tmp_path):
    scene, _, plate = filmed
    for name in ("Parcel", "Ball"):
        scene.objects[name].animation_data_clear()
    still = replace(plate, masks={}, tracks=None, visible=None, depth=plate.depth[:1], valid=plate.valid[:1])
    stage = staged(still, tmp_path)
    assert not list(tmp_path.glob("*.pc2"))
    checked("still", scene, stage)
