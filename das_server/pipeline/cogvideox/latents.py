# SPDX-License-Identifier: GPL-3.0-or-later
"""The border between pixels and latents, both ways; every scale, range and random draw of the VAE is here.

Pixels are [T,H,W,3] u8 outside and [1,3,T,H,W] in −1…1 (or 0…1, see `encode_tracking_video`) at the VAE.
Latents are [1,F,C,h,w] with F = (T − 1)/4 + 1 (C is 16 in the published model), multiplied by the VAE's scaling factor.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.embeddings import get_3d_rotary_pos_embed

from .. import previews

TrackingRange = Literal["signed", "unit"]


def vae_stride(vae: AutoencoderKLCogVideoX) -> int:
    """Pixels per latent, along width and height."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def latents_shape(vae: AutoencoderKLCogVideoX, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """(1, F, C, h, w) of a clip in pixels."""
    num_latent_frames = (num_frames - 1) // int(vae.config.temporal_compression_ratio) + 1
    return (1, num_latent_frames, vae.config.latent_channels, height // vae_stride(vae), width // vae_stride(vae))


def frames_to_vae(
    frames: np.ndarray, device: torch.device, dtype: torch.dtype, value_range: TrackingRange
) -> torch.Tensor:
    """u8 [T,H,W,3] → [1,3,T,H,W]: 0…1 ("unit") or −1…1 ("signed"); computed in float32, then cast."""
    pixels = torch.from_numpy(np.require(frames, requirements=["C", "W"])).to(torch.float32) / 255.0
    if value_range == "signed":
        pixels = 2.0 * pixels - 1.0
    return pixels.permute(3, 0, 1, 2)[None].to(device=device, dtype=dtype)


def encode(vae: AutoencoderKLCogVideoX, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pixels [1,3,T,H,W] → latents [1,F,C,h,w]: a *sample* of the posterior (never its mode), scaled.

    Draws [1,C,F,h,w] from ``generator``, on the generator's device.
    """
    posterior = vae.encode(pixels).latent_dist
    return scaling_factor(vae) * posterior.sample(generator).to(pixels.dtype).permute(0, 2, 1, 3, 4)


def scaling_factor(vae: AutoencoderKLCogVideoX) -> float:
    """What encoded latents are multiplied by."""
    return 1 / vae.config.scaling_factor if vae.config.invert_scale_latents else vae.config.scaling_factor


def pad_frames(first: torch.Tensor, num_latent_frames: int) -> torch.Tensor:
    """Latents of the first frames [1,f,C,h,w] → [1,F,C,h,w], zero after them."""
    padding = first.new_zeros(1, num_latent_frames - first.shape[1], *first.shape[2:])
    return torch.cat([first, padding], dim=1)


def decode(vae: AutoencoderKLCogVideoX, latents: torch.Tensor) -> np.ndarray:
    """Latents [1,F,C,h,w] → u8 [T,H,W,3]: the VAE's −1…1 to 0…1, clamped, rounded to 255 levels."""
    frames = (_decoded(vae, latents) * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).float().cpu().numpy()
    return (frames * 255).round().astype(np.uint8)


def decode_difference(vae: AutoencoderKLCogVideoX, latents: torch.Tensor) -> np.ndarray:
    """Latents [1,F,C,h,w] → [T,H,W,3] f32, about −1…1."""
    return _decoded(vae, latents).permute(1, 2, 3, 0).float().cpu().numpy()


def _decoded(vae: AutoencoderKLCogVideoX, latents: torch.Tensor) -> torch.Tensor:
    # The decoder always divides by the factor, also where the encoder's side is inverted (as published).
    return vae.decode(1 / vae.config.scaling_factor * latents.permute(0, 2, 1, 3, 4)).sample[0]


def rotary_positions(
    *,
    head_dim: int,
    grid_size: tuple[int, int],
    base_size: tuple[int, int],
    num_latent_frames: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary (cos, sin), each [F·rows·columns, head_dim] f32, for a grid of patches (rows, columns).

    Positions run over the region that a resize of the grid into ``base_size`` (rows, columns), keeping aspect, would
    cover: plain indices when both sizes agree.
    """
    rows, columns = grid_size
    base_rows, base_columns = base_size
    if rows / columns > base_rows / base_columns:
        covered = (base_rows, int(round(base_rows / rows * columns)))
    else:
        covered = (int(round(base_columns / columns * rows)), base_columns)
    start = (int(round((base_rows - covered[0]) / 2.0)), int(round((base_columns - covered[1]) / 2.0)))
    stop = (start[0] + covered[0], start[1] + covered[1])
    return get_3d_rotary_pos_embed(
        embed_dim=head_dim,
        crops_coords=(start, stop),
        grid_size=grid_size,
        temporal_size=num_latent_frames,
        device=device,
    )


def fit_latent_to_rgb(vae: AutoencoderKLCogVideoX, *, size: int = 128) -> torch.Tensor:
    """`previews.fit_latent_to_rgb` by the VAE's posterior's mean."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        mean = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean
        return mean[0, :, 0].float().cpu() * scaling_factor(vae)

    return previews.fit_latent_to_rgb(encode, size=size)
