# SPDX-License-Identifier: GPL-3.0-or-later
"""Training recipes: TOML files read into frozen dataclasses; an unknown or missing key is refused by name."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from das_blender_addon.errors import ModelError

from .clips import ClipSet
from .loop import LoopSettings


@dataclass(frozen=True)
class OptimiserSettings:
    """See `optimiser.build_optimiser`."""

    name: str = "adamw"
    learning_rate: float = 1e-4
    matrix_learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class AutoencoderSettings:
    """The preview's autoencoder. `crop` is (height, width) of most training crops, in pixels."""

    optimiser: OptimiserSettings
    loop: LoopSettings
    block_out_channels: tuple[int, ...] = (16, 32, 64)
    norm_num_groups: int = 4
    latent_channels: int = 16
    batch_size: int = 4
    crop: tuple[int, int] = (32, 48)
    train_clips: int = 1200
    tracking_share: float = 0.35
    validation_clips: int = 16


@dataclass(frozen=True)
class TransformerSettings:
    """The preview's transformer and its objective (see `preview_objective`)."""

    optimiser: OptimiserSettings
    loop: LoopSettings
    num_attention_heads: int = 6
    attention_head_dim: int = 32
    num_layers: int = 4
    num_tracking_blocks: int = 2
    time_embed_dim: int = 64
    text_embed_dim: int = 32
    max_text_seq_length: int = 16
    tokens_per_batch: int = 2400
    first_step_share: float = 0.7
    own_input_from: float = 0.5
    large_from: float = 0.4
    small_tokens: int = 300
    size_shares: tuple[float, ...] = ()
    validation_clips: int = 48
    bfloat16: bool = False


@dataclass(frozen=True)
class DecoderSettings:
    """The preview's decoder on predicted latents. `crop` is (height, width) in pixels; `encoded_share` of the latents
    are encoded ones. `transformer_rate`: the transformer's learning rates as a part of the decoder's; 0 leaves it as it
    is. `first_step_share` of the predictions are made at the first timestep."""

    optimiser: OptimiserSettings
    loop: LoopSettings
    batch_size: int = 4
    crop: tuple[int, int] = (32, 48)
    encoded_share: float = 0.25
    transformer_rate: float = 0.0
    first_step_share: float = 0.75
    validation_clips: int = 16


@dataclass(frozen=True)
class PreviewRecipe:
    """A small model: synthetic clips, autoencoder, transformer, decoder, checkpoint folder.

    `start`: a checkpoint folder whose autoencoder is taken as it is and whose transformer is trained on; None to begin
    from nothing. `render_processes`: how many render clips; None for `processes`, and one beside another stage."""

    name: str
    folder: Path
    processes: int
    threads: int
    num_textures: int
    texture_seed: int
    clip_sets: tuple[ClipSet, ...]
    validation_sets: tuple[ClipSet, ...]
    autoencoder: AutoencoderSettings
    transformer: TransformerSettings
    decoder: DecoderSettings
    samples: int = 2
    start: Path | None = None
    render_processes: int | None = None
    background_rendering: bool = True


@dataclass(frozen=True)
class FineTuneRecipe:
    """The published training run, on a checkpoint folder and a folder of clips (see `finetune.py`). `trainable`:
    "tracking", "all", or "lora", an adapter of rank `lora_rank`. `shard`: weights and optimiser are spread over the
    processes (FSDP2); no samples are made then."""

    name: str
    folder: Path
    model: Path
    dataset: Path
    optimiser: OptimiserSettings
    loop: LoopSettings
    processes: int = 1
    threads: int = 1
    num_frames: int = 49
    height: int = 480
    width: int = 720
    batch_size: int = 1
    trainable: str = "tracking"
    lora_rank: int = 16
    shard: bool = False
    mixed_precision: str = "bf16"
    gradient_checkpointing: bool = True
    image_noise: bool = True
    image_dropout: float = 0.05
    sample_every: int = 500
    sample_steps: int = 25


def load_recipe(path: Path) -> PreviewRecipe | FineTuneRecipe:
    """Read a recipe; its `kind` is "preview" or "finetune". Relative paths are relative to the working folder.

    Raises ModelError for a file that is not a recipe."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path} is not a readable training recipe: {error}.") from error
    kinds = {"preview": PreviewRecipe, "finetune": FineTuneRecipe}
    kind = table.pop("kind", None)
    if kind not in kinds:
        raise ModelError(f'{path}: kind = {kind!r}; a training recipe is of kind "preview" or "finetune".')
    recipe = _build(kinds[kind], table, str(path))
    if isinstance(recipe, PreviewRecipe):
        _check_clip_sets(recipe, str(path))
    return recipe


def _check_clip_sets(recipe: PreviewRecipe, where: str) -> None:
    """What a stage would find out only after an hour, or never."""
    for clip_set in (*recipe.clip_sets, *recipe.validation_sets):
        if (clip_set.seed is None) == (clip_set.dataset is None):
            raise ModelError(f"{where}: the clip set {clip_set.name} needs a seed or a dataset, and not both.")
    if any(clip_set.dataset is not None for clip_set in recipe.validation_sets):
        raise ModelError(f"{where}: a [[validation_sets]] entry has a dataset; validation clips are synthetic.")
    if all(clip_set.dataset is not None for clip_set in recipe.clip_sets):
        raise ModelError(f"{where}: no [[clip_sets]] entry has a seed; the autoencoder trains on synthetic clips.")
    shares, sets = len(recipe.transformer.size_shares), len(recipe.clip_sets)
    if shares not in (0, sets):
        raise ModelError(f"{where}: size_shares has {shares} numbers for {sets} [[clip_sets]]; give one for each.")


def _build(cls: type, table: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(table) - set(fields)):
        raise ModelError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(fields))}.")
    required = {name for name, f in fields.items()
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - set(table)):
        raise ModelError(f"{where}: the key {missing[0]!r} is missing.")
    values = {}
    for name, value in table.items():
        kind = fields[name].type
        if dataclasses.is_dataclass(kind):
            value = _build(kind, value, f"{where} [{name}]")
        elif kind == tuple[ClipSet, ...]:
            value = tuple(_build(ClipSet, entry, f"{where} [[{name}]]") for entry in value)
        elif isinstance(value, list):
            value = tuple(value)
        elif kind in (Path, Path | None):
            value = Path(value)
        values[name] = value
    return cls(**values)
