# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkpoint that ships: small, plain, and it follows its tracking video."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import das_server.models
from das_server.training.evaluate import HeldOutClip, PreviewRunner, plain_warp, psnr
from das_server.training.first_frame_composition import compose
from das_server.training.synthetic import make_clip, make_texture_bank

CHECKPOINT = Path(das_server.models.__file__).parent / "das_preview"
LARGEST_BYTES = 15_000_000
MARGIN_DB = 0.5
"""Four clips are few; the gains on 32 of Blender are in the model card."""


def test_checkpoint_is_small_and_float16_and_has_a_card():
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix != ".png") <= LARGEST_BYTES
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert {path.parent.name for path in weights} == {"transformer", "vae", "text_encoder"}
    for path in weights:
        with safe_open(path, "pt") as archive:
            assert {archive.get_slice(key).get_dtype() for key in archive.keys()} == {"F16"}
    assert not [path for path in files if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]
    assert "Limits" in (CHECKPOINT / "README.md").read_text()


@pytest.fixture(scope="module")
def measured():
    """PSNR in dB of four clips with motion: own tracking, another clip's tracking, static, warp, composed."""
    bank, runner, clips, rows = make_texture_bank(60, seed=77), PreviewRunner(CHECKPOINT), [], []
    for seed in range(800_000_000, 800_000_100):
        clip = make_clip(seed, bank, 9, 64, 96, damage=False)
        held_out = HeldOutClip(str(seed), "synthetic", clip.rgb, clip.tracking, clip.coverage, clip.first_frame_xy,
                               clip.first_frame_visible)
        if held_out.moving[1:].mean() > 0.3:
            clips.append(held_out)
        if len(clips) == 4:
            break
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        own = runner.frames(clip, clip.tracking, 1)
        composed = compose(own, clip.rgb[0], clip.xy, clip.visible, tracking_video=clip.tracking)
        variants = {"own": own, "other": runner.frames(clip, other.tracking, 1), "warp": plain_warp(clip),
                    "static": np.repeat(clip.rgb[:1], 9, 0), "composed": composed}
        rows.append({name: psnr(frames, clip.rgb) for name, frames in variants.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize(("better", "worse"), [("own", "other"), ("own", "static"), ("composed", "warp")])
def test_preview_follows_its_tracking_video(measured, better, worse):
    assert measured[better] > measured[worse] + MARGIN_DB


def test_preview_runs_every_window_length_and_several_shapes():
    runner = PreviewRunner(CHECKPOINT)
    bank = make_texture_bank(20, seed=5)
    for frames, height, width in ((17, 48, 32), (25, 32, 48), (49, 16, 32)):
        clip = make_clip(3, bank, frames, height, width)
        held_out = HeldOutClip("3", "synthetic", clip.rgb, clip.tracking, clip.coverage, clip.first_frame_xy,
                               clip.first_frame_visible)
        assert runner.frames(held_out, clip.tracking, 1).shape == (frames, height, width, 3)
