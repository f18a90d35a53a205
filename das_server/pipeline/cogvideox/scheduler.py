# SPDX-License-Identifier: GPL-3.0-or-later
"""The sampler's step counts and guidance, around diffusers' `CogVideoXDPMScheduler` (SDE DPM-Solver++ 2M,
v-prediction)."""

from __future__ import annotations

import json
import math
import numbers
from pathlib import Path

from diffusers import CogVideoXDPMScheduler

from das_blender_addon.errors import JobRejected, ModelError

from ...models.registry import EXACT_STEPS, NUM_TRAIN_TIMESTEPS


def check_step_count(num_inference_steps: int, *, exact_steps: bool = True) -> None:
    """Raise `JobRejected` for a count that is no count, or (``exact_steps``) that does not divide the schedule."""
    if isinstance(num_inference_steps, bool) or not isinstance(num_inference_steps, numbers.Integral):
        raise JobRejected(
            f"num_inference_steps is {num_inference_steps!r}: use a whole number.", field="num_inference_steps"
        )
    if not 1 <= num_inference_steps <= NUM_TRAIN_TIMESTEPS:
        raise JobRejected(
            f"num_inference_steps is {num_inference_steps}: use 1 to {NUM_TRAIN_TIMESTEPS}.",
            field="num_inference_steps",
        )
    if exact_steps and num_inference_steps not in EXACT_STEPS:
        below = max(count for count in EXACT_STEPS if count < num_inference_steps)
        above = min(count for count in EXACT_STEPS if count > num_inference_steps)
        raise JobRejected(
            f"num_inference_steps is {num_inference_steps}, which does not divide {NUM_TRAIN_TIMESTEPS} and would "
            "leave noise in "
            f"the frames: use {below} or {above}, or turn exact_steps off.",
            field="num_inference_steps",
        )


def guidance_at(timestep: int, num_inference_steps: int, guidance_scale: float, *, dynamic: bool) -> float:
    """Guidance of one step.

    Dynamic: 1 + s·(1 − cos(π·((N − t)/N)⁵))/2 with t the *raw* timestep (0…999) and N the number of steps.  Since t
    is not the step's index, it jumps between 1 and 1 + s from step to step; the published model is used with exactly
    this.
    """
    if not dynamic:
        return guidance_scale
    phase = ((num_inference_steps - timestep) / num_inference_steps) ** 5.0
    return 1 + guidance_scale * ((1 - math.cos(math.pi * phase)) / 2)


def load_scheduler(folder: Path) -> CogVideoXDPMScheduler:
    """The sampler of a checkpoint's ``scheduler`` folder, with trailing timesteps whatever class the folder names.

    Raises `ModelError` when the folder's config is missing, unreadable or describes another kind of model.
    """
    path = folder / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        scheduler = CogVideoXDPMScheduler.from_config(config, timestep_spacing="trailing")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} is not a sampler's configuration: {error}.") from error
    if scheduler.config.prediction_type != "v_prediction":
        raise ModelError(
            f"{path} says prediction_type {scheduler.config.prediction_type!r}: only 'v_prediction' is known."
        )
    if scheduler.config.num_train_timesteps != NUM_TRAIN_TIMESTEPS:
        raise ModelError(f"{path} says num_train_timesteps {scheduler.config.num_train_timesteps}: only 1000 is known.")
    return scheduler
