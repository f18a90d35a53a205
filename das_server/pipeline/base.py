# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pipeline is to those who know no model family: to memory, placement, acceleration, to tasks and workers; and
what a family is that brings one (`Family`).

A clip is made in four steps, `accept`, `encode`, `denoise` and `decode` (`clip.make_clip`); what passes from one to the
next is the family's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from das_blender_addon.errors import JobCancelled

from ..models.adapters import AdapterUse
from .resume import Checkpoint


@dataclass(frozen=True)
class ClipJob:
    """What is asked of a model of any family, for one clip of T frames.

    ``tracking_video`` u8 [T,H,W,3], whose size is the result's.  ``image``: the first frame, a PIL image of any size.
    ``carried_video`` u8 [T,H,W,3]: what key pictures show of every frame.  ``holes`` bool [T,H,W]: where they show
    nothing.  ``references`` u8 [K,H,W,3]: key pictures of other frames than the clip's.  The last three are for models
    that read them.  ``seed``: of all random numbers.  ``tracking_range``: "signed" or "unit".  ``loras``: the adapters
    that count for this clip, and no others.  ``speed``: how much may be lost for it, by the family's names.
    """

    prompt: str
    tracking_video: np.ndarray
    image: Any
    negative_prompt: str | None = None
    num_inference_steps: int = 50
    guidance_scale: float = 1.0
    seed: int = 0
    tracking_range: str = "signed"
    carried_video: np.ndarray | None = None
    holes: np.ndarray | None = None
    references: np.ndarray | None = None
    loras: tuple[AdapterUse, ...] = ()
    speed: str = "exact"


@dataclass(frozen=True)
class Watch:
    """Who looks on while a clip is made.

    ``should_stop``: asked between blocks of the transformer and parts of the VAE's work.  ``on_stage``: told
    "encoding", "denoising", "decoding".  ``on_step``: told (index, number of steps, predicted clean latents), for
    `Pipeline.preview_frames`.  ``on_picture``: told what the model starts from, u8 [T,H,W,3], where that is a picture.
    ``checkpoint``: from where, and whence, a clip that is broken off goes on.
    """

    should_stop: Callable[[], bool] = lambda: False
    on_stage: Callable[[str], None] = lambda stage: None
    on_step: Callable[[int, int, torch.Tensor], None] = lambda index, num_steps, x0: None
    on_picture: Callable[[np.ndarray], None] = lambda frames: None
    checkpoint: Checkpoint | None = None

    def check(self) -> None:
        """Raise `JobCancelled` where somebody wants the clip to stop."""
        if self.should_stop():
            raise JobCancelled("The job was cancelled.")

    def enter(self, stage: str) -> None:
        """`check`, and tell of the stage that begins."""
        self.check()
        self.on_stage(stage)


class TextEncoder(Protocol):
    """Texts → prompt embeds, by weights that need not be loaded.  ``model``: None while they are not.
    ``keep_loaded``: they stay after use.  ``offload``: they come to the device block by block."""

    model: Any
    keep_loaded: bool
    offload: bool

    def converted_bytes(self) -> int:
        """What the weights take of the machine's own memory while they come block by block."""
        ...

    def size_bytes(self) -> int:
        """What the weights take."""
        ...

    def encode(self, texts: list[str], device: torch.device) -> list[torch.Tensor]:
        """Texts → prompt embeds [1,L,D] each."""
        ...

    def is_cached(self, texts: list[str], device: torch.device) -> bool:
        """Whether `encode` could answer without the weights."""
        ...


class LoadedModel(Protocol):
    """A model's parts, to be laid out in memory.

    ``transformer``: a diffusers model that says in ``streamed_units()`` which of its modules can come to the device
    when they run, in that order, and which together.  ``profile``: how the parts lie now, by the table of `memory`;
    ``device``: where they compute; ``streamed``: the transformer's blocks, where they come one by one.
    """

    transformer: Any
    vae: torch.nn.Module
    prompt_encoder: TextEncoder
    device: torch.device
    profile: str
    streamed: Any

    @property
    def dtype(self) -> torch.dtype:
        """What they are computed in."""
        ...

    def needs(self) -> Any:
        """`memory.MemoryNeeds` of the parts as they are loaded, and of a clip of the model's own size."""
        ...


class Accelerated(Protocol):
    """A transformer whose attention kernel and compilation can be set.  ``config``: diffusers'."""

    config: Any
    attn_processors: Mapping[str, Any]

    def modules(self) -> Iterable[torch.nn.Module]:
        """Itself and all in it."""
        ...

    def compile_repeated_blocks(self, **settings: Any) -> None:
        """Have its blocks compiled when they first run."""
        ...


class Result(Protocol):
    """One clip.  ``frames``: u8 [T,H,W,3].  ``settings``: all that decided them."""

    frames: Any
    settings: dict[str, Any]


class Pipeline(LoadedModel, Protocol):
    """A loaded model of any family, ready to make clips.  ``acceleration``: see `acceleration`."""

    acceleration: Any

    def accept(self, job: ClipJob) -> Any:
        """Everything that is wrong with a request is said here, before any work → the request as the other steps take
        it.

        Raises `JobRejected` for a size, a number of frames or a setting that the model does not take, and for inputs
        that are not the clip's; `OutOfMemory` for a clip that has no room.
        """
        ...

    def encode(self, asked: Any, watch: Watch) -> Any:
        """All that the denoising steps read: text, conditions and noise.  Raises `JobCancelled`."""
        ...

    def denoise(self, asked: Any, conditions: Any, watch: Watch) -> torch.Tensor:
        """Noise → clean latents, step by step.  Raises `JobCancelled`."""
        ...

    def decode(self, asked: Any, conditions: Any, latents: torch.Tensor, watch: Watch) -> Result:
        """Latents → frames.  Raises `JobCancelled`."""
        ...

    def preview_frames(self, x0: torch.Tensor) -> np.ndarray:
        """Predicted clean latents → rough u8 frames [F,h,w,3]."""
        ...

    def warm_up(self, num_rows: int) -> None:
        """What would otherwise be done in the first job, for clips of the model's own size with so many rows of
        guidance computed together."""
        ...

    def follow(self, begin: dict[str, Any], should_stop: Callable[[], bool]) -> Any:
        """Take part in a clip that another device leads (`group`), as that has told."""
        ...

    def use_profile(self, profile: str) -> None:
        """Lay the model out by another memory profile."""
        ...


class Family(Protocol):
    """What a family brings (`families` finds it by name).  Its clips, checkpoints and step counts are in
    `models.families` and the table of models, which are read without torch."""

    def load(
        self,
        folder: Path,
        *,
        device: str | torch.device,
        profile: str,
        vae_tiling: bool | str,
        embedded: bool,
        attention_backend: str,
        compile_blocks: bool,
        float8: bool,
        kernel_notes: Path | None,
    ) -> Pipeline:
        """Load a checkpoint folder.  ``embedded``: it is part of this software.  The rest: `loading.load_pipeline`.

        Raises `ModelError`, `OutOfMemory`; either before anything large is loaded."""
        ...

    def measure_needs(self, folder: Path, dtype: torch.dtype, clip: Any, *, float8: bool = False) -> Any:
        """`memory.MemoryNeeds` of a checkpoint folder for a `needs.Clip`.  Raises `ModelError` for a bad folder."""
        ...
