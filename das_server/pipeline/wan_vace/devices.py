# SPDX-License-Identifier: GPL-3.0-or-later
"""The denoising passes of one guided clip on two devices: the prompt's row on one, the negative one on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from das_blender_addon.errors import JobCancelled

from ..acceleration import predict
from ..group import OutOfStep, shapes_of
from ..row_each import RowEach

A_ROW_EACH = "one on each device"


class SharedRows:
    """One rank's part of a clip: rank 0 leads, the other one follows."""

    def __init__(self, pipeline: Any, tensors: dict[str, torch.Tensor], should_stop: Callable[[], bool]):
        self._pipeline, self._tensors = pipeline, tensors
        self._rows = RowEach(pipeline.group, should_stop)

    @classmethod
    def lead(
        cls, pipeline: Any, embeds: Sequence[torch.Tensor], control: torch.Tensor, should_stop: Callable[[], bool]
    ) -> SharedRows:
        """Rank 0 begins a clip, and with it the other.  ``embeds``: [1,L,D] of both rows."""
        tensors = {"embeds": torch.cat(list(embeds)), "control": control}
        pipeline.group.tell("begin", shapes=shapes_of(tensors))
        pipeline.group.send(tensors)
        return cls(pipeline, tensors, should_stop)

    @classmethod
    def follow(cls, pipeline: Any, begin: dict[str, Any], should_stop: Callable[[], bool]) -> SharedRows:
        """The other rank begins as rank 0 has told."""
        return cls(pipeline, pipeline.group.receive(begin["shapes"]), should_stop)

    def velocities(self, latents: torch.Tensor, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """On rank 0: both rows, each [1,C,K+F,h,w].  ``latents``: of that shape, in the working dtype."""
        told = {"latents": latents}
        self._pipeline.group.tell("step", timestep=timestep, shapes=shapes_of(told))
        try:
            self._pipeline.group.send(told)
            return self.take_part(latents, timestep=timestep)
        except JobCancelled:  # on both
            raise
        except Exception as error:  # the other one waits in the middle of something
            raise OutOfStep(f"one clip on several devices: {type(error).__name__}: {error}") from error

    def take_part(self, latents: torch.Tensor, *, timestep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Either rank's part of one step.  Raises `JobCancelled`."""
        mine, theirs = self._rows.exchange(lambda: self._pass(latents, timestep), latents)
        return mine, theirs

    def close(self) -> None:
        """The clip is over, on rank 0 for both."""
        if self._pipeline.group.rank == 0:
            self._pipeline.group.tell("end")

    def _pass(self, latents: torch.Tensor, timestep: int) -> torch.Tensor:
        rank = self._pipeline.group.rank
        with self._pipeline.transformer.watched(self._rows.check):
            return predict(
                self._pipeline,
                hidden_states=latents,
                timestep=torch.tensor([timestep], device=latents.device),
                encoder_hidden_states=self._tensors["embeds"][rank : rank + 1],
                control_hidden_states=self._tensors["control"],
            )
