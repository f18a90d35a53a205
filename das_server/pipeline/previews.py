# SPDX-License-Identifier: GPL-3.0-or-later
"""Cheap previews: latents seen through a linear map to colour, good enough for every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


@torch.no_grad()
def fit_latent_to_rgb(encode: Callable[[torch.Tensor], torch.Tensor], *, size: int = 128) -> torch.Tensor:
    """Least-squares linear map from latents to colour: [C+1, 3] f32 on the CPU, the last row a constant.

    Fitted on one still of soft colour patches, made from a fixed seed.  ``encode``: [1,3,1,H,W] f32, −1…1, on the CPU →
    latents [C,h,w] as the steps have them.
    """
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    latents = encode((2 * picture - 1)[:, :, None]).float().cpu()
    channels, height, width = latents.shape
    colours = torch.nn.functional.interpolate(picture, size=(height, width), mode="area")[0]
    inputs = torch.cat([latents.reshape(channels, -1).T, torch.ones(height * width, 1)], dim=1)
    return torch.linalg.lstsq(inputs, colours.reshape(3, -1).T).solution


def preview_frames(x0: torch.Tensor, latent_to_rgb: torch.Tensor) -> np.ndarray:
    """Predicted clean latents [1,F,C,h,w] → rough u8 frames [F,h,w,3], one per latent frame, at the latents' size."""
    latents = x0[0].float().cpu().permute(0, 2, 3, 1)  # [F,h,w,C]
    colours = latents @ latent_to_rgb[:-1] + latent_to_rgb[-1]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
