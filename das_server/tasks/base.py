# SPDX-License-Identifier: GPL-3.0-or-later
"""What every control task shares: inputs, surroundings, result, and the table of tasks.  Never imports torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from das_blender_addon.errors import JobRejected
from das_blender_addon.protocol.frames import decode_array
from das_blender_addon.protocol.messages import JobInput

if TYPE_CHECKING:
    from das_server.estimators.base import Estimator
    from das_server.pipeline.base import Pipeline
    from das_server.pipeline.resume import Checkpoint

TASK_MODULES = {
    "mesh_to_video": "das_server.tasks.mesh_to_video",
    "estimate": "das_server.tasks.estimate",
    "repaint": "das_server.tasks.repaint",
}
"""Task name → module."""


@dataclass(frozen=True)
class LoadedInput:
    """One input with its bytes at hand."""

    about: JobInput
    content: bytes

    def array(self) -> np.ndarray:
        """The decoded array; raises `ProtocolError` if the bytes do not hold what the message says."""
        return decode_array(self.content, self.about.dtype, tuple(self.about.shape), self.about.codec)


@dataclass(frozen=True)
class TaskContext:
    """What a task may ask of the worker that runs it.

    ``emit_progress(stage, step, of)``; ``emit_preview(step, frames)`` with u8 ``[T,H,W,3]``; ``should_stop()``;
    ``pipeline(model)``, ``estimator(name)``: loaded once per worker; ``scratch``: a folder that is emptied after the
    job; ``checkpoint()``: where an attempt that was lost goes on, for the pipeline's call.
    """

    emit_progress: Callable[[str, int, int], None]
    emit_preview: Callable[[int, np.ndarray], None]
    should_stop: Callable[[], bool]
    pipeline: Callable[[str], Pipeline]
    scratch: Path
    checkpoint: Callable[[], Checkpoint | None] = lambda: None
    estimator: Callable[[str], Estimator] | None = None


@dataclass(frozen=True)
class TaskResult:
    """``frames``: u8 ``[T,H,W,3]``, those the client wants, or ``arrays`` by name, of the wire's types.  ``report``:
    what decided them, in msgpack's own kinds."""

    frames: np.ndarray | None = None
    report: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def task_module(name: str) -> ModuleType:
    """The module of a task; raises `JobRejected` naming the tasks there are."""
    if name not in TASK_MODULES:
        raise JobRejected(
            f"The task {name[:80]!r} does not exist; this server knows {', '.join(TASK_MODULES)}.", field="task"
        )
    return importlib.import_module(TASK_MODULES[name])
