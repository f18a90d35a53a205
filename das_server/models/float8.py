# SPDX-License-Identifier: GPL-3.0-or-later
"""Linear layers in float8, scaled row by row: faster than bfloat16 from compute capability 8.9 on, and lossy.

An opt-in: results differ from the bfloat16 ones by a few percent per layer.  Worth it only under compilation, which
fuses the quantisation of the activations into what comes before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max

ALIGNMENT = 16
"""Sizes that the hardware takes are multiples of it."""


@dataclass(frozen=True)
class Float8Layers:
    """Which linears of a family's transformer can be in float8: ``layers`` of every block of the lists ``blocks``, by
    the names of its checkpoints."""

    blocks: tuple[str, ...]
    layers: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Whether the parameter ``name`` is the weight of one."""
        blocks, _, rest = name.partition(".")
        return blocks in self.blocks and rest.partition(".")[2] in {f"{layer}.weight" for layer in self.layers}


class Float8Linear(nn.Module):
    """``weight`` [out,in] float8 with a scale per output; activations are quantised per token as they come."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight, scale = _quantise(linear.weight.detach())
        # Parameters, as in the layer that it replaces: whoever moves or counts weights asks for those.
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.scale = nn.Parameter(scale.T.contiguous(), requires_grad=False)  # [1,out] f32
        self.bias = linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[…,in] → […,out], in the dtype of ``x``."""
        rows, scale = _quantise(x.reshape(-1, self.in_features))
        if x.device.type == "cuda":
            bias = None if self.bias is None else self.bias.to(x.dtype)
            out = torch._scaled_mm(
                rows,
                self.weight.T,
                scale_a=scale,
                scale_b=self.scale,
                bias=bias,
                out_dtype=x.dtype,
                use_fast_accum=True,
            )
        else:  # the same numbers without the hardware, for tests
            out = (rows.float() @ self.weight.float().T) * scale * self.scale
            out = (out if self.bias is None else out + self.bias.float()).to(x.dtype)
        return out.unflatten(0, x.shape[:-1])


def use_float8(model: nn.Module) -> int:
    """Replace the linears that ``model.float8_layers`` names, → how many.  All other layers stay, as do those whose
    sizes the hardware does not take."""
    count = 0
    for name, child in list(model.named_modules()):
        fits = type(child) is nn.Linear and not any(size % ALIGNMENT for size in child.weight.shape)
        if fits and model.float8_layers.has(f"{name}.weight"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Float8Linear(child))
            count += 1
    return count


def stored_bytes(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, float8: Float8Layers | None = None
) -> tuple[int, ...]:
    """Bytes of a checkpoint's tensor of the transformer once loaded, of each tensor where `use_float8` makes two of
    it."""
    count = math.prod(shape)
    if float8 is not None and float8.has(name) and len(shape) == 2 and not any(size % ALIGNMENT for size in shape):
        return count * FLOAT8.itemsize, shape[0] * torch.float32.itemsize
    return (count * dtype.itemsize,)


def _quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N,C] → float8 [N,C] and its scale [N,1] f32: rows ≈ float8 · scale."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale
