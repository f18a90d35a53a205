# SPDX-License-Identifier: GPL-3.0-or-later
"""What a `DasPipeline` does before its first job, so that compiled blocks are ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ...models.run_cache import RunCache
from .. import acceleration, warming
from . import latents as border
from .conditions import rotary_of
from .needs import NEEDS, clip_at_home


def warm_up(pipeline: Any, num_rows: int) -> None:
    """Compile the blocks for clips of the model's own size with so many rows of guidance at once; where those have no
    room together, for one, as a job computes them then."""
    home = clip_at_home(pipeline.transformer.config, pipeline.vae.config, pipeline.vae_tiling)
    for rows in range(num_rows, 0, -1):
        clip = replace(home, batch=rows, cached_rows=0, tiled_encoding=pipeline.tiled_encoding)
        if warming.warm_up(pipeline, NEEDS, clip, lambda rows=rows, clip=clip: _pass(pipeline, rows, clip)):
            return


def _pass(pipeline: Any, num_rows: int, clip: Any) -> None:
    config, dtype, device = pipeline.transformer.config, pipeline.dtype, pipeline.device
    latents = border.latents_shape(pipeline.vae, clip.num_frames, clip.height, clip.width)
    shape = (num_rows, latents[1], config.in_channels, *latents[3:])
    text = (num_rows, config.max_text_seq_length, config.text_embed_dim)
    timestep = int(pipeline.scheduler.config.num_train_timesteps) - 1
    acceleration.predict(
        pipeline,
        hidden_states=torch.zeros(shape, dtype=dtype, device=device),
        encoder_hidden_states=torch.zeros(text, dtype=dtype, device=device),
        timestep=timestep,
        tracking_maps=torch.zeros((1, *shape[1:]), dtype=dtype, device=device),
        image_rotary_emb=rotary_of(pipeline, latents),
        run=RunCache(modulation=pipeline.modulation_of(timestep)),
    )
