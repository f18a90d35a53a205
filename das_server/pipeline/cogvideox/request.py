# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request may ask of a pipeline, checked before any work; and the forms its callback may have."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image

from das_blender_addon.errors import JobRejected

from ...models.families import model_family
from ...models.transformer import DasTransformer3DModel
from ..base import ClipJob
from ..checks import check_like, clip_shape
from ..randomness import tracking_stream
from .latents import vae_stride

FAMILY = model_family("cogvideox")


@dataclass(frozen=True)
class Asked:
    """One clip as `DasPipeline` makes it; see there.  ``rows``: see `denoise`.  ``settings``: all that decides
    the frames, for the report."""

    prompt: str
    tracking_video: np.ndarray
    image: Image.Image
    negative_prompt: str | None
    num_inference_steps: int
    guidance_scale: float
    generator: torch.Generator
    tracking_generator: torch.Generator
    carried_video: np.ndarray | None = None
    holes: np.ndarray | None = None
    use_dynamic_cfg: bool = True
    tracking_range: str = "signed"
    latents: torch.Tensor | None = None
    vae_tiling: bool | str | None = None
    output_type: str = "np"
    exact_steps: bool = True
    speed: str = "exact"
    rows: str = ""
    callback_on_step_end: Callable[..., Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_guided(self) -> bool:
        """Whether there is a row for the negative prompt."""
        return self.guidance_scale > 1.0

    @classmethod
    def of_job(cls, job: ClipJob) -> Asked:
        """A task's request, as published in all that it does not name."""
        if job.references is not None:
            raise JobRejected("This model does not read references: leave them out.", field="references")
        generator = torch.Generator().manual_seed(job.seed)
        return cls(
            job.prompt,
            job.tracking_video,
            job.image,
            job.negative_prompt,
            job.num_inference_steps,
            job.guidance_scale,
            generator,
            tracking_stream(generator),
            carried_video=job.carried_video,
            holes=job.holes,
            tracking_range=job.tracking_range,
            speed=job.speed,
        )


@dataclass(frozen=True)
class DasPipelineOutput:
    """``frames``: u8 [T,H,W,3], or the latents [1,F,C,h,w] for output_type "latent".  ``settings``: all that decided
    them."""

    frames: Any
    latents: torch.Tensor
    settings: dict[str, Any] = field(default_factory=dict)


def check_clip(
    tracking_video: np.ndarray, image: Image.Image, transformer: DasTransformer3DModel, vae: AutoencoderKLCogVideoX
) -> tuple[int, int, int]:
    """(T, H, W) of a clip that the model can make.  Raises `JobRejected` that names the valid values."""
    num_frames, height, width = clip_shape(tracking_video, image)
    config, stride = transformer.config, vae_stride(vae)
    multiple = stride * config.patch_size
    if height % multiple or width % multiple or not height or not width:
        raise JobRejected(f"The size {width}x{height} must be a multiple of {multiple} both ways.", field="size")
    if not FAMILY.makes_num_frames(num_frames):
        raise JobRejected(
            f"A clip of {num_frames} frames is not possible: use 9, 17, 25, 33, 41 or 49.", field="num_frames"
        )
    if config.use_learned_positional_embeddings:
        trained = (config.sample_width * stride, config.sample_height * stride)
        if (width, height) != trained:
            raise JobRejected(
                f"The size is {width}x{height}; this model makes {trained[0]}x{trained[1]} only.", field="size"
            )
        if num_frames != config.sample_frames and not transformer.allow_computed_positions:
            raise JobRejected(
                f"The clip has {num_frames} frames; this model makes {config.sample_frames} only.", field="num_frames"
            )
    return num_frames, height, width


def check_carried(carried_video: np.ndarray | None, tracking_video: np.ndarray, is_read: bool) -> None:
    """Raise `JobRejected` for a carried video that this model does not read, or that is none of the clip's."""
    if carried_video is None:
        return
    if not is_read:
        raise JobRejected("This model does not read a carried video: leave it out.", field="carried_video")
    check_like(carried_video, tracking_video, "carried_video")


def check_choices(tracking_range: str, output_type: str, guidance_scale: float, vae_tiling: bool | str | None) -> None:
    """Raise `JobRejected` for a setting outside its choices."""
    if tracking_range not in ("signed", "unit"):
        raise JobRejected(f"tracking_range is {tracking_range!r}: use 'signed' or 'unit'.", field="tracking_range")
    if output_type not in ("np", "latent"):
        raise JobRejected(f"output_type is {output_type!r}: use 'np' or 'latent'.", field="output_type")
    if vae_tiling not in (True, False, None, "auto"):
        raise JobRejected(f"vae_tiling is {vae_tiling!r}: use True, False or 'auto'.", field="vae_tiling")
    if not isinstance(guidance_scale, numbers.Real) or not math.isfinite(guidance_scale):
        raise JobRejected(f"guidance_scale is {guidance_scale!r}: use a finite number.", field="guidance_scale")


def check_latents(latents: torch.Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise `JobRejected` for given noise of another shape than the clip's, or that is no noise."""
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor):
        raise JobRejected(f"latents is {type(latents).__name__}: use a tensor {list(shape)}.", field="latents")
    if tuple(latents.shape) != shape:
        raise JobRejected(f"latents is {list(latents.shape)} instead of {list(shape)}.", field="latents")
    if not torch.isfinite(latents).all():
        raise JobRejected("latents holds values that are not finite.", field="latents")


def check_generators(**generators: torch.Generator | None) -> None:
    """Raise `JobRejected` for a source of random numbers that is not one `torch.Generator`."""
    for name, generator in generators.items():
        if generator is not None and not isinstance(generator, torch.Generator):
            raise JobRejected(f"{name} is {type(generator).__name__}: use a torch.Generator.", field=name)


def step_caller(
    pipeline: Any, callback: Callable[..., Any] | None, num_steps: int
) -> Callable[[int, int, torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function (index, timestep, latents, x0) → latents that calls ``callback`` in the form it takes."""
    if callback is None:
        return lambda index, timestep, latents, x0: latents
    if _takes_four(callback):

        def call(index: int, timestep: int, latents: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
            tensors = {"latents": latents, "pred_original_sample": x0}
            returned = callback(pipeline, index, timestep, tensors)
            return returned.get("latents", latents) if isinstance(returned, dict) else latents

        return call

    def call_simply(index: int, timestep: int, latents: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        callback(index, num_steps, x0)
        return latents

    return call_simply


def _takes_four(callback: Callable[..., Any]) -> bool:
    try:
        inspect.signature(callback).bind(None, None, None)
    except TypeError:
        return True
    except ValueError:  # a built-in without a signature
        return False
    return False
