# SPDX-License-Identifier: GPL-3.0-or-later
"""Correspondences with several key pictures: against rays, against the tracking video, in both directions of time."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SceneError, SettingsError
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence
from das_blender_addon.tracking.spool import SpoolWriter
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.geometry import box, camera_path, ground, look_at, sequence, sphere
from tests.support.raycast import ray_cast_tracking_video

#: Median error of a correspondence, pixels: float32 storage of coordinates up to some hundred pixels.
MEDIAN_XY_ERROR_PX = 1e-4
#: Visibility is decided on the key frame's pixel grid: outlines are sharp to about half a pixel of 96×64.
LEAST_VISIBLE_AGREEMENT = 0.98
#: Of key pictures the centres of pixels count, of the tracking video every place: along outlines they differ.
LEAST_VISIBLE_AS_IN_VIDEO = 0.95
#: There and back, pixels: twice the rounding of float32 coordinates, where the surface is flat.
ROUND_TRIP_PX = 1e-3


def moving_shot(frames=4, **camera):
    """A ball that rolls, a box that passes in front, a ground of two triangles; the camera moves and zooms."""
    matrices = [look_at((6 * np.sin(t * 0.3), -6 * np.cos(t * 0.3), 2.0), (0, 0, 0.6)) for t in range(frames)]
    cameras = camera_path(matrices, focal_px=[80 + 10 * t for t in range(frames)], **camera)
    points, faces = sphere((0, 0, 1), 1.0)
    moved = np.stack([points + (0.4 * t, 0, 0) for t in range(frames)])
    block, block_faces = box((0, -2.0, 0.7), (0.8, 0.3, 1.4))
    passing = np.stack([block + (1.2 * t - 2.0, 0, 0) for t in range(frames)])
    return sequence([(moved, faces), (passing, block_faces), ground(60.0)], cameras)


def reordered(geometry, order):
    """The same shot with its frames in another ``order``."""
    order = list(order)
    cameras = geometry.cameras
    arrays = ("camera_from_world", "focal_px", "principal_px", "clip_start", "clip_end")
    path = CameraPath(
        **{name: getattr(cameras, name)[order] for name in arrays}, width=cameras.width, height=cameras.height
    )
    return GeometrySequence(geometry.triangles, geometry.vertices[order], path, tuple(range(len(order))))


def test_one_key_picture_at_the_start_is_the_tracking_video_byte_for_byte():
    geometry = moving_shot()
    video = render_tracking_video(geometry)

    for frame in correspondences(geometry, [0]):
        assert frame.xy[0].tobytes() == video.first_frame_xy[frame.index].tobytes()
        assert (frame.visible[0] == video.first_frame_visible[frame.index]).mean() > LEAST_VISIBLE_AS_IN_VIDEO
        np.testing.assert_array_equal(frame.coverage, video.coverage[frame.index])


@pytest.mark.parametrize("key", [0, 2, 3])
def test_every_key_agrees_with_rays_forward_and_backward(key):
    geometry = moving_shot()
    order = [key, *(index for index in range(4) if index != key)]
    rays = ray_cast_tracking_video(reordered(geometry, order))
    agreement = []

    for frame in correspondences(geometry, [3, 0, 2]):
        at, place = order.index(frame.index), frame.key_indices.index(key)
        both = np.isfinite(frame.xy[place]).all(axis=-1) & np.isfinite(rays.first_frame_xy[at]).all(axis=-1)
        assert both.mean() > 0.5
        error = np.abs(frame.xy[place] - rays.first_frame_xy[at])[both]
        assert np.median(error) < MEDIAN_XY_ERROR_PX
        agreement.append((frame.visible[place] == rays.first_frame_visible[at]).mean())
    assert np.mean(agreement) > LEAST_VISIBLE_AGREEMENT


def test_several_keys_give_each_what_it_gives_alone():
    geometry = moving_shot()
    together = list(correspondences(geometry, [2, 0, 3]))

    for place, key in enumerate((2, 0, 3)):
        for frame, alone in zip(together, correspondences(geometry, [key]), strict=True):
            assert frame.xy[place].tobytes() == alone.xy[0].tobytes()
            np.testing.assert_array_equal(frame.visible[place], alone.visible[0])


def test_time_may_run_backwards():
    geometry = moving_shot()
    backward = reordered(geometry, [3, 2, 1, 0])

    for frame, mirrored in zip(
        correspondences(geometry, [3]), correspondences(backward, [0], frame_indices=[3, 2, 1, 0]), strict=True
    ):
        assert frame.xy.tobytes() == mirrored.xy.tobytes()
        np.testing.assert_array_equal(frame.visible, mirrored.visible)


def test_there_and_back_leads_to_the_same_pixel_on_a_plane():
    matrices = [look_at((0, -4, 3.0), (0, 4, 0)), look_at((2, -3, 2.2), (0, 5, 0))]
    geometry = sequence([ground(400.0)], camera_path(matrices))
    there = next(correspondences(geometry, [1], frame_indices=[0]))
    row, column = np.nonzero(there.visible[0])
    back = next(correspondences(geometry, [0], frame_indices=[1]))
    # The map back is smooth: look it up at whole pixels near where the way there ends.
    x, y = there.xy[0, row, column].T
    inside = (x > 1) & (x < 95) & (y > 40) & (y < 63)
    row, column, x, y = row[inside], column[inside], x[inside], y[inside]
    left, top = np.floor(x - 0.5).astype(int), np.floor(y - 0.5).astype(int)
    across, down = (x - 0.5 - left)[:, None], (y - 0.5 - top)[:, None]
    field = back.xy[0].astype(np.float64)
    found = (field[top, left] * (1 - across) + field[top, left + 1] * across) * (1 - down) + (
        field[top + 1, left] * (1 - across) + field[top + 1, left + 1] * across
    ) * down

    assert len(row) > 500
    bend = np.abs(np.diff(field[40:], n=2, axis=0)).max()  # how far linear look-up of the curved map may be off
    assert np.abs(found - np.stack([column + 0.5, row + 0.5], axis=-1)).max() < ROUND_TRIP_PX + bend


def test_what_appears_late_has_its_key_picture():
    points, faces = box((0, 5, 0), (2, 1, 2))
    moved = np.stack([np.full_like(points, np.nan), points, points + (0.3, 0, 0)])
    geometry = sequence([(moved, faces)], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 3))

    first, second, third = correspondences(geometry, [0, 2])

    assert not first.coverage.any()
    assert second.coverage.any() and not second.visible[0].any() and np.isnan(second.xy[0]).all()
    assert second.visible[1][second.coverage].mean() > 0.95
    assert third.visible[1][third.coverage].all()


def test_far_plane_is_respected_in_the_frame_and_in_the_key():
    wall = np.array([(-90, 8, -90), (90, 8, -90), (90, 8, 90), (-90, 8, 90)], float), [(0, 1, 2), (0, 2, 3)]
    geometry = sequence([wall], camera_path([look_at((0, 0, 0), (0, 1, 0))] * 2))
    cut = replace(geometry.cameras, clip_end=np.array([6.0, 10.0]))

    beyond, near = correspondences(replace(geometry, cameras=cut), [0, 1])

    assert not beyond.coverage.any()
    assert near.coverage.all() and near.visible[1].all() and not near.visible[0].any()


def test_sky_is_followed_only_where_wanted_and_hidden_by_what_stands_before_it():
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((3, 0, 0), (3 + np.tan(0.1), 1, 0))]
    geometry = sequence([box((0, 5, 0), (1, 1, 1))], camera_path(matrices))

    without = list(correspondences(geometry, [0]))[1]
    frame = list(correspondences(geometry, [0], background=True))[1]

    sky = ~frame.coverage
    assert np.isnan(without.xy[0][sky]).all() and not without.visible[0][sky].any()
    # A turn of 0.1 rad moves the middle of the picture by f · tan(0.1), wherever the camera stands.
    np.testing.assert_allclose(frame.xy[0, 32, 47, 0] - 47.5, 80 * np.tan(0.1 + np.arctan(-0.5 / 80)) + 0.5, atol=1e-3)
    shown = next(correspondences(geometry, [0], frame_indices=[0])).coverage
    x, y = np.floor(frame.xy[0][frame.visible[0] & sky]).astype(int).T
    assert not shown[np.minimum(y, 63), np.minimum(x, 95)].any()
    assert 0.5 < frame.visible[0][sky].mean() < 1.0


def test_spooled_vertices_give_the_same(tmp_path):
    geometry = moving_shot()
    writer = SpoolWriter(tmp_path)
    for vertices in geometry.vertices:
        writer.add(vertices)
    spooled = writer.finish(
        geometry.triangles, np.arange(geometry.vertices.shape[1]), geometry.cameras, geometry.frames
    )

    for frame, other in zip(correspondences(geometry, [1, 3]), correspondences(spooled, [1, 3]), strict=True):
        assert frame.xy.tobytes() == other.xy.tobytes()


def test_memory_does_not_grow_with_the_length_of_the_shot():
    geometry = moving_shot(12)

    def peak(frames):
        tracemalloc.start()
        for _ in correspondences(geometry, [0, 1], frame_indices=frames):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    alone = max(peak([index]) for index in range(12))
    # One frame is made while the one before is still held.
    assert peak(range(12)) < alone + 2 * 96 * 64 * 40


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (5, 2)])
def test_smallest_pictures(size):
    geometry = moving_shot(2, width=size[0], height=size[1])

    for frame in correspondences(geometry, [0, 1], background=True):
        assert frame.xy.shape == (2, size[1], size[0], 2)
        np.testing.assert_array_equal(frame.visible[frame.index], True)


@pytest.mark.parametrize(
    ("keys", "frames", "words"),
    [([], None, "no key picture"), ([4], None, "no frame 4"), ([0, 0], None, "Two key"), ([0], [-1], "no frame -1")],
)
def test_frames_that_are_not_there_are_named(keys, frames, words):
    with pytest.raises(SettingsError, match=words):
        correspondences(moving_shot(), keys, frame_indices=frames)


def test_arrays_that_do_not_fit_are_refused_at_once():
    geometry = moving_shot()
    with pytest.raises(SceneError, match="must be equal"):
        correspondences(replace(geometry, frames=(1, 2)), [0])


def test_cancelling_stops_between_frames():
    with pytest.raises(JobCancelled):
        next(correspondences(moving_shot(), [0], should_stop=lambda: True))
