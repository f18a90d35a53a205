# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CogVideoX checkpoint needs of a device's memory and of the machine's own.

Weights are measured, from the files' headers or as they are loaded; activations are estimated from the configuration by
the two formulas `denoising_bytes` and `decoding_bytes`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from das_blender_addon.errors import ModelError

from ...models.float8 import stored_bytes
from ...models.tensors import converted_bytes, read_component_config, read_tensor_shapes, weight_files
from .. import memory
from ..base import LoadedModel
from ..memory import MemoryNeeds, MemoryPlan
from ..slabs import aligned, bytes_of, slab_bytes
from .modulation import table_bytes
from .prompt import STORED_NAMES

STREAMED = ("transformer_blocks", "transformer_blocks_copy", "combine_linears")
"""The transformer's repeated blocks; a copy and the linear of its index come together
(`DasTransformer3DModel.streamed_units`)."""

TOKEN_STREAMS = 16
"""Token streams [B,N,C] alive at once at the widest place of a block: input, residual, q/k/v, feed-forward (4 + 4) …"""

PIXEL_STREAMS = 12
"""Feature maps of the VAE's finest level alive at once while decoding."""


@dataclass(frozen=True)
class Clip:
    """One request.  ``batch`` 2 is for guidance."""

    num_frames: int
    width: int
    height: int
    vae_tiling: bool
    batch: int = 2


def measure_needs(folder: Path, dtype: torch.dtype, clip: Clip, *, float8: bool = False) -> MemoryNeeds:
    """What a checkpoint folder needs for one clip, in ``dtype`` but for blocks in float8.  Raises `ModelError` for a
    bad folder."""
    transformer = _tensor_shapes(folder / "transformer")
    text_encoder = folder / "text_encoder"
    return _needs(
        {name: stored_bytes(name, shape, dtype, float8=float8) for name, shape in transformer.items()},
        text_encoder=_sum_bytes(text_encoder, dtype, stem="model"),
        converted_transformer=converted_bytes(folder / "transformer", dtype.itemsize, STORED_NAMES.get(dtype)),
        converted_text_encoder=converted_bytes(text_encoder, dtype.itemsize, STORED_NAMES.get(dtype), stem="model"),
        vae=_sum_bytes(folder / "vae", dtype),
        configs=(read_component_config(folder / "transformer"), read_component_config(folder / "vae")),
        dtype=dtype,
        clip=clip,
    )


def needs_of(pipeline: LoadedModel, clip: Clip) -> MemoryNeeds:
    """What a loaded pipeline needs for one clip."""
    transformer = pipeline.transformer
    named = [*transformer.named_parameters(), *transformer.named_buffers()]
    return _needs(
        {name: (bytes_of(tensor),) for name, tensor in named},
        text_encoder=pipeline.prompt_encoder.size_bytes(),
        converted_transformer=0,
        converted_text_encoder=pipeline.prompt_encoder.converted_bytes(),
        vae=sum(bytes_of(weight) for weight in pipeline.vae.parameters()),
        configs=(transformer.config, pipeline.vae.config),
        dtype=pipeline.dtype,
        clip=clip,
    )


def clip_at_home(transformer: Mapping, vae: Mapping, vae_tiling: bool) -> Clip:
    """The clip of the length and size in a checkpoint's own configuration.  Raises KeyError, TypeError."""
    stride = 2 ** (len(vae["block_out_channels"]) - 1)
    size = (transformer["sample_width"] * stride, transformer["sample_height"] * stride)
    return Clip(transformer["sample_frames"], *size, vae_tiling)


