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
    return vae.eval()
