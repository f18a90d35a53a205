# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA files with random factors."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 4
LAYERS = ("transformer_blocks.0.attn1.to_q", "transformer_blocks.1.ff.net.0.proj", "transformer_blocks.0.norm1.linear")
"""Of every model's transformer, and one of them decides what is kept between steps."""


def write_lora(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    seed: int = 1,
    layers=LAYERS,
    prefix: str = "transformer.",
    size: float = 0.3,
    alpha: float | None = None,
) -> Path:
    """An adapter of ``layers`` of a model whose weights have ``shapes``, under the published names."""
    draw, tensors = torch.Generator().manual_seed(seed), {}
    for layer in layers:
        rows, columns = shapes[f"{layer}.weight"]
        tensors[f"{prefix}{layer}.lora_A.weight"] = torch.randn(RANK, columns, generator=draw) * size
        tensors[f"{prefix}{layer}.lora_B.weight"] = torch.randn(rows, RANK, generator=draw) * size
        if alpha is not None:
            tensors[f"{prefix}{layer}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of a loaded model's weights."""
    return {name: tuple(value.shape) for name, value in model.named_parameters()}
