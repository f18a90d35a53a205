# SPDX-License-Identifier: GPL-3.0-or-later
"""Which models there are, as a table, and what is installed.  Never imports torch: the front door reads it.

`model_specs` is the table.  The functions behind ``das-server models`` return plain values and print nothing:

    list     list_models(models_folder=None) -> list[ModelStatus]
    path     model_path(name, models_folder=None) -> Path
    verify   verify_model(name, models_folder=None, *, progress=None) -> VerifyReport
    add      add_model(name, source, models_folder=None, *, progress=None) -> Path
    pull     pull_model(name, revision, models_folder=None, *, progress=None) -> Path

(`verify_model`, `add_model` and `pull_model` live in `checkpoint`.)  All raise `ModelError`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError
from das_blender_addon.protocol.messages import ModelCapability, SizeRange

from .adapters import Adapter, list_adapters
from .families import model_family

MODELS_VARIABLE = "DAS_SERVER_MODELS"
"""Environment variable that names the models folder."""

PREVIEW_FOLDER = Path(__file__).resolve().parent / "das_preview"
"""The embedded preview model's checkpoint, part of the package."""

NUM_TRAIN_TIMESTEPS = 1000
"""Length of the noise schedule that the models were trained on."""

EXACT_STEPS = tuple(count for count in range(1, NUM_TRAIN_TIMESTEPS + 1) if NUM_TRAIN_TIMESTEPS % count == 0)
"""Step counts that divide the schedule, increasing: for others the sampler leaves noise in the result."""

GIBIBYTE = 1 << 30

MANIFEST_NAME = "das_manifest.json"
"""File that `checkpoint.add_model` writes into a model's folder: sha256 and size of every other file."""

OWN_NAME = re.compile(r"(?!(?:con|prn|aux|nul|com[1-9]|lpt[1-9])(?:\.|$))[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9_-])?")
"""What a model may be called that somebody adds under a name of its own: what can be a folder on every system, so
without the names of Windows's devices, with or without an ending, and without a dot at the end."""

BASE_OF_OWN_MODELS = "das-cogvideox-5b"
"""The model of the table that such models are like in all but the clip that they make, those of the first family."""

BASES = (BASE_OF_OWN_MODELS, "wan-vace-1.3b")
"""The models of the table that models with names of their own can be based on, one of each family."""

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
"""Sub-folders of a checkpoint in the published layout."""


@dataclass(frozen=True)
class ModelSpec:
    """All that is known of a model without opening its files.

    ``num_frames``: window lengths, increasing.  ``sizes``: (width, height) pixels, the default first.  ``size_range``:
    more sizes, for requests that name one.  ``inputs``: roles it reads besides "tracking_video" and "first_frame".
    ``memory_bytes``, ``host_bytes``: memory of the device, and of the machine besides, that it needs per profile,
    estimated for bfloat16 (`pipeline.needs` measures instead where the files are there).  ``vae_tiling``: it may work
    in tiles (`pipeline.needs.must_tile`).  ``repository``, ``files``: where the weights come from and which they are,
    for `checkpoint.pull_model`.  ``revision``: the commit of them that is fetched where none is asked for.
    ``frames_per_second``: of the clips that it was trained on; 0: any.  ``family``: see `families`.
    """

    name: str
    label: str
    num_frames: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    default_steps: int
    default_guidance: float
    default_tracking_range: str
    uses_prompt: bool
    licence: str
    exact_steps: tuple[int, ...] = EXACT_STEPS
    inputs: tuple[str, ...] = ()
    vae_tiling: bool = True
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    host_bytes: Mapping[str, int] = field(default_factory=dict)
    repository: str = ""
    files: tuple[str, ...] = ()
    embedded: Path | None = None
    size_range: SizeRange = SizeRange()
    frames_per_second: float = 0.0
    family: str = "cogvideox"
    revision: str = ""

    def capability(self, installed: bool, loras: Sequence[Adapter] = ()) -> ModelCapability:
        """What a server says of this model on the wire.  ``loras``: the adapters that were added for it."""
        return ModelCapability(
            name=self.name,
            label=self.label,
            num_frames=list(self.num_frames),
            sizes=[list(size) for size in self.sizes],
            default_steps=self.default_steps,
            exact_steps=list(self.exact_steps),
            default_guidance=self.default_guidance,
            default_tracking_range=self.default_tracking_range,
            uses_prompt=self.uses_prompt,
            inputs=list(self.inputs),
            licence=self.licence,
            installed=installed,
            size_range=self.size_range,
            frames_per_second=self.frames_per_second,
            loras=[[one.name, one.sha] for one in loras],
            speeds=list(model_family(self.family).speeds),
        )


@dataclass(frozen=True)
class ModelStatus:
    """One line of ``das-server models list``.  ``verifiable``: it was added with digests that can be checked."""

    spec: ModelSpec
    folder: Path
    installed: bool
    verifiable: bool
    size_bytes: int


