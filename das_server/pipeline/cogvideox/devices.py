# SPDX-License-Identifier: GPL-3.0-or-later
"""The denoising passes of one clip on several devices: a row of guidance on each of two, or the tokens split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from das_blender_addon.errors import JobCancelled

from ...models.run_cache import RunCache
from .. import acceleration
from ..group import Group, OutOfStep, shapes_of
from ..row_each import RowEach
from .conditions import Conditions
from .speeds import Speed

ASKED_A_STEP = 6
"""Where tokens are split, all ranks must stop at the same block: so often in a step they ask the first one, and each
time a device waits for its next order."""

A_ROW_EACH, SPLIT = "one on each device", "split over the devices"


def way_for(group: Group, num_rows: int, latents_shape: Sequence[int], config: Any) -> str:
    """How a clip of latents [1,F,C,h,w] is shared out among devices; "" where it cannot be: parts of different lengths
    are for GPUs only."""
    if num_rows == group.size == 2:
        return A_ROW_EACH
    lengths = (config.max_text_seq_length, _num_tokens(latents_shape, config))
    return SPLIT if group.device.type == "cuda" or _is_even(lengths, group.size) else ""


class SharedPasses:
    """One rank's part of a clip.  On rank 0 it is `denoise.Rows` for the loop; the others `follow`.

    ``should_stop``: asked between blocks, whether somebody wants the end of the clip.
    """

    def __init__(
        self,
        pipeline: Any,
        tensors: dict[str, torch.Tensor],
        *,
        way: str,
        speed: Speed,
        should_stop: Callable[[], bool],
    ):
        self._should_stop, self._num_checks = should_stop, 0
        self._row_each = RowEach(pipeline.group, should_stop)
        self._pipeline, self._group, self._tensors, self._way = pipeline, pipeline.group, tensors, way
        # Parts of the tokens would have to agree on what they leave out.
        cache = speed.cache() if way == A_ROW_EACH else None
        self.runs = [RunCache(block_cache=cache, check=self._check_together if way == SPLIT else self._row_each.check)]
        self._last_is_due = False
        if way == SPLIT:
            tokens = _num_tokens(tensors["image"].shape, pipeline.transformer.config)
            evenly = _is_even((tensors["embeds"].shape[1], tokens), self._group.size)
            # Parts are exchanged in the middle of a block, which no program of one device knows.
            pipeline.acceleration = acceleration.set_compilation_aside(pipeline.transformer, pipeline.acceleration)
            self._group.split(pipeline.transformer, evenly=evenly)

    @classmethod
    def lead(
        cls,
        pipeline: Any,
        conditions: Conditions,
        prompt_embeds: torch.Tensor,
        *,
        way: str,
        speed: Speed,
        should_stop: Callable[[], bool],
    ) -> SharedPasses:
        """Rank 0 begins a clip, and with it all others."""
        tensors = {"embeds": prompt_embeds, "image": conditions.image, "tracking": conditions.tracking}
        if conditions.rotary is not None:
            tensors |= {"cos": conditions.rotary[0], "sin": conditions.rotary[1]}
        cache = {"threshold": speed.threshold, "most_in_a_row": speed.most_in_a_row}
        pipeline.group.tell("begin", way=way, cache=cache, shapes=shapes_of(tensors))
        pipeline.group.send(tensors)
        return cls(pipeline, tensors, way=way, speed=speed, should_stop=should_stop)

    @classmethod
    def follow(cls, pipeline: Any, begin: dict[str, Any], should_stop: Callable[[], bool]) -> SharedPasses:
        """Another rank begins as rank 0 has told.  ``should_stop``: whether that has said "stop" since."""
        tensors, speed = pipeline.group.receive(begin["shapes"]), Speed(**begin["cache"])
        return cls(pipeline, tensors, way=begin["way"], speed=speed, should_stop=should_stop)

    def velocity(self, latents: torch.Tensor, timestep: int, num_rows: int) -> torch.Tensor:
        """On rank 0: [num_rows,F,C,h,w] f32 of the last rows, the prompt's own the very last."""
        latents = {"latents": latents}
        step = {"timestep": timestep, "num_rows": num_rows, "is_last": self._last_is_due}
        self._group.tell("step", **step, shapes=shapes_of(latents))
        try:
            self._group.send(latents)
            return self.take_part(latents["latents"], **step)
        except JobCancelled:  # on all ranks
            raise
        except Exception as error:  # the others wait in the middle of something
            raise OutOfStep(f"one clip on several devices: {type(error).__name__}: {error}") from error

    def take_part(self, latents: torch.Tensor, *, timestep: int, num_rows: int, is_last: bool) -> torch.Tensor:
        """Any rank's part of one step → the velocity, whole on rank 0.  Raises `JobCancelled`, with nothing sent that
        another rank waits for."""
        if is_last and self.runs[0].block_cache is not None:
            self.runs[0].block_cache.compute_next()
        embeds = self._tensors["embeds"]
        if self._way == SPLIT:
            return self._pass(latents, timestep, embeds[-num_rows:])
        rank, last = self._group.rank, len(embeds) - 1
        computes = rank == last or num_rows > 1
        compute = partial(self._pass, latents, timestep, embeds[rank : rank + 1]) if computes else None
        mine, positive = self._row_each.exchange(compute, latents.float())
        return positive if num_rows == 1 or rank == last else torch.cat([mine, positive])

    def compute_next(self) -> None:
        """Nothing is left out of the next step."""
        self._last_is_due = True

    def close(self) -> None:
        """The clip is over, on rank 0 for all ranks."""
        if self._group.rank == 0:
            self._group.tell("end")
        if self._way == SPLIT:
            self._group.join(self._pipeline.transformer)
            self._pipeline.acceleration = acceleration.take_compilation_up(self._pipeline.acceleration)

    def _check_together(self) -> None:
        """Between blocks in which all ranks take part."""
        self._num_checks += 1
        every = max(1, self._pipeline.transformer.config.num_layers // ASKED_A_STEP)
        if self._num_checks % every == 0 and self._group.agree(self._group.rank == 0 and self._should_stop()):
            raise JobCancelled("The job was cancelled.")

    def _pass(self, latents: torch.Tensor, timestep: int, embeds: torch.Tensor) -> torch.Tensor:
        pipeline, tensors, run = self._pipeline, self._tensors, self.runs[0]
        if pipeline.profile != "group_offload":
            run.modulation = pipeline.modulation_of(timestep)
        rows = torch.cat([latents, tensors["image"]], dim=2).expand(len(embeds), -1, -1, -1, -1)
        inputs = {
            "hidden_states": rows,
            "encoder_hidden_states": embeds,
            "timestep": timestep,
            "tracking_maps": tensors["tracking"],
            "image_rotary_emb": (tensors["cos"], tensors["sin"]) if "cos" in tensors else None,
            "run": run,
        }
        if self._way == SPLIT:  # one that tries again would have the others wait
            return pipeline.transformer(**inputs, return_dict=False)[0].float()
        return acceleration.predict(pipeline, **inputs).float()


def _is_even(lengths: Sequence[int], size: int) -> bool:
    return not any(length % size for length in lengths)


def _num_tokens(latents_shape: Sequence[int], config: Any) -> int:
    _, num_frames, _, height, width = latents_shape
    return num_frames * (height // config.patch_size) * (width // config.patch_size)
