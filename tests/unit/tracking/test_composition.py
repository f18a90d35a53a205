# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames composed from key pictures: identity, weights, holes, outlines, minification, tiles, memory.

One file, though long: one composer, seen from every side.
"""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import SettingsError
from das_blender_addon.tracking.blending import time_weights
from das_blender_addon.tracking.composition import Composer, PreparedPictures
from das_blender_addon.tracking.correspondences import KeyViews, beside, correspondences
from das_blender_addon.tracking.filling import fill_holes
from tests.support.geometry import box, camera_path, look_at, sequence
from tests.unit.tracking.test_correspondences import moving_shot

WIDTH, HEIGHT = 96, 64
#: A colour that passed through weights in float32 and one rounding to 8 bits.
ROUNDING_LEVELS = 1
#: What may be left of 255 levels two pixels from an outline: not visible.
FRINGE_LEVELS = 6


def noise(seed, *, channels=3, dtype=np.uint8):
    values = np.random.default_rng(seed).random((HEIGHT, WIDTH, channels))
    return (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(np.float32)


def flat(colour, dtype=np.uint8):
    return np.full((HEIGHT, WIDTH, 3), colour, dtype=dtype)


def wall(depth=4.0):
    """Two triangles that fill the view of a camera at the origin which looks along +y."""
    points = np.array([(-90, depth, -90), (90, depth, -90), (90, depth, 90), (-90, depth, 90)], dtype=float)
    return points, np.array([(0, 1, 2), (0, 2, 3)])


def still(parts, frames, **camera):
    return sequence(parts, camera_path([look_at((0, 0, 0), (0, 1, 0))] * frames, **camera))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("key", [0, 2])
def test_frame_at_a_key_is_that_picture_byte_for_byte(key, dtype):
    pictures = [noise(1, dtype=dtype), noise(2, dtype=dtype)]
    frame = next(correspondences(moving_shot(), [0, 2], frame_indices=[key]))

    composed = Composer(pictures).compose(frame)

    assert composed.picture.tobytes() == pictures[key // 2].tobytes()
    assert composed.picture.dtype == dtype and composed.known.all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_still_shot_carries_every_detail(dtype):
    picture = noise(3, dtype=dtype)
    frame = list(correspondences(still([wall()], 3), [0]))[2]

    composed = Composer([picture]).compose(frame)

    # float32 pictures are looked up as float16: half a step of 2^-11.
    tolerance = 0 if dtype == np.uint8 else 2.0**-12
    assert np.abs(composed.picture.astype(float) - picture.astype(float)).max() <= tolerance
    assert composed.known.all()


def test_light_passes_over_in_time_between_two_keys_and_a_third_has_no_say():
    frames = list(correspondences(still([wall()], 9), [0, 4, 8]))
    composer = Composer([flat(40), flat(200), flat(0)])

    levels = [int(composer.compose(frames[index]).picture[32, 48, 0]) for index in range(5)]

    assert np.abs(np.array(levels) - (40, 80, 120, 160, 200)).max() <= ROUNDING_LEVELS


def test_before_the_first_and_after_the_last_key_the_nearest_counts():
    frames = list(correspondences(still([wall()], 9), [3, 5]))
    composer = Composer([flat(40), flat(200)])

    assert composer.compose(frames[0]).picture[32, 48, 0] == 40
    assert composer.compose(frames[8]).picture[32, 48, 0] == 200
    assert time_weights(3, (3, 5)).argmax() == 0 and time_weights(4, (5, 3)).tolist() == [0.5, 0.5]


def test_key_that_sees_the_surface_larger_counts_more():
    """Of two keys equally far in time one stands four times as far away."""
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((0, 0, 0), (0, 1, 0)), look_at((0, -12, 0), (0, 1, 0))]
    frame = list(correspondences(sequence([wall()], camera_path(matrices)), [0, 2]))[1]

    level = Composer([flat(0), flat(255)]).compose(frame).picture[32, 48, 0]

    assert level == pytest.approx(255 / 17, abs=ROUNDING_LEVELS)  # weights 1 and (1/4)²


def test_unpainted_pixels_of_a_key_come_from_the_other():
    painted = np.concatenate([noise(4), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    painted[:, 48:] = 0
    other = flat(90)
    frames = list(correspondences(still([wall()], 3), [0, 2]))
    other = np.concatenate([other, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)

    composer = Composer([painted, other])
    at_key, between = composer.compose(frames[0]), composer.compose(frames[1])

    np.testing.assert_array_equal(at_key.picture[:, :48], painted[:, :48, :3])
    assert np.abs(at_key.picture[:, 50:].astype(int) - 90).max() <= ROUNDING_LEVELS
    assert np.abs(between.picture[:, 50:].astype(int) - 90).max() <= ROUNDING_LEVELS
    assert at_key.known.all() and between.known.all()


def test_what_is_painted_nowhere_is_not_known_and_continues_its_surroundings():
    painted = np.concatenate([flat(120), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    painted[20:40, 30:60] = 0
    frames = list(correspondences(still([wall()], 2), [0]))

    for frame in frames:
        composed = Composer([painted]).compose(frame)
        assert not composed.known[22:38, 32:58].any() and composed.known[:18].all()
        assert np.abs(composed.picture.astype(int) - 120).max() <= ROUNDING_LEVELS  # no black from below alpha 0


def _uncovered():
    """A red box before a grey wall in the key frame is gone in the second frame."""
    points, faces = box((0, 2, 0), (0.6, 0.2, 0.6))
    moved = np.stack([points, points + (0, 0, 50)])
    geometry = still([wall(), (moved, faces)], 2)
    frames = list(correspondences(geometry, [0]))
    picture = flat(130)
    hidden = ~frames[1].visible[0]
    picture[hidden] = (255, 0, 0)
    return frames, picture, hidden


def test_hidden_wall_is_filled_with_wall():
    frames, picture, hidden = _uncovered()

    composed = Composer([picture]).compose(frames[1])

    assert not composed.known[hidden].any()
    assert np.abs(composed.picture.astype(int) - 130).max() <= ROUNDING_LEVELS


def test_background_in_view_mixes_no_surfaces_of_a_fill():
    """A hole in the far wall, blue, beside a near thing, red: what fills it is the wall, whatever is behind both."""
    inverse = np.full((64, 96), 0.1, np.float32)
    inverse[:, :40] = 0.5
    picture = np.zeros((64, 96, 3), np.float32)
    picture[:, :40, 0] = picture[:, 40:, 2] = 250.0
    known = np.ones((64, 96), bool)
    known[20:44, 42:60] = False
    plain, behind = picture.copy(), picture.copy()
    fill_holes(plain, known, inverse)
    inverse[:4] = 1e-20
    fill_holes(behind, known, inverse)
    np.testing.assert_allclose(behind[20:44, 42:60], plain[20:44, 42:60], atol=8.0)


def test_fill_shows_its_details_in_the_tone_of_the_surroundings():
    frames, picture, hidden = _uncovered()
    fill = (flat(60).astype(int) + np.random.default_rng(0).integers(-20, 21, (HEIGHT, WIDTH, 3))).astype(np.uint8)

    composed = Composer([picture]).compose(frames[1], fill)

    inside = np.zeros_like(hidden)
    inside[26:38, 42:54] = True
    assert hidden[inside].all()
    assert composed.picture[inside].mean() == pytest.approx(130, abs=6)  # the mean of noise around it differs a little
    detail = composed.picture[inside].astype(float) - composed.picture[inside].mean(axis=0)
    wanted = fill[inside].astype(float) - fill[inside].mean(axis=0)
    assert np.corrcoef(detail.ravel(), wanted.ravel())[0, 1] > 0.95
    np.testing.assert_array_equal(composed.picture[:8], picture[:8])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_part_of_a_fill_leaves_the_rest_to_the_surroundings(share):
    frames, picture, hidden = _uncovered()
    fill = (flat(60).astype(int) + np.random.default_rng(0).integers(-20, 21, (HEIGHT, WIDTH, 3))).astype(np.uint8)
    gathered = Composer([picture]).gather(frames[1])

    whole, made, continued = (
        gathered.filled(*how).picture.astype(float) for how in ((fill,), (fill, share), ())
    )

    np.testing.assert_array_equal(made, Composer([picture]).compose(frames[1], fill, share).picture)
    np.testing.assert_allclose(made, continued + share * (whole - continued), atol=2 * ROUNDING_LEVELS)
    assert np.abs(whole - continued)[hidden].max() > 10


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_part_of_a_fill_is_all_of_it_where_nothing_is_known(share):
    geometry = still([wall()], 2)
    frame = list(correspondences(geometry, [0]))[1]
    frame = replace(frame, visible=np.zeros_like(frame.visible))

    composed = Composer([flat(10)]).compose(frame, noise(5), share)

    np.testing.assert_array_equal(composed.picture, noise(5))


def test_fill_alone_is_left_where_nothing_is_known_at_all():
    geometry = still([box((0, 5, 0), (1, 1, 1))], 2)
    frame = list(correspondences(geometry, [0]))[1]
    frame = replace(frame, visible=np.zeros_like(frame.visible))
    fill = noise(5)

    composed = Composer([flat(10)]).compose(frame, fill)
    alone = Composer([flat(10)]).compose(frame)

    assert not composed.known.any() and not alone.known.any()
    # The fill's own outlines are softened; everything else is as it came.
    assert (composed.picture == fill).mean() > 0.8
    assert alone.picture.shape == fill.shape


def _sliding(frames=3, step=0.6):
    """A white thing slides before a black wall; keys show it at both ends."""
    points, faces = box((-0.6, 3, 0), (1.0, 0.2, 1.0))
    moved = np.stack([points + (step * t, 0, 0) for t in range(frames)])
    geometry = still([wall(6.0), (moved, faces)], frames)
    return list(correspondences(geometry, [0, frames - 1]))


def _antialiased(frame_of_truth, foreground, background):
    """A rendered picture: colours by surface, mixed at outlines as a pixel filter does."""
    mask = (frame_of_truth.depth < 4.0).astype(float)
    padded = np.pad(mask, 1, mode="edge")
    soft = sum(
        w_y * w_x * padded[1 + dy : 65 + dy, 1 + dx : 97 + dx]
        for dy, w_y in ((-1, 0.2), (0, 0.6), (1, 0.2))
        for dx, w_x in ((-1, 0.2), (0, 0.6), (1, 0.2))
    )
    return np.rint(background + (foreground - background) * soft[..., None] * np.ones(3)).astype(np.uint8)


def test_no_fringe_where_a_white_thing_stood_before_a_black_wall():
    frames = _sliding()
    keys = [_antialiased(frames[0], 255, 0), _antialiased(frames[2], 255, 0)]

    composed = Composer(keys).compose(frames[1]).picture.astype(int)[..., 0]

    mask = frames[1].depth < 4.0
    grown = np.zeros_like(mask)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            grown |= np.roll(mask, (dy, dx), (0, 1))
    assert composed[~grown].max() <= FRINGE_LEVELS  # no light line on the wall
    inner = np.ones_like(mask)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            inner &= np.roll(mask, (dy, dx), (0, 1))
    assert composed[inner].min() >= 255 - FRINGE_LEVELS  # no dark line on the thing
    assert inner.sum() > 100 and (~grown).sum() > 1000


def test_outline_takes_no_colour_that_is_no_longer_there():
    """The thing stood before a bright wall and now stands before a dark one: its rim must not glow."""
    frames = _sliding()
    bright_left = [np.where(np.arange(WIDTH)[None, :, None] < 48, 250, 20) + np.zeros((HEIGHT, WIDTH, 3))] * 2
    keys = []
    for number, index in enumerate((0, 2)):
        soft = _antialiased(frames[index], 255, 0)[..., :1] / 255.0
        keys.append(np.rint(120 * soft + bright_left[number] * (1 - soft)).astype(np.uint8))

    composed = Composer(keys).compose(frames[1]).picture.astype(int)[..., 0]

    mask = frames[1].depth < 4.0
    right = np.zeros_like(mask)
    right[:, 50:] = True  # here the wall is dark, and was bright behind the thing's rim in the first key
    assert composed[right].max() <= 120 + FRINGE_LEVELS


def test_checker_far_away_keeps_its_mean_and_does_not_alias():
    """The key stands near a fine checker, the frame so far away that four squares fall into one pixel's width."""
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((0, -28, 0), (0, 1, 0))]
    frame = list(correspondences(sequence([wall()], camera_path(matrices)), [0]))[1]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    checker = (((x // 2 + y // 2) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)

    composed = Composer([checker]).compose(frame)

    row, column = np.nonzero(composed.known)
    middle = composed.picture[row.min() + 1 : row.max(), column.min() + 1 : column.max()]
    assert middle.size
    assert np.abs(middle.astype(float) - 127.5).max() < 20  # what is left of 255 levels of contrast


def test_slanted_checker_does_not_alias_along_the_long_way():
    """Seen edge-on in the frame, from the front in the key: only one way is squeezed, stripes across it must vanish."""
    matrices = [look_at((0, 0, 0), (0, 1, 0)), look_at((-3.95, 3.3, 0), (0, 4, 0))]
    points = np.array([(-2, 4, -2), (2, 4, -2), (2, 4, 2), (-2, 4, 2)], float)
    plane = points, np.array([(0, 1, 2), (0, 2, 3)])
    frame = list(correspondences(sequence([plane], camera_path(matrices, focal_px=70.0)), [0]))[1]
    stripes = (((np.mgrid[0:HEIGHT, 0:WIDTH][1] // 2) % 2) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    far = np.zeros((HEIGHT, WIDTH), bool)
    steps = np.abs(np.diff(frame.xy[0, ..., 0], axis=1))
    far[:, 1:-1] = (np.minimum(steps[:, 1:], steps[:, :-1]) > 6) & (np.maximum(steps[:, 1:], steps[:, :-1]) < 12)

    composed = Composer([stripes]).compose(frame)

    chosen = far & composed.known
    assert chosen.sum() >= 20
    assert np.abs(composed.picture[chosen].astype(float) - 127.5).max() < 45


def test_tiles_give_the_same_bytes_as_the_whole_and_so_does_repetition():
    frames = list(correspondences(moving_shot(), [0, 3], background=True))
    pictures = [noise(6), noise(7)]

    whole = [Composer(pictures, pixels_per_tile=1 << 20).compose(frame) for frame in frames]
    tiled = [Composer(pictures, pixels_per_tile=300).compose(frame) for frame in frames]
    again = [Composer(pictures, pixels_per_tile=300).compose(frame) for frame in frames]

    for one, other, third in zip(whole, tiled, again, strict=True):
        assert one.picture.tobytes() == other.picture.tobytes() == third.picture.tobytes()
        np.testing.assert_array_equal(one.known, other.known)


def test_keys_that_are_followed_only_where_they_are_needed_give_the_same_bytes():
    keys, geometry = [0, 3, 6, 8], moving_shot(9)
    pictures, views = [noise(key) for key in keys], KeyViews(geometry)
    whole = list(correspondences(geometry, keys, background=True))
    partly = list(correspondences(geometry, keys, background=True, beside_only=True, views=views))

    for all_of_it, part in zip(whole, partly, strict=True):
        assert part.visible.sum() < all_of_it.visible.sum()
        made, expected = (Composer(pictures).compose(frame) for frame in (part, all_of_it))
        assert made.picture.tobytes() == expected.picture.tobytes()
        np.testing.assert_array_equal(made.known, expected.known)
    assert any(part.visible[number].any() for part in partly for number in range(4)
               if number not in beside(part.index, keys))


def test_pictures_of_keys_in_common_are_prepared_once_and_others_let_go():
    keys, geometry, prepared = [0, 3, 6], moving_shot(9), PreparedPictures()
    frames = {numbers: list(correspondences(geometry, [keys[number] for number in numbers], frame_indices=[4]))
              for numbers in ((0, 1), (1, 2))}
    pictures = [noise(key) for key in keys]
    held = []
    for numbers, (frame,) in frames.items():
        own = [pictures[number] for number in numbers]
        made = Composer(own, prepared=prepared).compose(frame)
        assert made.picture.tobytes() == Composer(own).compose(frame).picture.tobytes()
        held.append(dict(zip(frame.key_indices, prepared.of(frame.key_indices, own, frame.key_edges), strict=True)))
    assert held[0][3] is held[1][3]
    again = prepared.of((0, 3), pictures[:2], frames[0, 1][0].key_edges)
    assert again[0] is not held[0][0] and again[1] is held[0][3]


def test_working_memory_is_bounded_by_the_tile():
    """Beside the result and masks, a few numbers per pixel, there is room for one tile only."""
    width, height = 640, 400
    geometry = still([wall()], 3, width=width, height=height, focal_px=500.0)
    frame = list(correspondences(geometry, [0, 2]))[1]
    picture = np.zeros((height, width, 3), np.uint8)
    composer = Composer([picture, picture], pixels_per_tile=1 << 13)
    composer.compose(frame)  # the key pictures are prepared

    tracemalloc.start()
    composer.compose(frame)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    per_pixel, per_tile_pixel = 80, 600  # bytes
    assert most < per_pixel * width * height + per_tile_pixel * (1 << 13)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (5, 2), (3, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_smallest_pictures(size, dtype):
    geometry = moving_shot(3, width=size[0], height=size[1])
    picture = np.full((size[1], size[0], 3), 1 if dtype == np.float32 else 100, dtype)

    for frame in correspondences(geometry, [0, 2], background=True):
        composed = Composer([picture, picture]).compose(frame)
        assert composed.picture.shape == picture.shape
        if composed.known.any():
            np.testing.assert_allclose(composed.picture[composed.known], picture[composed.known], atol=1e-3)


def test_frame_with_nothing_in_view_is_filled():
    geometry = still([box((0, -5, 0), (1, 1, 1))], 2)
    frame = list(correspondences(geometry, [0]))[1]
    fill = noise(8)

    composed = Composer([flat(5)]).compose(frame, fill)

    assert not composed.known.any()
    np.testing.assert_array_equal(composed.picture, fill)


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([], "no key picture"),
        ([np.zeros((64, 96), np.uint8)], "must be"),
        ([np.zeros((64, 96, 3), np.uint16)], "u8 or f32"),
        ([np.zeros((64, 96, 3), np.uint8), np.zeros((64, 95, 3), np.uint8)], "one size"),
        ([np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96, 3), np.float32)], "one size and type"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(pictures, words):
    with pytest.raises(SettingsError, match=words):
        Composer(pictures)


def test_sizes_and_numbers_that_do_not_fit_are_named():
    frame = next(correspondences(still([wall()], 2), [0, 1]))
    with pytest.raises(SettingsError, match="1 key pictures"):
        Composer([flat(1)]).compose(frame)
    with pytest.raises(SettingsError, match="40×30"):
        Composer([np.zeros((30, 40, 3), np.uint8)] * 2).compose(frame)
    with pytest.raises(SettingsError, match="The fill"):
        Composer([flat(1)] * 2).compose(frame, flat(1, np.float32))
