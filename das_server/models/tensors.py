# SPDX-License-Identifier: GPL-3.0-or-later
"""The tensors of a checkpoint's component, checked name by name and shape by shape before anything is loaded."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError

WEIGHTS_STEM = "diffusion_pytorch_model"
"""File name of a diffusers component's weights, without ending."""

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""Endings of files that can run code when they are loaded: never opened."""

MAX_HEADER_BYTES = 100 * 1024 * 1024
"""Largest safetensors header that the format allows."""


def read_component_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of one component's folder.  Raises `ModelError` when there is none or it is not a JSON object."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"There is no folder {folder}.")
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json, so it is not a component of a diffusers checkpoint.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no JSON object.")
    return config


def weight_files(folder: Path, *, stem: str = WEIGHTS_STEM, variant: str | None = None) -> list[Path]:
    """The safetensors files of a component, one or all shards.  Raises `ModelError` that names what is missing."""
    dotted = f".{variant}" if variant else ""
    single = folder / f"{stem}{dotted}.safetensors"
    index = folder / f"{stem}.safetensors.index{dotted}.json"
    if single.is_file() and index.is_file():  # loaders do not agree on which of the two they read
        raise ModelError(f"{folder} holds both {single.name} and {index.name}: remove the one that is not the model.")
    if single.is_file():
        return [single]
    if index.is_file():
        names = sorted(set(_weight_map(index).values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ModelError(f"{index} lists {name!r}, which is not a safetensors file of the same folder.")
            if not (folder / name).is_file():
                raise ModelError(f"{folder} lacks {name}, which {index.name} lists.")
        return [folder / name for name in names]
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise ModelError(
            f"{folder} holds only {pickles[0]}: pickle checkpoints can run code and are refused; convert it to "
            "safetensors."
        )
    raise ModelError(f"{folder} has neither {single.name} nor {index.name}.")


def read_tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, from its header alone.  Raises `ModelError` for a damaged file."""
    return {name: tuple(entry["shape"]) for name, entry in _read_header(path).items()}


def converted_bytes(folder: Path, itemsize: int, stored_name: str | None, *, stem: str = WEIGHTS_STEM) -> int:
    """Memory that a component takes when it is loaded and stays in the machine's own: none where its files have the
    dtype, ``stored_name`` in the format's words, for then they are mapped."""
    files = weight_files(folder, stem=stem)
    if {name for file in files for name in read_tensor_dtypes(file)} <= {stored_name}:
        return 0
    return itemsize * sum(math.prod(shape) for file in files for shape in read_tensor_shapes(file).values())


def read_tensor_dtypes(path: Path) -> set[str]:
    """The dtypes in a safetensors file by the format's names ("BF16").  Raises `ModelError` for a damaged file."""
    return {str(entry.get("dtype")) for entry in _read_header(path).values()}


def _read_header(path: Path) -> dict[str, dict[str, Any]]:
    """name → its entry, whose shape is a sequence.  Raises `ModelError`."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            (header_bytes,) = struct.unpack("<Q", file.read(8))
            if header_bytes > min(MAX_HEADER_BYTES, size_bytes - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(header_bytes))
        header.pop("__metadata__", None)
        data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if 8 + header_bytes + data_bytes != size_bytes:
            raise ValueError(f"it has {size_bytes} bytes instead of {8 + header_bytes + data_bytes}")
        return {name: entry | {"shape": tuple(entry["shape"])} for name, entry in header.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{path} is not a whole safetensors file: {error}.") from error


def expected_tensors(
    model_class: Any, config: dict[str, Any], folder: Path, what: str, *, family: str = "CogVideoX"
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a diffusers model of this config is made of; nothing is allocated.

    Raises `ModelError` when the config, of ``folder``, does not describe a ``what`` of ``family``.
    """
    import torch  # the rest of this module does without

    if config.get("use_rotary_positional_embeddings") is False and not config.get("use_learned_positional_embeddings"):
        # A table of positions that is computed is in no file, and to compute it of nothing takes torch's compiler.
        config = config | {"use_rotary_positional_embeddings": True}
    try:
        with torch.device("meta"):
            empty = model_class.from_config(config)
    except (TypeError, ValueError, AttributeError, NameError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"{folder / 'config.json'} does not describe a {family} {what}: {error}") from error
    return {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()}


def check_tensors(
    folder: Path, expected: dict[str, tuple[int, ...]], *, stem: str = WEIGHTS_STEM, variant: str | None = None
) -> None:
    """Compare the tensors in ``folder`` with what the model is made of; nothing is loaded.

    Raises `ModelError` that names the first missing, extra or mis-shaped tensor and says how many there are.
    """
    files = weight_files(folder, stem=stem, variant=variant)
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        found.update(read_tensor_shapes(path))
    if len(files) > 1 or not files[0].name.startswith(f"{stem}{'.' + variant if variant else ''}.safetensors"):
        _check_index(folder, files, stem, variant)

    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ModelError(f"{folder} lacks the tensor {missing[0]}{_and_more(missing)}.")
    extra = sorted(found.keys() - expected.keys())
    if extra:
        raise ModelError(f"{folder} holds a tensor the model does not have: {extra[0]}{_and_more(extra)}.")
    misshaped = [name for name in sorted(expected) if expected[name] != found[name]]
    if misshaped:
        name = misshaped[0]
        raise ModelError(
            f"The tensor {name} in {folder} has shape {list(found[name])}, but the model needs {list(expected[name])}"
            f"{_and_more(misshaped)}."
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ValueError("its weight_map does not map names to files")
        if not weight_map:
            raise ValueError("its weight_map is empty")
        return weight_map
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{index} is not a valid index of shards: {error!r}.") from error


def _check_index(folder: Path, files: list[Path], stem: str, variant: str | None) -> None:
    """Every tensor must lie in the shard that the index says, or the loader would not find it."""
    dotted = f".{variant}" if variant else ""
    weight_map = _weight_map(folder / f"{stem}.safetensors.index{dotted}.json")
    for path in files:
        held = read_tensor_shapes(path).keys()
        listed = {name for name, file in weight_map.items() if file == path.name}
        for name in sorted(listed - held):
            raise ModelError(f"{path} lacks the tensor {name}, which the index of shards places there.")
        for name in sorted(held - listed):
            raise ModelError(f"{path} holds the tensor {name}, which the index of shards does not place there.")
