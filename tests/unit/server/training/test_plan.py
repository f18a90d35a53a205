# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a training run: the full model by arithmetic on the meta device, a tiny one by its own parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.models.transformer import DasTransformer3DModel
from das_server.training import launch
from das_server.training.loop import LoopSettings
from das_server.training.plan import plan, plan_of, step_seconds
from das_server.training.recipe import FineTuneRecipe, OptimiserSettings, load_recipe
from tests.support.checkpoints import model_of_any_size
from tests.support.server import run_das_server

CARD = 80 * 10**9
"""Bytes of a card of 80 GB, as it is sold."""
FULL = {
    "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 32, "out_channels": 16, "time_embed_dim": 512,
    "text_embed_dim": 4096, "num_layers": 42, "num_tracking_blocks": 18, "sample_width": 90, "sample_height": 60,
    "sample_frames": 49, "patch_size": 2, "temporal_compression_ratio": 4, "max_text_seq_length": 226,
    "use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True,
}  # fmt: skip
VAE_BYTES, STRIDE = 2 * 215_600_000, 8
PUBLISHED = Path(launch.__file__).parent / "recipes" / "full_tracking_branch.toml"


@pytest.fixture(scope="module")
def published():
    return load_recipe(PUBLISHED)


def test_the_tracking_branch_alone_fits_one_card_of_80_gb(published):
    made = plan_of(replace(published, processes=1), FULL, VAE_BYTES, STRIDE)
    assert made.trained == pytest.approx(2.559e9, rel=1e-3)
    assert made.trained + made.frozen == pytest.approx(8.129e9 + 54.6e6, rel=1e-2)
    assert made.tokens == 17776 and made.clips_per_step == 8
    assert made.weights == made.trained * 16 + made.frozen * 2
    assert made.peak_bytes < CARD
    # The averaged copy is what would not.
    averaged = replace(published, processes=1, loop=replace(published.loop, ema_decay=0.999))
    assert plan_of(averaged, FULL, VAE_BYTES, STRIDE).weights == made.weights + 4 * made.trained


def test_the_whole_model_with_float32_masters_fits_eight_cards_sharded_and_not_otherwise(published):
    whole = replace(published, trainable="all", shard=True)
    made = plan_of(whole, FULL, VAE_BYTES, STRIDE)
    assert made.frozen == 0 and made.weights == pytest.approx(16 * made.trained / 8, rel=1e-6)
    assert made.peak_bytes < CARD
    assert plan_of(replace(whole, shard=False), FULL, VAE_BYTES, STRIDE).peak_bytes > CARD
    assert plan_of(replace(whole, processes=1), FULL, VAE_BYTES, STRIDE).peak_bytes > CARD


def test_activations_are_why_blocks_are_computed_again(published):
    kept = replace(published, processes=1, gradient_checkpointing=False)
    assert plan_of(kept, FULL, VAE_BYTES, STRIDE).peak_bytes > CARD


def test_a_lora_takes_little_beside_the_weights(published):
    made = plan_of(replace(published, trainable="lora", lora_rank=16), FULL, VAE_BYTES, STRIDE)
    assert made.trained == 42 * 4 * 2 * 16 * 3072
    assert made.peak_bytes < 40 * 10**9


def test_a_tiny_model_is_counted_as_it_is(tmp_path):
    loop = LoopSettings(steps=2, ema_decay=0.5, accumulate=3)
    recipe = FineTuneRecipe("tiny", tmp_path / "out", model_of_any_size(tmp_path / "model"), tmp_path,
                            OptimiserSettings(), loop, num_frames=9, height=32, width=48, mixed_precision="no",
                            trainable="all")  # fmt: skip
    model = DasTransformer3DModel.from_pretrained(recipe.model / "transformer")
    made = plan(recipe)
    assert made.trained == sum(value.numel() for value in model.parameters()) and made.frozen == 0
    assert made.weights == 20 * made.trained and made.clips_per_step == 3
    seconds = step_seconds(recipe, dict(model.config), made.tokens, torch.device("cpu"))
    assert 0 < seconds < 60


def test_dry_run_prints_the_plan_and_begins_nothing(tmp_path):
    model = model_of_any_size(tmp_path / "model")
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(
        f'kind = "finetune"\nname = "tiny"\nfolder = "{(tmp_path / "out").as_posix()}"\n'
        f'model = "{model.as_posix()}"\ndataset = "nowhere"\nnum_frames = 9\nheight = 32\nwidth = 48\n'
        'mixed_precision = "no"\n[optimiser]\n[loop]\nsteps = 40\naccumulate = 2\n'
    )
    ended = run_das_server("train", str(recipe), "--dry-run")
    assert ended.returncode == 0, ended.stderr
    first, memory, step, whole, *_ = ended.stdout.splitlines()
    assert "(tracking)" in first and "memory of each of 1 device(s)" in memory
    assert "a step: 2 clips of 9 frames of 48x32" in step and "in all: 40 steps, 80 clips" in whole
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match='a plan is made of recipes of kind "finetune"'):
        launch.dry_run(PUBLISHED.with_name("preview_cpu.toml"))
