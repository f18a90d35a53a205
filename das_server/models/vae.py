# SPDX-License-Identifier: GPL-3.0-or-later
"""The VAE of a checkpoint: diffusers' `AutoencoderKLCogVideoX`, loaded strictly."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX

from das_blender_addon.errors import ModelError

from .tensors import check_tensors, expected_tensors, read_component_config


def check_vae_folder(folder: Path) -> None:
    """Compare the tensors in ``folder`` with its config, from their headers.  Raises `ModelError` that names the first
    wrong one."""
    config = read_component_config(folder)
    check_tensors(folder, expected_tensors(AutoencoderKLCogVideoX, config, folder, "VAE"))


def load_vae(folder: Path, dtype: torch.dtype) -> AutoencoderKLCogVideoX:
    """The VAE in ``folder``, in eval mode on the CPU.  Raises `ModelError`."""
    check_vae_folder(folder)
    try:
        vae = AutoencoderKLCogVideoX.from_pretrained(
            str(folder), torch_dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The VAE in {folder} cannot be loaded: {error}") from error
    align_tiles(vae)
    return vae.eval()


def align_tiles(vae: AutoencoderKLCogVideoX) -> None:
    """Let the tiles of tiled encoding and decoding lie on whole latents, which diffusers 0.42's own do for some sizes
    only: it takes half of the configured sides, and 4/5 and 5/6 of a tile as the way to the next one.

    Tiles that do so already, as those of 720x480, are left as they are.
    """
    stride = 2 ** (len(vae.config.block_out_channels) - 1)
    height, overlap_height = aligned_tile(vae.tile_sample_min_height, vae.tile_overlap_factor_height, stride)
    width, overlap_width = aligned_tile(vae.tile_sample_min_width, vae.tile_overlap_factor_width, stride)
    tiled = vae.use_tiling
    vae.enable_tiling(height, width, overlap_height, overlap_width)
    vae.use_tiling = tiled


def aligned_tile(side: int, overlap: float, stride: int) -> tuple[int, float]:
    """(Side in pixels, overlap as a share of it) of the largest tile up to ``side`` that lies on whole latents of
    ``stride`` pixels, with the overlap nearest to ``overlap``; the given ones where they do."""
    if _is_aligned(side, overlap, stride):
        return side, overlap
    num_latents = max(2, side // stride)
    overlaps = sorted(range(1, num_latents), key=lambda shared: abs(shared / num_latents - overlap))
    fitting = (shared / num_latents for shared in overlaps)
    return num_latents * stride, next(share for share in fitting if _is_aligned(num_latents * stride, share, stride))


def _is_aligned(side: int, overlap: float, stride: int) -> bool:
    """Whether the way from tile to tile is what is kept of a tile, both ways, as diffusers computes the four."""
    num_latents = int(side / stride)
    kept_by_encoder = (num_latents - int(num_latents * overlap)) * stride
    kept_by_decoder = side - int(side * overlap)
    step_of_encoder, step_of_decoder = int(side * (1 - overlap)), int(num_latents * (1 - overlap)) * stride
    return side % stride == 0 and step_of_encoder == kept_by_encoder > 0 and step_of_decoder == kept_by_decoder
