# SPDX-License-Identifier: GPL-3.0-or-later
"""What a CogVideoX checkpoint needs of memory: activations are estimated from the configuration by the formulas
`denoising_bytes` and `decoding_bytes`, and encoding like the latter.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...models.transformer import DasTransformer3DModel
from ..needs import Clip, Configs, FamilyNeeds
from .modulation import table_bytes

STREAMED = ("transformer_blocks", "transformer_blocks_copy", "combine_linears")
"""The transformer's repeated blocks; a copy and the linear of its index come together
(`DasTransformer3DModel.streamed_units`)."""

TOKEN_STREAMS = 17
"""Token streams [B,N,C] alive at once at the widest place of a block: input, residual, feed-forward (4 + 4) …; 16.5,
counted at the published shapes."""

CACHED_STREAMS = 3
"""What a block cache keeps of each row besides: 2.96, counted likewise."""

PIXEL_STREAMS = 18
"""Feature maps of the VAE's finest level, ten frames each, alive at once while decoding: 17.7, in tiles 17.4, counted
at 720x480 and 49 frames."""

ENCODING_STREAMS = 8
"""Likewise while encoding: 7.5."""


def clip_at_home(transformer: Mapping, vae: Mapping, vae_tiling: bool) -> Clip:
    """The clip of the length and size in a checkpoint's own configuration.  Raises KeyError, TypeError."""
    stride = 2 ** (len(vae["block_out_channels"]) - 1)
    size = (transformer["sample_width"] * stride, transformer["sample_height"] * stride)
    return Clip(transformer["sample_frames"], *size, vae_tiling, cached_rows=2)


def denoising_bytes(configs: Configs, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of one forward pass: `TOKEN_STREAMS` streams of [batch, tokens, channels], and what blocks that are
    left out are replaced by."""
    transformer, vae = configs
    stride = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    num_latent_frames = (clip.num_frames - 1) // int(vae["temporal_compression_ratio"]) + 1
    tokens = num_latent_frames * (clip.height // stride) * (clip.width // stride) + transformer["max_text_seq_length"]
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    streams = TOKEN_STREAMS * clip.batch + CACHED_STREAMS * clip.cached_rows
    return streams * tokens * channels * dtype.itemsize


def encoding_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of the encoder's finest level for its ten frames at a time, plus the clip in pixels."""
    return ENCODING_STREAMS * _finest_bytes(vae, dtype, clip, clip.encodes_in_tiles) + _pixel_bytes(dtype, clip)


def decoding_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of the decoder's finest level for its ten frames at a time, plus the finished clip."""
    return PIXEL_STREAMS * _finest_bytes(vae, dtype, clip, clip.vae_tiling) + 2 * _pixel_bytes(dtype, clip)


def _finest_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip, tiled: bool) -> int:
    rows, columns = clip.height, clip.width
    if tiled:
        rows, columns = min(rows, vae["sample_height"] // 2), min(columns, vae["sample_width"] // 2)
    return vae["block_out_channels"][0] * 10 * rows * columns * dtype.itemsize


def _pixel_bytes(dtype: torch.dtype, clip: Clip) -> int:
    return clip.num_frames * clip.height * clip.width * 3 * dtype.itemsize


def _unit_of(name: str) -> tuple[int, bool] | None:
    blocks, _, rest = name.partition(".")
    return (int(rest.partition(".")[0]), blocks != "transformer_blocks") if blocks in STREAMED else None


NEEDS = FamilyNeeds(
    what="CogVideoX",
    float8=DasTransformer3DModel.float8_layers,
    unit_of=_unit_of,
    tables=table_bytes,
    encoding=encoding_bytes,
    denoising=denoising_bytes,
    decoding=decoding_bytes,
    home=clip_at_home,
)
