# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain CogVideoX transformer made into one with a tracking branch that does nothing yet."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import CogVideoXTransformer3DModel

from das_blender_addon.errors import ModelError

from .tensors import check_tensors, expected_tensors, read_component_config

Model = TypeVar("Model", bound=CogVideoXTransformer3DModel)
"""The class of the model with the tracking branch."""

PUBLISHED_CLASS_NAME = "CogVideoXTransformer3DModelTracking"
"""``_class_name`` of the published checkpoints, and of those we save."""

TRACKING_PREFIXES = ("transformer_blocks_copy.", "combine_linears.", "initial_combine_linear.")
"""The parameters that Diffusion as Shader adds to CogVideoX, which are also the ones it trains."""


def convert_base(
    model_class: type[Model], folder: Path, num_tracking_blocks: int, torch_dtype: torch.dtype | None
) -> Model:
    """Load a plain CogVideoX transformer: the first blocks are copied, all combining linears are zero.

    The output equals the base model's bit for bit until the new parameters are trained.  Raises `ModelError` when
    the folder already holds a tracking branch, has too few blocks to copy, or its tensors do not match its config.
    """
    # 1. What is there.
    config = read_component_config(folder)
    if "num_tracking_blocks" in config or config.get("_class_name") in (PUBLISHED_CLASS_NAME, model_class.__name__):
        raise ModelError(f"{folder} is a Diffusion-as-Shader transformer already: load it with from_pretrained.")
    num_layers = config.get("num_layers", 30)
    if not 0 <= num_tracking_blocks <= num_layers:
        raise ModelError(
            f"num_tracking_blocks is {num_tracking_blocks}, but {folder} has {num_layers} blocks to copy: use 0 "
            f"to {num_layers}."
        )
    base_config = {key: value for key, value in config.items() if not key.startswith("_")}
    check_tensors(folder, expected_tensors(CogVideoXTransformer3DModel, base_config, folder, "transformer"))
    base = CogVideoXTransformer3DModel.from_pretrained(
        str(folder), torch_dtype=torch_dtype, local_files_only=True, use_safetensors=True
    )

    # 2. Copies of its first blocks.
    state = dict(base.state_dict())
    for index in range(num_tracking_blocks):
        prefix = f"transformer_blocks.{index}."
        for name in [name for name in state if name.startswith(prefix)]:
            state[name.replace("transformer_blocks.", "transformer_blocks_copy.", 1)] = state[name].clone()
    del base

    # 3. The model around them; what it has beyond them starts at zero.
    model = model_class.from_config({**base_config, "num_tracking_blocks": num_tracking_blocks})
    if torch_dtype is not None:
        model = model.to(torch_dtype)
    loaded = model.load_state_dict(state, strict=False, assign=True)
    not_loaded = [key for key in loaded.missing_keys if not key.startswith(TRACKING_PREFIXES[1:])]
    if not_loaded or loaded.unexpected_keys:
        raise ModelError(
            f"{folder} does not convert: {[*not_loaded, *loaded.unexpected_keys][0]} has no counterpart."
        )
    return model.eval()
