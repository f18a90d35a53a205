# SPDX-License-Identifier: GPL-3.0-or-later
"""The adaptive-norm values of the timesteps of a schedule, computed once and kept for later clips, within a bound."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ...models.run_cache import StepModulation
from ...models.transformer import DasTransformer3DModel

MAX_KEPT_TIMESTEPS = 64
"""Tables that a pipeline keeps: those of the published 50 steps, and of a few more.  The full model's take 4.2 MiB each
in bfloat16, those of all 1000 timesteps would take 4.1 GiB."""


class ModulationTables:
    """Tables of at most `MAX_KEPT_TIMESTEPS` timesteps; the one that nobody asked for longest goes first."""

    def __init__(self) -> None:
        self._kept: dict[int, StepModulation] = {}

    def of(self, transformer: DasTransformer3DModel, timestep: int, dtype: torch.dtype) -> dict[int, StepModulation]:
        """What `RunCache.modulation` holds for one step."""
        table = self._kept.pop(timestep, None)
        if table is None:
            table = transformer.modulation_tables([timestep], dtype, transformer.device)[timestep]
        while len(self._kept) >= MAX_KEPT_TIMESTEPS:
            del self._kept[next(iter(self._kept))]
        self._kept[timestep] = table
        return {timestep: table}

    def clear(self) -> None:
        """Let all of them go."""
        self._kept.clear()


def table_bytes(transformer: Mapping, dtype: torch.dtype) -> int:
    """What the tables take at most, by a transformer's configuration: shift, scale and gate of two stages per block,
    for video and text, and the last norm's."""
    channels = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    num_blocks = transformer["num_layers"] + transformer.get("num_tracking_blocks", 0)
    return MAX_KEPT_TIMESTEPS * (12 * num_blocks + 2) * channels * dtype.itemsize
