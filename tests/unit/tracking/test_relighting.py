# SPDX-License-Identifier: GPL-3.0-or-later
"""Shadows of what moves lie where it is: a sphere over a floor in the light of one sun, its shadow known by formula."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.tracking.composition import Composer
from das_blender_addon.tracking.correspondences import correspondences
from das_blender_addon.tracking.geometry import BACKGROUND
from das_blender_addon.tracking.light import Casters, Light
from das_blender_addon.tracking.projection import pinhole_at
from das_blender_addon.tracking.relighting import GAMMA, Relighting, relighting
from tests.support.geometry import camera_path, ground, look_at, sequence, sphere

WIDTH, HEIGHT, FRAMES, RADIUS = 192, 128, 5, 0.5
KEYS = [0, 4]
SUN = np.array([-0.4, -0.3, 0.87]) / np.linalg.norm([-0.4, -0.3, 0.87])
AMBIENT = 0.35
#: Directions are as far apart as the last ones that were tried, and a wide sphere's shadow tells no more.
FOUND_WITHIN_DEGREES = 8.0


def centre(index, moves=True):
    return np.array([-0.9 + (1.8 * index / (FRAMES - 1) if moves else 0.0), 0.3, 1.0])


def shot(*, moves=True):
    """A sphere passes over a floor before a camera at rest."""
    points, triangles = sphere()
    moved = np.stack([points * RADIUS + centre(index, moves) for index in range(FRAMES)])
    cameras = camera_path(
        [look_at((0.0, -5.0, 3.0), (0.0, 0.3, 0.3))] * FRAMES, width=WIDTH, height=HEIGHT, focal_px=190.0
    )
    return sequence([ground(8.0), (moved, triangles)], cameras)


def seen(geometry, index):
    """Places [H,W,3] and mask [H,W] of the floor that the frame sees."""
    frame = next(correspondences(geometry, [index], frame_indices=[index]))
    camera = pinhole_at(geometry.cameras, index)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.where(frame.coverage, frame.depth, 1.0)
    rays = np.stack([(column + 0.5 - WIDTH / 2) / 190.0, (row + 0.5 - HEIGHT / 2) / 190.0, np.ones_like(depth)], 2)
    turn, shift = camera.optical_from_world[:3, :3], camera.optical_from_world[:3, 3]
    places = (rays * depth[..., None] - shift) @ turn
    return places, frame.coverage & (np.abs(places[..., 2]) < 1e-3)


def rendered(geometry, index, *, sun=1.0 - AMBIENT):
    """[H,W,3] u8: the floor is chequered, the sphere red; and where the floor is in shadow [H,W]."""
    places, floor = seen(geometry, index)
    middle = centre(index)
    away = middle - places
    nearest = away @ SUN
    shadow = floor & (nearest > 0) & ((away**2).sum(axis=2) - nearest**2 < RADIUS**2)
    normal = np.where(floor[..., None], (0.0, 0.0, 1.0), (places - middle) / RADIUS)
    light = AMBIENT + sun * np.where(shadow, 0.0, np.maximum(normal @ SUN, 0.0))
    tiles = (np.floor(places[..., 0] * 1.5) + np.floor(places[..., 1] * 1.5)) % 2
    colour = np.where(floor[..., None], (0.4 + 0.2 * tiles)[..., None] * (1.0, 0.9, 0.7), (0.7, 0.2, 0.2))
    stored = np.clip(colour * light[..., None], 0.0, 1.0) ** (1.0 / GAMMA)
    return np.rint(stored * 255).astype(np.uint8), shadow


def between(geometry, pictures, *, is_lit=True, index=2):
    light = relighting(geometry, KEYS, pictures) if is_lit else None
    frame = next(correspondences(geometry, KEYS, frame_indices=[index]))
    return Composer(pictures).compose(frame, light=None if light is None else light.at(frame)).picture


def test_shadow_between_two_keys_lies_where_its_thing_is():
    geometry = shot()
    pictures = [rendered(geometry, key)[0] for key in KEYS]
    truth, _ = rendered(geometry, 2)
    _, floor = seen(geometry, 2)

    lit, mixed = between(geometry, pictures), between(geometry, pictures, is_lit=False)

    wrong = [(np.abs(picture.astype(int) - truth).max(axis=2) > 12) & floor for picture in (lit, mixed)]
    assert wrong[0].sum() < 0.25 * wrong[1].sum()


def test_light_comes_from_where_the_sun_is():
    geometry = shot()

    light = relighting(geometry, KEYS, [rendered(geometry, key)[0] for key in KEYS]).light

    strongest = light.directions[np.argmax(light.strengths.sum(axis=1))]
    assert np.degrees(np.arccos(strongest @ SUN)) < FOUND_WITHIN_DEGREES
    assert light.explained > 0.5


def test_where_nothing_moves_nothing_is_relit():
    geometry = shot(moves=False)

    assert relighting(geometry, KEYS, [rendered(geometry, 0)[0], rendered(geometry, 0)[0]]) is None


def test_one_key_picture_tells_no_light():
    geometry = shot()

    assert relighting(geometry, [0], [rendered(geometry, 0)[0]]) is None


def test_pictures_that_differ_otherwise_are_not_relit():
    geometry = shot()
    painted = [np.random.default_rng(key).integers(60, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8) for key in KEYS]

    assert relighting(geometry, KEYS, painted) is None


def test_lamp_that_fades_is_not_taken_for_a_shadow_and_hides_none():
    geometry = shot()
    pictures = [rendered(geometry, 0)[0], (rendered(geometry, 4)[0] * 0.6).astype(np.uint8)]
    truth, _ = rendered(geometry, 2)
    far = seen(geometry, 2)[1]
    far[:, WIDTH // 8 : -WIDTH // 8] = False  # no shadow comes there

    lit = between(geometry, pictures)

    assert np.abs((lit[far] - 0.8 * truth[far]).mean()) <= 2.0  # levels, of 255
    assert relighting(geometry, KEYS, pictures).light.explained > 0.5


@pytest.mark.parametrize("channels", [3, 4])
def test_same_pictures_give_the_same_bytes(channels):
    geometry = shot()
    pictures = [rendered(geometry, key)[0] for key in KEYS]
    if channels == 4:
        pictures = [np.concatenate([picture, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], 2) for picture in pictures]

    first, second = (between(geometry, pictures) for _ in range(2))

    assert first.tobytes() == second.tobytes()


def test_frame_at_a_key_stays_that_picture():
    geometry = shot()
    pictures = [rendered(geometry, key)[0] for key in KEYS]

    assert between(geometry, pictures, index=4).tobytes() == pictures[1].tobytes()


def test_light_of_keys_that_are_followed_only_where_they_are_needed_is_the_same():
    geometry, keys = shot(), [2, 3, 4]
    pictures = [rendered(geometry, key)[0] for key in keys]
    light, made = relighting(geometry, keys, pictures), []
    for beside_only in (False, True):
        frames = correspondences(geometry, keys, frame_indices=[0], background=True, beside_only=beside_only)
        made.append(light.at(next(frames)).ratios)
    assert (made[0][1:] != 1.0).any()  # of keys that are not beside the frame
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (2, 2), (3, 5)])
def test_smallest_pictures_are_relit(size):
    """Pictures that are smaller than the steps at which light is measured."""
    geometry, (width, height) = shot(), size
    light = relighting(geometry, KEYS, [rendered(geometry, key)[0] for key in KEYS])
    cameras = camera_path(
        [look_at((0.0, -5.0, 3.0), (0.0, 0.3, 0.3))] * FRAMES, width=width, height=height, focal_px=float(max(size))
    )
    small = replace(geometry, cameras=cameras)

    frame = next(correspondences(small, KEYS, frame_indices=[2]))
    told = light.seen_by(small, 4).at(frame)

    assert told.ratios.size and np.isfinite(told.ratios).all()
    composed = Composer([np.full((height, width, 3), 90, np.uint8)] * 2).compose(frame, light=told)
    assert composed.picture.shape == (height, width, 3)


def test_camera_that_pans_by_half_a_pixel_puts_places_on_the_pictures_border():
    """Seen without perspective all of the floor moves by the same half: its last column lies exactly on the border."""
    geometry = shot()
    matrices = geometry.cameras.camera_from_world.copy()
    matrices[-1, 0, 3] += 0.5 / 40.0
    flat = replace(
        geometry.cameras, camera_from_world=matrices, focal_px=np.full((FRAMES, 2), 40.0),
        virtual_distance=np.full(FRAMES, 5.0),
    )  # fmt: skip
    pictures = [rendered(geometry, key)[0] for key in KEYS]

    relighting(replace(geometry, cameras=flat), KEYS, pictures)  # whatever it finds


def test_background_casts_no_shadow():
    geometry = shot()
    roles = np.zeros(len(geometry.triangles), np.uint8)

    assert Casters.of(replace(geometry, roles=roles), KEYS) is not None
    roles[:] = BACKGROUND
    assert Casters.of(replace(geometry, roles=roles), KEYS) is None


def test_light_that_changes_much_is_worth_less():
    """Where a shadow has gone, its ratio is large, and what it is worth is small; elsewhere all of it."""
    geometry = shot()
    (first, shadow), (last, _) = (rendered(geometry, key) for key in KEYS)
    frame = next(correspondences(geometry, KEYS, frame_indices=[2]))

    light = relighting(geometry, KEYS, [first, last]).at(frame).rows(slice(0, HEIGHT)).of(0)

    light = light.reshape(HEIGHT, WIDTH, 4)
    _, floor = seen(geometry, 2)
    gone = shadow & floor & (light[..., 0] > 1.2)  # the camera is at rest: the same pixels
    same = floor & ~shadow & (np.abs(light[..., 0] - 1.0) < 0.002)
    assert gone.sum() > 100 and same.sum() > 1000
    assert light[gone][:, 3].max() < 0.2 and np.median(light[same][:, 3]) > 0.9


def test_floor_that_was_lit_is_not_made_brighter_than_around_it():
    """A shadow is told beside where it is: what the key picture shows lit there does not begin to glow."""
    geometry = shot()
    (first, shadow), (last, _) = (rendered(geometry, key) for key in KEYS)
    truth, shadow_now = rendered(geometry, 2)
    casters, _, gamma, shown = relighting(geometry, KEYS, [first, last]).told
    beside = np.array([[-0.1, -0.5, 0.86]], np.float32) / np.float32(np.linalg.norm([-0.1, -0.5, 0.86]))
    told = Light(beside, np.full((1, 3), 1.0 - AMBIENT, np.float32), np.full(3, AMBIENT, np.float32), 1.0)
    frame = next(correspondences(geometry, KEYS, frame_indices=[2]))

    light = Relighting(geometry, KEYS, casters, told, gamma, shown).at(frame).rows(slice(0, HEIGHT)).of(0)

    change = light.reshape(HEIGHT, WIDTH, 4)[..., :3]
    floor, near = seen(geometry, 0)[1] & seen(geometry, 2)[1], shadow | shadow_now
    for axis in (0, 1):  # at its rim pixels have a share of both
        near = np.any([np.roll(near, step, axis) for step in range(-3, 4)], axis=0)
    lit = floor & ~near
    relit = np.minimum(first * change, 255.0).mean(axis=2)[lit]  # the camera is at rest: the same pixels
    assert lit.sum() > 10000
    assert relit.max() - truth.mean(axis=2)[lit].max() < 40.0  # levels, of 255
    assert change[floor & shadow].max() > 1.4  # what was in shadow still becomes brighter
