# SPDX-License-Identifier: GPL-3.0-or-later
"""A LoRA of the main blocks' attention: added to a transformer for training, saved under the published names."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from das_blender_addon.errors import ModelError
from das_server.pipeline.adapters import show_peft_to_diffusers

LORA_NAME = "lora.safetensors"
"""In a recipe's folder; `das-server models add-lora NAME FILE` takes it."""
NAME = "trained"
TARGETS = r"transformer_blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
"""The layers that published CogVideoX adapters change; none of the tracking branch."""


def add_lora(transformer: torch.nn.Module, rank: int) -> None:
    """Add an adapter that changes nothing yet, in float32, and let nothing else be trained.

    Raises ModelError where peft is not installed or the rank is none."""
    if not isinstance(rank, int) or rank < 1:
        raise ModelError(f"lora_rank = {rank!r}; use a whole number from 1 on.")
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ModelError("a LoRA is trained with the package peft, which is not installed: install it.") from error
    show_peft_to_diffusers()
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), adapter_name=NAME)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def save_lora(transformer: torch.nn.Module, path: Path) -> None:
    """Write the adapter of `add_lora` as `transformer.{layer}.lora_A.weight` and `lora_B.weight`."""
    tensors = {
        f"transformer.{name.replace(f'.{NAME}.', '.')}": value.detach().float().contiguous().cpu()
        for name, value in transformer.named_parameters() if ".lora_" in name
    }
    save_file(tensors, path, metadata={"format": "pt"})
