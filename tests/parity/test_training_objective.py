# SPDX-License-Identifier: GPL-3.0-or-later
"""The training objective against the published one: loss, predicted clean latents and gradients."""

import pytest
import torch

from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.latents import rotary_positions
from das_server.training.finetune import select_trainable
from das_server.training.objective import velocity_objective
from tests.parity.golden_data import GOLDEN, max_difference, read_json, tensors
from tests.parity.tolerances import GRADIENT_RELATIVE, LOSS_AGAIN_RELATIVE, LOSS_RELATIVE, PREDICTION_ATOL


def alphas_cumprod():
    from das_server.pipeline.cogvideox.scheduler import load_scheduler

    return load_scheduler(GOLDEN / "pipeline" / "model" / "scheduler").alphas_cumprod.float()


def objective(case):
    io = tensors("training/objective")
    model = DasTransformer3DModel.from_pretrained(GOLDEN / "transformer")
    select_trainable(model, "tracking")
    if case == "image_dropped":
        io["image_latents"], io["tracking_image_latents"] = (
            torch.zeros_like(io[name]) for name in ("image_latents", "tracking_image_latents")
        )
    _, num_latent_frames, _, height, width = io["video_latents"].shape
    config, patch = model.config, model.config.patch_size
    positions = rotary_positions(
        head_dim=config.attention_head_dim, grid_size=(height // patch, width // patch),
        base_size=(config.sample_height // patch, config.sample_width // patch), num_latent_frames=num_latent_frames,
        device=torch.device("cpu"))
    output = velocity_objective(
        model,
        latents=io["video_latents"],
        image_latents=io["image_latents"],
        tracking_latents=io["tracking_latents"],
        tracking_image_latents=io["tracking_image_latents"],
        text=io["prompt_embeds"],
        timesteps=io["timesteps"],
        noise=io["noise"],
        alphas_cumprod=alphas_cumprod(),
        rotary=positions,
    )
    output.loss.backward()
    return io, model, output


@pytest.mark.parametrize("case", ["normal", "image_dropped"])
def test_loss_and_gradients_equal_published(case):
    io, model, output = objective(case)
    assert output.loss.item() == pytest.approx(io[f"{case}_loss"].item(), rel=LOSS_RELATIVE)
    norms = read_json(f"training/{case}_grad_norms")
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert set(gradients) == set(norms)
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=GRADIENT_RELATIVE, abs=1e-7), name
    for name, golden in (
        ("initial_combine_linear.weight", io[f"{case}_grad_initial_combine_weight"]),
        ("combine_linears.1.bias", io[f"{case}_grad_combine1_bias"]),
    ):
        assert max_difference(gradients[name], golden) <= GRADIENT_RELATIVE * golden.abs().max().item()


def test_predicted_clean_latents_equal_published():
    io, _, output = objective("normal")
    assert max_difference(output.prediction.detach(), io["normal_x0_pred"]) <= PREDICTION_ATOL


def test_loss_is_the_mean_squared_error_of_the_velocity():
    io, _, output = objective("normal")
    alpha = alphas_cumprod()[io["timesteps"]].view(-1, 1, 1, 1, 1)
    noisy = alpha.sqrt() * io["video_latents"] + (1 - alpha).sqrt() * io["noise"]
    target = alpha.sqrt() * io["noise"] - (1 - alpha).sqrt() * io["video_latents"]
    predicted = (alpha.sqrt() * noisy - output.prediction.detach()) / (1 - alpha).sqrt()
    assert output.loss.item() == pytest.approx((predicted - target).square().mean().item(), rel=LOSS_AGAIN_RELATIVE)
