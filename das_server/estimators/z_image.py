# SPDX-License-Identifier: GPL-3.0-or-later
"""Z-Image with a control network, by diffusers' own pipeline: a picture painted anew by words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

from das_blender_addon.errors import ModelError, OutOfMemory
from das_server.models.estimators import EstimatorSpec
from das_server.pipeline import memory

from .base import Asked

STEPS = 9
"""Those of the distilled model."""
ROOM = 1.25
"""Memory that a part takes while it works, as a multiple of its weights."""


def load(spec: EstimatorSpec, folder: Path, device: str) -> ZImage:
    """From a folder in diffusers' layout with ``controlnet`` beside the other parts; on a device without room for all
    of them, each comes there when it runs.  Raises `ModelError`, `OutOfMemory`."""
    import torch

    _find_transformers()
    from diffusers.models.controlnets.controlnet_z_image import ZImageControlNetModel
    from diffusers.pipelines.z_image.pipeline_z_image_controlnet import ZImageControlNetPipeline

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    about = {"dtype": dtype, "local_files_only": True, "use_safetensors": True}
    parts = parts_bytes(folder, dtype.itemsize)
    free = memory.free_memory(torch.device(device))
    is_whole = ROOM * sum(parts) <= free
    at_once = sum(parts) if device == "cpu" else max(parts)
    if ROOM * at_once > free:
        raise OutOfMemory(
            f"{spec.name} needs {memory.in_gib(int(ROOM * at_once))} and {device} has {memory.in_gib(free)} to give; "
            "use a machine with more.",
            field="model",
        )
    try:
        control = ZImageControlNetModel.from_pretrained(folder / "controlnet", **about)
        pipeline = ZImageControlNetPipeline.from_pretrained(folder, controlnet=control, **about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"The model in {folder} cannot be loaded ({reason}); add it again.") from error
    pipeline.set_progress_bar_config(disable=True)
    if is_whole:
        pipeline.to(device)
    else:
        pipeline.enable_model_cpu_offload(device=device)
    return ZImage(pipeline)


def _find_transformers() -> None:
    """Have diffusers find transformers, where a worker has begun without it (`models.lean`)."""
    from diffusers.utils import import_utils

    if not import_utils._transformers_available:
        found = import_utils._is_package_available("transformers")
        import_utils._transformers_available, import_utils._transformers_version = found
        sys.modules.pop("diffusers.loaders", None)  # its list of classes was made without
        importlib.import_module("diffusers.loaders")


def parts_bytes(folder: Path, itemsize: int) -> list[int]:
    """Bytes of each part's weights as they are computed in; the published ones are stored in 2 bytes each."""
    sizes: dict[str, int] = {}
    for path in folder.glob("*/*.safetensors"):
        sizes[path.parent.name] = sizes.get(path.parent.name, 0) + path.stat().st_size
    return [size * itemsize // 2 for size in sizes.values()] or [0]


class ZImage:
    """A pipeline that is ready to paint."""

    def __init__(self, pipeline):
        self._pipeline = pipeline
        self._multiple = 2 * pipeline.vae_scale_factor

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``picture`` u8 [H,W,3]: one of the picture's own size, whatever that is."""
        import torch
        from PIL import Image

        height, width = asked.picture.shape[:2]
        control = control_picture(asked.picture, asked.arrays.get("depth"))
        control = np.pad(control, ((0, -height % self._multiple), (0, -width % self._multiple), (0, 0)), mode="edge")
        steps = asked.options["steps"] or STEPS

        def on_step(pipeline, index: int, timestep, tensors: dict) -> dict:
            asked.step(index + 1, steps)
            return tensors

        made = self._pipeline(
            asked.prompt,
            height=control.shape[0],
            width=control.shape[1],
            num_inference_steps=steps,
            guidance_scale=asked.options["guidance_scale"],
            negative_prompt=asked.options["negative_prompt"] or None,
            control_image=Image.fromarray(control),
            controlnet_conditioning_scale=asked.options["strength"],
            generator=torch.Generator().manual_seed(asked.seed),
            callback_on_step_end=on_step,
            output_type="np",
        ).images[0]
        picture = np.rint(np.clip(np.nan_to_num(made), 0.0, 1.0) * 255.0).astype(np.uint8)
        return {"picture": np.ascontiguousarray(picture[:height, :width])}


def control_picture(picture: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """u8 [H,W,3]: 1 / ``depth`` f32 [H,W] in grey (near is bright, what has none is black), or the picture's edges."""
    import cv2

    if depth is None:
        grey = cv2.GaussianBlur(cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY), (0, 0), 1.2)
        middle = float(np.median(grey))
        edges = cv2.Canny(grey, 0.66 * middle, max(1.33 * middle, 1.0))
        return np.repeat(edges[..., None], 3, axis=2)
    there = np.isfinite(depth) & (depth > 0)
    near = np.where(there, 1.0 / np.where(there, depth, 1.0), 0.0)
    low, high = np.percentile(near[there], (1, 99))
    share = np.clip((near - low) / max(high - low, 1e-9), 0.0, 1.0) * there
    return np.repeat(np.rint(25 * there + 230 * share).astype(np.uint8)[..., None], 3, axis=2)
