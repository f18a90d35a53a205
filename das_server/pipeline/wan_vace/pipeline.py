# SPDX-License-Identifier: GPL-3.0-or-later
"""A carried video, its holes and a prompt → frames: what diffusers' `WanVACEPipeline` computes, step by step, by the
same parts.

One random stream decides the result, that of the initial noise; conditions are encoded by the mode of the posterior.
Numbers are those of that pipeline, but for the mask of the latents (`holes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from das_blender_addon.errors import ModelError

from ...models.float8 import use_float8
from ...models.verified import MANIFEST_NAME, verify_unless_known
from ...models.wan_vace import VaceTransformer, check_condition, load_vae
from .. import acceleration as speed
from .. import memory, placement, previews, warming
from ..base import ClipJob, Watch
from ..group import Group
from ..needs import Clip
from ..precision import check_float8
from ..prompt import PromptCache, default_prompt_cache, encode_texts, no_progress_bars
from ..streaming import StreamedBlocks
from . import conditions as border
from .conditions import Conditions
from .devices import A_ROW_EACH, SharedRows
from .needs import NEEDS, clip_at_home
from .prompt import MAX_LENGTH, WanPromptEncoder
from .request import Asked, read
from .sampler import history_of, load_config, scheduler_for, take_up

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VaceOutput:
    """``frames``: u8 [T,H,W,3].  ``latents`` [1,C,F,h,w] f32.  ``settings``: all that decided them."""

    frames: np.ndarray
    latents: torch.Tensor
    settings: dict[str, Any] = field(default_factory=dict)


class VacePipeline:
    """One checkpoint, ready to run, as `base.Pipeline`.  Made by `from_pretrained`."""

    def __init__(
        self,
        *,
        transformer: VaceTransformer,
        vae: AutoencoderKLWan,
        scheduler_config: dict[str, Any],
        prompt_encoder: WanPromptEncoder,
        device: torch.device,
        dtype: torch.dtype,
        vae_tiling: bool = True,
    ):
        self.transformer = transformer
        self.vae = vae
        self.scheduler_config = scheduler_config
        self.prompt_encoder = prompt_encoder
        self.device = device
        self.dtype = dtype
        """What the transformer and the text encoder are computed in; the VAE works in float32."""
        self.vae_tiling, self.tiled_encoding = vae_tiling, vae_tiling
        self.profile = "resident"
        self.acceleration = speed.Acceleration()
        self.float8 = False
        self.streamed: StreamedBlocks | None = None
        self._latent_to_rgb: torch.Tensor | None = None
        self.group: Group | None = None
        """Two devices that make a guided clip together, of which this one leads or follows; None for this one alone."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
        profile: str = "auto",
        vae_tiling: bool | str = "auto",
        prompt_cache: PromptCache | None = None,
        embedded: bool = False,
        attention_backend: str = "auto",
        compile_blocks: bool = False,
        float8: bool = False,
        kernel_notes: Path | None = None,
    ) -> VacePipeline:
        """Load a checkpoint folder in diffusers' layout.

        ``dtype``: default bfloat16 on CUDA, float32 elsewhere.  ``embedded``: never, for this family.  The rest, and
        what is raised: `DasPipeline.from_pretrained` of CogVideoX.  One function, though long: as that.
        """
        path = Path(folder)
        if not (path / "model_index.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no model_index.json.")

        # 1. Where it goes, before anything large is read.
        device = torch.device("cpu") if profile == "cpu" else memory.pick_device(device)
        dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        needs = NEEDS.at_home(path, dtype, bool(vae_tiling), float8=float8)
        plan = memory.plan_memory(needs, device, profile=profile)
        log.info("%s: %s", path, plan.reason)
        if float8:
            check_float8(plan.device, dtype, kernel_notes)
        if (path / MANIFEST_NAME).is_file():
            verify_unless_known(path)
        check_condition(path)

        # 2. Its parts.
        with no_progress_bars():
            transformer = placement.load_where_it_goes(
                partial(VaceTransformer.load, path / "transformer", dtype=dtype), plan, by_the_host=float8
            )
            vae = load_vae(path / "vae")
        if float8:
            use_float8(transformer)
        cache = prompt_cache if prompt_cache is not None else PromptCache(default_prompt_cache())
        pipeline = cls(
            transformer=transformer,
            vae=vae,
            scheduler_config=load_config(path / "scheduler"),
            prompt_encoder=WanPromptEncoder(path, MAX_LENGTH, dtype, cache),
            device=plan.device,
            dtype=dtype,
            vae_tiling=bool(vae_tiling),
        )
        pipeline.float8 = float8

        # 3. In their places, and as fast as this device can.
        plan = placement.place(pipeline, plan, needs, may_shrink=profile == "auto")
        if vae_tiling == "auto":
            pipeline.tiled_encoding, pipeline.vae_tiling = NEEDS.must_tile(path, dtype, plan, float8=float8)
        pipeline.acceleration = speed.accelerate(
            transformer,
            device=plan.device,
            dtype=dtype,
            profile=plan.profile,
            attention_backend=attention_backend,
            compile_blocks=compile_blocks,
            kernel_notes=kernel_notes,
            text_rows=MAX_LENGTH,
        )
        return pipeline

    def needs(self) -> memory.MemoryNeeds:
        """What the model takes as it is loaded, with a clip of the published size."""
        clip = clip_at_home(self.transformer.config, self.vae.config, self.vae_tiling)
        return NEEDS.of(self, replace(clip, tiled_encoding=self.tiled_encoding))

    def warm_up(self, num_rows: int) -> None:
        """Have compiled blocks ready for clips of the published size without references; rows of guidance follow each
        other, so there is one kind of pass."""
        clip = clip_at_home(self.transformer.config, self.vae.config, self.vae_tiling)
        config = self.transformer.config
        shape = border.latents_shape(self.vae, clip.num_frames, clip.height, clip.width)

        def compute() -> None:
            like = {"dtype": self.dtype, "device": self.device}
            speed.predict(
                self,
                hidden_states=torch.zeros(shape, **like),
                timestep=torch.tensor([999], device=self.device),
                encoder_hidden_states=torch.zeros(1, MAX_LENGTH, config.text_dim, **like),
                control_hidden_states=torch.zeros(1, config.vace_in_channels, *shape[2:], **like),
            )

        warming.warm_up(self, NEEDS, replace(clip, tiled_encoding=self.tiled_encoding), compute)

    def use_profile(self, profile: str) -> None:
        """Lay the model out by another memory profile on the same device; no result depends on it."""
        self.prompt_encoder.unload()
        if profile == "group_offload":
            self.acceleration = speed.set_compilation_aside(self.transformer, self.acceleration)
        placement.apply_plan(self, profile)
        if profile != "group_offload":
            self.acceleration = speed.take_compilation_up(self.acceleration)

    # ── The recipe ──────────────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, job: ClipJob) -> Asked:
        """Step 1, the guard, see `base.Pipeline`."""
        asked = read(job, self.transformer.config.patch_size[1])
        num_frames, height, width = asked.holes.shape
        NEEDS.check_room(self, Clip(num_frames, width, height, self.vae_tiling, 1, self.tiled_encoding))
        settings = {
            "num_frames": num_frames,
            "width": width,
            "height": height,
            "seed": job.seed,
            "num_inference_steps": asked.num_inference_steps,
            "guidance_scale": asked.guidance_scale,
            "flow_shift": scheduler_for(self.scheduler_config, width * height).config.flow_shift,
            "num_references": 0 if asked.references is None else len(asked.references),
            "hole_share": round(float(asked.holes.mean()), 4),
            "vae_tiling": self.vae_tiling,
            "tiled_encoding": self.tiled_encoding,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "profile": self.profile,
            "attention_backend": self.acceleration.attention_backend,
            "compiled": self.acceleration.compiled,
            "float8": self.float8,
        }
        return replace(asked, settings=settings)

    def encode(self, asked: Asked, watch: Watch) -> Conditions:
        """Steps 2 and 3: text, then what is known and the noise."""
        watch.enter("encoding")
        texts = [asked.prompt, asked.negative_prompt] if asked.is_guided else [asked.prompt]
        prompt_embeds = encode_texts(self, texts)

        watch.check()
        self.vae.use_tiling = self.tiled_encoding
        watch.on_picture(border.known_video(asked.carried, asked.holes))
        control = border.encode_control(self.vae, asked.carried, asked.holes, asked.references)
        watch.check()
        shape = (1, self.vae.config.z_dim, *control.shape[2:])
        noise = torch.randn(shape, generator=asked.generator, dtype=torch.float32).to(self.device)
        num_references = 0 if asked.references is None else len(asked.references)
        return Conditions(tuple(prompt_embeds), control.to(self.dtype), noise, num_references)

    def denoise(self, asked: Asked, conditions: Conditions, watch: Watch) -> torch.Tensor:
        """Step 4: noise → clean latents [1,C,F,h,w] f32, the references' among them no more."""
        watch.enter("denoising")
        scheduler = scheduler_for(self.scheduler_config, asked.settings["width"] * asked.settings["height"])
        scheduler.set_timesteps(asked.num_inference_steps, device=self.device)
        latents, done = conditions.noise, 0
        if watch.checkpoint is not None:
            done, latents, history = watch.checkpoint.restore(asked.settings, latents, asked.generator)
            if done:
                take_up(scheduler, done, history)

        shared: Any = nullcontext()
        if asked.is_guided and self.group is not None and self.group.size == 2:
            asked.settings["rows"] = A_ROW_EACH
            shared = closing(
                SharedRows.lead(self, conditions.prompt_embeds, conditions.control, watch.should_stop)
            )
        with shared as rows, self.transformer.watched(watch.check):
            for index, timestep in list(enumerate(scheduler.timesteps))[done:]:
                watch.check()
                velocity = self._velocity(asked, conditions, latents, timestep, rows)
                latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                x0 = scheduler.model_outputs[-1][:, :, conditions.num_references :]
                watch.on_step(index, asked.num_inference_steps, x0.transpose(1, 2))
                if watch.checkpoint is not None:
                    watch.checkpoint.note(index + 1, latents, history_of(scheduler), asked.generator)
        asked.settings["attention_backend"] = self.acceleration.attention_backend  # both may have changed on the way
        asked.settings["compiled"] = self.acceleration.compiled
        return latents[:, :, conditions.num_references :]

    def decode(self, asked: Asked, conditions: Conditions, latents: torch.Tensor, watch: Watch) -> VaceOutput:
        """Step 5: latents → frames."""
        watch.enter("decoding")
        self.vae.use_tiling = self.vae_tiling
        return VaceOutput(border.decode(self.vae, latents), latents, asked.settings)

    def follow(self, begin: dict[str, Any], should_stop: Callable[[], bool]) -> SharedRows:
        """Take part in a clip as rank 0 of the group has told."""
        return SharedRows.follow(self, begin, should_stop)

    def preview_frames(self, x0: torch.Tensor) -> np.ndarray:
        """Predicted clean latents [1,F,C,h,w] → rough u8 frames [F,h,w,3], cheap enough for every step."""
        if self._latent_to_rgb is None:
            self._latent_to_rgb = border.fit_latent_to_rgb(self.vae)
        return previews.preview_frames(x0, self._latent_to_rgb)

    def _velocity(
        self,
        asked: Asked,
        conditions: Conditions,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        shared: SharedRows | None,
    ) -> torch.Tensor:
        """Guided, [1,C,K+F,h,w] in the working dtype, as published; the rows of guidance follow each other, but for
        those that are ``shared`` by two devices."""
        rows = shared.velocities(latents.to(self.dtype), int(timestep)) if shared is not None else [
            speed.predict(
                self,
                hidden_states=latents.to(self.dtype),
                timestep=timestep.expand(1),
                encoder_hidden_states=embeds,
                control_hidden_states=conditions.control,
            )
            for embeds in conditions.prompt_embeds
        ]
        if len(rows) == 1:
            return rows[0]
        positive, negative = rows
        return negative + asked.guidance_scale * (positive - negative)
