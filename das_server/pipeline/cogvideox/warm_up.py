# SPDX-License-Identifier: GPL-3.0-or-later
"""One forward pass of a clip of the model's own size, so that compiled blocks are ready before the first job."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from das_blender_addon.errors import OutOfMemory

from ...models.run_cache import RunCache
from .. import acceleration
from ..device_errors import is_out_of_memory
from ..randomness import deterministic_kernels
from . import latents as border
from .conditions import rotary_of
from .needs import NEEDS, clip_at_home

log = logging.getLogger(__name__)


@torch.no_grad()
def warm_up(pipeline: Any, num_rows: int) -> None:
    """Compile the blocks of a `DasPipeline` for clips of the model's own size with so many rows of guidance, where they
    are to be compiled at all; where there is no room for that, the first job has the wait."""
    if not pipeline.acceleration.compiled:
        return
    clip = clip_at_home(pipeline.transformer.config, pipeline.vae.config, pipeline.vae_tiling)
    started, config, dtype, device = time.monotonic(), pipeline.transformer.config, pipeline.dtype, pipeline.device
    latents = border.latents_shape(pipeline.vae, clip.num_frames, clip.height, clip.width)
    shape = (num_rows, latents[1], config.in_channels, *latents[3:])
    text = (num_rows, config.max_text_seq_length, config.text_embed_dim)
    try:
        NEEDS.check_room(pipeline, clip)
        timestep = int(pipeline.scheduler.config.num_train_timesteps) - 1
        with deterministic_kernels():
            acceleration.predict(
                pipeline,
                hidden_states=torch.zeros(shape, dtype=dtype, device=device),
                encoder_hidden_states=torch.zeros(text, dtype=dtype, device=device),
                timestep=timestep,
                tracking_maps=torch.zeros((1, *shape[1:]), dtype=dtype, device=device),
                image_rotary_emb=rotary_of(pipeline, latents),
                run=RunCache(modulation=pipeline.modulation_of(timestep)),
            )
    except Exception as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        log.warning("the blocks are compiled in the first job, for there is no room now: %s", error)
        return
    seconds = time.monotonic() - started
    log.info("the blocks are compiled for clips of %sx%s after %.1f s", clip.width, clip.height, seconds)
