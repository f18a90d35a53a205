# SPDX-License-Identifier: GPL-3.0-or-later
"""The border between pixels and latents, and all that the denoising steps read.

Latents are [1,C,F,h,w] float32 with F = (T − 1)/4 + 1, less the VAE's mean over its deviation per channel.  References
are latent frames before those of the clip, the last one first, as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from ...models.wan_vace import FRAMES_PER_LATENT, STRIDE
from .. import previews
from .holes import grow, hidden_pixels, latent_mask


@dataclass(frozen=True)
class Conditions:
    """What the steps read.  ``prompt_embeds`` [1,L,D], positive first, negative only where there is guidance.
    ``control`` [1,2C+64,K+F,h,w]: the known video, nothing, and the mask.  ``noise`` [1,C,K+F,h,w] f32.
    ``num_references``: K."""

    prompt_embeds: tuple[torch.Tensor, ...]
    control: torch.Tensor
    noise: torch.Tensor
    num_references: int


def known_video(carried: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """What of ``carried`` u8 [T,H,W,3] the model is shown, the rest grey, for people to look at.  ``holes`` [T,H,W]
    bool."""
    return np.where(hidden_pixels(grow(holes)).numpy()[..., None], np.uint8(128), carried)


def encode_control(
    vae: AutoencoderKLWan, carried: np.ndarray, holes: np.ndarray, references: np.ndarray | None
) -> torch.Tensor:
    """[1,2C+64,K+F,h,w] f32 on the VAE's device: per latent the known pixels, the content of the holes, which is none,
    and the mask; a reference is all known."""
    grown = grow(holes)
    hidden = hidden_pixels(grown).to(vae.device)[None, None]
    pixels = torch.where(hidden, 0.0, to_pixels(carried, vae))
    video = torch.cat([encode(vae, pixels), encode(vae, torch.zeros_like(pixels))], dim=1)
    control = torch.cat([video, latent_mask(grown)[None].to(video)], dim=1)
    for reference in references if references is not None else ():
        latents = encode(vae, to_pixels(reference[None], vae))
        rest = latents.new_zeros(1, control.shape[1] - latents.shape[1], *latents.shape[2:])
        control = torch.cat([torch.cat([latents, rest], dim=1), control], dim=2)
    return control


def latents_shape(vae: AutoencoderKLWan, num_frames: int, height: int, width: int) -> tuple[int, ...]:
    """(1, C, F, h, w) of a clip in pixels."""
    return 1, vae.config.z_dim, (num_frames - 1) // FRAMES_PER_LATENT + 1, height // STRIDE, width // STRIDE


def to_pixels(frames: np.ndarray, vae: AutoencoderKLWan) -> torch.Tensor:
    """u8 [T,H,W,3] → [1,3,T,H,W] f32, −1…1, on the VAE's device."""
    pixels = torch.from_numpy(np.require(frames, requirements=["C", "W"])).to(vae.device, torch.float32)
    return (2.0 * (pixels / 255.0) - 1.0).permute(3, 0, 1, 2)[None]


def encode(vae: AutoencoderKLWan, pixels: torch.Tensor) -> torch.Tensor:
    """[1,3,T,H,W] → latents [1,C,F,h,w] f32: the mode of the posterior, normalised."""
    mean, deviation = _statistics(vae)
    return (vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float() - mean) / deviation


def decode(vae: AutoencoderKLWan, latents: torch.Tensor) -> np.ndarray:
    """Latents [1,C,F,h,w] → u8 [T,H,W,3]."""
    mean, deviation = _statistics(vae)
    frames = vae.decode((latents.float() * deviation + mean).to(vae.dtype)).sample[0]
    frames = (frames.float() * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).cpu().numpy()
    return (frames * 255).round().astype(np.uint8)


def fit_latent_to_rgb(vae: AutoencoderKLWan) -> torch.Tensor:
    """`previews.fit_latent_to_rgb` of this VAE."""
    return previews.fit_latent_to_rgb(lambda pixels: encode(vae, pixels.to(vae.device))[0, :, 0])


def _statistics(vae: AutoencoderKLWan) -> tuple[torch.Tensor, torch.Tensor]:
    mean, deviation = (
        torch.tensor(values, device=vae.device, dtype=torch.float32).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, deviation
