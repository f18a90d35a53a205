# SPDX-License-Identifier: GPL-3.0-or-later
"""A model's name → a pipeline ready to run: found, verified, loaded, laid out in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from das_blender_addon.errors import ModelError

from ..models.registry import is_installed, model_path, model_spec
from .base import Pipeline
from .families import pipeline_family


def load_pipeline(
    model: str,
    *,
    device: str | torch.device = "auto",
    profile: str = "auto",
    models_folder: Path | None = None,
    attention_backend: str = "auto",
    compile_blocks: bool = False,
    float8: bool = False,
    kernel_notes: Path | None = None,
) -> Pipeline:
    """Load an installed model by name; ``profile``: see `memory`; ``attention_backend``, ``compile_blocks``,
    ``kernel_notes``: see `acceleration`; ``float8``: see `precision`.

    Raises `ModelError` when it is unknown, not installed or damaged, or float8 cannot be used,
    `OutOfMemory` when it cannot fit, before anything is loaded.
    """
    spec, folder = model_spec(model, models_folder), model_path(model, models_folder)
    if not is_installed(folder):
        remedy = f"das-server models pull {model} gets them" if spec.repository else "add it again"
        remedy = "install this software again" if spec.embedded else remedy
        raise ModelError(f"The weights of {model} are not installed ({folder} is missing or not whole): {remedy}.")
    return pipeline_family(spec.family).load(
        folder,
        device=device,
        profile=profile,
        vae_tiling="auto" if spec.vae_tiling else False,
        embedded=spec.embedded is not None,
        attention_backend=attention_backend,
        compile_blocks=compile_blocks,
        float8=float8,
        kernel_notes=kernel_notes,
    )
