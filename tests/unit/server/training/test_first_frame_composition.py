# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's composition: carried pixels are exact, holes are the model's, seams and background agree."""

import numpy as np
import pytest
import torch

from das_server.training.first_frame_composition import HIDDEN_SHARE, compose, nearness

FRAMES, HEIGHT, WIDTH = 3, 20, 28
ROUNDING_LEVELS = 1
"""Composition rounds once to 8 bits."""


def _identity_positions():
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    xy = np.stack([columns + 0.5, rows + 0.5], -1).astype(np.float32)
    return np.repeat(xy[None], FRAMES, 0), np.ones((FRAMES, HEIGHT, WIDTH), bool)


def _first_frame(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def _model(level):
    return np.full((FRAMES, HEIGHT, WIDTH, 3), level, np.uint8)


def test_compose_returns_first_frame_when_nothing_moves():
    first = _first_frame()
    result = compose(_model(9), first, *_identity_positions())
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.repeat(first[None], FRAMES, 0))


def test_compose_moves_pixels_along_whole_pixel_tracks():
    first = _first_frame()
    xy, visible = _identity_positions()
    xy = xy - (3, 0)  # the picture moved three pixels to the right
    visible = visible & (xy[..., 0] >= 0)
    result = compose(_model(0), first, np.where(visible[..., None], xy, np.nan), visible, feather_px=0)
    np.testing.assert_array_equal(result[1][:, 3:], first[:, :-3])


def test_compose_leaves_holes_to_the_model():
    first = _first_frame()
    xy, visible = _identity_positions()
    visible[1:, 5:15, 8:20] = False
    model = _model(0)
    model[1:] = (200, 30, 90)
    result = compose(model, first, xy, visible, match_seams=False)
    np.testing.assert_array_equal(result[1, 5:15, 8:20], model[1, 5:15, 8:20])


def test_compose_feathers_only_inside_the_carried_area():
    first = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    xy, visible = _identity_positions()
    visible[:, :, 14:] = False
    result = compose(_model(0), first, xy, visible, match_seams=False, keep_background=False, feather_px=1)
    row = result[1, 10, :, 0]
    assert (row[:12] == 200).all()
    assert 90 <= row[13] < 200
    assert (row[14:] == 0).all()


def test_compose_moves_painted_colours_towards_the_seam_and_not_far_from_it():
    first = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    xy, visible = _identity_positions()
    visible[:, :, 8:] = False
    result = compose(_model(80), first, xy, visible, keep_background=False, feather_px=0)
    row = result[2, 10, :, 0].astype(int)
    assert 90 < row[8] < 120
    assert (np.diff(row[8:]) <= 0).all()
    assert row[-1] == 80


def test_compose_keeps_background_where_the_model_agrees_and_not_where_it_disagrees():
    first = _first_frame() // 8 + 100
    xy, visible = _identity_positions()
    visible[:, :, 10:] = False  # no surface in the first frame, nor later
    xy[:, :, 10:] = np.nan
    agreeing = compose(_model(112), first, xy, visible, match_seams=False)
    disagreeing = compose(_model(255), first, xy, visible, match_seams=False)
    error = np.abs(agreeing[1, :, 16:].astype(int) - first[:, 16:]).max()
    assert error <= 2 + ROUNDING_LEVELS
    assert disagreeing[1, :, 16:].min() > 245


def test_compose_gives_the_model_where_nothing_was_visible():
    xy, visible = _identity_positions()
    model = np.random.default_rng(1).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    result = compose(model, _first_frame(), xy * np.nan, visible & False, keep_background=False)
    np.testing.assert_array_equal(result, model)


def test_compose_refuses_shapes_that_differ():
    xy, visible = _identity_positions()
    with pytest.raises(ValueError, match="shapes differ"):
        compose(_model(0), _first_frame()[:-1], xy, visible)


def test_nearness_falls_with_chessboard_distance():
    known = torch.zeros(1, 1, 1, 40, dtype=torch.bool)
    known[..., 0] = True
    near = nearness(known, 3.0)[0, 0, 0].numpy()
    np.testing.assert_allclose(near[[0, 3, 6]], np.exp([0, -1, -2]), rtol=1e-5)
    assert near[20] == 0


def _two_depths():
    """A first frame of a red near half and a green far half, and its tracking colours."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    near = columns < WIDTH // 2
    first = np.where(near[..., None], (200, 40, 40), (40, 200, 40)).astype(np.uint8)
    tracking = np.stack([columns * 255 / WIDTH, rows * 255 / HEIGHT, np.where(near, 240, 16)], -1).astype(np.uint8)
    return first, tracking


def test_compose_mixes_hidden_surfaces_with_the_model_and_leaves_entering_ones_to_it():
    first, tracking = _two_depths()
    xy, visible = _identity_positions()
    tracks = np.repeat(tracking[None], FRAMES, 0)
    visible[1:, 5:10, 3:9] = False  # far surface that the near half hid
    tracks[1:, 5:10, 3:9, 2] = 16
    visible[1:, 5:10, 18:24] = False  # enters from outside: black
    tracks[1:, 5:10, 18:24] = 0
    result = compose(_model(100), first, xy, visible, tracking_video=tracks, match_seams=False, keep_background=False)
    expected = HIDDEN_SHARE * np.array((40, 200, 40)) + (1 - HIDDEN_SHARE) * 100
    np.testing.assert_allclose(result[1, 5:10, 3:9], np.broadcast_to(expected, (5, 6, 3)), atol=6)
    assert (result[1, 5:10, 18:24] == 100).all()


def _thing_that_leaves(around: str):
    """A dark square, at its place in the first frame only, amid `around`: bright background or a bright surface."""
    first = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    first[6:14, 8:18] = 60
    xy, visible = _identity_positions()
    tracks = np.full((FRAMES, HEIGHT, WIDTH, 3), 128, np.uint8)
    thing = first[..., 0] == 60
    gone = np.broadcast_to(thing if around == "surface" else np.ones_like(thing), visible.shape).copy()
    gone[0] = False if around == "surface" else ~thing
    visible = visible & ~gone
    tracks[gone] = 0
    return first, xy, visible, tracks, thing


@pytest.mark.parametrize("around", ["background", "surface"])
def test_compose_clears_the_ghost_of_what_has_left(around):
    first, xy, visible, tracks, thing = _thing_that_leaves(around)
    ghost = 180  # the model has nearly forgotten it
    result = compose(_model(ghost), first, xy, visible, tracking_video=tracks, match_seams=False)
    assert result[1][thing].min() >= 200 - 5
    untold = compose(_model(ghost), first, xy, visible, match_seams=False)
    assert untold[1][thing].max() <= ghost


@pytest.mark.parametrize("around", ["background", "surface"])
def test_compose_believes_the_model_where_something_else_has_come(around):
    first, xy, visible, tracks, thing = _thing_that_leaves(around)
    result = compose(_model(20), first, xy, visible, tracking_video=tracks, match_seams=False)
    assert result[1][thing].max() < 25
