# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracking video + first frame + prompt → frames: the published recipe, step by step.

Three random streams decide the result: ``generator`` (latents, first-frame posteriors, sampler),
``tracking_generator`` (the tracking video's posterior) and nothing else.  Draws happen on the generator's device, in
the pipeline's dtype.

One file, though long: the recipe is read from top to bottom.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from PIL import Image

from das_blender_addon.errors import ModelError, OutOfMemory

from ...models.adapters import AdapterUse
from ...models.convolution import use_onednn
from ...models.float8 import use_float8
from ...models.run_cache import StepModulation
from ...models.transformer import DasTransformer3DModel
from ...models.vae import load_vae
from ...models.verified import MANIFEST_NAME, verify_unless_known
from .. import acceleration as speed
from .. import memory, placement, previews
from ..adapters import LoadedAdapters, check_adapters
from ..base import ClipJob, Watch
from ..checks import check_texts
from ..clip import make_clip
from ..group import Group
from ..needs import Clip
from ..precision import check_float8
from ..prompt import PromptCache, default_prompt_cache, encode_texts, no_progress_bars
from ..randomness import default_stream, tracking_stream
from ..resume import Checkpoint
from ..streaming import StreamedBlocks
from . import latents as border
from .carry import carries_first_frame
from .conditions import Conditions, encode_conditions, encode_tracking, starting_picture
from .denoise import IN_TURN, TOGETHER, denoise
from .devices import A_ROW_EACH, SharedPasses, way_for
from .holes import holes_for, paint, paints_holes
from .latents import TrackingRange
from .modulation import ModulationTables
from .needs import NEEDS, clip_at_home
from .prompt import PromptEncoder
from .report import used_settings
from .request import (
    Asked,
    DasPipelineOutput,
    check_carried,
    check_choices,
    check_clip,
    check_generators,
    check_latents,
)
from .scheduler import check_step_count, load_scheduler
from .speeds import speed_named
from .warm_up import warm_up

log = logging.getLogger(__name__)
DEFAULT_NEGATIVE_PROMPT = (
    "The video is not of a high quality, it has a low resolution. Watermark present in each frame. The "
    "background is solid. Strange body and strange trajectory. Distortion."
)
"""The one that the model was published with."""


class DasPipeline:
    """One checkpoint, ready to run.  Made by `from_pretrained`; a call changes nothing in it but its caches."""

    def __init__(
        self,
        *,
        transformer: DasTransformer3DModel,
        vae: AutoencoderKLCogVideoX,
        scheduler: CogVideoXDPMScheduler,
        prompt_encoder: PromptEncoder,
        device: torch.device,
        vae_tiling: bool = True,
        carries_first_frame: bool = False,
        paints_holes: bool = False,
    ):
        channels, needed = transformer.config.in_channels, 2 * vae.config.latent_channels
        if channels != needed:
            raise ModelError(
                f"The transformer takes {channels} channels; only image-to-video models, with {needed} beside this "
                "VAE, are known."
            )
        self.transformer = transformer
        self.vae = vae
        self.scheduler = scheduler
        self.prompt_encoder = prompt_encoder
        self.device = device
        self.vae_tiling = vae_tiling
        self.tiled_encoding = vae_tiling
        """Whether the VAE encodes in tiles where a request leaves it open; ``vae_tiling``: whether it decodes so."""
        self.carries_first_frame = carries_first_frame
        self.paints_holes = paints_holes
        self.profile = "resident"
        self.acceleration = speed.Acceleration()
        self.float8 = False
        self._latent_to_rgb: torch.Tensor | None = None
        self.streamed: StreamedBlocks | None = None
        self._modulation = ModulationTables()
        self.adapters = LoadedAdapters()
        self.group: Group | None = None
        """The devices that make a clip together, of which this one leads or follows; None for this one alone."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
        profile: str = "auto",
        vae_tiling: bool | Literal["auto"] = True,
        prompt_cache: PromptCache | None = None,
        fast_cpu_convolutions: bool = False,
        attention_backend: str = "auto",
        compile_blocks: bool = False,
        float8: bool = False,
        kernel_notes: Path | None = None,
    ) -> DasPipeline:
        """Load a checkpoint folder in the published layout.  One function, though long: all that a caller may choose.

        ``torch_dtype`` (or ``dtype``): default bfloat16 on CUDA, float32 elsewhere.  ``device``: "auto" takes CUDA
        when there is one.  ``profile``: see `memory`.  ``vae_tiling`` "auto": see `must_tile`.  ``prompt_cache`` None:
        one in the platform's folder for user data.  ``attention_backend``, ``compile_blocks``, ``kernel_notes``: see
        `acceleration`.  ``float8``: see `precision`.  The text encoder is not read before a prompt needs it.  A folder
        with digests is verified first, if it has changed.  Raises `ModelError` for anything missing or damaged,
        `OutOfMemory`; either before anything large is loaded, except where the device fills up meanwhile.
        """
        path = Path(folder)
        if not (path / "model_index.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no model_index.json.")
        carries, paints = carries_first_frame(path), paints_holes(path)

        # 1. Where it goes, before anything large is read.
        device = torch.device("cpu") if profile == "cpu" else memory.pick_device(device)
        dtype = torch_dtype or dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        needs = NEEDS.at_home(path, dtype, bool(vae_tiling), float8=float8)
        plan = memory.plan_memory(needs, device, profile=profile)
        log.info("%s: %s", path, plan.reason)
        if float8:
            check_float8(plan.device, dtype, kernel_notes)
        if (path / MANIFEST_NAME).is_file():
            verify_unless_known(path)

        # 2. Its parts.
        with no_progress_bars():
            transformer = placement.load_where_it_goes(
                partial(DasTransformer3DModel.load, path / "transformer", dtype=dtype), plan, by_the_host=float8
            )
            vae = load_vae(path / "vae", dtype)
        if float8:
            use_float8(transformer)
        if fast_cpu_convolutions:
            use_onednn(vae)
        cache = prompt_cache if prompt_cache is not None else PromptCache(default_prompt_cache())
        pipeline = cls(
            transformer=transformer,
            vae=vae.requires_grad_(False),
            scheduler=load_scheduler(path / "scheduler"),
            prompt_encoder=PromptEncoder(path, transformer.config.max_text_seq_length, dtype, cache),
            device=plan.device,
            vae_tiling=bool(vae_tiling),
            carries_first_frame=carries,
            paints_holes=paints,
        )
        pipeline.float8 = float8

        # 3. In their places, and as fast as this device can.
        plan = placement.place(pipeline, plan, needs, may_shrink=profile == "auto")
        if vae_tiling == "auto":
            tiles = NEEDS.must_tile(path, dtype, plan, float8=float8)
            pipeline.tiled_encoding, pipeline.vae_tiling = tiles
        pipeline.acceleration = speed.accelerate(
            transformer,
            device=plan.device,
            dtype=dtype,
            profile=plan.profile,
            attention_backend=attention_backend,
            compile_blocks=compile_blocks,
            kernel_notes=kernel_notes,
        )
        return pipeline

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that everything but the sampler's history is computed in."""
        return self.vae.dtype

    def needs(self) -> memory.MemoryNeeds:
        """What the model takes as it is loaded, with a clip of its own size."""
        clip = clip_at_home(self.transformer.config, self.vae.config, self.vae_tiling)
        return NEEDS.of(self, replace(clip, tiled_encoding=self.tiled_encoding))

    def use_profile(self, profile: str) -> None:
        """Lay the model out by another memory profile on the same device.

        For after a clip that ran out of memory (`placement.smaller_profile`); no result depends on it.
        """
        self.prompt_encoder.unload()
        self._modulation.clear()
        if profile == "group_offload":
            self.acceleration = speed.set_compilation_aside(self.transformer, self.acceleration)
        placement.apply_plan(self, profile)
        if profile != "group_offload":
            self.acceleration = speed.take_compilation_up(self.acceleration)

    def warm_up(self, num_rows: int) -> None:
        """Have compiled blocks ready for clips of the model's own size, with so many rows of guidance."""
        warm_up(self, num_rows)

    def use_adapters(self, wanted: Sequence[AdapterUse]) -> None:
        """Have exactly these LoRAs count from now on.  Raises `ModelError` for one that cannot be used; then none
        does."""
        if any(one.weight for one in wanted):
            check_adapters(self.float8)
        told: Sequence[AdapterUse] | None = ()  # of what fails, the other processes have nothing either
        try:
            told = wanted if self.adapters.use(self.transformer, wanted, self.dtype, self.device) else None
        finally:
            if told is not None:
                self._tell_adapters(told)

    def _tell_adapters(self, wanted: Sequence[AdapterUse]) -> None:
        self._modulation.clear()  # adaptive norms may be among what they change
        if self.group is not None and self.group.rank == 0:
            self.group.tell("adapters", wanted=[{**asdict(one), "path": str(one.path)} for one in wanted])

    # ── The recipe ──────────────────────────────────────────────────────────────────────────────────────────────────

    def __call__(
        self,
        prompt: str,
        tracking_video: np.ndarray,
        image: Image.Image,
        *,
        negative_prompt: str | None = DEFAULT_NEGATIVE_PROMPT,
        num_inference_steps: int = 50,
        guidance_scale: float = 6.0,
        use_dynamic_cfg: bool = True,
        generator: torch.Generator | None = None,
        tracking_generator: torch.Generator | None = None,
        tracking_range: TrackingRange = "signed",
        carried_video: np.ndarray | None = None,
        holes: np.ndarray | None = None,
        latents: torch.Tensor | None = None,
        vae_tiling: bool | Literal["auto"] | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        output_type: str = "np",
        exact_steps: bool = True,
        speed: str = "exact",
        should_stop: Callable[[], bool] | None = None,
        on_stage: Callable[[str], None] | None = None,
        on_picture: Callable[[np.ndarray], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> DasPipelineOutput:
        """Make one clip.  One function, though long: all that a caller may choose.

        ``tracking_video``: u8 [T,H,W,3], whose size is the result's.  ``image``: the first frame, any size.
        ``negative_prompt`` None is the empty text.  ``generator``: seed 42 when None.  ``tracking_generator``: derived
        from the generator's seed when None.  ``tracking_range``: how the tracking video enters the VAE: "signed" −1…1
        as trained, "unit" 0…1 as in the published demo.  ``carried_video``: u8 [T,H,W,3], see `starting_picture`.
        ``holes``: bool [T,H,W], what of the carried video no key picture shows; None for all but the first frame.
        ``latents``: initial noise [1,F,C,h,w].  ``vae_tiling`` None or "auto": the pipeline's own setting.
        ``callback_on_step_end``: called as (step_index, num_steps, x0 [1,F,C,h,w] f32), or, if it takes four
        arguments, as diffusers does: (pipeline, step_index, timestep, {"latents", "pred_original_sample"}).
        ``speed``: one of `speeds.SPEEDS`.
        ``should_stop``: asked between blocks of the transformer and parts of the VAE's work.  ``on_stage``: told
        "encoding", "denoising", "decoding".
        ``on_picture``: told the picture that a model of the carried first frame starts from, u8 [T,H,W,3].
        ``checkpoint``: from where, and whence, a clip that is broken off goes on.
        Raises `JobRejected` for a request that cannot be run, `JobCancelled` when stopped (nothing is decoded then).
        """
        generator = default_stream() if generator is None else generator
        check_generators(generator=generator, tracking_generator=tracking_generator)
        asked = Asked(
            prompt,
            tracking_video,
            image,
            negative_prompt,
            num_inference_steps,
            guidance_scale,
            generator,
            tracking_stream(generator) if tracking_generator is None else tracking_generator,
            carried_video=carried_video,
            holes=holes,
            use_dynamic_cfg=use_dynamic_cfg,
            tracking_range=tracking_range,
            latents=latents,
            vae_tiling=vae_tiling,
            output_type=output_type,
            exact_steps=exact_steps,
            speed=speed,
            callback_on_step_end=callback_on_step_end,
        )
        told = {"should_stop": should_stop, "on_stage": on_stage, "on_picture": on_picture}
        watch = Watch(**{name: call for name, call in told.items() if call is not None}, checkpoint=checkpoint)
        return make_clip(self, asked, watch)

    def accept(self, job: ClipJob | Asked) -> Asked:
        """Step 1, the guard: everything wrong with a request is said before any work, see `base.Pipeline`."""
        if isinstance(job, ClipJob):
            self.use_adapters(job.loras)
        asked = job if isinstance(job, Asked) else Asked.of_job(job)
        num_frames, height, width = check_clip(asked.tracking_video, asked.image, self.transformer, self.vae)
        check_carried(asked.carried_video, asked.tracking_video, self.carries_first_frame)
        holes = holes_for(asked.holes, asked.tracking_video, self.paints_holes)
        check_texts(asked.prompt, asked.negative_prompt)
        check_choices(asked.tracking_range, asked.output_type, asked.guidance_scale, asked.vae_tiling)
        check_latents(asked.latents, border.latents_shape(self.vae, num_frames, height, width))
        speed_named(asked.speed)
        check_step_count(asked.num_inference_steps, exact_steps=asked.exact_steps)
        steps = int(asked.num_inference_steps)
        is_open = asked.vae_tiling in (None, "auto")
        tiling = self.vae_tiling if is_open else bool(asked.vae_tiling)
        tiled_encoding = self.tiled_encoding if is_open else tiling
        batch = 2 if asked.is_guided else 1
        cached = batch if speed_named(asked.speed).threshold else 0
        clip = Clip(num_frames, width, height, tiling, batch, tiled_encoding, cached)
        rows = self._rows_with_room(clip)
        settings = used_settings(
            self, (num_frames, width, height), (asked.generator, asked.tracking_generator),
            num_inference_steps=steps, guidance_scale=asked.guidance_scale, use_dynamic_cfg=asked.use_dynamic_cfg,
            tracking_range=asked.tracking_range, vae_tiling=tiling, tiled_encoding=tiled_encoding,
            speed=asked.speed, rows=rows,
        )  # fmt: skip
        return replace(asked, holes=holes, num_inference_steps=steps, vae_tiling=tiling, rows=rows, settings=settings)

    def encode(self, asked: Asked, watch: Watch) -> tuple[torch.Tensor, np.ndarray, Conditions]:
        """Steps 2 and 3 → prompt embeds [2,L,D] negative first, or [1,L,D]; the picture that the model starts from; and
        the conditions."""
        # 2. Text; the negative prompt goes first in the batch, and only where there is guidance.
        watch.enter("encoding")
        texts = [asked.negative_prompt or "", asked.prompt] if asked.is_guided else [asked.prompt]
        prompt_embeds = torch.cat(encode_texts(self, texts))

        # 3. Conditions and noise, drawn in the published order.
        watch.check()
        self.vae.use_tiling = asked.settings["tiled_encoding"]
        video = asked.tracking_video
        picture = starting_picture(self, video, asked.image, asked.carried_video)
        if self.carries_first_frame:
            watch.on_picture(picture)
        tracking = encode_tracking(self, video, asked.tracking_range, asked.tracking_generator)
        watch.check()
        shape = border.latents_shape(self.vae, *video.shape[:3])
        conditions = encode_conditions(
            self, video, picture, tracking, asked.latents, shape, asked.generator, asked.holes
        )
        return prompt_embeds, picture, conditions

    def denoise(
        self, asked: Asked, encoded: tuple[torch.Tensor, np.ndarray, Conditions], watch: Watch
    ) -> torch.Tensor:
        """Step 4: initial noise → clean latents [1,F,C,h,w]."""
        watch.on_stage("denoising")
        prompt_embeds, _, conditions = encoded
        return denoise(self, asked, conditions, prompt_embeds, watch)

    def decode(
        self, asked: Asked, encoded: tuple[torch.Tensor, np.ndarray, Conditions], latents: torch.Tensor, watch: Watch
    ) -> DasPipelineOutput:
        """Step 5: latents → frames, or the latents themselves where those are asked for."""
        if asked.output_type == "latent":
            return DasPipelineOutput(latents, latents, asked.settings)
        watch.enter("decoding")
        self.vae.use_tiling = asked.vae_tiling
        if asked.holes is None:
            return DasPipelineOutput(border.decode(self.vae, latents), latents, asked.settings)
        made = border.decode_difference(self.vae, latents)
        return DasPipelineOutput(paint(encoded[1], asked.holes, made), latents, asked.settings)

    def modulation_of(self, timestep: int) -> dict[int, StepModulation]:
        """`RunCache.modulation` of one step."""
        return self._modulation.of(self.transformer, timestep, self.dtype)

    def _rows_with_room(self, clip: Clip) -> str:
        """How the rows of guidance are computed; in turn only where together they have no room.  Raises
        `OutOfMemory`."""
        if self.group is not None:
            shape = border.latents_shape(self.vae, clip.num_frames, clip.height, clip.width)
            way = way_for(self.group, clip.batch, shape, self.transformer.config)
            if way:
                NEEDS.check_room(self, replace(clip, batch=1) if way == A_ROW_EACH else clip)
                return way
        try:
            NEEDS.check_room(self, clip)
        except OutOfMemory:
            if clip.batch == 1:
                raise
            NEEDS.check_room(self, replace(clip, batch=1))
            return IN_TURN
        return TOGETHER

    def follow(self, begin: dict[str, Any], should_stop: Callable[[], bool]) -> SharedPasses:
        """Take part in a clip as rank 0 of the group has told."""
        return SharedPasses.follow(self, begin, should_stop)

    def preview_frames(self, x0: torch.Tensor) -> np.ndarray:
        """Predicted clean latents [1,F,C,h,w] → rough u8 frames [F,h,w,3], cheap enough for every step."""
        if self._latent_to_rgb is None:
            self._latent_to_rgb = border.fit_latent_to_rgb(self.vae)
        return previews.preview_frames(x0, self._latent_to_rgb)
