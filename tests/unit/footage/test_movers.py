# SPDX-License-Identifier: GPL-3.0-or-later
"""What moves by itself in a clip, part by part."""

import numpy as np
import pytest

from das_blender_addon.footage.movers import MOST, connected, movers, words_of_movers

EVERYWHERE = np.stack(np.meshgrid(np.arange(0.5, 100.0, 4.0), np.arange(0.5, 100.0, 4.0)), axis=-1).reshape(-1, 2)
"""Tracks in a picture of 100×100."""


def drawn(rows: str) -> np.ndarray:
    return np.array([[letter != "." for letter in row] for row in rows.split()])


def flooded(mask: np.ndarray) -> list[np.ndarray]:
    """The same, pixel by pixel."""
    left, parts = mask.copy(), []
    while left.any():
        part, todo = np.zeros(mask.shape, bool), [tuple(np.argwhere(left)[0])]
        while todo:
            y, x = todo.pop()
            if 0 <= y < len(mask) and 0 <= x < mask.shape[1] and left[y, x]:
                left[y, x], part[y, x] = False, True
                todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        parts.append(part)
    return parts


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 31), (31, 23)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.55, 0.8, 1.0])
def test_parts_are_those_of_a_flood(shape, share):
    mask = np.random.default_rng(int(10 * share) + shape[0]).random(shape) < share
    ours, theirs = connected(mask), flooded(mask)
    assert len(ours) == len(theirs) and all((one == other).all() for one, other in zip(ours, theirs, strict=True))


def test_parts_that_meet_late_are_one_and_corners_do_not_touch():
    mask = drawn("x.x.x x.x.x xxxxx ..... x.x.x .x.x.")
    parts = connected(mask)
    assert [int(part.sum()) for part in parts] == [11, 1, 1, 1, 1, 1]


def test_mover_is_large_enough_for_a_thing_and_not_masked_and_not_all_of_the_picture():
    moving = np.zeros((100, 100), bool)
    moving[10:30, 20:40], moving[50:60, 50:80], moving[90, 90:95] = True, True, True
    mask = np.zeros_like(moving)
    mask[48:62, 60:90] = True
    found = movers(moving, EVERYWHERE, {})
    assert [int(part.sum()) for part in found] == [400, 300], "five pixels are a track that went wrong"
    assert [int(part.sum()) for part in movers(moving, EVERYWHERE, {"Hund": mask})] == [400], "most of it is masked"
    assert [int(part.sum()) for part in movers(moving, EVERYWHERE[:300], {})] == [400], "no track lies in it"
    mask[:] = False
    mask[10:30, 20:28] = True
    cut = movers(moving, EVERYWHERE, {"Hund": mask})
    assert [int(part.sum()) for part in cut] == [300, 240] and not (cut[1] & mask).any()
    assert movers(np.ones((9, 9), bool), EVERYWHERE, {}) == [] and movers(np.zeros((9, 9), bool), EVERYWHERE, {}) == []
    half = np.arange(100)[:, None] < np.full(100, 100 * MOST + 1)
    assert movers(half, EVERYWHERE, {}) == []


def test_movers_are_named_with_what_masks_them():
    moving = np.zeros((60, 90), bool)
    moving[10:30, 20:40], moving[40:50, 50:80] = True, True
    words = words_of_movers(movers(moving, EVERYWHERE, {}))
    assert (
        "13% of the first picture: box:20,10,20,20, box:50,40,30,10" in words
        or "box:50,40,30,10, box:20,10,20,20" in words
    )
    assert "--mask" in words and "salient" in words and words_of_movers([]) == ""
