# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth of each pixel from cameras that are known: against a floor, a wall, a card and a thing that moves."""

import numpy as np
import pytest

from das_blender_addon.footage import plane_sweep
from das_blender_addon.footage.filling import fill_harmonic
from das_blender_addon.footage.movers import movers
from das_blender_addon.footage.plane_sweep import cards_of, moving_pixels, swept_depth
from das_blender_addon.footage.plate import focal_px
from das_blender_addon.footage.standing import moving_tracks
from das_blender_addon.footage.triangulation import triangulated

WIDTH, HEIGHT, COUNT, LENS, EVERY = 112, 76, 7, 30.0, 9
FOCAL = focal_px(LENS, (WIDTH, HEIGHT))
WALL, CARD, THING, EYES = 7.0, 4.0, 3.5, 1.3
GRAIN = np.random.default_rng(4).uniform(0.0, 255.0, (4, 400, 400))
"""What the floor, the wall, the card and the thing look like: 8 grains in a unit of length."""


def texture(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = 8.0 * u + 200.0, 8.0 * v + 200.0
    x, y = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b, grain = u - x, v - y, GRAIN[kind]
    above = grain[y % 400, x % 400] * (1 - a) + grain[y % 400, (x + 1) % 400] * a
    below = grain[(y + 1) % 400, x % 400] * (1 - a) + grain[(y + 1) % 400, (x + 1) % 400] * a
    return above * (1 - b) + below * b


def seen(eye: np.ndarray, moved: float):
    """(picture, depth, which surface) from ``eye`` [3], optical axes; ``moved``: how far the thing is."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    right, down = (x - WIDTH / 2) / FOCAL, (y - HEIGHT / 2) / FOCAL
    with np.errstate(divide="ignore"):
        floor = np.where(down > 0.0, (EYES - eye[1]) / down, np.inf)
    depth, which = np.full(x.shape, WALL - eye[2]), np.ones(x.shape, int)
    depth, which = np.where(floor < depth, floor, depth), np.where(floor < depth, 0, which)
    for kind, far, (left, top, wide, high) in (
        (2, CARD - eye[2], (-1.5, -1.0, 1.2, 1.4)),
        (3, THING - eye[2], (0.4 + moved, -0.2, 0.7, 0.9)),
    ):
        u, v = right * far + eye[0] - left, down * far + eye[1] - top
        inside = (u >= 0.0) & (u < wide) & (v >= 0.0) & (v < high) & (far < depth)
        depth, which = np.where(inside, far, depth), np.where(inside, kind, which)
    places = np.stack([right * depth, down * depth, depth], axis=-1) + eye
    shift = np.where(which == 3, moved, 0.0)
    wall = texture(1, places[..., 0], places[..., 1])
    picture = np.choose(
        which,
        [texture(0, places[..., 0], places[..., 2]), wall, texture(2, places[..., 0], places[..., 1]),
         texture(3, places[..., 0] - shift, places[..., 1])],
    )  # fmt: skip
    return np.repeat(picture[..., None], 3, axis=2).round().astype(np.uint8), depth, which, places


@pytest.fixture(scope="module")
def clip():
    eyes = np.stack([np.linspace(0.0, 0.5, COUNT), np.linspace(0.0, -0.1, COUNT), np.linspace(0.0, 0.4, COUNT)], axis=1)
    moved = np.linspace(0.0, 0.6, COUNT)
    frames = [seen(eye, shift) for eye, shift in zip(eyes, moved, strict=True)]
    y, x = (axis.ravel() for axis in np.mgrid[4:HEIGHT:EVERY, 4:WIDTH:EVERY])
    places, which = frames[0][3][y, x], frames[0][2][y, x]
    tracks, visible = np.zeros((COUNT, len(x), 2)), np.zeros((COUNT, len(x)), bool)
    for number, (eye, shift) in enumerate(zip(eyes, moved, strict=True)):
        here = places - eye + np.where(which == 3, shift, 0.0)[:, None] * [1.0, 0.0, 0.0]
        tracks[number] = FOCAL * here[:, :2] / here[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        column, row = np.floor(tracks[number]).astype(int).T
        inside = (column >= 0) & (row >= 0) & (column < WIDTH) & (row < HEIGHT)
        there = frames[number][1][np.clip(row, 0, HEIGHT - 1), np.clip(column, 0, WIDTH - 1)]
        visible[number] = inside & (np.abs(there / here[:, 2] - 1.0) < 0.1)
    cameras = np.repeat(np.eye(4)[None], COUNT, axis=0)
    cameras[:, :3, 3] = eyes * [1.0, -1.0, -1.0]
    pictures = np.stack([frame[0] for frame in frames])
    points = triangulated(tracks, visible, cameras, LENS, (WIDTH, HEIGHT))
    return pictures, cameras, points, tracks, visible, frames[0][1], frames[0][2]


def swept(clip) -> np.ndarray:
    pictures, cameras, points, tracks, visible, _, _ = clip
    return swept_depth(pictures, cameras, LENS, points, tracks, visible)[0]


def continued(clip) -> np.ndarray:
    """The depth of the points alone, continued evenly."""
    _, _, points, tracks, *_ = clip
    known, values = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH, 1))
    x, y = np.floor(tracks[0, points.good]).astype(int).T
    known[y, x], values[y, x, 0] = True, 1.0 / points.places[points.good, 2]
    return 1.0 / fill_harmonic(values, known, ~known)[..., 0]


def test_each_pixel_of_what_stands_still_has_its_own_depth(clip):
    depth, which = clip[-2:]
    found = swept(clip)
    still = which != 3
    off, blind = (np.abs(one / depth - 1.0) for one in (found, continued(clip)))
    assert found.dtype == np.float32 and found.shape == depth.shape
    assert np.median(off[still]) < 0.015 and off[still].mean() < 0.5 * blind[still].mean()
    for kind, limit in enumerate((0.05, 0.015, 0.015)):  # a floor at a grazing angle, a wall, a card
        assert np.median(off[which == kind]) < min(limit, 0.5 * np.median(blind[which == kind])), kind


def test_what_moves_by_itself_is_continued_from_around_it(clip):
    depth, which = clip[-2:]
    thing = swept(clip)[which == 3]
    around = depth[which != 3]
    assert around.min() < np.percentile(thing, 5.0) and np.percentile(thing, 95.0) < 1.2 * around.max()
    assert np.median(thing) > 1.2 * THING, "its own motion is not taken for nearness"


def test_large_pictures_are_compared_smaller(clip, monkeypatch):
    monkeypatch.setattr(plane_sweep, "MOST_PIXELS", 3000)
    depth, which = clip[-2:]
    off = np.abs(swept(clip) / depth - 1.0)[which != 3]
    assert np.median(off) < 0.03


def test_pictures_without_texture_are_continued_from_the_points(clip):
    pictures, cameras, points, tracks, visible, depth, which = clip
    found, told, _ = swept_depth(np.full_like(pictures, 90), cameras, LENS, points, tracks, visible)
    off = np.abs(found / depth - 1.0)[which != 3]
    assert np.isfinite(found).all() and np.median(off) < 0.06 and told.sum() <= points.good.sum()


def test_masked_thing_that_moves_by_itself_stands_where_the_floor_beside_its_foot_is(clip):
    pictures, cameras, points, tracks, visible, depth, which = clip
    found, told, _ = swept_depth(pictures, cameras, LENS, points, tracks, visible)
    masks = {"Thing": which == 3, "Card": which == 2}
    made = cards_of(found, told, masks.values())
    foot = np.flatnonzero(masks["Thing"].any(axis=1))[-1]
    floor = FOCAL * EYES / (foot + 0.5 - HEIGHT / 2)
    assert np.ptp(made[masks["Thing"]]) == 0.0 and 0.8 * floor < made[masks["Thing"]][0] < floor
    assert np.ptp(found[masks["Thing"]]) > 0.05 * floor, "without it, it leans as what is around it does"
    np.testing.assert_array_equal(made[which != 3], found[which != 3])
    np.testing.assert_array_equal(cards_of(found, told, []), found)
    moving = moving_pixels(points, tracks[0], which.shape)
    np.testing.assert_array_equal(cards_of(found, ~moving, masks.values()), made)


def test_thing_that_moves_and_that_nobody_masked_is_found(clip):
    pictures, cameras, points, tracks, visible, depth, which = clip
    _, _, told = swept_depth(pictures, cameras, LENS, points, tracks, visible)
    assert (told.moves != points.moves).sum() <= 2 and not (told.moves & ~points.moves).any(), "the pictures confirm it"
    moving = moving_pixels(told, tracks[0], which.shape)
    alone = movers(moving, tracks[0, told.moves], {})
    assert len(alone) == 1 and (alone[0] & (which == 3)).sum() / (alone[0] | (which == 3)).sum() > 0.5
    assert movers(moving, tracks[0, told.moves], {"Thing": which == 3, "Card": which == 2}) == []


def test_pictures_deny_a_track_that_went_wrong(clip):
    """Every fourth point of the wall slips, as along a pattern: the wall stands, and its pixels are told."""
    pictures, cameras, _, tracks, visible, depth, which = clip
    x, y = np.floor(tracks[0]).astype(int).T
    slipping = (which[y, x] == 1) & (np.arange(len(x)) % 4 == 0) & (visible.sum(axis=0) >= 3)
    tracks = tracks + np.where(slipping, np.linspace(0.0, 6.0, COUNT)[:, None], 0.0)[..., None] * [0.0, 1.0]
    points = triangulated(tracks, visible, cameras, LENS, (WIDTH, HEIGHT))
    assert points.moves[slipping].mean() > 0.9
    assert moving_pixels(points, tracks[0], which.shape)[which == 1].mean() > 0.15, "by the tracks alone it moves"
    found, told, believed = swept_depth(pictures, cameras, LENS, points, tracks, visible)
    thing = which[y, x] == 3
    assert believed.moves[slipping].mean() < 0.2 and believed.moves[thing].mean() == points.moves[thing].mean()
    assert told[which == 1].mean() > 0.85 and np.median(np.abs(found / depth - 1.0)[which == 1]) < 0.015
    moving = moving_pixels(believed, tracks[0], which.shape)
    alone = movers(moving, tracks[0, believed.moves], {})
    assert len(alone) == 1 and alone[0][which == 1].mean() < 0.1, "only the thing moves"


def test_track_that_the_pictures_tell_nothing_of_is_believed(clip):
    pictures, cameras, points, tracks, visible, depth, _ = clip
    followed = (points, tracks, visible & (np.arange(COUNT)[:, None] == 0), pictures, cameras, LENS, depth)
    np.testing.assert_array_equal(moving_tracks(*followed), points.moves)


def test_what_was_seen_too_shortly_to_tell_does_not_move(clip):
    """Nearly all points of the wall live for two frames only: its pixels are told all the same."""
    pictures, cameras, _, tracks, visible, depth, which = clip
    x, y = np.floor(tracks[0]).astype(int).T
    short = (which[y, x] == 1) & (np.arange(len(x)) % 5 > 0)
    visible = visible & (~short | (np.arange(COUNT)[:, None] < 2))
    points = triangulated(tracks, visible, cameras, LENS, (WIDTH, HEIGHT))
    assert not (points.good | points.moves)[short].any()
    assert (points.moves == (which[y, x] == 3))[visible.sum(axis=0) >= 3].mean() > 0.95
    found, told, _ = swept_depth(pictures, cameras, LENS, points, tracks, visible)
    assert told[which == 1].mean() > 0.75
    assert np.median(np.abs(found / depth - 1.0)[which == 1]) < 0.015
    assert not moving_pixels(points, tracks[0], which.shape)[which == 1][::7].mean() > 0.1
