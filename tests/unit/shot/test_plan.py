# SPDX-License-Identifier: GPL-3.0-or-later
"""A shot fits a model or is refused with a reason; its tracking video has the model's size."""

import math
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import ModelError, SceneError, SettingsError, ShotTooLong
from das_blender_addon.protocol.messages import SizeRange
from das_blender_addon.shot.plan import check_frames, plan
from das_blender_addon.shot.tracked import first_frame_digest, shot_from_geometry
from das_blender_addon.tracking.geometry import CameraPath, GeometrySequence
from tests.support.capabilities import capabilities_of, model_capability

SQUARE_PIXELS = (1.0, 1.0)


def planned(frames=range(1, 6), size=(96, 64), aspect=SQUARE_PIXELS, capability=None, model_size=None, **options):
    return plan(frames, size, aspect, capabilities_of(capability or model_capability()), size=model_size, **options)


def wall(width, height, num_frames=3, depth=10.0, half=100.0):
    """A wall in front of a camera, larger than its view, that moves to the right."""
    corners = np.array([(-half, -half, -depth), (half, -half, -depth), (half, half, -depth), (-half, half, -depth)])
    steps = np.arange(num_frames)[:, None, None] * np.array([1.0, 0, 0])
    cameras = CameraPath(
        camera_from_world=np.repeat(np.eye(4)[None], num_frames, axis=0),
        focal_px=np.full((num_frames, 2), float(width)),
        principal_px=np.tile((width / 2, height / 2), (num_frames, 1)),
        clip_start=np.full(num_frames, 0.1),
        clip_end=np.full(num_frames, np.inf),
        width=width,
        height=height,
    )
    triangles = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    return GeometrySequence(triangles, (corners + steps).astype(np.float32), cameras, tuple(range(1, num_frames + 1)))


@pytest.mark.parametrize(("count", "window"), [(1, 5), (5, 5), (6, 9), (9, 9)])
def test_plan_takes_the_smallest_window_that_holds_the_shot(count, window):
    made = planned(range(10, 10 + count))
    assert made.window == window and made.frames == tuple(range(10, 10 + count))
    assert any("held" in note for note in made.notes) == (window > count)


def test_plan_refuses_a_shot_that_is_too_long():
    with pytest.raises(ShotTooLong, match="10 frames and Tiny makes 9 at most"):
        planned(range(10))


@pytest.mark.parametrize("frames", [(), (1, 1), (2, 1), (1.5,), "ab", None])
def test_check_frames_refuses_what_is_no_increasing_list(frames):
    with pytest.raises(SettingsError, match="rames"):
        check_frames(frames)


def test_plan_chooses_the_size_nearest_to_the_shots_shape():
    model = model_capability(sizes=[[96, 64], [64, 96], [64, 64]])
    assert planned(size=(1920, 1080), capability=model).model_size == (96, 64)
    assert planned(size=(1080, 1920), capability=model).model_size == (64, 96)
    assert planned(size=(500, 520), capability=model).model_size == (64, 64)
    assert planned(size=(1000, 1000), aspect=(3.0, 2.0), capability=model).model_size == (96, 64)


def test_plan_takes_a_size_that_the_model_has_and_no_other():
    model = model_capability(sizes=[[96, 64], [64, 64]])
    assert plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(model), size=(64, 64)).model_size == (64, 64)
    with pytest.raises(SettingsError, match="100×100 pixels; use one of 96×64, 64×64"):
        plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(model), size=(100, 100))


def test_plan_takes_every_size_in_the_range_and_none_of_its_own_accord():
    model = model_capability(sizes=[[96, 64], [64, 64]], size_range=SizeRange(8, 48, 360, 240), is_fast=True)
    assert planned(capability=model, model_size=(200, 136)).model_size == (200, 136)
    with pytest.raises(SettingsError, match="'tiny' does not make 201×136 pixels; use 200×136, the nearest") as caught:
        planned(capability=model, model_size=(201, 136))
    assert caught.value.field == "size"
    for size in ((1920, 1080), (200, 136), (96, 64)):
        assert planned(size=size, capability=model, large_if_fast=True).model_size == (96, 64)


def test_plan_takes_the_largest_size_of_the_shape_only_where_that_is_fast_and_wanted():
    sizes = [[96, 64], [192, 128], [48, 32], [256, 256]]
    fast, slow = (model_capability(sizes=sizes, is_fast=is_fast) for is_fast in (True, False))
    assert planned(capability=fast, large_if_fast=True).model_size == (192, 128)
    assert planned(capability=fast).model_size == (96, 64)
    assert planned(capability=slow, large_if_fast=True).model_size == (96, 64)
    exactly = plan((1,), (96, 64), SQUARE_PIXELS, capabilities_of(fast), size=(48, 32), large_if_fast=True)
    assert exactly.model_size == (48, 32)
    assert planned(size=(1000, 1000), capability=fast, large_if_fast=True).model_size == (256, 256)


def test_plan_says_when_the_automatic_size_is_the_largest():
    model = model_capability(sizes=[[96, 64], [192, 128]], is_fast=True)
    assert "fast enough" in " ".join(planned(capability=model, large_if_fast=True).notes)
    assert "fast enough" not in " ".join(planned(capability=model).notes)


def test_plan_never_squashes_pixels_that_are_not_square():
    made = planned(size=(100, 100), aspect=(2.0, 1.0))
    left, top, right, bottom = made.framing.crop
    assert (right - left) / (bottom - top) == pytest.approx(2.0)


def test_plan_names_models():
    with pytest.raises(SettingsError, match="no model 'huge'; it offers tiny"):
        planned(model="huge")
    with pytest.raises(ModelError, match="'tiny' are not installed"):
        planned(capability=model_capability(installed=False))


def test_plan_says_in_words_what_will_be_sent():
    made = planned(range(1, 4), size=(192, 64))
    text = " ".join(made.notes)
    for words in ("3 frames (1 to 3) for Tiny", "held 2 times", "96×64", "2.00 times the height", "192×64", "prompt"):
        assert words in text
    assert "is the render's" in planned().notes[1]


def test_shot_has_the_models_size_and_sees_more_than_the_render():
    made = planned(range(1, 4), size=(192, 64))
    shot = shot_from_geometry(wall(192, 64), made)
    assert shot.tracking.video.shape == (3, 64, 96, 3)
    assert shot.tracking.coverage.all()
    np.testing.assert_allclose(shot.cameras.focal_px, 96.0)
    assert shot.timings["tracking"] > 0


def test_shot_with_nothing_in_view_is_refused():
    geometry = wall(96, 64, depth=-10.0)
    with pytest.raises(SceneError, match="in view in the first frame .frame 1"):
        shot_from_geometry(geometry, planned(range(1, 4)))


def test_digest_follows_the_first_frame_only():
    digest = first_frame_digest(wall(96, 64))
    assert digest == first_frame_digest(wall(96, 64, num_frames=5))
    assert digest != first_frame_digest(wall(96, 64, depth=math.nextafter(10.0, 11.0) + 1e-3))
    assert digest != first_frame_digest(wall(64, 96))


def test_digest_ignores_what_comes_later():
    alone = wall(96, 64)
    later = replace(
        alone,
        triangles=np.concatenate([np.array([(0, 1, 2)], np.int32), alone.triangles + 4]),
        vertices=np.concatenate([np.full((3, 4, 3), np.nan, np.float32), alone.vertices], axis=1),
    )
    later.vertices[1:, :4] = 1.0
    assert first_frame_digest(later) == first_frame_digest(alone)
