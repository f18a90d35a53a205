# SPDX-License-Identifier: GPL-3.0-or-later
"""Wan VACE: diffusers' `WanVACETransformer3DModel` and `AutoencoderKLWan`, loaded strictly, and checkpoints of them for
`families.ModelFamily`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanVACETransformer3DModel
from torch import nn

from das_blender_addon.errors import ModelError

from .float8 import Float8Layers
from .registry import model_specs
from .tensors import check_tensors as compare_tensors
from .tensors import expected_tensors, read_component_config, weight_files
from .weights import load_model

BASE = "wan-vace-1.3b"
"""The model of the table that a model of this family with a name of its own is like."""

FRAMES_PER_LATENT = 4
STRIDE = 8
"""Pixels per latent, along width and height."""


class _Blocks(nn.ModuleList):
    """Blocks that run one after the other; ``check`` is called before each, outside of what may be compiled."""

    check: Callable[[], None] | None = None

    def __iter__(self) -> Iterator[nn.Module]:
        for block in super().__iter__():
            if self.check is not None:
                self.check()
            yield block


class VaceTransformer(WanVACETransformer3DModel):
    """diffusers' transformer, which can be streamed, be in float8, and be stopped between two blocks."""

    float8_layers = Float8Layers(
        ("blocks", "vace_blocks"),
        (
            *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v")),
            "attn1.to_out.0",
            "attn2.to_out.0",
            "ffn.net.0.proj",
            "ffn.net.2",
        ),
    )

    @classmethod
    def load(cls, folder: Path, *, dtype: torch.dtype, device: torch.device) -> VaceTransformer:
        """The transformer in ``folder``, tensor by tensor straight to ``device``; what is exact in the published model
        stays float32.  Raises `ModelError`."""
        cls.check_folder(folder)
        config, files = read_component_config(folder), weight_files(folder)
        model = load_model(cls, config, files, dtype=dtype, device=device, dtype_of=lambda name: dtype_of(name, dtype))
        model.blocks, model.vace_blocks = _Blocks(model.blocks), _Blocks(model.vace_blocks)
        return model

    @classmethod
    def check_folder(cls, folder: Path) -> None:
        """Compare the tensors in ``folder`` with its config, from their headers.  Raises `ModelError`."""
        config = read_component_config(folder)
        compare_tensors(folder, expected_tensors(cls, config, folder, "transformer", family="Wan VACE"))

    def streamed_units(self) -> list[tuple[nn.Module, ...]]:
        """The blocks in the order in which they run: those that read the condition come first."""
        return [(block,) for block in (*self.vace_blocks, *self.blocks)]

    @contextmanager
    def watched(self, check: Callable[[], None]) -> Iterator[None]:
        """Inside, ``check`` is called before every block: what it raises ends the pass."""
        for blocks in (self.vace_blocks, self.blocks):
            blocks.check = check
        try:
            yield
        finally:
            for blocks in (self.vace_blocks, self.blocks):
                blocks.check = None


def dtype_of(name: str, dtype: torch.dtype) -> torch.dtype:
    """What a tensor of the transformer is kept in where the rest is in ``dtype``, as diffusers' own loader does."""
    exact = set(WanVACETransformer3DModel._keep_in_fp32_modules) & set(name.split("."))
    return torch.float32 if exact and dtype in (torch.bfloat16, torch.float16) else dtype


def load_vae(folder: Path) -> AutoencoderKLWan:
    """The VAE in ``folder``, in eval mode on the CPU, in float32 as its publishers advise.  Raises `ModelError`."""
    check_vae_folder(folder)
    try:
        vae = AutoencoderKLWan.from_pretrained(
            str(folder), torch_dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"The VAE in {folder} cannot be loaded: {error}") from error
    return vae.eval().requires_grad_(False)


def check_vae_folder(folder: Path) -> None:
    """Compare the tensors in ``folder`` with its config, and see that it is Wan 2.1's layout.  Raises `ModelError`."""
    config = read_component_config(folder)
    compare_tensors(folder, expected_tensors(AutoencoderKLWan, config, folder, "VAE", family="Wan VACE"))
    halvings = config.get("temperal_downsample", [False, True, True])
    if (2 ** len(halvings), 2 ** sum(halvings)) != (STRIDE, FRAMES_PER_LATENT) or config.get("patch_size"):
        raise ModelError(
            f"The VAE in {folder} does not make latents of {STRIDE}x{STRIDE} pixels and {FRAMES_PER_LATENT} frames, as "
            "Wan VACE's does."
        )


# ── Checkpoints ─────────────────────────────────────────────────────────────────────────────────────────────────────


def check_tensors(folder: Path) -> None:
    """Compare transformer and VAE with their configurations and with each other; nothing is loaded.  Raises
    `ModelError`."""
    VaceTransformer.check_folder(folder / "transformer")
    check_vae_folder(folder / "vae")
    check_condition(folder)


def check_condition(folder: Path) -> None:
    """Whether the transformer reads the condition that Wan VACE is given: the two halves of the video, and a mask of
    `STRIDE` × `STRIDE` pixels per latent.  Raises `ModelError`."""
    transformer, vae = read_component_config(folder / "transformer"), read_component_config(folder / "vae")
    channels, found = vae.get("z_dim", 16), transformer.get("vace_in_channels", 96)
    needed = 2 * channels + STRIDE * STRIDE
    if found != needed or transformer.get("in_channels", 16) != channels:
        raise ModelError(
            f"The transformer in {folder} reads conditions of {found} channels; beside this VAE, {needed} are known."
        )


def about_own(folder: Path) -> dict[str, Any]:
    """What the manifest of a model with a name of its own says of it.  Raises `ModelError`."""
    check_condition(folder)
    base = model_specs()[BASE]
    sizes = [list(size) for size in base.sizes]
    return {"based_on": BASE, "num_frames": list(base.num_frames), "sizes": sizes}
