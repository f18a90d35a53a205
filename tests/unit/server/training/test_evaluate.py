# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers that a preview checkpoint is judged by."""

import json

import numpy as np
import pytest

from das_server.training.evaluate import (
    PSNR_CEILING,
    SELECTIONS,
    HeldOutClip,
    measure,
    paired,
    plain_warp,
    psnr,
    ssim,
    summarise,
    write_table,
)

FRAMES, HEIGHT, WIDTH = 3, 16, 24


def clip(rgb: np.ndarray, shift: int = 0) -> HeldOutClip:
    """A clip whose surface slides right by `shift` pixels per frame and enters from the left."""
    frames, height, width, _ = rgb.shape
    xs = np.broadcast_to(np.arange(width, dtype=np.float32) + 0.5, rgb.shape[:3])
    xs = xs - shift * np.arange(frames, dtype=np.float32)[:, None, None]
    ys = np.broadcast_to((np.arange(height, dtype=np.float32) + 0.5)[:, None], xs.shape)
    visible = xs > 0
    return HeldOutClip("clip", "test", rgb, rgb, np.ones_like(visible), np.stack([xs, ys], -1), visible)


def sliding(shift: int, contrast: int = 255) -> HeldOutClip:
    """Vertical stripes of random brightness that slide."""
    stripes = np.random.default_rng(1).integers(0, contrast, 200).astype(np.uint8)
    rows = [stripes[50 - shift * t:50 - shift * t + WIDTH] for t in range(FRAMES)]
    rgb = np.broadcast_to(np.stack(rows)[:, None, :, None], (FRAMES, HEIGHT, WIDTH, 3)).copy()
    return clip(rgb, shift)


def row(name: str, variant: str, value: float, **selections) -> dict:
    return {"clip": name, "kind": "test", "all": True, "moving": True, "static_below_18": False, **selections,
            "variant": variant, "psnr": value, "ssim": 0.5, "psnr_moving_visible": value, "psnr_visible": value,
            "psnr_holes": float("nan")}


def test_psnr_counts_frames_after_the_first_inside_the_mask():
    truth = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames = truth.copy()
    frames[0] = 200
    assert psnr(frames, truth) == PSNR_CEILING
    frames[1:, :, : WIDTH // 2] = 51  # a fifth of the range
    left = np.zeros(truth.shape[:3], bool)
    left[:, :, : WIDTH // 2] = True
    assert psnr(frames, truth, left) == pytest.approx(20 * np.log10(5), abs=1e-3)
    assert psnr(frames, truth) == pytest.approx(20 * np.log10(5) + 10 * np.log10(2), abs=1e-3)
    assert np.isnan(psnr(frames, truth, np.zeros_like(left)))


def test_ssim_is_one_for_equal_frames_and_lower_for_others():
    truth = sliding(2).rgb
    assert ssim(truth, truth) == pytest.approx(1.0, abs=1e-5)
    assert ssim(truth[:, :, ::-1].copy(), truth) < 0.9


def test_warp_is_exact_where_the_first_frame_shows_the_surface():
    moving = sliding(3)
    numbers = measure(plain_warp(moving), moving)
    assert numbers["psnr_visible"] == PSNR_CEILING
    assert numbers["psnr_holes"] < 20


@pytest.mark.parametrize(("shift", "contrast", "moving", "below"),
                         [(0, 255, False, False), (2, 255, True, True), (2, 60, True, False)])
def test_clip_has_motion_by_one_or_both_definitions(shift, contrast, moving, below):
    assert sliding(shift, contrast).selections() == {"all": True, "moving": moving, "static_below_18": below}


def test_numbers_are_summed_and_paired_over_the_selected_clips():
    rows = [row("a", "model", 20), row("a", "static", 18), row("b", "model", 24), row("b", "static", 20),
            row("c", "model", 40, moving=False), row("c", "static", 60, moving=False)]
    assert summarise(rows, "moving")["model"]["psnr"] == pytest.approx((22, 2, 2))
    mean, error, won, count = paired(rows, "model", "static", "psnr", "moving")
    assert (mean, error, won, count) == pytest.approx((3, 1, 2, 2))
    assert paired(rows, "model", "static")[2:] == (2, 3)
    assert paired(rows, "model", "static", "psnr", "static_below_18")[3] == 0


def test_table_has_a_part_for_every_selection(tmp_path):
    text = write_table([row("a", "model", 20), row("b", "model", 24)], tmp_path)
    assert all(f"{count} {words}" in text for count, words in zip((2, 2, 0), SELECTIONS.values(), strict=True))
    assert "| model | 22.00 ± 2.00 |" in text
    assert set(json.loads((tmp_path / "summary.json").read_text())) == set(SELECTIONS)
    assert len((tmp_path / "clips.csv").read_text().splitlines()) == 3
