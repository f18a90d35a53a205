# SPDX-License-Identifier: GPL-3.0-or-later
"""One forward pass of a clip of the model's own size, so that compiled blocks are ready before the first job."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from das_blender_addon.errors import OutOfMemory

from .device_errors import is_out_of_memory
from .needs import Clip, FamilyNeeds
from .randomness import deterministic_kernels

log = logging.getLogger(__name__)


@torch.no_grad()
def warm_up(pipeline: Any, needs: FamilyNeeds, clip: Clip, compute: Callable[[], Any]) -> bool:
    """Run ``compute``, a forward pass of ``clip``, where the pipeline's blocks are to be compiled at all → whether
    there was room for it; where there is none, the first job has the wait."""
    if not pipeline.acceleration.compiled:
        return True
    started = time.monotonic()
    try:
        needs.check_room(pipeline, clip)
        with deterministic_kernels():
            compute()
    except Exception as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        log.warning("blocks are compiled in the first job, for there is no room now: %s", error)
        return False
    seconds = time.monotonic() - started
    log.info("the blocks are compiled for clips of %sx%s after %.1f s", clip.width, clip.height, seconds)
    return True
