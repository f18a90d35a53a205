# SPDX-License-Identifier: GPL-3.0-or-later
"""SAM 2: the thing in a box or under clicks, by transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError
from das_server.models.estimators import EstimatorSpec

from .base import Asked
from .depth import normalised
from .masks import checked
from .onnx import IMAGENET


def load(spec: EstimatorSpec, folder: Path, device: str) -> Sam2:
    """From a folder in transformers' layout, in float32: places and distances need more than 8 bits.  Raises
    `ModelError`."""
    import torch
    from transformers import Sam2Model

    try:
        model = Sam2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"The SAM 2 model in {folder} cannot be loaded ({reason}); add it again.") from error
    return Sam2(model.eval().to(device))


class Sam2:
    """One mask, the most likely of those that the model proposes."""

    def __init__(self, model):
        self._model = model

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``mask`` bool [H,W]; a lasso counts as the box round it.  Raises `JobRejected` for one that is empty."""
        import torch

        height, width = asked.picture.shape[:2]
        side = self._model.prompt_encoder.input_image_size
        scale = np.array([side / width, side / height])
        pixels = torch.from_numpy(normalised(asked.picture, (side, side), *IMAGENET))[None]
        place = {"device": self._model.device, "dtype": self._model.dtype}
        marks = {}
        box = _box(asked.options)
        if box is not None:
            marks["input_boxes"] = torch.tensor((box.reshape(2, 2) * scale).reshape(1, 1, 4), **place)
        points = [*asked.options.get("points", ()), *asked.options.get("away", ())]
        if points:
            labels = [1] * len(asked.options.get("points", ())) + [0] * len(asked.options.get("away", ()))
            marks["input_points"] = torch.tensor((np.array(points) * scale)[None, None], **place)
            marks["input_labels"] = torch.tensor([[labels]], dtype=torch.int32, device=self._model.device)
        with torch.inference_mode():
            out = self._model(pixel_values=pixels.to(**place), multimask_output=True, **marks)
            best = int(out.iou_scores[0, 0].argmax())
            shares = out.pred_masks[0, 0, best][None, None].float()
            mask = torch.nn.functional.interpolate(shares, (height, width), mode="bilinear", align_corners=False)
        return {"mask": checked((mask[0, 0] > 0.0).cpu().numpy())}


def marks_of(asked: Asked, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(places f32 [P,2], labels i32 [P]) of what was marked, for a network that sees the picture ``side`` × ``side``:
    two corners of a box (2, 3), points of the thing (1) and of what is not of it (0)."""
    height, width = asked.picture.shape[:2]
    box, options = _box(asked.options), asked.options
    corners = [] if box is None else [*box.reshape(2, 2)]
    inside, outside = list(options.get("points", ())), list(options.get("away", ()))
    places = np.array([*corners, *inside, *outside], np.float32) * np.float32([side / width, side / height])
    return places, np.array([2, 3][: len(corners)] + [1] * len(inside) + [0] * len(outside), np.int32)


def _box(options) -> np.ndarray | None:
    """[left, top, right, bottom] px of the box, or of the lasso."""
    if "box" in options:
        x, y, width, height = options["box"]
        return np.array([x, y, x + width, y + height], float)
    if "lasso" in options:
        corners = np.array(options["lasso"], float)
        return np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    return None
