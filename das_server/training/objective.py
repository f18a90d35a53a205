# SPDX-License-Identifier: GPL-3.0-or-later
"""The published training objective: velocity prediction on noisy latents under a tracking video, first frame given.

Source: the Diffusion-as-Shader supervised fine-tuning script (adapted from finetrainers), restated: noisy = sqrt(a) x +
sqrt(1-a) n; the model predicts v; x0 = sqrt(a) noisy - sqrt(1-a) v; loss = mean((x0 - x)^2 / (1-a)), which equals the
mean squared error of v.
"""

from dataclasses import dataclass

import torch

IMAGE_NOISE_MEAN, IMAGE_NOISE_DEVIATION = -3.0, 0.5


@dataclass(frozen=True)
class ObjectiveOutput:
    """`loss` scalar; `per_sample` `[B]` f32 losses; `prediction` `[B, F, C, h, w]`, the predicted clean latents."""

    loss: torch.Tensor
    per_sample: torch.Tensor
    prediction: torch.Tensor


def velocity_objective(transformer: torch.nn.Module, *, latents: torch.Tensor, image_latents: torch.Tensor,
                       tracking_latents: torch.Tensor, tracking_image_latents: torch.Tensor, text: torch.Tensor,
                       timesteps: torch.Tensor, noise: torch.Tensor, alphas_cumprod: torch.Tensor,
                       rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
                       start: torch.Tensor | None = None) -> ObjectiveOutput:
    """The loss of one batch.

    `latents`, `tracking_latents` `[B, F, C, h, w]`; `image_latents`, `tracking_image_latents` `[B, 1, C, h, w]` or
    already padded to F frames; `text` `[B, L, D]`; `timesteps` `[B]` i64; `noise` like `latents`; `alphas_cumprod`
    `[1000]`. `start`, when given, is noised in place of `latents` (the model's own earlier prediction); the target
    stays `latents`.
    """
    alpha = alphas_cumprod.to(latents.device)[timesteps].view(-1, 1, 1, 1, 1).to(latents.dtype)
    noisy = alpha.sqrt() * (latents if start is None else start) + (1 - alpha).sqrt() * noise
    hidden = torch.cat([noisy, pad_frames(image_latents, latents)], 2)
    tracking = torch.cat([tracking_latents, pad_frames(tracking_image_latents, latents)], 2)
    velocity = transformer(hidden_states=hidden, encoder_hidden_states=text, timestep=timesteps, tracking_maps=tracking,
                           image_rotary_emb=rotary, return_dict=False)[0]
    prediction = alpha.sqrt() * noisy - (1 - alpha).sqrt() * velocity
    weight = 1 / (1 - alphas_cumprod.to(latents.device)[timesteps]).view(-1, 1, 1, 1, 1)
    per_sample = (weight * (prediction - latents).square()).flatten(1).mean(1)
    return ObjectiveOutput(per_sample.mean(), per_sample, prediction)


def pad_frames(first: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """First-frame latents `[B, 1, C, h, w]` followed by zeros, as many frames as `like`; full clips pass unchanged."""
    missing = like.shape[1] - first.shape[1]
    if missing == 0:
        return first
    return torch.cat([first, first.new_zeros(first.shape[0], missing, *first.shape[2:])], 1)


def noised_image(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """First frames `[B, 3, 1, H, W]` in [-1, 1] with Gaussian noise of deviation exp(N(-3, 0.5)), drawn per frame."""
    shape = (image.shape[0], 1, 1, 1, 1)
    sigma = torch.exp(IMAGE_NOISE_MEAN + IMAGE_NOISE_DEVIATION * torch.randn(shape, generator=generator))
    return image + (sigma * torch.randn(image.shape, generator=generator)).to(image)
