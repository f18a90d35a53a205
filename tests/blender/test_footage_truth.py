# SPDX-License-Identifier: GPL-3.0-or-later
"""The tracking video of a plate against that of the true scene, whose picture and depth it was made from."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon import api
from das_blender_addon.footage.paths import camera_path
from das_blender_addon.footage.plane import Room, plane_plate
from das_blender_addon.footage.plate import Plate
from das_blender_addon.staging.motion import key_camera, key_thing
from das_blender_addon.staging.stage import stage_plate
from tests.support.rooms import add_room, painted, seen

FRAMES = [1, 5, 9]
SIZE = (168, 112)
MEDIAN_PX = 1.0
"""Pixels between where the plate and where the true scene say that a pixel's point lay in the first picture."""
OVERLAP = 0.97
"""Of what the first picture sees: shown by both over shown by either."""

TOLD_SHARE = 0.02
"""The median error of a depth that is made from a room that was told."""


@pytest.fixture
def room(scene):
    """The room with its camera at rest, what each pixel sees, and the plate made of it."""
    scene.render.resolution_x, scene.render.resolution_y = SIZE
    camera = add_room(scene)
    depth, names = seen(scene)
    assert np.isfinite(depth).all() and {"Parcel", "Lamp", "Cupboard", "Wall", "Floor"} <= set(names.ravel())
    parcel = names == "Parcel"
    plate = Plate(painted(names), depth, np.isfinite(depth), camera.data.lens, {"Parcel": parcel}, eye_height=1.6)
    return scene, camera, plate


def compared(scene, stage) -> tuple[float, float, float]:
    """(median of the distances in pixels, overlap, share of the frames that the first picture does not see)."""
    true = api.export_tracking(scene, frames=FRAMES, size=SIZE)
    ours = api.export_tracking(stage.scene, frames=FRAMES, size=SIZE)
    assert ours.coverage[0].all() and ours.first_frame_visible[0].mean() > 0.999, "no gap in the first picture"
    known, shown = true.first_frame_visible[1:], ours.first_frame_visible[1:]
    both = known & shown
    apart = np.linalg.norm(true.first_frame_xy[1:][both] - ours.first_frame_xy[1:][both], axis=1)
    return float(np.median(apart)), float(both.sum() / (known | shown).sum()), float(1.0 - known.mean())


@pytest.mark.parametrize("words", ["orbit:12", "dolly:1", "pan:15", "tilt:8", "crane:0.4", "trans 0.3 0 0.3; rot y 5"])
def test_camera_before_a_plate_sees_what_it_would_see_in_the_room(room, words):
    scene, camera, plate = room
    stage = stage_plate(plate, "Plate", num_frames=9)
    for one in (camera, stage.camera):
        key_camera(one, camera_path(words, 9, distance=5.0), 1)
    median, overlap, unseen = compared(scene, stage)
    print(f"{words}: median {median:.4f} px, overlap {overlap:.4f}, {unseen:.1%} not in the first picture")
    assert median <= MEDIAN_PX and overlap >= OVERLAP


def test_thing_that_moves_in_a_plate_is_seen_where_it_would_be_in_the_room(room):
    scene, camera, plate = room
    stage = stage_plate(plate, "Plate", num_frames=9)
    for thing in (stage.things["Parcel"], scene.objects["Parcel"]):
        key_thing(thing, by=(0.8, 0.5, 0.4), frame_start=1, frame_end=9)
    median, overlap, unseen = compared(scene, stage)
    print(f"moved: median {median:.4f} px, overlap {overlap:.4f}, {unseen:.1%} not in the first picture")
    assert median <= MEDIAN_PX and overlap >= OVERLAP


def test_comparison_notices_a_depth_that_is_wrong(room):
    scene, camera, plate = room
    wrong = replace(plate, depth=np.where(plate.masks["Parcel"], plate.depth, 1.3 * plate.depth))
    stage = stage_plate(wrong, "Plate", num_frames=9)
    for one in (camera, stage.camera):
        key_camera(one, camera_path("crane:0.6", 9, distance=5.0), 1)
    assert compared(scene, stage)[0] > MEDIAN_PX


@pytest.mark.any_blender
@pytest.mark.parametrize("told", [False, True])
def test_plane_without_an_estimator_is_measured(room, told):
    """It is no more than a floor, walls and cards; how far off it is, is printed."""
    scene, camera, plate = room
    sides = {"left": 3.5, "right": 3.5, "ceiling": 3.2} if told else {}
    guess = plane_plate(plate.picture, plate.lens_mm, Room(wall=8.0, **sides), masks=plate.masks)
    stage = stage_plate(guess, "Plate", num_frames=9)
    for one in (camera, stage.camera):
        key_camera(one, camera_path("orbit:12", 9, distance=5.0), 1)
    off = np.abs(guess.depth / plate.depth - 1.0)
    median, overlap, unseen = compared(scene, stage)
    print(
        f"plane{', sides and ceiling told' if told else ''}: depth off by {np.median(off):.2%} (median), "
        f"{off.mean():.1%} (mean); orbit:12 median {median:.2f} px, overlap {overlap:.4f}, {unseen:.1%} not in the "
        "first picture"
    )
    floor = plate.picture.shape[0] * 3 // 4
    assert np.median(off[floor:]) < 0.01, "the floor is where it is"
    assert np.median(off) <= TOLD_SHARE or not told
