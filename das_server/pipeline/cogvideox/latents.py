# SPDX-License-Identifier: GPL-3.0-or-later
"""The border between pixels and latents, both ways; every scale, range and random draw of the VAE is here.

Pixels are [T,H,W,3] u8 outside and [1,3,T,H,W] in −1…1 (or 0…1, see `encode_tracking_video`) at the VAE.
Latents are [1,F,C,h,w] with F = (T − 1)/4 + 1 (C is 16 in the published model), multiplied by the VAE's scaling factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from PIL import Image

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


def image_to_frame(image: Image.Image, width: int, height: int) -> np.ndarray:
    """A picture of any size and mode → u8 [1,H,W,3]: Lanczos to the size, ignoring aspect, then RGB (as published).

    Palettes, bitmaps and deep greys become 8-bit colours first: Pillow would not filter the ones and clip the others.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("1", "P", "PA"):
        image = image.convert("RGB")
    return np.asarray(image.resize((width, height), resample=Image.Resampling.LANCZOS).convert("RGB"))[None]


def encode(vae: AutoencoderKLCogVideoX, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pixels [1,3,T,H,W] → latents [1,F,C,h,w]: a *sample* of the posterior (never its mode), scaled.

    Draws [1,C,F,h,w] from ``generator``, on the generator's device.
    """
    posterior = vae.encode(pixels).latent_dist
    return scaling_factor(vae) * posterior.sample(generator).to(pixels.dtype).permute(0, 2, 1, 3, 4)


@contextmanager
def interruptible(vae: AutoencoderKLCogVideoX, check: Callable[[], None]) -> Iterator[None]:
    """Inside, ``check`` is called before every part that the VAE encodes or decodes, some frames of a tile: what it
    raises ends the work."""
    hooks = [part.register_forward_pre_hook(lambda module, args: check()) for part in (vae.encoder, vae.decoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


# ── Cheap previews ──────────────────────────────────────────────────────────────────────────────────────────────────


@torch.no_grad()
def fit_latent_to_rgb(vae: AutoencoderKLCogVideoX, *, size: int = 128) -> torch.Tensor:
    """Least-squares linear map from latents to colour: [C+1, 3] f32 on the CPU, the last row a constant.

    Fitted on one still of soft colour patches, made from a fixed seed, encoded by the model's own VAE (its
    posterior's mean).
    """
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    pixels = (2 * picture - 1)[:, :, None].to(vae.device, vae.dtype)
    latents = vae.encode(pixels).latent_dist.mean[0, :, 0].float().cpu() * scaling_factor(vae)
    channels, height, width = latents.shape
    colours = torch.nn.functional.interpolate(picture, size=(height, width), mode="area")[0]
    inputs = torch.cat([latents.reshape(channels, -1).T, torch.ones(height * width, 1)], dim=1)
    return torch.linalg.lstsq(inputs, colours.reshape(3, -1).T).solution


def preview_frames(x0: torch.Tensor, latent_to_rgb: torch.Tensor) -> np.ndarray:
    """Predicted clean latents [1,F,C,h,w] → rough u8 frames [F,h,w,3], one per latent frame, at the latents' size."""
    latents = x0[0].float().cpu().permute(0, 2, 3, 1)  # [F,h,w,C]
    colours = latents @ latent_to_rgb[:-1] + latent_to_rgb[-1]
    return (colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
