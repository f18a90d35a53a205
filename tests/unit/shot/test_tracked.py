# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes of a planned shot: a tracking video for each of its windows, and what each key picture must show."""

import math
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, SceneError
from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.shot.tracked import (
    first_frame_digest,
    geometry_digest,
    part_of,
    picture_view,
    shot_from_geometry,
)
from das_blender_addon.tracking.video import render_tracking_video
from tests.support.capabilities import capabilities_of, model_capability
from tests.support.shots import wall, wall_shot

SIZE = (96, 64)
"""The model's; see `model_capability`."""


def planned(frames=range(1, 4), size=SIZE, keys=(), keep_detail=None, **model):
    capabilities = capabilities_of(model_capability(**model))
    return plan_with_keys(plan(frames, size, (1.0, 1.0), capabilities, keep_detail=keep_detail), keys)


def test_shot_has_the_models_size_and_sees_more_than_the_render():
    shot = wall_shot(planned(size=(192, 64), keep_detail=False))
    assert shot.tracking.video.shape == (3, 64, 96, 3)
    assert shot.tracking.coverage.all()
    np.testing.assert_allclose(shot.cameras.focal_px, 96.0)
    assert (shot.cameras.width, shot.cameras.height) == SIZE == shot.views[0].size
    assert shot.timings["tracking"] > 0


def test_key_pictures_that_keep_detail_have_the_renders_density_and_the_tracking_video_the_models_size():
    shot = wall_shot(planned(size=(192, 64)))
    assert shot.tracking.video.shape == (3, 64, 96, 3)
    np.testing.assert_allclose(shot.cameras.focal_px, 192.0)
    assert (shot.cameras.width, shot.cameras.height) == (192, 128) == shot.views[0].size


def test_shot_with_nothing_in_view_is_refused():
    with pytest.raises(SceneError, match="in view in the first frame .frame 1"):
        wall_shot(planned(), depth=-10.0)


def test_every_window_has_a_tracking_video_of_its_own():
    made = planned(range(10, 24), keys=[4], inputs=[])
    geometry = wall(SIZE, made.frames)
    told = []
    shot = shot_from_geometry(geometry, made, progress=lambda done, of: told.append((done, of)))
    assert [(window.start, window.stop) for window in made.windows] == [(0, 9), (4, 13), (9, 14)]
    for window, video in zip(made.windows, shot.videos, strict=True):
        alone = render_tracking_video(part_of(geometry, range(window.start, window.stop)))
        np.testing.assert_array_equal(video.video, alone.video)
        assert video.frames == made.frames[window.start : window.stop]
    assert told == [(done, 23) for done in range(1, 24)]


def test_a_job_s_tracking_videos_have_the_same_colours_without_correspondences():
    made = planned(range(10, 24), keys=[4], inputs=[])
    geometry = wall(SIZE, made.frames)
    whole, coloured = (shot_from_geometry(geometry, made, colours_only=only) for only in (False, True))
    for one, other in zip(whole.videos, coloured.videos, strict=True):
        np.testing.assert_array_equal(other.video, one.video)
        np.testing.assert_array_equal(other.coverage, one.coverage)
        assert other.inverse_depth_range == one.inverse_depth_range
        assert other.first_frame_xy is None and other.first_frame_visible is None
        assert one.first_frame_xy.shape == one.video.shape[:3] + (2,) and one.first_frame_visible.any()


def test_passes_are_those_of_the_first_window_that_holds_the_frame():
    shot = wall_shot(planned(range(10, 24), keys=[4], inputs=[]))
    for index in range(14):
        number = 0 if index < 9 else 1 if index < 13 else 2
        video, coverage = shot.passes(10 + index)
        place = index - shot.plan.windows[number].start
        np.testing.assert_array_equal(video, shot.videos[number].video[place])
        np.testing.assert_array_equal(coverage, shot.videos[number].coverage[place])


def test_window_that_begins_with_nothing_in_view_has_a_video_nevertheless():
    made = planned(range(1, 15))
    geometry = wall(SIZE, made.frames)
    behind = geometry.vertices.copy()
    behind[5:9] += (0, 0, 50.0)
    shot = shot_from_geometry(replace(geometry, vertices=behind), made)
    first, second = shot.videos
    assert not second.coverage[0].any() and second.coverage[4].all()
    assert second.inverse_depth_range == first.inverse_depth_range


def test_shot_that_is_stopped_says_so():
    made = planned(range(1, 15))
    geometry, told = wall(SIZE, made.frames), []
    options = {"progress": lambda done, _of: told.append(done), "should_stop": lambda: len(told) > 10}
    with pytest.raises(JobCancelled):
        shot_from_geometry(geometry, made, **options)
    assert len(told) == 11


