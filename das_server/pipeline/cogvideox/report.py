# SPDX-License-Identifier: GPL-3.0-or-later
"""What decided a clip, for its report: what was asked for, and what of the loaded model and the machine counted."""

from __future__ import annotations

from typing import Any

import torch


def used_settings(
    pipeline: Any,
    size: tuple[int, int, int],
    generators: tuple[torch.Generator, torch.Generator],
    **asked: Any,
) -> dict[str, Any]:
    """``pipeline``: the `DasPipeline` that made the clip.  ``size``: frames, width, height.  ``generators``: the clip's
    and the tracking video's.  ``asked``: the rest.
    """
    num_frames, width, height = size
    generator, tracking_generator = generators
    return {
        "num_frames": num_frames,
        "width": width,
        "height": height,
        "seed": generator.initial_seed(),
        "tracking_seed": tracking_generator.initial_seed(),
        **asked,
        "carries_first_frame": pipeline.carries_first_frame,
        "paints_holes": pipeline.paints_holes,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "device": str(pipeline.device),
        "profile": pipeline.profile,
        "attention_backend": pipeline.acceleration.attention_backend,
        "compiled": pipeline.acceleration.compiled,
        "float8": pipeline.float8,
        "loras": pipeline.adapters.used,
    }
