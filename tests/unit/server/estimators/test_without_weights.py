# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracks, cuts, masks and backgrounds without weights, against clips whose truth is known."""

import numpy as np
import pytest

from das_blender_addon.errors import JobCancelled, JobRejected
from das_server.estimators.background import Background
from das_server.estimators.base import Asked
from das_server.estimators.cuts import Cuts
from das_server.estimators.masks import GrabCut
from das_server.estimators.tracks import Tracks, grid
from tests.support.layered_clips import layered_clip, textured

MOST_EPE_PX, MOST_MEDIAN_PX = 3.0, 1.0
FEWEST_FOUND = 0.75
MOST_FALSE = 0.12


@pytest.fixture(scope="module")
def clip():
    return layered_clip(49, 240, 160)


@pytest.fixture(scope="module")
def tracked(clip):
    return Tracks()(Asked(clip.video, {"every": 8}))


def test_tracks_stay_on_their_points_for_49_frames(clip, tracked):
    true, visible = clip.tracks(grid(240, 160, 8).astype(float))
    assert np.median(np.linalg.norm(true[48] - true[0], axis=1)) > 40.0  # it is no still clip
    error = np.linalg.norm(tracked["tracks"] - true, axis=-1)[48][visible[48]]
    assert error.mean() <= MOST_EPE_PX and np.median(error) <= MOST_MEDIAN_PX


def test_hidden_points_are_said_to_be_hidden_and_few_others(clip, tracked):
    true, visible = clip.tracks(grid(240, 160, 8).astype(float))
    inside = ((true >= 0) & (true < (240, 160))).all(axis=-1)
    covered = ~visible & inside
    assert covered.mean() > 0.03
    assert (~tracked["visible"])[covered].mean() >= FEWEST_FOUND
    assert (~tracked["visible"])[visible].mean() <= MOST_FALSE


def test_grid_is_every_kth_pixel_of_odd_sizes_row_by_row():
    points = grid(19, 17, 8)
    assert points.tolist() == [[4.5, 4.5], [12.5, 4.5], [4.5, 12.5], [12.5, 12.5]]
    assert grid(5, 3, 64).tolist() == [[0.5, 0.5]] and len(grid(17, 31, 1)) == 17 * 31


def test_tracks_of_portrait_clip_of_two_frames_and_odd_size(clip):
    video = np.ascontiguousarray(clip.video[:2, :77, :31])
    made = Tracks()(Asked(video, {"every": 5}))
    assert made["tracks"].shape == (2, 6 * 15, 2) and np.isfinite(made["tracks"]).all()
    assert (made["tracks"][0] == grid(31, 77, 5)).all() and made["visible"][0].all()


@pytest.mark.parametrize("shape", [(16, 16), (17, 400), (300, 16), (48, 64)])
def test_smallest_pictures_and_flat_ones_end_no_worker(shape):
    draw = np.random.default_rng(0)
    noisy = draw.integers(0, 255, (*shape, 3), dtype=np.uint8)
    flat = np.full_like(noisy, 90)
    flat[3, 3] = 200
    for shown in (noisy, flat):
        video = np.stack([np.roll(shown, shift, axis=1) for shift in range(3)])
        assert Cuts()(Asked(video))["difference"].shape == (3,)
        for every in (1, 64):
            assert np.isfinite(Tracks()(Asked(video, {"every": every}))["tracks"]).all()
        for options in ({"box": [3, 3, 1, 1]}, {"points": [[3, 3]]}, {"points": [[3, 3]], "away": [[3, 3]]}):
            try:
                assert GrabCut()(Asked(shown[None], options))["mask"].any()
            except JobRejected as error:
                assert "mask" in error.message


def test_measuring_stops_when_it_is_cancelled(clip):
    def step(done, of):
        if done >= 3:
            raise JobCancelled("The job was cancelled.")

    with pytest.raises(JobCancelled):
        Tracks()(Asked(clip.video, {}, step=step))


@pytest.mark.parametrize("at", [1, 7, 15])
def test_cut_is_found_at_its_frame(clip, at):
    other = layered_clip(16 - at, 240, 160, seed=1).video
    assert Cuts()(Asked(np.concatenate([clip.video[:at], other])))["cuts"].tolist() == [at]


def test_motion_fast_pans_and_flicker_are_no_cuts(clip):
    assert Cuts()(Asked(clip.video))["cuts"].tolist() == []
    wide = textured(np.random.default_rng(4), 640)[:160]
    pan = np.stack([wide[:, 24 * frame : 24 * frame + 240] for frame in range(12)])
    assert Cuts()(Asked(pan))["cuts"].tolist() == []
    flicker = (clip.video[:12] * np.where(np.arange(12) % 2, 0.7, 1.0)[:, None, None, None]).astype(np.uint8)
    assert Cuts()(Asked(flicker))["cuts"].tolist() == []


def scene(seed: int, shape=(150, 211)) -> tuple[np.ndarray, np.ndarray]:
    """(picture, mask) of an ellipse of one kind of colours before another, with noise and shade."""
    draw = np.random.default_rng(seed)
    height, width = shape
    y, x = np.mgrid[:height, :width]
    middle = draw.uniform(0.4, 0.6, 2) * (height, width)
    mask = ((y - middle[0]) / (0.27 * height)) ** 2 + ((x - middle[1]) / (0.22 * width)) ** 2 < 1.0
    low = draw.uniform(30, 100, 3)
    picture = (
        np.where(mask[..., None], 255 - low, low) + 18 * np.sin(x / 9.0)[..., None] + draw.normal(0, 9, (*shape, 3))
    )
    return picture.clip(0, 255).astype(np.uint8), mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("seed", range(3))
def test_mask_of_box_lasso_and_point_is_the_thing(seed):
    picture, mask = scene(seed)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, right, bottom = columns[0] - 8, rows[0] - 8, columns[-1] + 9, rows[-1] + 9
    box = [int(left), int(top), int(right - left), int(bottom - top)]
    corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
    point = [[float(columns.mean()), float(rows.mean())]]
    for options in ({"box": box}, {"lasso": corners}, {"points": point}):
        assert iou(GrabCut()(Asked(picture[None], options))["mask"], mask) >= 0.95, options


def test_lasso_round_nothing_and_round_everything_are_refused():
    picture, _ = scene(0)
    with pytest.raises(JobRejected, match="no pixel"):
        GrabCut()(Asked(picture[None], {"lasso": [[-900, -900], [-800, -900], [-800, -800]]}))
    with pytest.raises(JobRejected, match="whole picture"):
        GrabCut()(Asked(picture[None], {"lasso": [[-9e30, -9e30], [9e30, -9e30], [9e30, 9e30], [-9e30, 9e30]]}))


def test_background_takes_the_thing_away_and_nothing_else():
    picture, mask = scene(1)
    made = Background()(Asked(picture[None], {}, {"mask": mask}))["picture"]
    assert (made[~mask] == picture[~mask]).all()
    without = picture[~mask].mean(axis=0)
    assert np.abs(made[mask].mean(axis=0) - without).max() < 25.0
    assert np.abs(picture[mask].mean(axis=0) - without).max() > 50.0
