# SPDX-License-Identifier: GPL-3.0-or-later
"""Linear layers in float8, scaled row by row: faster than bfloat16 from compute capability 8.9 on, and lossy.

An opt-in: results differ from the bfloat16 ones by a few percent per layer.  Worth it only under compilation, which
fuses the quantisation of the activations into what comes before.
"""

from __future__ import annotations

import math

import torch
from torch import nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FLOAT8).max

REPLACED = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2")
"""Linears of a block."""

ALIGNMENT = 16
"""Sizes that the hardware takes are multiples of it."""


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
    """Replace the attention and feed-forward linears of every block; → how many.  All other layers stay, as do those
    whose sizes the hardware does not take."""
    count = 0
    for blocks in (model.transformer_blocks, model.transformer_blocks_copy):
        for block in blocks:
            for parent in (block.attn1, block.attn1.to_out, block.ff.net[0], block.ff.net):
                for name, child in list(parent.named_children()):
                    if type(child) is nn.Linear and not any(size % ALIGNMENT for size in child.weight.shape):
                        setattr(parent, name, Float8Linear(child))
                        count += 1
    return count


def stored_bytes(name: str, shape: tuple[int, ...], dtype: torch.dtype, *, float8: bool) -> tuple[int, ...]:
    """Bytes of a checkpoint's tensor of the transformer once loaded, of each tensor where `use_float8` makes two of
    it."""
    count = math.prod(shape)
    blocks, *_, kind = name.split(".")
    in_layer = any(f".{layer}." in name for layer in REPLACED)
    if float8 and kind == "weight" and blocks.startswith("transformer_blocks") and in_layer and len(shape) == 2:
        if not any(size % ALIGNMENT for size in shape):
            return count * FLOAT8.itemsize, shape[0] * torch.float32.itemsize
    return (count * dtype.itemsize,)


def _quantise(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N,C] → float8 [N,C] and its scale [N,1] f32: rows ≈ float8 · scale."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / LARGEST
    return (rows.float() / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale
