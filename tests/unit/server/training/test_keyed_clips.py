# SPDX-License-Identifier: GPL-3.0-or-later
"""Stretches of synthetic shots and what their key pictures show: carried as the extension does, true where seen."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.shot.plan import plan, plan_with_keys
from das_blender_addon.take.detail import Detail, KeyPicture
from das_blender_addon.tracking.correspondences import correspondences
from das_server.training.synthetic import make_keyed_clip, make_texture_bank
from das_server.training.synthetic.keyed import carried_frames, draw_keys, stays_inside
from das_server.training.synthetic.meshes import scene_geometry
from das_server.training.synthetic.raycast import render
from das_server.training.synthetic.scene import sample_scene
from tests.support.capabilities import capabilities_of, model_capability

FRAMES, HEIGHT, WIDTH = 9, 32, 48
SAME_DEPTH_SHARE = 0.02
"""Ellipsoids are polyhedra as triangles."""
SHADED_LEVELS = 25
"""Light that moves and a look-up of a supersampled picture; a wrong place would be off by much more in the median."""


@pytest.fixture(scope="module")
def bank():
    return make_texture_bank(40, seed=3)


def _clip(bank, seed):
    return make_keyed_clip(seed, bank, FRAMES, HEIGHT, WIDTH)


def test_clip_is_the_same_for_the_same_seed(bank):
    first, again, other = _clip(bank, 3), _clip(bank, 3), _clip(bank, 4)
    assert first.keys == again.keys
    for name in ("rgb", "tracking", "carried"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.rgb, other.rgb)


def test_carried_colours_are_the_true_ones_where_a_key_picture_shows_them(bank):
    seen, unseen = [], []
    for seed in range(12):
        clip = _clip(bank, seed)
        known, error = clip.carried[..., 3] > 0, np.abs(clip.rgb.astype(int) - clip.carried[..., :3]).max(-1)
        seen.append(np.median(error[known]))
        unseen += error[~known].tolist()
    assert max(seen) < SHADED_LEVELS
    assert np.mean(unseen) > 2 * np.mean(seen)


def test_holes_are_of_all_sizes_and_keys_lie_on_both_sides(bank):
    clips = [_clip(bank, seed) for seed in range(16)]
    shares = [(clip.carried[..., 3] == 0).mean() for clip in clips]
    assert min(shares) < 0.05 and max(shares) > 0.2
    assert any(min(clip.keys) < 0 and max(clip.keys) >= FRAMES for clip in clips)
    assert {len(clip.keys) for clip in clips} >= {1, 2, 3}


def test_keys_are_distinct_frames_of_the_shot():
    rng = np.random.default_rng(0)
    drawn = [draw_keys(rng, 30, 10, FRAMES) for _ in range(200)]
    assert all(list(keys) == sorted(set(keys)) and 0 <= keys[0] and keys[-1] < 30 for keys in drawn)
    assert {len(keys) for keys in drawn} == {1, 2, 3, 4}
    assert 0.4 < np.mean([10 in keys for keys in drawn]) < 0.7
    assert draw_keys(rng, 1, 0, 1) == (0,)


def test_triangles_are_where_the_rays_meet_them(bank):
    compared = 0
    for seed in range(30):
        scene = sample_scene(np.random.default_rng(seed), 3, HEIGHT, WIDTH, len(bank), orbit_degrees=30.0)
        if not stays_inside(scene):
            continue
        compared += 1
        depth = render((3, HEIGHT, WIDTH), scene.focal, scene.cameras, scene.kinds, scene.rotation, scene.position,
                       scene.scale, scene.faces, scene.tiling, bank, bank.mean((1, 2)), scene.lights, scene.ambient,
                       scene.shadows, scene.sky, 1)[3]
        hit = depth < 1e8
        for frame in correspondences(scene_geometry(scene, HEIGHT, WIDTH), [0], frame_indices=[1, 2]):
            agrees = hit[frame.index] == frame.coverage
            both = hit[frame.index] & frame.coverage
            share = np.abs(depth[frame.index][both] / frame.depth[both] - 1)
            assert agrees.mean() > 0.97, seed
            assert (share < SAME_DEPTH_SHARE).mean() > 0.95, seed
    assert compared >= 10


def test_camera_outside_of_its_room_is_told():
    rng = np.random.default_rng(1)
    scene = next(scene for scene in (sample_scene(rng, 3, HEIGHT, WIDTH, 5) for _ in range(50))
                 if scene.kinds[0] == 3 and stays_inside(scene))
    far = scene.cameras.copy()
    far[1, :, 3] = (0, 0, 100)
    assert not stays_inside(replace(scene, cameras=far))


@pytest.mark.parametrize("keys", [(0,), (0, 3, 5, 6, 8)])
def test_pictures_are_carried_as_the_extension_carries_them(bank, keys):
    scene = sample_scene(np.random.default_rng(11), FRAMES, HEIGHT, WIDTH, len(bank), orbit_degrees=50.0)
    geometry = scene_geometry(scene, HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8) for _ in keys]
    model = model_capability(num_frames=[FRAMES], sizes=[[WIDTH, HEIGHT]])
    made = plan_with_keys(plan(range(1, FRAMES + 1), (WIDTH, HEIGHT), (1.0, 1.0), capabilities_of(model)), keys)
    given = [KeyPicture(key, picture, b"") for key, picture in zip(keys, pictures, strict=True)]
    detail = Detail(geometry, made, given)
    carried = carried_frames(geometry, keys, pictures, range(2, FRAMES))
    np.testing.assert_array_equal(carried, detail.carried_with_alpha(range(2, FRAMES)))
    assert 0 < (carried[..., 3] == 0).mean() < 1
