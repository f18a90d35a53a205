# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fine-tuning run will take, before it is begun: memory of each process, steps, and about how long one takes.

Parameters are counted on the meta device; activations and time follow from a block's shape and a short measurement.
"""

import time
from dataclasses import dataclass

import torch

from das_server.models.block import DasBlock
from das_server.models.tensors import read_component_config, read_tensor_shapes, weight_files
from das_server.models.transformer import DasTransformer3DModel
from das_server.models.weights import without_weights
from das_server.pipeline.memory import in_gib

from .finetune import select_trainable
from .recipe import FineTuneRecipe

MASTER_BYTES = 4 + 4 + 8
"""Of a trained parameter: itself, its gradient and AdamW's two moments, all float32."""
AVERAGE_BYTES = 4
STREAMS_KEPT = 34
"""Token streams that a block keeps for its backward pass where it is not computed again: inputs of its linears,
attention's q, k, v and output, feed-forward (2 x 4), norms and gates."""
MEASURED_TOKENS = 1024
"""Of the measurement on a CPU; on a GPU it is a clip's."""
BACKWARD = 2
"""Times a forward pass that a backward pass takes; computing again takes one more."""


@dataclass(frozen=True)
class TrainingPlan:
    """`trained`, `frozen`: parameters. The rest: bytes of one process's device; `gathered`: of a block whose shards
    are together while it runs. `clips_per_step`: over all processes."""

    trained: int
    frozen: int
    weights: int
    gathered: int
    activations: int
    vae: int
    clips_per_step: int
    tokens: int

    @property
    def peak_bytes(self) -> int:
        """All of it at once."""
        return self.weights + self.gathered + self.activations + self.vae


def plan(recipe: FineTuneRecipe) -> TrainingPlan:
    """The plan of a recipe whose model is there. Raises ModelError for one that is not."""
    config = read_component_config(recipe.model / "transformer")
    shapes = [read_tensor_shapes(path) for path in weight_files(recipe.model / "vae")]
    half = 2 if recipe.mixed_precision == "bf16" else 4
    vae = half * sum(torch.Size(shape).numel() for one in shapes for shape in one.values())
    stride = 2 ** (len(read_component_config(recipe.model / "vae")["block_out_channels"]) - 1)
    return plan_of(recipe, config, vae, stride)


def plan_of(recipe: FineTuneRecipe, config: dict, vae_bytes: int, stride: int) -> TrainingPlan:
    """The same from a transformer's configuration; `stride`: pixels per latent."""
    with without_weights():
        model = DasTransformer3DModel.from_config(config)
        select_trainable(model, recipe.trainable, recipe.lora_rank)
    trained, frozen = (sum(value.numel() for value in model.parameters() if value.requires_grad is wanted)
                       for wanted in (True, False))
    half = 2 if recipe.mixed_precision == "bf16" else 4
    weights = trained * (MASTER_BYTES + (AVERAGE_BYTES if recipe.loop.ema_decay else 0)) + frozen * half
    shards, gathered = recipe.processes if recipe.shard else 1, 0
    if shards > 1:  # the next one comes while one runs
        gathered = 2 * max(sum(value.numel() * (4 if value.requires_grad else half) for value in block.parameters())
                           for block in (*model.transformer_blocks, *model.transformer_blocks_copy))
    tokens = num_tokens(recipe, config, stride)
    stream = recipe.batch_size * tokens * config["num_attention_heads"] * config["attention_head_dim"] * half
    blocks = config["num_layers"] + len(model.transformer_blocks_copy)
    kept = blocks + STREAMS_KEPT if recipe.gradient_checkpointing else blocks * STREAMS_KEPT
    return TrainingPlan(trained, frozen, -(-weights // shards), gathered, kept * stream, vae_bytes,
                        recipe.processes * recipe.batch_size * recipe.loop.accumulate, tokens)


def num_tokens(recipe: FineTuneRecipe, config: dict, stride: int) -> int:
    """Of one clip, text and video."""
    patch = stride * config["patch_size"]
    frames = (recipe.num_frames - 1) // config["temporal_compression_ratio"] + 1
    return frames * (recipe.height // patch) * (recipe.width // patch) + config["max_text_seq_length"]


def step_seconds(recipe: FineTuneRecipe, config: dict, tokens: int, device: torch.device) -> float:
    """About how long one step takes on `device`: one block, forward and backward, measured and multiplied."""
    channels = config["num_attention_heads"] * config["attention_head_dim"]
    half = torch.bfloat16 if recipe.mixed_precision == "bf16" else torch.float32
    measured = tokens if device.type == "cuda" else min(tokens, MEASURED_TOKENS)
    text = min(config["max_text_seq_length"], measured // 2)
    block = DasBlock(dim=channels, num_attention_heads=config["num_attention_heads"],
                     attention_head_dim=config["attention_head_dim"], time_embed_dim=config["time_embed_dim"])
    block.to(device, half)
    inputs = [torch.randn(1, count, channels, device=device, dtype=half, requires_grad=True)
              for count in (measured - text, text)]
    temb = torch.randn(1, config["time_embed_dim"], device=device, dtype=half)
    seconds = []
    for _ in range(3):  # the first one warms up
        started = time.monotonic()
        video, words = block(*inputs, temb)
        (video.float().mean() + words.float().mean()).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.monotonic() - started)
    again = (BACKWARD + 2) / (BACKWARD + 1) if recipe.gradient_checkpointing else 1.0
    blocks = config["num_layers"] + config.get("num_tracking_blocks", 18)
    scale = flops(tokens, channels) / flops(measured, channels)
    return min(seconds[1:]) * scale * again * blocks * recipe.batch_size * recipe.loop.accumulate


def flops(tokens: int, channels: int) -> float:
    """Of a block's forward pass, to scale by."""
    return 24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels


def describe(recipe: FineTuneRecipe) -> list[str]:
    """The plan in lines, with a measurement on this machine. Raises ModelError."""
    config, made = read_component_config(recipe.model / "transformer"), plan(recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = step_seconds(recipe, config, made.tokens, device)
    steps = recipe.loop.steps
    how = "sharded over the processes" if recipe.shard and recipe.processes > 1 else "whole in every process"
    lines = [
        f"{recipe.name}: trains {made.trained / 1e6:.1f} M parameters ({recipe.trainable}) of "
        f"{(made.trained + made.frozen) / 1e6:.1f} M, {how}",
        f"memory of each of {recipe.processes} device(s): {in_gib(made.peak_bytes)} = weights, gradients and optimiser "
        f"{in_gib(made.weights)} + gathered blocks {in_gib(made.gathered)} + activations {in_gib(made.activations)} "
        f"(estimated) + VAE {in_gib(made.vae)}; the text encoder comes before the first step, and goes",
        f"a step: {made.clips_per_step} clips of {recipe.num_frames} frames of {recipe.width}x{recipe.height} "
        f"({made.tokens} tokens), about {seconds:.3g} s by a short measurement of one block on {device}",
    ]
    if steps is not None:
        hours = steps * seconds / 3600
        lines.append(f"in all: {steps} steps, {steps * made.clips_per_step} clips, about {hours:.3g} h")
    else:
        lines.append(f"in all: {recipe.loop.minutes:g} minutes, about {60 * recipe.loop.minutes / seconds:.0f} steps")
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(device).total_memory
        verdict = "fits" if made.peak_bytes < total else "does NOT fit"
        lines.append(f"this device has {in_gib(total)}: the run {verdict}")
    return lines