_PREVIEW_SIZES = (
    # what AUTO takes, of all sizes in the model's range:
    # 3:2, then the other shapes; within one shape the first is the one that is chosen by itself
    (192, 128), (240, 160), (360, 240), (144, 96), (120, 80), (96, 64), (72, 48),
    (256, 144), (128, 72),
    (224, 168), (320, 240), (160, 120), (128, 96), (96, 72), (64, 48),
    (288, 144), (320, 160), (128, 64),
    (288, 120), (192, 80),
    (192, 192), (240, 240), (128, 128), (64, 64),
    (160, 240), (128, 192), (64, 96),
    (168, 224), (120, 160),
    (144, 256), (72, 128),
)  # fmt: skip

_WAN_VACE: dict[str, Any] = {
    "family": "wan-vace",
    "num_frames": model_family("wan-vace").num_frames,
    "default_steps": 50,
    "default_guidance": 5.0,
    "default_tracking_range": "signed",
    "uses_prompt": True,
    "licence": "Apache-2.0",
    "exact_steps": tuple(range(1, 101)),
    "inputs": ("carried_video", "carried_holes", "references"),
    "frames_per_second": 16.0,
    "files": (
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json and the shards it lists (or model.safetensors)",
        "tokenizer/spiece.model",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors.index.json and the shards it lists (or "
        "diffusion_pytorch_model.safetensors)",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ),
}
"""What the published models of that family have in common."""

_SPECS = (
    ModelSpec(
        name="das-preview",
        label="Preview (embedded, small)",
        num_frames=model_family("cogvideox").num_frames,
        sizes=_PREVIEW_SIZES,
        default_steps=1,
        default_guidance=1.0,
        default_tracking_range="signed",
        uses_prompt=False,
        licence="GPL-3.0-or-later",
        inputs=("carried_video",),
        vae_tiling=False,
        embedded=PREVIEW_FOLDER,
        size_range=SizeRange(multiple=8, smallest=48, longer=360, shorter=240),  # 8: VAE stride 4, patches of 2 latents
    ),
    ModelSpec(
        name="das-cogvideox-5b",
        label="Diffusion as Shader (CogVideoX 5B)",
        num_frames=(49,),
        sizes=((720, 480),),
        default_steps=50,
        default_guidance=6.0,
        default_tracking_range="signed",
        uses_prompt=True,
        licence="CogVideoX licence (read it with the weights; they are not part of this software)",
        memory_bytes={
            "resident": 30 * GIBIBYTE,
            "drop_text_encoder": 21 * GIBIBYTE,
            "group_offload": 11 * GIBIBYTE // 2,
            "cpu": 64 * GIBIBYTE,
        },
        host_bytes={"drop_text_encoder": 16 * GIBIBYTE, "group_offload": 16 * GIBIBYTE},
        repository="EXCAI/Diffusion-As-Shader",
        files=(
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "text_encoder/model.safetensors (or model.safetensors.index.json and the shards it lists)",
            "tokenizer/spiece.model",
            "tokenizer/tokenizer_config.json",
            "tokenizer/special_tokens_map.json",
            "tokenizer/added_tokens.json",
            "transformer/config.json",
            "transformer/diffusion_pytorch_model.safetensors (or diffusion_pytorch_model.safetensors.index.json "
            "and the "
            "shards it lists)",
            "vae/config.json",
            "vae/diffusion_pytorch_model.safetensors",
        ),
        frames_per_second=8.0,
    ),
    ModelSpec(
        name="wan-vace-1.3b",
        label="Wan VACE 1.3B (paints holes)",
        sizes=((832, 480), (720, 480), (640, 480), (480, 480), (480, 832), (480, 720), (480, 640)),
        size_range=SizeRange(multiple=16, smallest=128, longer=832, shorter=480),
        memory_bytes={
            "resident": 20 * GIBIBYTE,
            "drop_text_encoder": 12 * GIBIBYTE,
            "group_offload": 9 * GIBIBYTE // 2,
            "cpu": 40 * GIBIBYTE,
        },
        host_bytes={"drop_text_encoder": 5 * GIBIBYTE, "group_offload": 9 * GIBIBYTE},
        repository="Wan-AI/Wan2.1-VACE-1.3B-diffusers",
        revision="ec4d2cb062b548996b179d493fdd05340de702a1",
        **_WAN_VACE,
    ),
    ModelSpec(
        name="wan-vace-14b",
        label="Wan VACE 14B (paints holes)",
        sizes=(
            (832, 480), (1280, 720), (720, 480), (1072, 720), (640, 480), (960, 720), (480, 480), (720, 720),
            (480, 832), (720, 1280), (480, 720), (480, 640),
        ),
        size_range=SizeRange(multiple=16, smallest=128, longer=1280, shorter=720),
        memory_bytes={
            "resident": 54 * GIBIBYTE,
            "drop_text_encoder": 43 * GIBIBYTE,
            "group_offload": 12 * GIBIBYTE,
            "cpu": 110 * GIBIBYTE,
        },
        host_bytes={"drop_text_encoder": 34 * GIBIBYTE, "group_offload": 66 * GIBIBYTE},
        repository="Wan-AI/Wan2.1-VACE-14B-diffusers",
        revision="db79b90c60bbb45ceec9e41b9d5a4df934538ac4",
        **_WAN_VACE,
    ),
)  # fmt: skip


def model_specs(models_folder: Path | None = None) -> dict[str, ModelSpec]:
    """Every model by name: those of the table, then those that were added under names of their own."""
    specs = {spec.name: spec for spec in _SPECS}
    for manifest in sorted((models_folder or default_models_folder()).glob(f"*/{MANIFEST_NAME}")):
        name = manifest.parent.name
        spec = _own_spec(name, manifest) if name not in specs and OWN_NAME.fullmatch(name) else None
        if spec is not None:
            specs[name] = spec
    return specs


def model_spec(name: str, models_folder: Path | None = None) -> ModelSpec:
    """One model.  Raises `ModelError` that names those there are."""
    specs = model_specs(models_folder)
    if name not in specs:
        raise ModelError(f"There is no model {name!r}; known are {', '.join(specs)}.", field="model")
    return specs[name]


def table_names() -> set[str]:
    """The models that everybody knows, without those with a name of their own."""
    return {spec.name for spec in _SPECS}


def is_for_any_device(name: str) -> bool:
    """Whether a model is so small that a CPU beside a GPU is one for it, too."""
    return any(spec.name == name and spec.embedded for spec in _SPECS)


def place_for(name: str, models_folder: Path | None = None) -> tuple[Path, bool]:
    """(Where a model is to be put, whether the name is one of its own).  Raises `ModelError` for a name that cannot be
    used."""
    table = {spec.name: spec for spec in _SPECS}
    if name in table and table[name].embedded:
        raise ModelError(f"{name} is part of this software and cannot be replaced.", field="model")
    if name not in table and not OWN_NAME.fullmatch(name):
        raise ModelError(
            f"A model cannot be called {name[:80]!r}: use up to 64 of a-z, 0-9, dot, hyphen and underscore, beginning "
            "with a letter or digit, not ending with a dot, and no name that Windows keeps for itself, such as con.",
            field="model",
        )
    return (models_folder or default_models_folder()) / name, name not in table


def _own_spec(name: str, manifest: Path) -> ModelSpec | None:
    """What the manifest of a model with a name of its own says of it; None for one that says nothing usable."""
    try:
        about: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["model"]
        if about["based_on"] not in BASES:
            return None
        base = next(spec for spec in _SPECS if spec.name == about["based_on"])
        num_frames = tuple(int(count) for count in about["num_frames"])
        sizes = tuple((int(width), int(height)) for width, height in about["sizes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return replace(
        base,
        name=name,
        label=f"{name} (added)",
        num_frames=num_frames,
        sizes=sizes,
        licence="that of the weights that were added",
        memory_bytes={},
        host_bytes={},
        repository="",
        revision="",
        files=(),
    )


def default_models_folder(environment: Mapping[str, str] | None = None) -> Path:
    """``DAS_SERVER_MODELS``, else ``das-server/models`` in the platform's folder for user data."""
    environment = os.environ if environment is None else environment
    if environment.get(MODELS_VARIABLE):
        return Path(environment[MODELS_VARIABLE]).expanduser().absolute()
    home = Path(environment.get("HOME") or Path.home())
    if sys.platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(environment.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "das-server" / "models"


def model_path(name: str, models_folder: Path | None = None) -> Path:
    """Where a model's checkpoint is, or where it would have to be put.  Raises `ModelError` for an unknown name."""
    return _folder_of(model_spec(name, models_folder), models_folder)


def _folder_of(spec: ModelSpec, models_folder: Path | None) -> Path:
    return spec.embedded or (models_folder or default_models_folder()) / spec.name


def is_installed(folder: Path) -> bool:
    """Whether ``folder`` holds a whole checkpoint by the look of it: an index, and weights in every component."""
    if not (folder / "model_index.json").is_file():
        return False
    if not (folder / "scheduler" / "scheduler_config.json").is_file() or not (folder / "tokenizer").is_dir():
        return False
    weighted = ("text_encoder", "transformer", "vae")
    return all(
        (folder / part / "config.json").is_file() and any((folder / part).glob("*.safetensors")) for part in weighted
    )


def list_models(models_folder: Path | None = None) -> list[ModelStatus]:
    """Every known model, installed or not."""
    statuses = []
    for spec in model_specs(models_folder).values():
        folder = _folder_of(spec, models_folder)
        installed = is_installed(folder)
        files = [path for path in folder.rglob("*") if path.is_file()] if installed else []
        statuses.append(
            ModelStatus(
                spec=spec,
                folder=folder,
                installed=installed,
                verifiable=(folder / MANIFEST_NAME).is_file(),
                size_bytes=sum(path.stat().st_size for path in files),
            )
        )
    return statuses


def capabilities_of_models(models_folder: Path | None = None) -> list[ModelCapability]:
    """What a server says of all its models."""
    specs = model_specs(models_folder).values()
    adapters = list_adapters(models_folder or default_models_folder())
    return [
        spec.capability(
            is_installed(_folder_of(spec, models_folder)), [one for one in adapters if one.model == spec.name]
        )
        for spec in specs
    ]
