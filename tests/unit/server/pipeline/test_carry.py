# SPDX-License-Identifier: GPL-3.0-or-later
"""The carried first frame: pixels follow their tracks, hidden points continue their own depth, the rest is kept."""

import json

import numpy as np
import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.pipeline.cogvideox.carry import (
    carries_first_frame,
    carry,
    depth_layers,
    diffuse,
    look_up,
    look_up_layers,
    planes,
    positions,
)

FRAMES, HEIGHT, WIDTH = 4, 32, 51
LEVELS_PER_COLUMN = 255 // WIDTH
"""Positions are whole levels at this width, so that carrying by whole columns is exact."""


def _first_frame(seed=0):
    """Soft colours: rows are no whole numbers of levels, so a look-up may lie a fraction of a pixel beside."""
    coarse = torch.rand(1, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 255
    image = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic").clamp(0, 255)
    return image[0].permute(1, 2, 0).round().to(torch.uint8).numpy()


def _still_tracks(depth=128):
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    colours = np.stack([(columns + 0.5) * 255 / WIDTH, (rows + 0.5) * 255 / HEIGHT, np.full_like(rows, depth)], -1)
    return np.repeat(np.round(colours).astype(np.uint8)[None], FRAMES, 0)


def _columns_moved_right(tracks, by):
    """Every frame shows the first one `by` columns per frame further right; what enters is black."""
    moved = np.zeros_like(tracks)
    for t in range(FRAMES):
        moved[t, :, by * t:] = tracks[0, :, :WIDTH - by * t]
    return moved


def test_still_tracks_keep_the_first_frame():
    first = _first_frame()
    result = carry(first, _still_tracks())
    assert result.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0], first)
    assert np.abs(result.astype(int) - first).max() <= 4


def test_pixels_follow_their_tracks():
    first = _first_frame()
    result = carry(first, _columns_moved_right(_still_tracks(), 3))
    for t in range(FRAMES):
        difference = np.abs(result[t, :, 3 * t:].astype(int) - first[:, :WIDTH - 3 * t])
        assert difference.max() <= 6, t
    entered = result[-1, :, :9].astype(int)  # continues what is beside it instead of staying black
    assert np.abs(entered - result[-1, :, 9:10]).mean() < 40


def test_without_tracks_the_first_frame_stays():
    first = _first_frame()
    result = carry(first, np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8))
    np.testing.assert_array_equal(result, np.repeat(first[None], FRAMES, 0))


def test_background_comes_back_where_a_surface_has_left():
    first = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    first[8:24, 10:30] = 60
    tracks = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    tracks[0, 8:24, 10:30] = _still_tracks()[0, 8:24, 10:30]
    np.testing.assert_allclose(carry(first, tracks)[1:], 200, atol=1)


def _two_depths():
    """A first frame of a red near half and a green far half, and its tracking colours."""
    tracks = _still_tracks()
    near = np.arange(WIDTH) < WIDTH // 2
    tracks[..., 2] = np.where(near, 240, 16)
    first = np.where(near[None, :, None], (200, 40, 40), (40, 200, 40)).astype(np.uint8)
    return np.broadcast_to(first, (HEIGHT, WIDTH, 3)).copy(), tracks


def test_a_point_that_was_hidden_takes_the_colour_of_its_own_depth():
    first, tracks = _two_depths()
    tracks[1:, 5:10, 3:9, 2] = 16  # the far surface, behind the near half
    result = carry(first, tracks)
    np.testing.assert_allclose(result[1, 5:10, 3:9], np.broadcast_to((40, 200, 40), (5, 6, 3)), atol=6)
    assert np.abs(result[1, 12:20, 3:9].astype(int) - (200, 40, 40)).max() <= 1


def test_depth_layers_hold_each_depths_own_colours():
    first, tracks = _two_depths()
    layers = depth_layers(planes(first[None]), planes(tracks[:1]))
    asked = planes(np.array([[[[40, 128, 16], [40, 128, 240]]]], np.uint8))
    far, near = look_up_layers(layers, positions(asked), asked[:, 2:])[0, :, 0].T.numpy()
    np.testing.assert_allclose(far, (40, 200, 40), atol=6)
    np.testing.assert_allclose(near, (200, 40, 40), atol=6)


def test_carry_refuses_sizes_that_differ():
    with pytest.raises(ValueError, match="sizes differ"):
        carry(_first_frame()[:-1], _still_tracks())


def test_look_up_interpolates_between_pixel_centres():
    image = torch.tensor([[[[0.0, 10.0], [20.0, 30.0]]]])
    pixels = torch.tensor([[[[0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [5.0, 5.0]]]])
    np.testing.assert_allclose(look_up(image, pixels - 1)[0, 0, 0], [0, 5, 15, 30], atol=1e-5)


def test_diffuse_keeps_known_values_and_stays_between_them_elsewhere():
    rng = np.random.default_rng(2)
    known = torch.from_numpy(rng.random((2, 1, 13, 17)) < 0.2)
    values = torch.from_numpy(rng.uniform(-4, 7, (2, 3, 13, 17)).astype(np.float32))
    filled = diffuse(values, known.float())
    for index in range(2):
        given = values[index, :, known[index, 0]]
        np.testing.assert_allclose(filled[index, :, known[index, 0]], given, atol=1e-5)
        assert filled[index].min() >= given.min() - 1e-4
        assert filled[index].max() <= given.max() + 1e-4


def test_diffuse_is_zero_when_nothing_is_known():
    assert not diffuse(torch.ones(1, 3, 6, 6), torch.zeros(1, 1, 6, 6)).any()


def test_diffuse_fills_the_far_side_with_what_is_known_and_not_with_black():
    known = torch.zeros(1, 1, 128, 192)
    known[..., :60] = 1
    np.testing.assert_allclose(diffuse(torch.full((1, 3, 128, 192), 200.0), known), 200, atol=0.1)


@pytest.mark.parametrize("tracked", ["everything", "a thing"])
def test_a_frame_that_shows_nothing_of_the_first_one_is_not_black(tracked):
    first = np.full((HEIGHT, WIDTH, 3), 200, np.uint8)
    tracks = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    rows = slice(None) if tracked == "everything" else slice(8, 24)
    tracks[0, rows] = _still_tracks()[0, rows]
    np.testing.assert_allclose(carry(first, tracks), 200, atol=1)


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read"), ("[]", "cannot be read"),
                                             ('{"carries_first_frame": "false"}', "not true or false")])
def test_damaged_index_is_refused(tmp_path, text, words):
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        carries_first_frame(tmp_path)


@pytest.mark.parametrize(("index", "carries"), [({}, False), ({"carries_first_frame": True}, True)])
def test_only_a_checkpoint_that_says_so_is_given_the_carried_frame(tmp_path, index, carries):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert carries_first_frame(tmp_path) is carries
