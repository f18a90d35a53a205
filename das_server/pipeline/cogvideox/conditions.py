# SPDX-License-Identifier: GPL-3.0-or-later
"""All that the denoising steps read, drawn and encoded before the first of them, in the published order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from ..base import LoadedModel
from ..checks import image_to_frame
from . import latents as border
from .carry import carry
from .holes import pack_holes
from .latents import TrackingRange


class Encoding(LoadedModel, Protocol):
    """What encodes: the VAE, and what the sampler and this checkpoint ask of what it is given."""

    scheduler: Any
    carries_first_frame: bool


@dataclass(frozen=True)
class Conditions:
    """What the steps read: noise and first frame (or the carried one) [1,F,C,h,w], tracking [1,F,2C,h,w], rotary
    tables or None."""

    latents: torch.Tensor
    image: torch.Tensor
    tracking: torch.Tensor
    rotary: tuple[torch.Tensor, torch.Tensor] | None


def encode_tracking(
    pipeline: Encoding, tracking_video: np.ndarray, tracking_range: TrackingRange, generator: torch.Generator
) -> torch.Tensor:
    """u8 [T,H,W,3] → latents [1,F,C,h,w]."""
    pixels = border.frames_to_vae(tracking_video, pipeline.device, pipeline.dtype, tracking_range)
    return border.encode(pipeline.vae, pixels, generator)


def starting_picture(
    pipeline: Encoding, tracking_video: np.ndarray, image: Image.Image, carried_video: np.ndarray | None
) -> np.ndarray:
    """What the model is given to start from, u8: the first frame [1,H,W,3]; or, with a model that was trained on that,
    the ``carried_video`` [T,H,W,3] that came with the request, else the first frame carried along the tracks.
    """
    _, height, width, _ = tracking_video.shape
    if pipeline.carries_first_frame and carried_video is not None:
        return carried_video
    frame = image_to_frame(image, width, height)
    return carry(frame[0], tracking_video) if pipeline.carries_first_frame else frame


def encode_conditions(
    pipeline: Encoding,
    tracking_video: np.ndarray,
    picture: np.ndarray,
    tracking: torch.Tensor,
    latents: torch.Tensor | None,
    shape: tuple[int, ...],
    generator: torch.Generator,
    holes: np.ndarray | None = None,
) -> Conditions:
    """The seeded draws before the first step, in the published order: image, noise, tracking image, noise thrown away.

    ``picture``: see `starting_picture`.  ``tracking``: the tracking video's latents.  ``latents``: initial noise of
    ``shape``, drawn when None.  ``holes`` [T,H,W] bool: told to the model in the tracking image's place.
    """
    def encode_picture(frames: np.ndarray) -> torch.Tensor:
        pixels = border.frames_to_vae(frames, pipeline.device, pipeline.dtype, "signed")
        return border.pad_frames(border.encode(pipeline.vae, pixels, generator), shape[1])

    def draw() -> torch.Tensor:
        noise = torch.randn(shape, generator=generator, device=generator.device, dtype=pipeline.dtype)
        return noise.to(pipeline.device)

    image_latents = encode_picture(picture)
    if latents is None:
        latents = draw()
    latents = latents.to(pipeline.device, pipeline.dtype) * pipeline.scheduler.init_noise_sigma
    if holes is None:
        beside = encode_picture(tracking_video[:1])
        draw()
    else:
        beside = pack_holes(holes, shape[2], border.vae_stride(pipeline.vae))[None].to(tracking)
    return Conditions(
        latents=latents,
        image=image_latents,
        tracking=torch.cat([tracking, beside], dim=2),
        rotary=rotary_of(pipeline, shape),
    )


def rotary_of(pipeline: Encoding, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(cos, sin) for latents of ``shape`` [1,F,C,h,w], None for models without."""
    config = pipeline.transformer.config
    if not config.use_rotary_positional_embeddings:
        return None
    patch = config.patch_size
    return border.rotary_positions(
        head_dim=config.attention_head_dim,
        grid_size=(shape[3] // patch, shape[4] // patch),
        base_size=(config.sample_height // patch, config.sample_width // patch),
        num_latent_frames=shape[1],
        device=pipeline.device,
    )
