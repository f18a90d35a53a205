# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a clip is from its prediction, against displacements that are known."""

import cv2
import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled
from das_server.estimators.adherence import Adherence
from das_server.estimators.base import Asked
from tests.support.layered_clips import layered_clip, textured

CLOSE_PX = 0.3
MOST_LOST = 0.02
MARGIN, HEIGHT, WIDTH = 60, 131, 187  # odd sides


@pytest.fixture(scope="module")
def wide():
    return textured(np.random.default_rng(1), 320)[: HEIGHT + 2 * MARGIN]


def crop(picture):
    return np.ascontiguousarray(picture[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH])


def moved(wide, matrix):
    size = (wide.shape[1], wide.shape[0])
    return crop(cv2.warpAffine(wide, np.float32(matrix), size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))


def measured(clip, prediction, seen=None):
    seen = np.ones(clip.shape[:3], bool) if seen is None else seen
    made = Adherence()(Asked(clip, {}, {"prediction": prediction, "seen": seen}))["error"]
    assert made.shape == clip.shape[:3] and made.dtype == np.float16
    return made.astype(np.float32)


def one(picture, prediction):
    return measured(picture[None], prediction[None])[0]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.0), (-1.5, 2.25), (6.0, -3.0), (-25.0, 4.0)])
def test_shifted_clip_is_measured(wide, shift):
    error = one(moved(wide, [[1, 0, shift[0]], [0, 1, shift[1]]]), crop(wide))
    found = error[np.isfinite(error)]
    assert len(found) > 0.7 * error.size and np.isinf(error).mean() < MOST_LOST
    assert np.abs(found - np.hypot(*shift)).mean() < CLOSE_PX / 2 and abs(found.mean() - np.hypot(*shift)) < CLOSE_PX


@pytest.mark.parametrize("degrees", [-1.0, 4.0])
def test_turned_clip_is_measured_point_by_point(wide, degrees):
    turn = cv2.getRotationMatrix2D((MARGIN + WIDTH / 2, MARGIN + HEIGHT / 2), degrees, 1.0)
    y, x = np.mgrid[MARGIN : MARGIN + HEIGHT, MARGIN : MARGIN + WIDTH]
    way = np.stack([x, y, np.ones_like(x)], axis=-1) @ turn.T - np.stack([x, y], axis=-1)
    error = one(moved(wide, turn), crop(wide))
    found = np.isfinite(error)
    assert np.abs(error - np.linalg.norm(way, axis=-1))[found].mean() < CLOSE_PX


def test_clip_that_is_a_frame_late_is_measured_on_every_layer():
    clip = layered_clip(9, 240, 160, travel=0.5)
    y, x = np.mgrid[:160, :240] + 0.5
    error = measured(clip.video[2:3], clip.video[3:4])[0]
    for layer in np.unique(clip.layers[3]):
        here = clip.layers[3] == layer
        points = np.stack([x[here], y[here], np.ones(here.sum())])
        there = clip.homographies[2, layer] @ np.linalg.inv(clip.homographies[3, layer]) @ points
        there = there[:2] / there[2]
        away = np.linalg.norm(there - points[:2], axis=0)
        column, row = np.clip(np.floor(there).astype(int), 0, [[239], [159]])
        found = np.isfinite(error[here]) & (clip.layers[2][row, column] == layer)  # what was hidden is nowhere
        assert np.median(np.abs(error[here][found] - away[found])) < CLOSE_PX
        assert abs((error[here][found] - away[found]).mean()) < CLOSE_PX
    assert error[np.isfinite(error)].max() > 4.0  # it is no still clip


@pytest.mark.parametrize(("sigma", "share"), [(0.7, 0.8), (1.5, 0.5), (2.5, 0.1), (3.5, 0.02)])
def test_blurred_clip_that_is_right_is_not_called_wrong(wide, sigma, share):
    error = one(cv2.GaussianBlur(crop(wide), (0, 0), sigma), crop(wide))
    found = error[np.isfinite(error)]
    assert len(found) > share * error.size and np.isinf(error).mean() < MOST_LOST
    assert found.mean() < CLOSE_PX / 3 and np.percentile(found, 95) < CLOSE_PX


def test_sharper_clip_than_the_prediction_and_other_light_are_not_called_wrong(wide):
    soft, dim = cv2.GaussianBlur(crop(wide), (0, 0), 1.5), (crop(wide) * 0.7 + 40).astype(np.uint8)
    for clip, prediction in ((crop(wide), soft), (dim, crop(wide))):
        error = one(clip, prediction)
        assert np.percentile(error[np.isfinite(error)], 95) < CLOSE_PX and np.isinf(error).mean() < MOST_LOST


def test_what_has_no_texture_is_not_counted(wide):
    flat = crop(wide).copy()
    flat[:, : WIDTH // 2] = 128
    ramp = np.repeat(np.linspace(40, 200, WIDTH)[None], HEIGHT, axis=0).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.isnan(one(np.full_like(flat, 90), crop(wide))).all()  # nothing to find it by in the clip
    assert np.isnan(one(crop(wide), ramp)).all()  # a ramp tells nothing of the way along it
    half = one(flat, flat)
    assert np.isnan(half[:, : WIDTH // 2 - 20]).all() and np.isfinite(half[20:-20, WIDTH // 2 + 20 : -20]).all()


def test_another_picture_is_lost_rather_than_right(wide):
    error = one(crop(textured(np.random.default_rng(9), 320)[: HEIGHT + 2 * MARGIN]), crop(wide))
    is_found = np.isfinite(error) & (error < 0.02 * HEIGHT)
    counted = (~np.isnan(error)).sum()
    assert is_found.sum() < 0.1 * counted and np.isinf(error).sum() > 0.7 * counted


def test_only_what_a_key_picture_shows_is_counted(wide):
    seen = np.zeros((2, HEIGHT, WIDTH), bool)
    seen[0, 10:60, 20:90] = True
    both = np.stack([crop(wide)] * 2)
    error = measured(both, both, seen)
    known = ~np.isnan(error[0])
    assert known[12:58, 22:88].mean() > 0.9
    known[12:58, 22:88] = False  # two pixels from what no key picture shows
    assert not known.any() and np.isnan(error[1]).all()


def test_measuring_stops_when_it_is_cancelled(wide):
    def step(done, of):
        raise JobCancelled("enough")

    clip = crop(wide)[None]
    with pytest.raises(JobCancelled):
        Adherence()(Asked(clip, {}, {"prediction": clip, "seen": np.ones(clip.shape[:3], bool)}, step=step))
