# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Wan VACE checkpoint needs of memory: activations are estimated from the configuration by the formulas
`encoding_bytes`, `denoising_bytes` and `decoding_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...models.wan_vace import FRAMES_PER_LATENT, STRIDE, VaceTransformer, dtype_of
from ..needs import Clip, Configs, FamilyNeeds

TOKEN_STREAMS = 18
"""Token streams [1,N,C] alive at once at the widest place of a block, the feed-forward, beside what the condition's
blocks have left for the others.  Measured in float32 on a CPU with four blocks of the smaller model: 18.1."""

PIXEL_STREAMS = 16
"""Feature maps of the VAE's finest level alive at once while decoding.  Measured on a CPU: decoding 96×96
and 160×160 pixels 15.6 and 14.5; counted at 832×480 and 81 frames 12.7."""

ENCODING_STREAMS = 11
"""Likewise while encoding: 10.9 at 160×160, counted at 832×480 and 81 frames 8.6."""

NUM_REFERENCES = 2
"""Latent frames that are added for references."""


def clip_at_home(transformer: Mapping, vae: Mapping, vae_tiling: bool) -> Clip:
    """The clip that the published models were trained on at least; larger ones are looked at when they are asked for.

    Raises KeyError for configurations of something else."""
    _ = transformer["vace_layers"], vae["z_dim"]
    return Clip(81, 832, 480, vae_tiling, batch=1)


def denoising_bytes(configs: Configs, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of one forward pass; the two rows of guidance follow each other."""
    transformer = configs[0]
    num_latent_frames = (clip.num_frames - 1) // FRAMES_PER_LATENT + 1 + NUM_REFERENCES
    patch = STRIDE * transformer.get("patch_size", (1, 2, 2))[1]
    tokens = num_latent_frames * (clip.height // patch) * (clip.width // patch)
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    streams = TOKEN_STREAMS + len(transformer["vace_layers"])
    return streams * tokens * channels * dtype.itemsize


def encoding_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of the VAE's finest level for the four frames that it works on at a time, plus the clip twice."""
    width = vae.get("base_dim", 96)
    return ENCODING_STREAMS * width * _finest_bytes(dtype, clip, clip.encodes_in_tiles) + _pixel_bytes(dtype, clip)


def decoding_bytes(vae: Mapping, dtype: torch.dtype, clip: Clip) -> int:
    """Activations of the VAE's finest level for the four frames that it works on at a time, plus the clip twice."""
    width = vae.get("decoder_base_dim") or vae.get("base_dim", 96)
    return PIXEL_STREAMS * width * _finest_bytes(dtype, clip, clip.vae_tiling) + _pixel_bytes(dtype, clip)


def _finest_bytes(dtype: torch.dtype, clip: Clip, tiled: bool) -> int:
    rows, columns = (min(clip.height, TILE), min(clip.width, TILE)) if tiled else (clip.height, clip.width)
    return FRAMES_PER_LATENT * rows * columns * dtype.itemsize


def _pixel_bytes(dtype: torch.dtype, clip: Clip) -> int:
    return 2 * clip.num_frames * clip.height * clip.width * 3 * dtype.itemsize


TILE = 256
"""Side of diffusers' tiles for this VAE, in pixels."""


def _unit_of(name: str) -> tuple[int, int] | None:
    blocks, _, rest = name.partition(".")
    if blocks not in ("vace_blocks", "blocks"):
        return None
    return int(blocks == "blocks"), int(rest.partition(".")[0])


NEEDS = FamilyNeeds(
    what="Wan VACE",
    float8=VaceTransformer.float8_layers,
    unit_of=_unit_of,
    tables=lambda transformer, dtype: 0,
    encoding=encoding_bytes,
    denoising=denoising_bytes,
    decoding=decoding_bytes,
    home=clip_at_home,
    dtype_of=dtype_of,
    vae_dtype=lambda dtype: torch.float32,
)
