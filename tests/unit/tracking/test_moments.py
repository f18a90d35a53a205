# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose surface pixels see, and where it was in the frame before: against motion that is known."""

from dataclasses import replace

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled
from das_blender_addon.tracking.moments import NO_OBJECT, moments
from tests.support.shots import DEPTH, wall

SIZE, STEP_PX = (48, 31), 3


def with_card():
    """The wall moves to the right by `STEP_PX` a frame; a card at half its distance stands in the middle."""
    behind = wall(SIZE, (1, 2, 3), step=STEP_PX * DEPTH / SIZE[0])
    half, depth = 0.6, DEPTH / 2
    card = np.array([(-half, -half, -depth), (half, -half, -depth), (half, half, -depth), (-half, half, -depth)])
    vertices = np.concatenate([behind.vertices, np.repeat(card[None], 3, axis=0)], axis=1).astype(np.float32)
    triangles = np.concatenate([behind.triangles, behind.triangles + 4])
    objects = np.array([0, 0, 1, 1], np.int32)
    return replace(behind, vertices=vertices, triangles=triangles, objects=objects, names=("Wall", "Card"))


def test_points_are_followed_to_the_frame_before_of_those_that_are_asked_for():
    first, last = moments(with_card(), (0, 2))
    assert (first.index, last.index) == (0, 2)
    assert np.isnan(first.before).all() and not first.visible_before.any()
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    wall_seen, card_seen = last.objects == 0, last.objects == 1
    np.testing.assert_allclose(last.before[wall_seen][:, 0], x[wall_seen] - 2 * STEP_PX, atol=1e-3)
    np.testing.assert_allclose(last.before[card_seen], np.stack([x, y], axis=-1)[card_seen], atol=1e-3)


def test_what_was_hidden_or_outside_was_not_seen():
    geometry = with_card()
    before, now, *_ = moments(geometry, (0, 1))
    place = now.before
    x, y = (np.floor(np.where(np.isfinite(place[..., axis]), place[..., axis], -1)).astype(int) for axis in (0, 1))
    inside = (x >= 0) & (x < SIZE[0])
    owner = before.objects[y.clip(0, SIZE[1] - 1), x.clip(0, SIZE[0] - 1)]
    np.testing.assert_array_equal(now.visible_before, inside & (owner == now.objects))
    hidden = inside & (now.objects == 0) & ~now.visible_before
    assert hidden.sum() > 5 and not now.visible_before[:, :STEP_PX].any()
    assert now.visible_before[now.objects == 1].all()


def test_geometry_without_objects_and_sky():
    bare = replace(wall(SIZE, (1, 2), half=1.0, step=0.2), objects=None)
    _, now = moments(bare, (0, 1))
    assert (now.objects == NO_OBJECT).all() and now.visible_before.any() and np.isnan(now.before).any()


def test_moments_stop_when_asked():
    with pytest.raises(JobCancelled):
        list(moments(with_card(), (0, 1), should_stop=lambda: True))
