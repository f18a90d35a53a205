# SPDX-License-Identifier: GPL-3.0-or-later
"""What the transformer may be given, checked before it computes: shapes that agree, positions that exist."""

from __future__ import annotations

from typing import Any

import torch

from das_blender_addon.errors import ModelError


def check_rows(config: Any, latents: torch.Tensor, text: torch.Tensor, timestep: torch.Tensor | int) -> None:
    """Raise `ModelError` where latents, text and timesteps are not of one batch, or leave half a patch over."""
    if latents.ndim != 5 or latents.shape[2] != config.in_channels:
        raise ModelError(
            f"hidden_states is {list(latents.shape)}: this model needs [B,F,{config.in_channels},H,W]."
        )
    if latents.shape[3] % config.patch_size or latents.shape[4] % config.patch_size:
        raise ModelError(
            f"latents of {latents.shape[4]}x{latents.shape[3]} cannot be cut into patches of "
            f"{config.patch_size}x{config.patch_size}: both must be multiples of {config.patch_size}."
        )
    batch = latents.shape[0]
    if text.ndim != 3 or text.shape[0] != batch:
        raise ModelError(
            f"encoder_hidden_states is {list(text.shape)}, but hidden_states has {batch} rows: [{batch},L,D] is "
            "needed."
        )
    num_timesteps = timestep.numel() if isinstance(timestep, torch.Tensor) else 1
    if num_timesteps not in (1, batch):
        raise ModelError(f"timestep has {num_timesteps} values for {batch} rows: give one per row, or one for all.")


def check_clip(
    config: Any, latents: torch.Tensor, tracking_maps: torch.Tensor, allow_computed_positions: bool = False
) -> None:
    """Raise `ModelError` where the position table would not fit or would silently be another one."""
    if tracking_maps.shape[1:] != latents.shape[1:] or tracking_maps.shape[0] not in (1, latents.shape[0]):
        raise ModelError(
            f"tracking_maps is {list(tracking_maps.shape)} but hidden_states is {list(latents.shape)}: they "
            "must be equal "
            "([B,F,C,H,W], or batch 1 for the tracking maps)."
        )
    if not config.use_learned_positional_embeddings:
        return
    num_latent_frames, _, height, width = latents.shape[1:]
    if (height, width) != (config.sample_height, config.sample_width):
        raise ModelError(
            f"latents of {width}x{height} do not fit this model's learned positions, which are for "
            f"{config.sample_width}x{config.sample_height} only."
        )
    num_frames = (num_latent_frames - 1) * config.temporal_compression_ratio + 1
    if num_frames != config.sample_frames and not allow_computed_positions:
        trained = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
        raise ModelError(
            f"A clip of {num_latent_frames} latent frames ({num_frames} frames) does not fit this model's "
            "learned positions, "
            f"which are for {trained} latent frames ({config.sample_frames} frames) only."
        )
