# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights from safetensors files to where they are used, one tensor after the other.

Files are mapped into memory, not read: of a model that goes to a device, the machine's own memory holds one tensor at a
time; of one that stays, nothing but the files' pages where they have its dtype already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from das_blender_addon.errors import ModelError


def load_model(
    model_class: Any,
    config: dict[str, Any],
    files: Sequence[Path],
    *,
    dtype: torch.dtype,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype] | None = None,
    is_changed: bool = False,
) -> Any:
    """A diffusers model of ``config`` with the tensors of ``files``, in ``dtype`` on ``device``, in eval mode.

    ``dtype_of(name)``: instead of ``dtype``, where not all tensors have the same.  ``is_changed``: the weights will be,
    so none of them is left in its file's pages.
    The files must hold all of its tensors (`tensors.check_tensors`).  Raises `ModelError`, and PyTorch's own error
    where the device is full.
    """
    with without_weights():
        model = model_class.from_config(config)
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 — it is no dictionary
                    kept = dtype_of(name) if dtype_of is not None else dtype
                    _put(model, name, file.get_tensor(name).to(device=device, dtype=kept, copy=is_changed))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from error
    for module in model.modules():
        for name in module._non_persistent_buffers_set & module._buffers.keys():
            module._buffers[name] = module._buffers[name].to(device)
    return model.eval().requires_grad_(False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, parameters of new modules take no memory; buffers are as they are computed, for no file may hold them."""
    register = torch.nn.Module.register_parameter

    def register_empty(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = torch.nn.Parameter(parameter.to("meta"), parameter.requires_grad)

    torch.nn.Module.register_parameter = register_empty
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def _put(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, last = name.rpartition(".")
    module = model.get_submodule(parent)
    if last in module._parameters:
        module._parameters[last] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[last] = tensor
