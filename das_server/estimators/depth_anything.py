# SPDX-License-Identifier: GPL-3.0-or-later
"""Depth Anything V2, relative or metric, and what else transformers has for depth, by its own classes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError
from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .depth import depth_arrays, lens_of_fov, network_size, normalised, resized
from .onnx import IMAGENET

SHORTER, MULTIPLE = 518, 14


def load(spec: EstimatorSpec, folder: Path, device: str) -> DepthAnything:
    """From a folder in transformers' layout, in float32: places and distances need more than 8 bits.  Raises
    `ModelError`."""
    import torch
    from transformers import AutoModelForDepthEstimation

    try:
        model = AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        said = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The depth model in {folder} cannot be loaded ({reason}); add it again.") from error
    return DepthAnything(spec.name, model.eval().to(device), said)


class DepthAnything:
    """Depth of each frame by itself.  ``said``: the preprocessor's configuration."""

    def __init__(self, name: str, model, said: dict):
        self._name, self._model = name, model
        size = said.get("size", {})
        self._shorter = int(min(size.get("height", SHORTER), size.get("width", SHORTER)))
        self._multiple = int(said.get("ensure_multiple_of", MULTIPLE))
        self._mean, self._std = said.get("image_mean", IMAGENET[0]), said.get("image_std", IMAGENET[1])
        self._is_metric = getattr(model.config, "depth_estimation_type", "relative") == "metric"

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """`depth_arrays`: metres, or 1 / distance without a scale; the lens where the model tells it."""
        import torch

        values, lenses = [], []
        height, width = asked.picture.shape[:2]
        size = network_size(height, width, shorter=self._shorter, multiple=self._multiple)
        for number, picture in enumerate(asked.clip):
            asked.step(number, len(asked.clip))
            pixels = torch.from_numpy(normalised(picture, size, self._mean, self._std))[None]
            with torch.inference_mode():
                out = self._model(pixel_values=pixels.to(self._model.device, self._model.dtype))
            values.append(resized(out.predicted_depth[0].float().cpu().numpy(), (height, width)))
            fov = getattr(out, "field_of_view", None)
            lenses.append(0.0 if fov is None else lens_of_fov(float(fov.flatten()[0]), height, width))
        return depth_arrays(values, "metric" if self._is_metric else "inverse", lenses, self._name)
