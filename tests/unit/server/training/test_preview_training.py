# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's autoencoder and transformer: how they start, and that a step of training goes the right way."""

import numpy as np
import pytest
import torch

from das_blender_addon.errors import ModelError
from das_server.training.autoencoder import autoencoder_loss, build_autoencoder
from das_server.training.loop import LoopSettings
from das_server.training.optimiser import build_optimiser
from das_server.training.preview_stages import predict_first_step
from das_server.training.preview_transformer import (
    OUTSIDE_WEIGHT,
    build_transformer,
    hole_errors,
    preview_objective,
    start_from_nothing,
)
from das_server.training.recipe import OptimiserSettings, TransformerSettings

SETTINGS = TransformerSettings(OptimiserSettings(), LoopSettings(steps=1), num_attention_heads=6, attention_head_dim=32,
                               num_layers=3, num_tracking_blocks=3)
FRAMES, ROWS, COLUMNS = 3, 4, 6
ALPHAS = torch.linspace(0.999, 0.0, 1000)


def _clip_with_a_change(count=2, seed=0):
    """A carried picture that is to be changed, in its holes, by a mixture of it and of its tracking video."""
    generator = torch.Generator().manual_seed(seed)

    def draw(frames):
        return torch.randn(count, frames, 16, 2 * ROWS, 2 * COLUMNS, generator=generator)

    carried, tracking = draw(FRAMES), draw(FRAMES)
    holes = torch.zeros(count, FRAMES, 16, 2 * ROWS, 2 * COLUMNS)
    holes[..., 2:8, 4:10] = 1
    change = 0.7 * carried - 0.5 * carried.roll(1, 2) + 0.5 * tracking
    return {"difference": change * holes, "carried": carried, "tracking": tracking, "holes": holes}


def _started():
    torch.manual_seed(0)
    transformer = build_transformer(SETTINGS)
    start_from_nothing(transformer, torch.linspace(-1, 1, 16))
    return transformer


def test_transformer_starts_by_making_nothing():
    transformer = _started().eval()
    batch = _clip_with_a_change(4)
    text = torch.zeros(4, SETTINGS.max_text_seq_length, SETTINGS.text_embed_dim)
    noise = torch.randn(batch["carried"].shape, generator=torch.Generator().manual_seed(1))
    given = {key: batch[key] for key in ("carried", "tracking", "holes")}
    with torch.no_grad():
        prediction = predict_first_step(transformer, text=text, noise=noise, **given)
    expected = torch.linspace(-1, 1, 16).view(1, 1, 16, 1, 1).expand_as(prediction)
    torch.testing.assert_close(prediction, expected)


def test_errors_count_in_holes():
    batch = _clip_with_a_change(2)
    inside, outside = (torch.zeros_like(batch["difference"]) for _ in range(2))
    inside[..., 4, 6], outside[..., 0, 0] = 1, 1
    nothing = torch.zeros_like(inside)
    in_holes, far = (hole_errors(wrong, nothing, batch["holes"]).mean().item() for wrong in (inside, outside))
    assert in_holes == pytest.approx(far / OUTSIDE_WEIGHT)
    assert hole_errors(nothing, nothing, batch["holes"]).tolist() == [0, 0]


@pytest.mark.parametrize("progress", [0.0, 0.9])
def test_training_lowers_the_error_of_the_first_step(progress):
    transformer = _started()
    optimiser = build_optimiser(transformer, name="muon", learning_rate=1e-3, matrix_learning_rate=2e-3,
                                betas=(0.9, 0.98), weight_decay=0.0)
    batch, errors = _clip_with_a_change(4), []
    generator = torch.Generator().manual_seed(2)
    for _ in range(15):
        loss, metrics = preview_objective(transformer, batch, SETTINGS, ALPHAS, progress, generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(metrics.get("first_step_error", errors[-1] if errors else 1.0))
    assert np.mean(errors[-5:]) < 0.9 * np.mean(errors[:3])


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
