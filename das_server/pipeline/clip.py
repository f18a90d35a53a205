# SPDX-License-Identifier: GPL-3.0-or-later
"""One clip, made by a model of whatever family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .base import ClipJob, Pipeline, Result, Watch
from .randomness import deterministic_kernels


@torch.no_grad()
def make_clip(pipeline: Pipeline, job: ClipJob, watch: Watch | None = None) -> Result:
    """The same job gives the same bytes on the same device.

    Raises `JobRejected` and `OutOfMemory` for a request that cannot be run, before any work, and `JobCancelled` when
    stopped; nothing is decoded then.
    """
    watch = watch or Watch()
    asked = pipeline.accept(job)
    with deterministic_kernels(), interruptible(pipeline.vae, watch.check):
        conditions = pipeline.encode(asked, watch)
        latents = pipeline.denoise(asked, conditions, watch)
        return pipeline.decode(asked, conditions, latents, watch)


@contextmanager
def interruptible(vae: torch.nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside, ``check`` is called before every part that the VAE encodes or decodes, some frames of a tile: what it
    raises ends the work."""
    hooks = [part.register_forward_pre_hook(lambda module, args: check()) for part in (vae.encoder, vae.decoder)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
