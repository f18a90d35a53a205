# SPDX-License-Identifier: GPL-3.0-or-later
"""Any depth or saliency network in one ONNX file, with a side-car that says how it is fed and what its answer means.

`estimator.json` beside the file: ``kind`` ("depth" or "salient"), ``runtime`` "onnx", ``licence``, ``file``;
``input_size`` [width, height] for a fixed one, or ``shorter_side`` and ``multiple`` (14); ``mean``, ``std`` (three
numbers each, of 0…1); ``output``: its name, the first without one; of depth, ``meaning``: "metric", "relative" or
"inverse".  Input f32 [1,3,h,w]; output [1,h,w] or [1,1,h,w].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from das_blender_addon.errors import ModelError
from das_server.models.estimators import ABOUT_NAME, EstimatorSpec, read_about, weights_in_wheel

from .base import Asked
from .depth import MEANINGS, depth_arrays, network_size, normalised, resized
from .masks import checked, refined

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
IN_WHEELS = {"u2netp": {"file": "u2netp.onnx", "input_size": [320, 320]}}
"""What the side-cars of files in packages would say."""


def load(spec: EstimatorSpec, folder: Path, device: str) -> OnnxDepth | OnnxSalient:
    """``spec`` by onnxruntime, on a GPU where it is built for one.  Raises `ModelError`."""
    import onnxruntime

    wheel = weights_in_wheel(spec)
    about = IN_WHEELS[spec.name] if wheel is not None else read_about(folder / ABOUT_NAME)
    problem = problem_of(about, spec.kind)
    if problem:
        raise ModelError(f"{folder / ABOUT_NAME} {problem}.")
    path = wheel or folder / about["file"]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    providers = [one for one in (*wanted, "CPUExecutionProvider") if one in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # of classes that onnxruntime does not export
        raise ModelError(f"{path} cannot be loaded by onnxruntime: {str(error).splitlines()[0]}.") from error
    return (OnnxDepth if spec.kind == "depth" else OnnxSalient)(spec.name, session, about)


def problem_of(about: dict[str, Any], kind: str) -> str:
    """What is wrong with a side-car, in words after its name; "" for nothing."""
    file, size = about.get("file"), about.get("input_size")
    if not isinstance(file, str) or not file.endswith(".onnx") or Path(file).name != file:
        return 'names no "file" that ends with .onnx and lies beside it'
    numbers = [about.get(name, [0.5] * 3) for name in ("mean", "std")]
    if not all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(n, int | float) for n in row) for row in numbers
    ):
        return 'says a "mean" or "std" that is not three numbers'
    if any(n == 0 for n in numbers[1]):
        return 'says a "std" with a 0'
    sides = size if size is not None else [about.get("shorter_side", 518), about.get("multiple", 14)]
    if not (isinstance(sides, list) and len(sides) == 2 and all(isinstance(n, int) and 1 <= n <= 8192 for n in sides)):
        return 'says no usable "input_size" [width, height], or "shorter_side" and "multiple"'
    if kind == "depth" and about.get("meaning") not in MEANINGS:
        return f'says no "meaning" of its depth; write {", ".join(MEANINGS)}'
    return ""


class _Network:
    def __init__(self, name: str, session: Any, about: dict[str, Any]):
        self._name, self._session, self._about = name, session, about
        self._mean, self._std = about.get("mean", IMAGENET[0]), about.get("std", IMAGENET[1])

    def _answer(self, picture: np.ndarray) -> np.ndarray:
        """f32 [H,W] of one picture u8 [H,W,3].  Raises `ModelError`."""
        height, width = picture.shape[:2]
        if "input_size" in self._about:
            size = tuple(self._about["input_size"][::-1])
        else:
            shorter, multiple = self._about.get("shorter_side", 518), self._about.get("multiple", 14)
            size = network_size(height, width, shorter=shorter, multiple=multiple)
        values = normalised(picture, size, self._mean, self._std)[None]
        outputs = [self._about["output"]] if self._about.get("output") else None
        try:
            answer = self._session.run(outputs, {self._session.get_inputs()[0].name: values})[0]
        except Exception as error:  # as above
            reason = str(error).splitlines()[0]
            raise ModelError(f"The network {self._name} does not run: {reason}; see its {ABOUT_NAME}.") from error
        answer = np.asarray(answer, np.float32)
        if answer.ndim < 2 or answer.size != answer.shape[-1] * answer.shape[-2]:
            raise ModelError(f"The network {self._name} gives {list(answer.shape)}, not one value for each pixel.")
        return resized(answer.reshape(answer.shape[-2:]), (height, width))


class OnnxDepth(_Network):
    """Depth of each frame by itself."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """`depth_arrays`; the lens is not known (0)."""
        values = []
        for number, picture in enumerate(asked.clip):
            asked.step(number, len(asked.clip))
            values.append(self._answer(picture))
        return depth_arrays(values, self._about["meaning"], [0.0] * len(values), self._name)


class OnnxSalient(_Network):
    """What stands out, its border followed by GrabCut."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """``mask`` bool [H,W].  Raises `JobRejected` where nothing stands out."""
        share = self._answer(asked.picture)
        low, high = float(share.min()), float(share.max())
        share = (share - low) / max(high - low, 1e-6)
        return {"mask": checked(refined(asked.picture, share))}