def needs_at_home(folder: Path, dtype: torch.dtype, vae_tiling: bool, *, float8: bool = False) -> MemoryNeeds:
    """What a checkpoint needs for a clip of the length and size in its own configuration.  Raises `ModelError`."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    try:
        return measure_needs(folder, dtype, clip_at_home(transformer, vae, vae_tiling), float8=float8)
    except (KeyError, TypeError) as error:
        raise ModelError(f"The configuration in {folder} is not that of a CogVideoX model: {error!r}.") from error


def must_tile(folder: Path, dtype: torch.dtype, plan: MemoryPlan, *, float8: bool = False) -> bool:
    """Whether the VAE has to work in tiles, which cost time and have statistics of their own, under a plan made for
    them: where a whole clip of the model's own size, and a quarter more, has no room beside the model; always on a CPU
    and with group_offload, after which there is no smaller profile."""
    if plan.profile not in memory.ON_DEVICE[:-1] or plan.device.type == "cpu":
        return True
    whole = needs_at_home(folder, dtype, False, float8=float8)
    return whole.peak_bytes(plan.profile) + whole.decoding // 4 > plan.free_bytes


def denoising_bytes(transformer: Mapping, vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of one forward pass: `TOKEN_STREAMS` streams of [batch, tokens, channels]."""
    stride = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    num_latent_frames = (clip.num_frames - 1) // int(vae["temporal_compression_ratio"]) + 1
    tokens = num_latent_frames * (clip.height // stride) * (clip.width // stride) + transformer["max_text_seq_length"]
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    return TOKEN_STREAMS * clip.batch * tokens * channels * dtype.itemsize


def decoding_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of the decoder's finest level for its ten frames at a time, plus the finished clip."""
    rows, columns = clip.height, clip.width
    if clip.vae_tiling:
        rows, columns = min(rows, vae["sample_height"] // 2), min(columns, vae["sample_width"] // 2)
    finest = vae["block_out_channels"][0] * 10 * rows * columns * dtype.itemsize
    return PIXEL_STREAMS * finest + 2 * clip.num_frames * clip.height * clip.width * 3 * dtype.itemsize


def check_room(pipeline: LoadedModel, clip: Clip) -> None:
    """`memory.check_room` for one clip.  Raises `OutOfMemory`."""
    what = f"A clip of {clip.num_frames} frames of {clip.width}x{clip.height}"
    memory.check_room(pipeline, what, needs_of(pipeline, clip))


def _needs(
    sizes: Mapping[str, tuple[int, ...]],
    *,
    text_encoder: int,
    converted_transformer: int,
    converted_text_encoder: int,
    vae: int,
    configs: tuple[Mapping, Mapping],
    dtype: torch.dtype,
    clip: Clip,
) -> MemoryNeeds:
    """``sizes``: bytes of the transformer's tensors by name.  ``configs``: the transformer's and the VAE's."""
    units: dict[tuple[int, bool], list[int]] = {}
    for name, parts in sizes.items():
        if name.split(".")[0] in STREAMED:
            blocks, index = name.split(".")[:2]
            units.setdefault((int(index), blocks != "transformer_blocks"), []).extend(parts)
    # In the order in which `streaming` lays them.
    streamed = [size for unit in sorted(units) for size in sorted(units[unit], reverse=True)]
    return MemoryNeeds(
        transformer=sum(sum(parts) for parts in sizes.values()),
        blocks=sum(streamed),
        largest_block=max((sum(map(aligned, unit)) for unit in units.values()), default=0),
        slabs=slab_bytes(streamed),
        text_encoder=text_encoder,
        converted_transformer=converted_transformer,
        converted_text_encoder=converted_text_encoder,
        vae=vae,
        tables=table_bytes(configs[0], dtype),
        denoising=denoising_bytes(*configs, dtype, clip),
        decoding=decoding_bytes(configs[1], dtype, clip),
    )


def _tensor_shapes(folder: Path, stem: str = "diffusion_pytorch_model") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, stem=stem):
        shapes.update(read_tensor_shapes(path))
    return shapes


def _sum_bytes(folder: Path, dtype: torch.dtype, stem: str = "diffusion_pytorch_model") -> int:
    return dtype.itemsize * sum(math.prod(shape) for shape in _tensor_shapes(folder, stem).values())
