# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA adapters beside a loaded transformer's weights, exchanged from job to job by peft through diffusers' loader.

The weights themselves are never changed: without adapters the layers are those that were loaded, to the bit.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from das_blender_addon.errors import ModelError

from ..models.adapters import AdapterUse, file_sha, split_name

METADATA_KEY = "lora_adapter_metadata"
"""Of a file's metadata: peft's configuration, as diffusers writes it."""


class LoadedAdapters:
    """The adapters of one transformer, which is changed through here only."""

    def __init__(self) -> None:
        self.used: list[list[Any]] = []
        """[name, weight, SHA-256] of each that counts now, for reports."""
        self._loaded: tuple[str, ...] = ()

    def use(self, transformer: Any, wanted: Sequence[AdapterUse], dtype: torch.dtype, device: torch.device) -> bool:
        """Have exactly these count, in ``dtype`` on ``device``; → whether anything is different from before.

        Those of weight 0 are left out.  Raises `ModelError` for a file that is not what it was, that does not fit the
        model, or where peft is not installed; then none counts.
        """
        wanted = [one for one in wanted if one.weight != 0.0]
        used = [[one.name, one.weight, one.sha] for one in wanted]
        if used == self.used:
            return False
        self.used = []
        shas = tuple(one.sha for one in wanted)
        if shas != self._loaded:
            self._unload(transformer)
            try:
                for index, one in enumerate(wanted):
                    _load(transformer, one, f"job{index}")
                _settle(transformer, dtype, device)
            except Exception:
                self._loaded = shas  # in part
                self._unload(transformer)
                raise
            self._loaded = shas
        if wanted:
            transformer.set_adapters([f"job{index}" for index in range(len(wanted))], [one.weight for one in wanted])
        self.used = used
        return True

    def _unload(self, transformer: Any) -> None:
        if self._loaded and getattr(transformer, "peft_config", None):
            transformer.unload_lora()
        self._loaded = ()


def check_adapters(float8: bool) -> None:
    """Raise `ModelError` where no adapter can be used."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError(
            "LoRAs need the package peft, which the server does not have: install peft beside it and start it again.",
            field="loras",
        )
    show_peft_to_diffusers()
    if float8:
        raise ModelError("LoRAs do not go with float8 weights: start the server without --float8.", field="loras")


def show_peft_to_diffusers() -> None:
    """diffusers looks once, when it is imported, and a process that starts lean hides peft from it then; peft takes
    PyTorch's distributed tensors for imported, which transformers leaves out in such a process.
    """
    from diffusers.loaders import peft as loader
    from diffusers.utils import import_utils

    import_utils._peft_available, import_utils._peft_version = True, importlib.metadata.version("peft")
    loader.USE_PEFT_BACKEND = True
    if torch.distributed.is_available():
        importlib.import_module("torch.distributed.tensor")


def _load(transformer: Any, one: AdapterUse, name: str) -> None:
    try:
        if file_sha(one.path) != one.sha:
            raise ModelError(f"{one.path} is not the file that was added as {one.name}: add it again.", field="loras")
        with safe_open(one.path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 — it is no dictionary
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{one.path} cannot be read: {error}.", field="loras") from error
    try:
        transformer.load_lora_adapter(
            _as_published(one.path, tensors), adapter_name=name, prefix="transformer", metadata=metadata
        )
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"The LoRA {one.name} does not fit this model: {reason}", field="loras") from error


def _as_published(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under diffusers' names, each scale in the second factor."""
    named: dict[str, torch.Tensor] = {}
    scales: dict[str, float] = {}
    for key, tensor in tensors.items():
        layer, part = split_name(path, key)
        if part == "alpha":
            scales[layer] = float(tensor)
        else:
            named[f"transformer.{layer}.{part}"] = tensor
    for layer, alpha in scales.items():
        second = f"transformer.{layer}.lora_B.weight"
        if second in named:
            named[second] = named[second].float() * (alpha / named[second].shape[1])
    return named


def _settle(transformer: Any, dtype: torch.dtype, device: torch.device) -> None:
    """What peft has added: for use and not for training, where the layers beside it compute."""
    for name, parameter in transformer.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(device=device, dtype=dtype)
            parameter.requires_grad_(False)
    transformer.eval()
