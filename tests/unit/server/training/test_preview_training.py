# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's autoencoder and transformer: how they start, and that a step of training goes the right way."""

import numpy as np
import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.training.autoencoder import autoencoder_loss, build_autoencoder
from das_server.training.loop import LoopSettings
from das_server.training.optimiser import build_optimiser
from das_server.training.preview_transformer import (
    SourceAttention,
    build_transformer,
    preview_objective,
)
from das_server.training.recipe import OptimiserSettings, TransformerSettings

SETTINGS = TransformerSettings(OptimiserSettings(), LoopSettings(steps=1), num_attention_heads=6, attention_head_dim=32,
                               num_layers=3, num_tracking_blocks=3, source_heads=2, source_blocks=(1, 2))
FRAMES, ROWS, COLUMNS = 3, 4, 6
ALPHAS = torch.linspace(0.999, 0.0, 1000)


def _shifted_clip(count=2, seed=0):
    """Latents that move one token to the right per latent frame, with tracking latents that say so."""
    generator = torch.Generator().manual_seed(seed)
    tokens = ROWS * COLUMNS
    image = torch.randn(count, 1, 16, 2 * ROWS, 2 * COLUMNS, generator=generator)
    places = torch.randn(1, 1, 16, 2 * ROWS, 2 * COLUMNS, generator=generator).expand(count, -1, -1, -1, -1)
    shift = [torch.roll(torch.arange(tokens).view(ROWS, COLUMNS), frame, 1).flatten() for frame in range(FRAMES)]
    moved = [torch.roll(image, 2 * frame, 4) for frame in range(FRAMES)]
    tracks = [torch.roll(places, 2 * frame, 4) for frame in range(FRAMES)]
    sources = torch.cat(shift)[None, :, None].expand(count, -1, 8)
    return {"video": torch.cat(moved, 1), "image": image, "tracking": torch.cat(tracks, 1).contiguous(),
            "tracking_image": places.contiguous(), "sources": sources}


def test_transformer_starts_by_looking_up_sources_despite_the_noise():
    torch.manual_seed(0)
    transformer = build_transformer(SETTINGS)
    attention = SourceAttention(transformer, SETTINGS.source_blocks, SETTINGS.source_heads)
    batch = _shifted_clip()
    generator = torch.Generator().manual_seed(1)
    _, metrics = preview_objective(transformer, batch, SETTINGS, ALPHAS, 0.0, generator, attention)
    chance = np.log(FRAMES * ROWS * COLUMNS + SETTINGS.max_text_seq_length)
    assert metrics["source"] < 0.6 * chance


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_training_lowers_the_error_of_the_first_step(progress):
    torch.manual_seed(0)
    transformer = build_transformer(SETTINGS)
    attention = SourceAttention(transformer, SETTINGS.source_blocks, SETTINGS.source_heads)
    optimiser = build_optimiser(transformer, name="muon", learning_rate=1e-3, matrix_learning_rate=2e-3,
                                betas=(0.9, 0.98), weight_decay=0.0)
    batch, errors = _shifted_clip(4), []
    generator = torch.Generator().manual_seed(2)
    for _ in range(25):
        loss, metrics = preview_objective(transformer, batch, SETTINGS, ALPHAS, progress, generator, attention)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(metrics.get("first_step_error", errors[-1] if errors else 1.0))
    assert np.mean(errors[-5:]) < 0.7 * np.mean(errors[:3])


def test_transformer_without_room_for_the_start_is_refused():
    with pytest.raises(ModelError, match="no room"):
        build_transformer(TransformerSettings(OptimiserSettings(), LoopSettings(steps=1), num_attention_heads=3,
                                              attention_head_dim=32, num_layers=3, num_tracking_blocks=3))


def test_autoencoder_learns_fast_from_its_start():
    torch.manual_seed(0)
    autoencoder = build_autoencoder((16, 32, 64), 4)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 3, 4, 4, generator=generator) * 1.6 - 0.8
    video = torch.nn.functional.interpolate(coarse, size=(9, 16, 16), mode="trilinear")
    optimiser = build_optimiser(autoencoder, name="muon", learning_rate=2e-3, matrix_learning_rate=4e-3,
                                betas=(0.9, 0.99), weight_decay=0.0)
    values = []
    for _ in range(25):
        loss, metrics = autoencoder_loss(autoencoder, video, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(metrics["psnr"])
    assert values[-1] > values[0] + 4
