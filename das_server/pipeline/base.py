# SPDX-License-Identifier: GPL-3.0-or-later
"""What a pipeline is to those who know no model family: to memory, placement, acceleration, to tasks and workers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch


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

    def __call__(self, prompt: str, tracking_video: np.ndarray, image: Any, **settings: Any) -> Result:
        """Make one clip."""
        ...

    def preview_frames(self, x0: torch.Tensor) -> np.ndarray:
        """Predicted clean latents → rough u8 frames [F,h,w,3]."""
        ...

    def use_profile(self, profile: str) -> None:
        """Lay the model out by another memory profile."""
        ...


