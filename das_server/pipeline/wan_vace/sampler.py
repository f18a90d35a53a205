# SPDX-License-Identifier: GPL-3.0-or-later
"""The sampler: diffusers' `UniPCMultistepScheduler` for flow matching, and its history in one tensor, so that a clip
can go on where it was broken off.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler

from das_blender_addon.errors import ModelError

SHIFTS = ((832 * 480, 3.0), (1280 * 720, 5.0))
"""Pixels of a frame → the published shift of the noise schedule for clips of about that size."""


def load_config(folder: Path) -> dict:
    """The configuration in a checkpoint's ``scheduler`` folder, whatever class it names.  Raises `ModelError`."""
    path = folder / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.get("prediction_type", "flow_prediction") != "flow_prediction":
            raise ModelError(
                f"{path} says prediction_type {config['prediction_type']!r}: only 'flow_prediction' is known."
            )
        scheduler_for(config, 1)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is not a sampler's configuration: {error}.") from error
    return config


def shift_for(pixels: int) -> float:
    """The shift for frames of so many pixels: that of the nearest published size, by ratio."""
    return min(SHIFTS, key=lambda pair: abs(math.log(max(pixels, 1) / pair[0])))[1]


def scheduler_for(config: dict, pixels: int) -> UniPCMultistepScheduler:
    """A sampler of a checkpoint's configuration for frames of so many pixels."""
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift_for(pixels)}
    return UniPCMultistepScheduler.from_config(config, **flow)


def history_of(scheduler: UniPCMultistepScheduler) -> torch.Tensor:
    """What the next step reads of those before: [order+1,…] f32, the last predictions, 0 where there is none yet, and
    the last sample."""
    last = scheduler.last_sample
    outputs = [torch.zeros_like(last) if one is None else one for one in scheduler.model_outputs]
    return torch.stack([*outputs, last])


def take_up(scheduler: UniPCMultistepScheduler, done: int, history: torch.Tensor) -> None:
    """Let a sampler whose timesteps are set go on after ``done`` steps, at least one, with their `history_of`."""
    order, last = scheduler.config.solver_order, done - 1
    known = range(order - min(done, order), order)
    scheduler.model_outputs = [history[place] if place in known else None for place in range(order)]
    scheduler.timestep_list = [
        scheduler.timesteps[done - order + place] if place in known else None for place in range(order)
    ]
    scheduler.last_sample = history[-1]
    scheduler.lower_order_nums = min(done, order)
    most = min(order, len(scheduler.timesteps) - last) if scheduler.config.lower_order_final else order
    scheduler.this_order = min(most, min(last, order) + 1)
    scheduler._step_index = done
