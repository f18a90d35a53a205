# SPDX-License-Identifier: GPL-3.0-or-later
"""What every estimator is, and how one is loaded.  OpenCV, onnxruntime and torch are imported where they run."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from das_blender_addon.errors import JobCancelled, ModelError
from das_server.models.estimators import EstimatorSpec


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    ``clip`` u8 [T,H,W,3], sRGB-coded; a picture has T = 1.  ``options``: checked by `tasks.estimate`.  ``arrays``: by
    role.  ``step(done, of)`` is called now and then and raises `JobCancelled`.
    """

    clip: np.ndarray
    options: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    prompt: str = ""
    seed: int = 0
    step: Callable[[int, int], None] = lambda done, of: None

    @property
    def picture(self) -> np.ndarray:
        """u8 [H,W,3]: the first frame."""
        return self.clip[0]


class Estimator(Protocol):
    """Loaded and ready.  Raises the errors of `das_blender_addon.errors` for what it cannot measure."""

    def __call__(self, asked: Asked) -> dict[str, np.ndarray]:
        """The arrays of its kind, by `models.estimators.GIVES`."""
        ...


def load_estimator(spec: EstimatorSpec, folder: Path, device: str) -> Estimator:
    """``spec`` with its weights from ``folder``, computing on ``device`` where it has any.  Raises `ModelError`."""
    module = importlib.import_module(f"das_server.estimators.{spec.runtime}")
    try:
        return module.load(spec, folder, device)
    except ImportError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"{spec.name} cannot be loaded, something it imports is not usable ({reason}); install das-server again.",
            field="model",
        ) from error


def stepper(should_stop: Callable[[], bool], tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """`Asked.step` of a job."""

    def step(done: int, of: int) -> None:
        if should_stop():
            raise JobCancelled("The job was cancelled.")
        tell(done, of)

    return step
