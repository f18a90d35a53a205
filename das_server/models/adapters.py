# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRA adapters that were added to the models folder: small files that change what a model makes, job by job.

    <models folder>/_loras/NAME.safetensors    the tensors, named as CogVideoX's are published (see `tensor_pairs`)
    <models folder>/_loras/NAME.json           its SHA-256, size, and the model that it is for

Never imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from das_blender_addon.errors import ModelError

FOLDER = "_loras"
"""In the models folder; no model can be called that."""

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?")
PREFIXES = ("transformer.", "base_model.model.")
"""What published files put before the names of the transformer's layers: diffusers' and peft's."""

TENSOR = re.compile(r"(?P<layer>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|alpha)")
FORMAT = 1

UNSETTLED_NS = 2_000_000_000
"""A file that was changed so recently may change once more at what the file system takes for the same time."""

_read_before: dict[str, dict[str, tuple[tuple[int, ...], Adapter | None]]] = {}
"""By folder and file's name: what the file looked like when it was read, and what it said."""


@dataclass(frozen=True)
class Adapter:
    """One that was added.  ``model``: the name of the model that it is for.  ``sha``: SHA-256 of its file."""

    name: str
    model: str
    sha: str
    size_bytes: int
    path: Path


@dataclass(frozen=True)
class AdapterUse:
    """One adapter of a job: its file, that file's SHA-256, and how strongly it counts."""

    name: str
    path: Path
    sha: str
    weight: float


def list_adapters(models_folder: Path) -> list[Adapter]:
    """Those that were added, by name; what cannot be read is left out.  A file that has not changed since it was read
    is not read again."""
    folder = os.fspath(models_folder / FOLDER)
    try:
        with os.scandir(folder) as entries:
            names = {one.name for one in entries}
    except OSError:
        names = set()
    known, now = _read_before.get(folder, {}), {}
    for about in sorted(name for name in names if name.endswith(".json")):
        stem = about.removesuffix(".json")
        path = os.path.join(folder, about)
        try:
            stat = os.stat(path)
        except OSError:
            continue
        look = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
        if f"{stem}.safetensors" in names:
            before = known.get(about)
            is_settled = time.time_ns() - stat.st_mtime_ns > UNSETTLED_NS
            now[about] = before if before and before[0] == look else (look if is_settled else (), _read(Path(path)))
    _read_before[folder] = now
    return [one for _, one in now.values() if one is not None]


def find_adapter(name: str, sha: str, model: str, models_folder: Path) -> Adapter:
    """The adapter that a job means.  Raises `ModelError` where it is not here, or another one by now."""
    adapters = {one.name: one for one in list_adapters(models_folder) if one.model == model}
    if name not in adapters:
        known = ", ".join(adapters) or "none"
        raise ModelError(f"There is no LoRA {name[:80]!r} for {model}; there is {known}.", field="loras")
    if adapters[name].sha != sha:
        raise ModelError(
            f"The LoRA {name} has been replaced since this job was planned; render again to use the new one.",
            field="loras",
        )
    return adapters[name]


def add_adapter(
    name: str, file: Path, model: str, models_folder: Path, *, layers: Mapping[str, tuple[int, ...]] | None = None
) -> Adapter:
    """Copy the adapter ``file`` into the models folder as ``name``, for ``model``; one of that name is replaced.

    ``layers``: name → shape of the model's weights, where they are at hand, which the adapter's are compared with.
    Raises `ModelError` for a name or file that cannot be used.
    """
    if not NAME.fullmatch(name):
        raise ModelError(
            f"A LoRA cannot be called {name[:80]!r}: use up to 64 of a-z, 0-9, dot, hyphen and underscore, beginning "
            "with a letter or digit, not ending with a dot.",
            field="name",
        )
    pairs = tensor_pairs(file)
    if layers is not None:
        _check_fit(file, pairs, layers, model)
    folder = models_folder / FOLDER
    path, about = folder / f"{name}.safetensors", folder / f"{name}.json"
    part = path.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, part)
        sha, size_bytes = file_sha(part), part.stat().st_size
        about.unlink(missing_ok=True)  # so that nothing says of the new file what was true of the old one
        os.replace(part, path)
        said = {"format": FORMAT, "sha256": sha, "size_bytes": size_bytes, "model": model, "source": file.name}
        about.with_suffix(".tmp").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        os.replace(about.with_suffix(".tmp"), about)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ModelError(f"The LoRA {file} cannot be copied to {folder}: {error.strerror or error}.") from error
    return Adapter(name, model, sha, size_bytes, path)


def tensor_pairs(file: Path) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Layer → shapes of its two factors, [rank, in] and [out, rank], from the file's header.

    Raises `ModelError` that names the first tensor that is not called or shaped as those of published CogVideoX
    adapters, ``transformer.transformer_blocks.0.attn1.to_q.lora_A.weight`` and ``…lora_B.weight``.
    """
    from .tensors import read_tensor_shapes

    factors: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in read_tensor_shapes(file).items():
        layer, part = split_name(file, name)
        factors.setdefault(layer, {})[part] = tuple(shape)
    pairs = {}
    for layer, parts in factors.items():
        first, second = parts.get("lora_A.weight", ()), parts.get("lora_B.weight", ())
        if len(first) != 2 or len(second) != 2 or first[0] != second[1]:
            raise ModelError(
                f"{file} is not a LoRA that is known: the factors of {layer} are {list(first)} and {list(second)}, "
                "not [rank, in] and [out, rank]."
            )
        pairs[layer] = first, second
    if not pairs:
        raise ModelError(f"{file} is not a LoRA: it holds no tensors.")
    return pairs


def split_name(file: Path, name: str) -> tuple[str, str]:
    """(Layer of the transformer, "lora_A.weight", "lora_B.weight" or "alpha") of a tensor.  Raises `ModelError`."""
    bare = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    match = TENSOR.fullmatch(bare)
    if match is None:
        raise ModelError(
            f"{file} is not a LoRA that is known: it holds {name[:120]!r}, and CogVideoX's are published as "
            "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight and lora_B.weight."
        )
    return match["layer"], match["part"]


def file_sha(path: Path) -> str:
    """SHA-256 (hex) of a file.  Raises `OSError`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_fit(file: Path, pairs: Mapping, layers: Mapping[str, tuple[int, ...]], model: str) -> None:
    for layer, (first, second) in pairs.items():
        shape = layers.get(f"{layer}.weight")
        if shape is None:
            raise ModelError(f"{file} does not fit {model}, which has no layer {layer}.")
        if tuple(shape) != (second[0], first[1]):
            raise ModelError(
                f"{file} does not fit {model}: it changes {layer} as {[second[0], first[1]]}, which is {list(shape)}."
            )


def _read(about: Path) -> Adapter | None:
    try:
        said = json.loads(about.read_text(encoding="utf-8"))
        path = about.with_suffix(".safetensors")
        if not NAME.fullmatch(about.stem) or not path.is_file():
            return None
        return Adapter(about.stem, str(said["model"]), str(said["sha256"]), int(said["size_bytes"]), path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
