# SPDX-License-Identifier: GPL-3.0-or-later
"""MoGe-2: metric depth and the lens of a picture, by its own package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError
from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .depth import depth_arrays, fov_of_lens, lens_of_fov


def load(spec: EstimatorSpec, folder: Path, device: str) -> Moge:
    """From ``model.pt``, which must hold weights only and no code.  Raises `ModelError`."""
    import torch
    from moge.model.v2 import MoGeModel

    path = folder / "model.pt"
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of pickle and zip, too
        raise ModelError(f"{path} is damaged or holds more than weights; fetch it again.") from error
    try:
        return Moge(spec.name, MoGeModel.from_pretrained(str(path)).to(device).eval(), device)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path} cannot be loaded by MoGe ({str(error).splitlines()[0]}); add it again.") from error


class Moge:
    """Depth of each frame by itself, with the lens that is given or the one that it finds."""

    def __init__(self, name: str, model, device: str):
        self._name, self._model, self._device = name, model, device

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """`depth_arrays` in metres."""
        import torch

        height, width = asked.picture.shape[:2]
        given = asked.options.get("lens_mm")
        about = {"fov_x": fov_of_lens(given, height, width)} if given else {}
        values, lenses = [], []
        for number, picture in enumerate(asked.clip):
            asked.step(number, len(asked.clip))
            pixels = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).to(self._device).float() / 255.0
            with torch.inference_mode():
                out = self._model.infer(pixels, **about)
            depth, there = (out[name].cpu().numpy() for name in ("depth", "mask"))
            values.append(np.where(there, depth, 0.0))
            focal = float(out["intrinsics"].cpu()[0, 0])  # as a share of the width
            lenses.append(given or lens_of_fov(float(np.degrees(2 * np.arctan(0.5 / focal))), height, width))
        return depth_arrays(values, "metric", lenses, self._name)
