# SPDX-License-Identifier: GPL-3.0-or-later
"""The synthetic generator: seeded, exact where it says so, damaged where asked."""

import numpy as np
import pytest

from das_server.pipeline.cogvideox.carry import look_up, planes
from das_server.training.clips import ClipSet, create_clip_arrays, open_clips, render_clips
from das_server.training.first_frame_composition import first_frame_grid
from das_server.training.synthetic import make_clip, make_texture_bank
from das_server.training.synthetic.clip import colour_tracks
from das_server.training.synthetic.scene import sample_scene

FRAMES, HEIGHT, WIDTH = 5, 32, 48
HALF_PIXEL_BLUR_LEVELS = 12
"""Supersampling, bilinear look-up and silhouettes blur by up to a pixel; shading is off where this is compared."""


@pytest.fixture(scope="module")
def bank():
    return make_texture_bank(40, seed=3)


def _clips(bank, count, **options):
    return [make_clip(seed, bank, FRAMES, HEIGHT, WIDTH, **options) for seed in range(count)]


def test_clip_is_the_same_for_the_same_seed(bank):
    first, again = _clips(bank, 2)[1], _clips(bank, 2)[1]
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.tracking, again.tracking)
    assert not np.array_equal(first.rgb, _clips(bank, 1)[0].rgb)


def test_first_frame_positions_are_their_own_pixels_in_frame_0(bank):
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    own = np.stack([columns + 0.5, rows + 0.5], -1)
    for clip in _clips(bank, 6):
        seen = clip.first_frame_visible[0]
        np.testing.assert_array_equal(seen, clip.coverage[0])
        np.testing.assert_allclose(clip.first_frame_xy[0][seen], own[seen], atol=1e-3)


def test_tracks_carry_the_colours_of_unlit_scenes(bank):
    compared = 0
    for seed in range(40):
        scene = sample_scene(np.random.default_rng(seed), FRAMES, HEIGHT, WIDTH, len(bank))
        if scene.ambient < 1:
            continue
        clip = make_clip(seed, bank, FRAMES, HEIGHT, WIDTH, samples=3)
        seen = clip.first_frame_visible[-1]
        if seen.sum() < 100:
            continue
        carried = look_up(planes(clip.rgb[:1]), first_frame_grid(clip.first_frame_xy[-1:]))[0].permute(1, 2, 0).numpy()
        difference = np.abs(carried - clip.rgb[-1])[seen]
        assert np.median(difference) < HALF_PIXEL_BLUR_LEVELS, seed
        compared += 1
    assert compared >= 4


def test_tracking_colours_are_position_and_inverse_depth():
    xyz = np.array([[[[12.0, 8.0, 2.0], [36.0, 24.0, 4.0], [np.nan, np.nan, np.nan]]]], np.float32)
    depth = np.linspace(2, 4, 1000)
    red, green, blue = colour_tracks(xyz, depth, HEIGHT, WIDTH)[0, 0].T
    assert list(red) == [64, 191, 0]
    assert list(green) == [64, 191, 0]
    assert list(blue) == [255, 0, 0]


def test_damage_leaves_the_first_frame_and_some_clips_alone(bank):
    clean, damaged = _clips(bank, 20, damage=False), _clips(bank, 20)
    changed = [not np.array_equal(a.tracking, b.tracking) for a, b in zip(clean, damaged, strict=True)]
    assert 1 <= sum(changed) < 20
    for a, b in zip(clean, damaged, strict=True):
        np.testing.assert_array_equal(a.rgb, b.rgb)
        np.testing.assert_array_equal(a.first_frame_xy, b.first_frame_xy)


def test_rendering_clips_can_be_resumed_and_shared_between_workers(tmp_path):
    clip_set = ClipSet(frames=5, height=16, width=24, count=4, seed=50)
    for name, workers in (("together", 2), ("alone", 1)):
        create_clip_arrays(tmp_path / name, clip_set)
        for worker in range(workers):
            render_clips(tmp_path / name, clip_set, 10, 1, worker, workers)
    together, alone = (open_clips(tmp_path / name, clip_set) for name in ("together", "alone"))
    for key in together:
        np.testing.assert_array_equal(together[key], alone[key])
    assert together["rgb"].any(axis=(1, 2, 3, 4)).all()
