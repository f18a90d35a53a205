# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints of the CogVideoX family, for `families.ModelFamily`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError

from .registry import BASE_OF_OWN_MODELS
from .tensors import read_component_config
from .transformer import DasTransformer3DModel
from .vae import check_vae_folder


def check_tensors(folder: Path) -> None:
    """Compare transformer and VAE with their configurations; nothing is loaded.  Raises `ModelError`."""
    DasTransformer3DModel.check_folder(folder / "transformer")
    check_vae_folder(folder / "vae")


def about_own(folder: Path) -> dict[str, Any]:
    """What a manifest says of a model with a name of its own: the clip that its configuration is made for.

    Raises `ModelError` for a clip that the pipeline could not make.
    """
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    try:
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        size = [transformer["sample_width"] * stride, transformer["sample_height"] * stride]
        num_frames, multiple = transformer["sample_frames"], stride * transformer["patch_size"]
        channels = 2 * vae.get("latent_channels", 16)
        if transformer["in_channels"] != channels:
            raise ModelError(
                f"The transformer in {folder} takes {transformer['in_channels']} channels; only image-to-video models, "
                f"with {channels} beside this VAE, can be added."
            )
        if num_frames < 9 or num_frames % 8 != 1 or size[0] % multiple or size[1] % multiple:
            raise ModelError(
                f"The transformer in {folder} is made for {num_frames} frames of {size[0]}x{size[1]}; only 8·n + 1 "
                f"frames of multiples of {multiple} can be made."
            )
    except (KeyError, TypeError) as error:
        raise ModelError(f"The configuration in {folder} is not that of a CogVideoX model: {error!r}.") from error
    return {"based_on": BASE_OF_OWN_MODELS, "num_frames": [num_frames], "sizes": [size]}
