# SPDX-License-Identifier: GPL-3.0-or-later
"""The denoising loop: velocity, guidance, one step of the sampler, again."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import torch

from ...models.transformer import RunCache
from .. import acceleration
from ..base import Watch
from .conditions import Conditions
from .devices import A_ROW_EACH, SPLIT, SharedPasses
from .request import Asked, step_caller
from .scheduler import guidance_at
from .speeds import Speed, speed_named

TOGETHER, IN_TURN = "together", "in turn"
"""Both rows of guidance in one batch: every weight is read once, and where blocks come one by one they come once.  Or
one row after the other, which needs half of the memory to work in; equal but for the order of additions in a kernel."""


class Rows:
    """The velocity of the rows of guidance, in one way or the other, by the transformer of a `DasPipeline`."""

    def __init__(
        self,
        pipeline: Any,
        conditions: Conditions,
        prompt_embeds: torch.Tensor,
        *,
        way: str,
        speed: Speed,
        watch: Watch,
    ):
        self._pipeline, self._conditions, self._embeds, self._way = pipeline, conditions, prompt_embeds, way
        count = len(prompt_embeds) if way == IN_TURN else 1
        self.runs = [RunCache(check=watch.check, block_cache=speed.cache()) for _ in range(count)]
        """What stays over the steps, of each row, or of all of them together."""

    def velocity(self, latents: torch.Tensor, timestep: int, num_rows: int) -> torch.Tensor:
        """[num_rows,F,C,h,w] f32 of the last rows, the prompt's own the very last."""
        if self._way != IN_TURN:
            return self._pass(latents, timestep, self._embeds[-num_rows:], self.runs[0])
        last = len(self._embeds)
        rows = range(last - num_rows, last)
        return torch.cat([self._pass(latents, timestep, self._embeds[row : row + 1], self.runs[row]) for row in rows])

    def close(self) -> None:
        """The clip is over."""

    def compute_next(self) -> None:
        """Nothing is left out of the next step."""
        for run in self.runs:
            if run.block_cache is not None:
                run.block_cache.compute_next()

    def _pass(self, latents: torch.Tensor, timestep: int, embeds: torch.Tensor, run: RunCache) -> torch.Tensor:
        pipeline, conditions = self._pipeline, self._conditions
        if pipeline.profile != "group_offload":  # there, weights are at hand only while their block runs
            run.modulation = pipeline.modulation_of(timestep)
        return acceleration.predict(
            pipeline,
            hidden_states=torch.cat([latents, conditions.image], dim=2).expand(len(embeds), -1, -1, -1, -1),
            encoder_hidden_states=embeds,
            timestep=timestep,
            tracking_maps=conditions.tracking,
            image_rotary_emb=conditions.rotary,
            run=run,
        ).float()


def denoise(
    pipeline: Any, asked: Asked, conditions: Conditions, prompt_embeds: torch.Tensor, watch: Watch
) -> torch.Tensor:
    """Initial noise → clean latents [1,F,C,h,w], by a `DasPipeline`.  ``prompt_embeds``: [2,L,D] negative first, or
    [1,L,D]."""
    speed, scheduler = speed_named(asked.speed), pipeline.scheduler
    generator, checkpoint = asked.generator, watch.checkpoint
    num_steps = speed.num_steps(asked.num_inference_steps)
    on_step = step_caller(pipeline, asked.callback_on_step_end or watch.on_step, num_steps)
    scheduler.set_timesteps(num_steps)
    # Of 1 to 200 steps, four counts (61, 103, 121, 122) round to one timestep too many, −1, which no model knows.
    timesteps = [int(timestep) for timestep in scheduler.timesteps if timestep >= 0]
    latents, x0, done, num_guided = conditions.latents, None, 0, 0
    if checkpoint is not None:
        # What blocks added before is in no checkpoint: a clip of another speed that is broken off begins anew.
        done, latents, x0 = checkpoint.restore(asked.settings, latents, generator, is_wanted=speed.is_exact)

    with closing(_rows(pipeline, asked, conditions, prompt_embeds, watch)) as rows:
        for index, timestep in list(enumerate(timesteps))[done:]:
            watch.check()
            # 1. The velocity of the rows that count, and guidance, by the schedule of the steps that were asked for.
            dynamic = asked.use_dynamic_cfg
            scale = guidance_at(timestep, asked.num_inference_steps, asked.guidance_scale, dynamic=dynamic)
            guided = len(prompt_embeds) == 2 and speed.is_guided(index, len(timesteps), scale, dynamic=dynamic)
            if index == len(timesteps) - 1:
                rows.compute_next()
            velocity = rows.velocity(latents, timestep, 2 if guided else 1)
            if guided:
                negative, positive = velocity.chunk(2)
                velocity = negative + scale * (positive - negative)
                num_guided += 1

            # 2. One step of the sampler; its history stays float32, the latents go back to the working dtype.
            before = timesteps[index - 1] if index else None
            latents, x0 = scheduler.step(
                velocity, x0, timestep, before, latents, generator=generator, return_dict=False
            )
            # What a model adds to the carried video is seen on it: encoding is nearly linear.
            seen = x0 + conditions.image.float() if pipeline.paints_holes else x0
            latents = on_step(index, timestep, latents.to(pipeline.dtype), seen)
            if checkpoint is not None:
                checkpoint.note(index + 1, latents, x0, generator)
        used = pipeline.acceleration  # which may have changed on the way
        asked.settings.update(attention_backend=used.attention_backend, compiled=used.compiled)

    watch.check()
    if not speed.is_exact:
        asked.settings.update(steps_made=len(timesteps), guided_steps=num_guided, **_left_out(rows))
    return latents


def _rows(
    pipeline: Any, asked: Asked, conditions: Conditions, prompt_embeds: torch.Tensor, watch: Watch
) -> Rows | SharedPasses:
    speed = speed_named(asked.speed)
    if asked.rows in (A_ROW_EACH, SPLIT):
        shared = {"way": asked.rows, "speed": speed, "should_stop": watch.should_stop}
        return SharedPasses.lead(pipeline, conditions, prompt_embeds, **shared)
    return Rows(pipeline, conditions, prompt_embeds, way=asked.rows, speed=speed, watch=watch)


def _left_out(rows: Rows | SharedPasses) -> dict[str, Any]:
    caches = [run.block_cache for run in rows.runs if run.block_cache is not None]
    left_out, computed = (sum(getattr(one, name) for one in caches) for name in ("left_out", "computed"))
    return {"passes_left_out": left_out, "passes_computed": computed} if caches else {}