@pytest.mark.parametrize(
    ("inputs", "keep_detail", "has"), [(["carried_video"], False, True), ([], True, True), ([], None, False)]
)
def test_geometry_goes_along_where_pictures_are_carried(inputs, keep_detail, has):
    shot = wall_shot(planned(inputs=inputs, keep_detail=keep_detail))
    assert (shot.geometry is not None) == has and bool(shot.digest) == has


def test_view_of_a_key_picture_is_the_same_whether_its_frame_is_exported_alone():
    made = planned(range(1, 15), size=(192, 96), keys=[6])
    geometry = replace(wall((192, 96), made.frames), appearance="lit")
    first, key = wall_shot(made).views
    assert (first.frame, first.is_first, first.name) == (1, True, "first frame")
    assert (key.frame, key.is_first, key.name) == (7, False, "key picture of frame 7")
    assert first.size == key.size == made.picture_size == (192, 128) and first.framing == made.pictures
    alone = picture_view(part_of(geometry, [6]), planned([7], size=(192, 96)), 0)
    assert alone.digest == key.digest != first.digest and alone.appearance == "lit"


def test_part_of_a_shot_has_its_frames_cameras_and_vertices():
    geometry = wall(SIZE, range(1, 8))
    part = part_of(geometry, [2, 5])
    assert part.frames == (3, 6) and part.num_frames == part.cameras.num_frames == 2
    np.testing.assert_array_equal(part.vertices, geometry.vertices[[2, 5]])


def test_digest_follows_the_first_frame_only():
    digest = first_frame_digest(wall(SIZE, range(1, 4)))
    assert digest == first_frame_digest(wall(SIZE, range(1, 6)))
    assert digest != first_frame_digest(wall(SIZE, range(1, 4), depth=math.nextafter(10.0, 11.0) + 1e-3))
    assert digest != first_frame_digest(wall((64, 96), range(1, 4)))


def test_digest_ignores_what_comes_later():
    alone = wall(SIZE, range(1, 4))
    later = replace(
        alone,
        triangles=np.concatenate([np.array([(0, 1, 2)], np.int32), alone.triangles + 4]),
        vertices=np.concatenate([np.full((3, 4, 3), np.nan, np.float32), alone.vertices], axis=1),
    )
    later.vertices[1:, :4] = 1.0
    assert first_frame_digest(later) == first_frame_digest(alone)


def test_digest_of_all_geometry_changes_with_every_part_of_it():
    geometry = wall(SIZE, range(1, 4))
    moved, turned = geometry.vertices.copy(), geometry.cameras.camera_from_world.copy()
    moved[2, 3, 1] += 1e-3
    turned[2, 0, 3] += 1e-6
    others = (
        replace(geometry, vertices=moved),
        replace(geometry, triangles=geometry.triangles[:, ::-1].copy()),
        replace(geometry, frames=(1, 2, 4)),
        replace(geometry, cameras=replace(geometry.cameras, camera_from_world=turned)),
        replace(geometry, cameras=replace(geometry.cameras, focal_px=geometry.cameras.focal_px + 1e-9)),
        replace(geometry, cameras=replace(geometry.cameras, clip_end=geometry.cameras.clip_end.clip(max=500.0))),
        replace(geometry, cameras=replace(geometry.cameras, width=97)),
    )
    digests = [geometry_digest(one) for one in (geometry, *others)]
    assert len(set(digests)) == len(digests) and geometry_digest(wall(SIZE, range(1, 4))) == digests[0]


def test_videos_are_of_the_models_frames_and_passes_of_all():
    capabilities = capabilities_of(model_capability(num_frames=[5], inputs=[]))
    made = plan(range(10, 35), SIZE, (1.0, 1.0), capabilities, model_frames_every=3)
    geometry, told = wall(SIZE, made.frames), []
    shot = shot_from_geometry(geometry, made, progress=lambda done, of: told.append((done, of)))
    assert [video.frames for video in shot.videos] == [(10, 13, 16, 19, 22), (19, 22, 25, 28, 31), (22, 25, 28, 31, 34)]
    assert told[-1] == (31, 31) and [done for done, _ in told] == sorted({done for done, _ in told})
    for index in range(25):
        number = 0 if index < 15 else 1 if index < 24 else 2  # the first that holds the model's frame at or before it
        window = made.windows[number]
        alone = render_tracking_video(part_of(geometry, (made.made[window.start], index)))
        video, coverage = shot.passes(10 + index)
        np.testing.assert_array_equal(video, alone.video[1])
        np.testing.assert_array_equal(coverage, alone.coverage[1])
    assert shot.geometry is geometry and shot.digest
