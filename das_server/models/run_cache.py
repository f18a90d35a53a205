# SPDX-License-Identifier: GPL-3.0-or-later
"""What the transformer computes once per run instead of once per step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from .block import Modulation
from .block_cache import BlockCache


@dataclass(frozen=True)
class StepModulation:
    """All adaptive-norm values of one timestep: per main block, per copy, and of the last norm ([1, 2·C])."""

    blocks: tuple[Modulation, ...]
    copies: tuple[Modulation, ...]
    last: torch.Tensor


def _nothing() -> None:
    """The check of a run that nobody stops."""


@dataclass
class RunCache:
    """What stays the same over the steps of one run: make one per run and hand it to every `forward` of that run.

    ``tracking_tokens`` [B,N,C] is filled by the first step.  ``modulation`` holds, per timestep, the modulation of
    every main block, every copy and the last norm (`DasTransformer3DModel.modulation_tables`), or nothing.  ``check``
    is called before every main block: what it raises ends the pass.  ``block_cache``: lets blocks be left out.
    """

    tracking_tokens: torch.Tensor | None = None
    modulation: dict[int, StepModulation] = field(default_factory=dict)
    check: Callable[[], None] = _nothing
    block_cache: BlockCache | None = None
