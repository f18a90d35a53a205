# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimator that a worker keeps loaded, beside its model where the device has room for both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from das_blender_addon.errors import ModelError, OutOfMemory
from das_server.estimators.base import Estimator, load_estimator
from das_server.models.estimators import EstimatorSpec, estimator_folder, estimator_spec, missing, size_bytes
from das_server.models.installing import weight_files_of
from das_server.models.revision import fingerprint
from das_server.models.verified import verify_unless_known
from das_server.workers.machine import free_memory

_log = logging.getLogger(__name__)

WORKING_SHARE = 1.5
"""Memory that an estimator takes while it works, as a multiple of its files."""


class EstimatorShelf:
    """``make_room``: lets the worker's model go, when an estimator needs its memory.  ``free``: bytes that a device has
    to give."""

    def __init__(self, make_room: Callable[[], None], *, free: Callable[[str], int] | None = None):
        self._make_room = make_room
        self._free = free or _free
        self._name, self._weights = "", ""
        self._estimator: Estimator | None = None

    @property
    def name(self) -> str:
        """What is loaded, "" for nothing."""
        return self._name

    def clear(self) -> None:
        """Forget what is loaded."""
        self._name, self._weights, self._estimator = "", "", None

    def let_go(self) -> bool:
        """Forget what is loaded; whether anything was, whose memory is free now."""
        held = self._estimator is not None
        self.clear()
        return held

    def take(self, name: str, weights: str, device: str, *, is_alone: bool) -> Estimator:
        """The estimator, loaded with its weights as they are now; ``weights``: the fingerprint that the job means, ""
        for any.  ``is_alone``: no model is loaded beside it.  Raises `ModelError`, `OutOfMemory`.
        """
        spec = estimator_spec(name)
        remedy = missing(spec)
        if remedy:
            raise ModelError(remedy, field="model")
        folder = estimator_folder(name)
        found = fingerprint(folder)
        if weights and weights != found:
            raise ModelError(
                f"The weights of {name} were replaced when this job was about to start; ask again.", field="model"
            )
        if self._estimator is None or (self._name, self._weights) != (name, found):
            self.clear()
            free_memory()
            self._see_to_room(name, int(WORKING_SHARE * _needed(spec, folder)), device, is_alone)
            if spec.has_weights:
                verify_unless_known(folder, files=weight_files_of(folder))
            self._estimator = load_estimator(spec, folder, device)
            self._name, self._weights = name, found
            _log.info("the estimator %s is loaded on %s", name, device)
        return self._estimator

    def _see_to_room(self, name: str, needed: int, device: str, is_alone: bool) -> None:
        if not needed or self._free(device) >= needed:
            return
        if not is_alone:
            self._make_room()
        free = self._free(device)
        if free < needed:
            raise OutOfMemory(
                f"The estimator {name} needs {needed >> 20} MB and {device} has {free >> 20} MB to give; use a smaller "
                "one.",
                field="model",
            )


def _needed(spec: EstimatorSpec, folder: Path) -> int:
    """Bytes of the weights that are on the device at once, where it has no room for more."""
    parts: dict[str, int] = {}
    if spec.kind == "repaint":
        for path in folder.glob("*/*.safetensors"):
            parts[path.parent.name] = parts.get(path.parent.name, 0) + path.stat().st_size
    return max(parts.values(), default=size_bytes(spec))


def _free(device: str) -> int:
    import torch

    from das_server.pipeline import memory

    return memory.free_memory(torch.device(device))
