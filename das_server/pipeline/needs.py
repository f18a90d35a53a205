# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CogVideoX checkpoint needs of a device's memory.

Weights are measured from the files' headers; activations are estimated from the configuration by the two formulas
`denoising_bytes` and `decoding_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from das_blender_addon.errors import ModelError

from ..models.tensors import read_component_config, read_tensor_shapes, weight_files
from . import memory
from .base import LoadedModel
from .memory import MemoryNeeds

BLOCKS = ("transformer_blocks", "transformer_blocks_copy", "combine_linears")
"""The transformer's repeated blocks."""

TOKEN_STREAMS = 16
"""Token streams [B,N,C] alive at once at the widest place of a block: input, residual, q/k/v, feed-forward (4 + 4) …"""

PIXEL_STREAMS = 12
"""Feature maps of the VAE's finest level alive at once while decoding."""


def measure_needs(
    folder: Path, dtype: torch.dtype, *, num_frames: int, width: int, height: int, vae_tiling: bool, batch: int = 2
) -> MemoryNeeds:
    """What a checkpoint folder needs for one clip.  ``batch`` 2 is for guidance.  Raises `ModelError` for a bad
    folder."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    sizes = _tensor_bytes(folder / "transformer", dtype)
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        if parts[0] in BLOCKS:
            blocks[".".join(parts[:2])] = blocks.get(".".join(parts[:2]), 0) + size
    return MemoryNeeds(
        transformer=sum(sizes.values()),
        blocks=sum(blocks.values()),
        largest_block=max(blocks.values(), default=0),
        text_encoder=sum(_tensor_bytes(folder / "text_encoder", dtype, stem="model").values()),
        vae=sum(_tensor_bytes(folder / "vae", dtype).values()),
        denoising=denoising_bytes(transformer, vae, dtype, num_frames, width, height, batch),
        decoding=decoding_bytes(vae, dtype, num_frames, width, height, vae_tiling),
    )


def needs_at_home(folder: Path, dtype: torch.dtype, vae_tiling: bool) -> MemoryNeeds:
    """What a checkpoint needs for a clip of the length and size in its own configuration.  Raises `ModelError`."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    try:
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        clip = {
            "num_frames": transformer["sample_frames"],
            "width": transformer["sample_width"] * stride,
            "height": transformer["sample_height"] * stride,
        }
        return measure_needs(folder, dtype, vae_tiling=vae_tiling, **clip)
    except (KeyError, TypeError) as error:
        raise ModelError(f"The configuration in {folder} is not that of a CogVideoX model: {error!r}.") from error


def denoising_bytes(
    transformer: Mapping, vae: Mapping, dtype: torch.dtype, num_frames: int, width: int, height: int, batch: int = 2
) -> int:
    """Activations of one forward pass: `TOKEN_STREAMS` streams of [batch, tokens, channels]."""
    stride = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    num_latent_frames = (num_frames - 1) // int(vae["temporal_compression_ratio"]) + 1
    tokens = num_latent_frames * (height // stride) * (width // stride) + transformer["max_text_seq_length"]
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return TOKEN_STREAMS * batch * tokens * channels * dtype.itemsize


def decoding_bytes(vae: Mapping, dtype: torch.dtype, num_frames: int, width: int, height: int, vae_tiling: bool) -> int:
    """Activations of the decoder's finest level for its ten frames at a time, plus the finished clip."""
    rows, columns = height, width
    if vae_tiling:
        rows, columns = min(rows, vae["sample_height"] // 2), min(columns, vae["sample_width"] // 2)
    finest = vae["block_out_channels"][0] * 10 * rows * columns * dtype.itemsize
    return PIXEL_STREAMS * finest + 2 * num_frames * height * width * 3 * dtype.itemsize


def check_room(pipeline: LoadedModel, num_frames: int, width: int, height: int, vae_tiling: bool, batch: int) -> None:
    """`memory.check_room` for one clip.  Raises `OutOfMemory`."""
    transformer, vae = pipeline.transformer.config, pipeline.vae.config
    needed = max(
        denoising_bytes(transformer, vae, pipeline.dtype, num_frames, width, height, batch),
        decoding_bytes(vae, pipeline.dtype, num_frames, width, height, vae_tiling),
    )
    blocks = sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in pipeline.transformer.named_parameters()
        if name.split(".")[0] in BLOCKS
    )
    memory.check_room(pipeline, f"A clip of {num_frames} frames of {width}x{height}", needed, blocks)


def _tensor_bytes(folder: Path, dtype: torch.dtype, stem: str = "diffusion_pytorch_model") -> dict[str, int]:
    sizes = {}
    for path in weight_files(folder, stem=stem):
        for name, shape in read_tensor_shapes(path).items():
            count = 1
            for length in shape:
                count *= length
            sizes[name] = count * dtype.itemsize
    return sizes
