# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip passes into another of the same moments: large areas are mixed, details change over and stay sharp."""

import numpy as np
import pytest

from das_blender_addon.take.join import passed_over

WIDTH, HEIGHT, FRAMES = 192, 128, 8
SHARPNESS = 0.95
"""Least share of the clips' own sharpness."""
BLOCK_PX = 32
"""Of areas that are looked at as a whole: larger than what counts as detail."""
BLOCK_LEVELS = 2.0
"""How much a block's mean changes by its details' change-over, beyond the even mix."""
MOST_AT_ONCE = 0.16
"""Share of the picture that changes over from one frame to the next: even steps are 0.11 each; a cut would be 1."""
SHARES = [(index + 1) / (FRAMES + 1) for index in range(FRAMES)]


def clip(seed: int, speed: int = 1) -> list[np.ndarray]:
    """FRAMES [H,W,3] u8: large areas of colour and fine grain, which slide; other colours and other grain per seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0 : WIDTH + 32]
    areas = np.stack([np.sin(x / 20 + 1.3 * seed + c) + np.cos(y / 17 + 0.7 * seed + c) for c in range(3)], axis=-1)
    picture = np.clip(128 + 25 * areas + 18 * rng.normal(size=areas.shape), 0, 255).round().astype(np.uint8)
    slid = (np.roll(picture, speed * index, axis=1) for index in range(FRAMES))
    return [np.ascontiguousarray(frame[:, 16 : 16 + WIDTH]) for frame in slid]


def sharpness(frame: np.ndarray) -> float:
    """Mean square of the differences between neighbours."""
    return float(sum(np.mean(np.diff(frame.astype(float), axis=axis) ** 2) for axis in (0, 1)))


def blocks(frame: np.ndarray) -> np.ndarray:
    """Means of blocks of `BLOCK_PX`."""
    return frame.astype(float).reshape(HEIGHT // BLOCK_PX, BLOCK_PX, WIDTH // BLOCK_PX, BLOCK_PX, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (31, 45), (8, 16), (1, 1)])
def test_flat_pictures_are_mixed_exactly(size):
    light, dark = (np.full((*size, 3), level, np.uint8) for level in (220, 40))
    for share in (0.25, 0.5, 0.75):
        mixed = passed_over(light, dark, share)
        assert mixed.dtype == np.uint8 and (mixed == 220 - 180 * share).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_equal_pictures_stay_as_they_are(share):
    picture = clip(1)[0]
    np.testing.assert_array_equal(passed_over(picture, picture, share), picture)


def test_joined_frames_are_as_sharp_as_the_clips_that_differ():
    before, after = clip(1), clip(2, speed=-1)
    for first, second, share in zip(before, after, SHARES, strict=True):
        least = min(sharpness(first), sharpness(second))
        assert sharpness(passed_over(first, second, share)) >= SHARPNESS * least
        faded = np.rint((1 - share) * first + share * second)
        assert sharpness(faded) < 0.9 * least  # what this is for


def test_colours_of_large_areas_pass_over_evenly_and_nothing_jumps():
    first, second = clip(1)[0], clip(2)[0]
    frames = [first, *(passed_over(first, second, share) for share in SHARES), second]
    step = np.abs(blocks(second) - blocks(first)) / (FRAMES + 1)
    assert step.max() > 2 * BLOCK_LEVELS
    for before, after in zip(frames, frames[1:], strict=False):
        assert (np.abs(blocks(after) - blocks(before)) <= step + BLOCK_LEVELS).all()


def test_details_change_over_one_part_after_the_other_and_never_back():
    first, second = clip(1)[0], clip(2)[0]
    other = np.abs(first.astype(int) - second).max(axis=2) > 40
    frames = [first, *(passed_over(first, second, share) for share in SHARES), second]
    nearer = []
    for frame in frames:
        to_first, to_second = (np.abs(frame.astype(int) - one).sum(axis=2) for one in (first, second))
        nearer.append((to_second < to_first)[other])
    shares = [part.mean() for part in nearer]
    assert shares[0] == 0.0 and shares[-1] == 1.0
    assert all(0.0 <= after - before <= MOST_AT_ONCE for before, after in zip(shares, shares[1:], strict=False))
    went_back = [np.mean(before & ~after) for before, after in zip(nearer, nearer[1:], strict=False)]
    assert max(went_back) < 0.01
