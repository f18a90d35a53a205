# SPDX-License-Identifier: GPL-3.0-or-later
"""A control task that really runs out of memory with some memory profiles: those that its prompt lists.

``options["once"]``: a file that is there once it has, which is then enough.  ``options["words"]``: what a GPU's library
would say of it, in place of the error of this machine's own memory.
"""

from pathlib import Path

import numpy as np
import torch

from das_server.tasks.base import TaskContext, TaskResult
from tests.support.models import gradient_clip

MORE_THAN_ANY_MACHINE_HAS = 1 << 60


def run(spec, inputs, context: TaskContext) -> TaskResult:
    """Two frames of a small clip, or PyTorch's own error of a memory that does not suffice."""
    pipeline = context.pipeline(spec.model)
    context.emit_progress("encoding", 0, 1)
    context.checkpoint()
    once = Path(spec.options["once"]) if "once" in spec.options else None
    if pipeline.profile in spec.prompt.split() and not (once and once.exists()):
        if once:
            once.touch()
        if "words" in spec.options:
            raise RuntimeError(spec.options["words"])
        torch.empty(MORE_THAN_ANY_MACHINE_HAS, dtype=torch.uint8)
    video, picture = gradient_clip(9, 24, 16)
    draw = torch.Generator().manual_seed(spec.seed)
    result = pipeline("", video, picture, num_inference_steps=1, guidance_scale=1.0, generator=draw)
    return TaskResult(np.ascontiguousarray(result.frames[:2]), {"pipeline": result.settings})
