# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request may ask of the pipeline, checked before any work."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from das_blender_addon.errors import JobRejected

from ...models.families import model_family
from ...models.wan_vace import STRIDE
from ..base import ClipJob
from ..checks import check_like, check_texts, clip_shape, image_to_frame

FAMILY = model_family("wan-vace")


@dataclass(frozen=True)
class Asked:
    """One clip: ``carried`` u8 [T,H,W,3] and its ``holes`` bool [T,H,W].  ``settings``: all that decides it."""

    prompt: str
    negative_prompt: str
    carried: np.ndarray
    holes: np.ndarray
    references: np.ndarray | None
    num_inference_steps: int
    guidance_scale: float
    generator: torch.Generator
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompt counts."""
        return self.guidance_scale > 1.0


def read(job: ClipJob, patch: int) -> Asked:
    """A task's request, all but its settings.  ``patch``: latents per side of a token.

    Without a carried video the first frame is known, and nothing else.  Raises `JobRejected`.
    """
    if job.loras:
        raise JobRejected("This model takes no LoRAs: leave them out.", field="loras")
    if job.speed != "exact":
        raise JobRejected(f"speed is {job.speed!r}: this model is exact only.", field="speed")
    num_frames, height, width = clip_shape(job.tracking_video, job.image)
    multiple = STRIDE * patch
    if height % multiple or width % multiple or not height or not width:
        raise JobRejected(f"The size {width}x{height} must be a multiple of {multiple} both ways.", field="size")
    if not FAMILY.makes_num_frames(num_frames):
        words = f"use {FAMILY.frame_step}·n + 1, as {', '.join(str(count) for count in FAMILY.num_frames[:3])} …"
        raise JobRejected(f"A clip of {num_frames} frames is not possible: {words}", field="num_frames")
    check_texts(job.prompt, job.negative_prompt)
    guidance, steps = job.guidance_scale, job.num_inference_steps
    if not isinstance(guidance, numbers.Real) or not math.isfinite(guidance):
        raise JobRejected(f"guidance_scale is {guidance!r}: use a finite number.", field="guidance_scale")
    if isinstance(steps, bool) or not isinstance(steps, numbers.Integral) or steps < 1:
        raise JobRejected(
            f"num_inference_steps is {steps!r}: use a whole number from 1 on.", field="num_inference_steps"
        )
    carried, holes = _carried(job, num_frames, height, width)
    return Asked(
        job.prompt,
        job.negative_prompt or "",
        carried,
        holes,
        _references(job.references, height, width),
        int(steps),
        float(guidance),
        torch.Generator().manual_seed(job.seed),
    )


def _carried(job: ClipJob, num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    if (job.carried_video is None) != (job.holes is None):
        raise JobRejected("A carried video and its holes come together: give both or none.", field="holes")
    if job.carried_video is None:
        carried = np.repeat(image_to_frame(job.image, width, height), num_frames, axis=0)
        holes = np.ones((num_frames, height, width), bool)
        holes[0] = False
        return carried, holes
    check_like(job.carried_video, job.tracking_video, "carried_video")
    if not isinstance(job.holes, np.ndarray) or job.holes.dtype != bool:
        raise JobRejected("The holes must be a bool array [T,H,W].", field="holes")
    if job.holes.shape != (num_frames, height, width):
        raise JobRejected(
            f"The holes are {list(job.holes.shape)} and the tracking video {list(job.tracking_video.shape)}.",
            field="holes",
        )
    return job.carried_video, job.holes


def _references(references: np.ndarray | None, height: int, width: int) -> np.ndarray | None:
    if references is None:
        return None
    if not isinstance(references, np.ndarray) or references.dtype != np.uint8:
        raise JobRejected("The references must be a uint8 array [K,H,W,3].", field="references")
    if references.ndim != 4 or references.shape[1:] != (height, width, 3) or not len(references):
        raise JobRejected(
            f"The references are {list(references.shape)} instead of [K,{height},{width},3].", field="references"
        )
    return references
