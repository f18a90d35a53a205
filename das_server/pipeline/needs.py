# SPDX-License-Identifier: GPL-3.0-or-later
"""What a checkpoint of any family needs of a device's memory and of the machine's own.

Weights are measured, from the files' headers or as they are loaded; activations are estimated by the family's formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from das_blender_addon.errors import ModelError

from ..models.float8 import Float8Layers, stored_bytes
from ..models.tensors import converted_bytes, read_component_config, read_tensor_shapes, weight_files
from . import memory
from .base import LoadedModel
from .memory import MemoryNeeds, MemoryPlan
from .prompt import STORED_NAMES
from .slabs import aligned, bytes_of, slab_bytes


@dataclass(frozen=True)
class Clip:
    """One request.  ``vae_tiling``: it decodes in tiles; ``tiled_encoding``: it encodes so, None: as it decodes.
    ``batch`` 2 is for guidance where both rows are computed at once.  ``cached_rows``: those for which blocks may be
    left out, see `models.block_cache`.
    """

    num_frames: int
    width: int
    height: int
    vae_tiling: bool
    batch: int = 2
    tiled_encoding: bool | None = None
    cached_rows: int = 0

    @property
    def encodes_in_tiles(self) -> bool:
        """Whether the VAE encodes in tiles."""
        return self.vae_tiling if self.tiled_encoding is None else self.tiled_encoding


Configs = tuple[Mapping, Mapping]
"""The transformer's and the VAE's configuration."""


@dataclass(frozen=True)
class FamilyNeeds:
    """How a family's checkpoints are weighed.

    ``what``: its name in words.  ``unit_of(name)``: which unit of the streamed ones a tensor of the transformer belongs
    to, in the order in which units run; None for one that stays on the device.  ``dtype_of(name, dtype)``,
    ``vae_dtype(dtype)``: what a tensor of the transformer and the VAE are kept in, where the rest is in ``dtype``.
    ``tables``, ``encoding``, ``denoising``, ``decoding``: see `MemoryNeeds`.  ``home``: the clip of the length and size
    that a checkpoint is made for; it raises KeyError or TypeError for configurations of something else.
    """

    what: str
    float8: Float8Layers
    unit_of: Callable[[str], Hashable]
    tables: Callable[[Mapping, torch.dtype], int]
    encoding: Callable[[Mapping, torch.dtype, Clip], int]
    denoising: Callable[[Configs, torch.dtype, Clip], int]
    decoding: Callable[[Mapping, torch.dtype, Clip], int]
    home: Callable[[Mapping, Mapping, bool], Clip]
    dtype_of: Callable[[str, torch.dtype], torch.dtype] = lambda name, dtype: dtype
    vae_dtype: Callable[[torch.dtype], torch.dtype] = lambda dtype: dtype

    def measure(self, folder: Path, dtype: torch.dtype, clip: Clip, *, float8: bool = False) -> MemoryNeeds:
        """What a checkpoint folder needs for one clip, in ``dtype`` but for blocks in float8.  Raises `ModelError` for
        a bad folder."""
        transformer, layers = _tensor_shapes(folder / "transformer"), self.float8 if float8 else None
        text_encoder, stored = folder / "text_encoder", STORED_NAMES.get(dtype)
        return self._needs(
            {
                name: stored_bytes(name, shape, self.dtype_of(name, dtype), layers)
                for name, shape in transformer.items()
            },
            text_encoder=_sum_bytes(text_encoder, dtype, stem="model"),
            converted_transformer=converted_bytes(folder / "transformer", dtype.itemsize, stored),
            converted_text_encoder=converted_bytes(text_encoder, dtype.itemsize, stored, stem="model"),
            vae=_sum_bytes(folder / "vae", self.vae_dtype(dtype)),
            configs=(read_component_config(folder / "transformer"), read_component_config(folder / "vae")),
            dtype=dtype,
            clip=clip,
        )

    def of(self, pipeline: LoadedModel, clip: Clip) -> MemoryNeeds:
        """What a loaded pipeline needs for one clip."""
        transformer = pipeline.transformer
        named = [*transformer.named_parameters(), *transformer.named_buffers()]
        return self._needs(
            {name: (bytes_of(tensor),) for name, tensor in named},
            text_encoder=pipeline.prompt_encoder.size_bytes(),
            converted_transformer=0,
            converted_text_encoder=pipeline.prompt_encoder.converted_bytes(),
            vae=sum(bytes_of(weight) for weight in pipeline.vae.parameters()),
            configs=(transformer.config, pipeline.vae.config),
            dtype=pipeline.dtype,
            clip=clip,
        )

    def at_home(self, folder: Path, dtype: torch.dtype, vae_tiling: bool, *, float8: bool = False) -> MemoryNeeds:
        """What a checkpoint needs for a clip of the length and size that it is made for.  Raises `ModelError`."""
        transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
        try:
            return self.measure(folder, dtype, self.home(transformer, vae, vae_tiling), float8=float8)
        except (KeyError, TypeError) as error:
            raise ModelError(f"The configuration in {folder} is not that of a {self.what} model: {error!r}.") from error

    def must_tile(
        self, folder: Path, dtype: torch.dtype, plan: MemoryPlan, *, float8: bool = False
    ) -> tuple[bool, bool]:
        """Whether the VAE has to encode, and to decode, in tiles, which cost time and have statistics of their own,
        under a plan made for them: where a whole clip of the model's own size, and a quarter more, has no room beside
        the model; always on a CPU and with group_offload, after which there is no smaller profile."""
        if plan.profile not in memory.ON_DEVICE[:-1] or plan.device.type == "cpu":
            return True, True
        whole = self.at_home(folder, dtype, False, float8=float8)
        left = plan.free_bytes - whole.resting_bytes(plan.profile)
        return 5 * whole.encoding > 4 * left, 5 * whole.decoding > 4 * left

    def check_room(self, pipeline: LoadedModel, clip: Clip) -> None:
        """`memory.check_room` for one clip.  Raises `OutOfMemory`."""
        what = f"A clip of {clip.num_frames} frames of {clip.width}x{clip.height}"
        memory.check_room(pipeline, what, self.of(pipeline, clip))

    def _needs(
        self,
        sizes: Mapping[str, tuple[int, ...]],
        *,
        text_encoder: int,
        converted_transformer: int,
        converted_text_encoder: int,
        vae: int,
        configs: Configs,
        dtype: torch.dtype,
        clip: Clip,
    ) -> MemoryNeeds:
        """``sizes``: bytes of the transformer's tensors by name."""
        units: dict[Hashable, list[int]] = {}
        for name, parts in sizes.items():
            unit = self.unit_of(name)
            if unit is not None:
                units.setdefault(unit, []).extend(parts)
        # In the order in which `streaming` lays them.
        streamed = [size for unit in sorted(units) for size in sorted(units[unit], reverse=True)]
        return MemoryNeeds(
            transformer=sum(sum(parts) for parts in sizes.values()),
            blocks=sum(streamed),
            largest_block=max((sum(map(aligned, unit)) for unit in units.values()), default=0),
            slabs=slab_bytes(streamed),
            text_encoder=text_encoder,
            converted_transformer=converted_transformer,
            converted_text_encoder=converted_text_encoder,
            vae=vae,
            tables=self.tables(configs[0], dtype),
            encoding=self.encoding(configs[1], self.vae_dtype(dtype), clip),
            denoising=self.denoising(configs, dtype, clip),
            decoding=self.decoding(configs[1], self.vae_dtype(dtype), clip),
        )


def _tensor_shapes(folder: Path, stem: str = "diffusion_pytorch_model") -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, stem=stem):
        shapes.update(read_tensor_shapes(path))
    return shapes


def _sum_bytes(folder: Path, dtype: torch.dtype, stem: str = "diffusion_pytorch_model") -> int:
    return dtype.itemsize * sum(math.prod(shape) for shape in _tensor_shapes(folder, stem).values())
