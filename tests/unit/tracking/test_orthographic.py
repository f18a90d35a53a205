# SPDX-License-Identifier: GPL-3.0-or-later
"""Orthographic cameras: a pinhole very far away, with a lens as long, sees the same."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.shot.tracked import part_of
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.framing import fit_framing
from das_blender_addon.tracking.spool import SpoolWriter
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, ground, look_at, sequence, sphere

PX_PER_UNIT = 14.0
DISTANCE = 9.0
#: The pinhole that stands for an orthographic camera is so many units farther away.
FAR_AWAY = 1e5
#: Pixels: a depth of some units changes the size of things by 1e-4 there; the picture is 96 pixels wide.
XY_ERROR_PX = 0.02
#: Outlines and 1/1024 pixel snapping decide differently for few pixels only.
LEAST_AGREEMENT = 0.995
VIEWS = [((0.5 * step, -8.0, 2.0 + 0.3 * step), (0.2 * step, 0.0, 0.5)) for step in range(3)]


def shot(away=0.0, clip_start=0.1):
    """Two things over a ground, seen by an orthographic camera, or by the pinhole that is ``away`` behind it."""
    matrices = [look_at(*view) for view in VIEWS]
    for matrix in matrices:
        matrix[2, 3] -= away
    points, faces = sphere((-1.0, 0.5, 0.8), 0.9)
    moved = np.stack([points + (0.4 * step, 0.0, 0.0) for step in range(3)])
    cameras = camera_path(matrices, focal_px=PX_PER_UNIT * (away or 1.0), clip_start=clip_start + away)
    if not away:
        cameras = replace(cameras, virtual_distance=np.full(3, DISTANCE))
    return sequence([(moved, faces), box((1.2, -1.0, 0.5), (0.8, 0.8, 1.2)), ground(30.0)], cameras)


def test_orthographic_camera_sees_what_a_pinhole_far_away_sees():
    ours, theirs = shot(), shot(FAR_AWAY)
    for frame, other in zip(correspondences(ours, [0, 2]), correspondences(theirs, [0, 2]), strict=True):
        np.testing.assert_array_equal(frame.coverage, other.coverage)
        both = frame.visible & other.visible
        # Seen from so far away a hand's breadth of depth hides nothing: the pinhole sees at least as much.
        assert both.sum() > 5000 and both.sum() > LEAST_AGREEMENT * frame.visible.sum()
        for number, key in enumerate((0, 2)):
            x, y = np.nan_to_num(frame.xy[number], nan=-1.0).transpose(2, 0, 1)
            hidden = (x > 0) & (x < 96) & (y > 0) & (y < 64) & ~frame.visible[number]
            assert (hidden.sum() == 0) if key == frame.index else (30 < hidden.sum() < 1200)
        error = np.linalg.norm(frame.xy - other.xy, axis=-1)[both]
        assert np.percentile(error, 99.5) < XY_ERROR_PX
        depth = (frame.depth - DISTANCE)[frame.coverage] - (other.depth - FAR_AWAY)[frame.coverage]
        assert np.median(np.abs(depth)) < 0.01  # float32 of 1e5


def test_colours_are_the_places_in_the_first_frame():
    video = render_tracking_video(shot())
    rows, columns = np.nonzero(video.coverage[0])
    assert video.first_frame_visible[0][rows, columns].mean() > 0.999
    expected = np.rint(255.0 * (columns + 0.5) / 96)
    assert np.abs(video.video[0, rows, columns, 0] - expected).max() <= 1
    low, high = video.inverse_depth_range
    assert 0.0 < low < high < 1.0 / DISTANCE
    assert np.ptp(video.video[0, rows, columns, 2].astype(int)) > 200


def test_near_plane_cuts_an_orthographic_view():
    """A wall that is nearer than the near plane hides nothing."""
    matrices = [look_at((0, -8, 0), (0, 0, 0))] * 2
    wall = np.array([(-2, -7, -2), (2, -7, -2), (2, -7, 2), (-2, -7, 2)], float), [(0, 1, 2), (0, 2, 3)]
    behind = np.array([(-9, -9, -9), (9, -9, -9), (0, -9, 9)], float), [(0, 1, 2)]
    leaning = np.array([(-1, -12, -1), (1, -12, -1), (0, 4, 1)], float), [(0, 1, 2)]
    cameras = replace(
        camera_path(matrices, focal_px=PX_PER_UNIT, clip_start=2.0), virtual_distance=np.full(2, DISTANCE)
    )
    frame = next(correspondences(sequence([wall, behind, leaning], cameras), [0]))
    assert 0 < frame.coverage.sum() < 400
    assert frame.depth[frame.coverage].min() >= DISTANCE + 2.0 - 1e-4


def test_overscan_and_other_sizes_see_the_same():
    geometry = shot()
    framing = fit_framing((96, 64), (128, 128))
    wide = replace(geometry, cameras=framing.overscan(geometry.cameras))
    frame = next(correspondences(wide, [1], frame_indices=[0]))
    plain = next(correspondences(geometry, [1], frame_indices=[0]))
    left, top, right, bottom = framing.crop
    scale = (right - left) / 96
    inner = frame.xy[0, int(top + scale * 20.5), int(left + scale * 40.5)]
    outer = plain.xy[0, 20, 40] * scale + (left, top)
    assert np.linalg.norm(inner - outer) < 1.5


def test_cuts_between_kinds_of_cameras_are_followed(tmp_path):
    geometry = shot()
    mixed = replace(geometry, cameras=replace(geometry.cameras, virtual_distance=np.array([DISTANCE, 0.0, DISTANCE]),
                                              focal_px=np.array([[14.0] * 2, [80.0] * 2, [14.0] * 2])))
    spool = SpoolWriter(tmp_path)
    for vertices in mixed.vertices:
        spool.add(vertices)
    order = np.arange(mixed.vertices.shape[1])
    spooled = spool.finish(mixed.triangles, order, mixed.cameras, mixed.frames)
    for frame, other in zip(correspondences(mixed, [0, 1]), correspondences(spooled, [0, 1]), strict=True):
        assert frame.xy.tobytes() == other.xy.tobytes()
        np.testing.assert_array_equal(frame.visible[frame.index, :][frame.coverage] if frame.index < 2 else True, True)
    assert part_of(mixed, [1]).cameras.virtual_distance.tolist() == [0.0]


@pytest.mark.parametrize("turned", [False, True])
def test_sky_of_an_orthographic_camera_stands_still_until_it_turns(turned):
    matrices = [look_at((0, -8, 0), (0, 0, 0)), look_at((1, -8, 0), (1.0 + turned, 0, 0))]
    cameras = replace(camera_path(matrices, focal_px=PX_PER_UNIT), virtual_distance=np.full(2, DISTANCE))
    geometry = sequence([box((0, 0, 0), (1, 1, 1))], cameras)
    frame = list(correspondences(geometry, [0], background=True))[1]
    sky = ~frame.coverage
    place = frame.xy[0, 3, 5]
    assert np.isnan(place).all() if turned else tuple(place) == (5.5, 3.5)
    assert frame.visible[0][sky].any() != turned
