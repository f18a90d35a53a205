# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview model from nothing, in stages, each run by one or more worker processes; and its autoencoder.

1. `render_first`: the clips that the autoencoder trains on, and the validation clips
2. `autoencoder` (while `render_rest` renders the other clips, when the recipe allows)
3. `encode_first`: clips out of Blender are copied; then clips to latents, the first portion
4. `transformer` (while `encode_rest` encodes the others)
5. `decoder`: trained on what the transformer predicts, which learns along where the recipe says so
6. `assemble`: the checkpoint folder in the full model's layout
"""

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from das_server.models.convolution import use_onednn

from .autoencoder import autoencoder_loss, build_autoencoder, centre_latents
from .clips import open_clips
from .loop import StepContext, TrainingLoop
from .optimiser import build_optimiser
from .preview_clips import synthetic_sets
from .ranks import Ranks
from .recipe import AutoencoderSettings, OptimiserSettings, PreviewRecipe

_log = logging.getLogger(__name__)

PATCH_SIZE = 2
SCALE_CLIPS = 48
"""Training clips, at most, over which the latents' mean and deviation are measured."""


def latent_stride(recipe: PreviewRecipe) -> int:
    """Pixels per latent, along width and height."""
    return 2 ** (len(recipe.autoencoder.block_out_channels) - 1)


def to_video(frames: np.ndarray) -> torch.Tensor:
    """`[B, T, H, W, 3]` u8 to `[B, 3, T, H, W]` f32 in [-1, 1]."""
    video = torch.from_numpy(np.array(frames)).permute(0, 4, 1, 2, 3).float()
    return video.div_(127.5).sub_(1).contiguous()


def train_autoencoder(recipe: PreviewRecipe, ranks: Ranks, resume: bool) -> None:
    """Train on random crops of colour and tracking videos; writes `autoencoder/` (averaged weights, scale measured).

    A recipe that starts from a checkpoint takes that one's autoencoder."""
    settings, folder = recipe.autoencoder, recipe.folder / "autoencoder"
    if recipe.start is not None:
        if ranks.rank == 0:
            AutoencoderKLCogVideoX.from_pretrained(recipe.start / "vae").float().save_pretrained(folder / "final")
        return
    torch.manual_seed(settings.loop.seed)
    autoencoder = new_autoencoder(recipe).to(ranks.device)
    arrays = open_clips(recipe.folder / "clips", synthetic_sets(recipe)[0])
    validation = open_clips(recipe.folder / "validation", recipe.validation_sets[0])
    loop = TrainingLoop(autoencoder, make_optimiser(autoencoder, settings.optimiser), settings.loop, folder, ranks)
    if resume:
        loop.resume()

    def step_loss(context: StepContext):
        video = to_video(_autoencoder_batch(context, settings, arrays)).to(ranks.device)
        return autoencoder_loss(autoencoder, video, context.generator)

    def validate(loop: TrainingLoop) -> dict[str, float]:
        return autoencoder_quality(_with_weights(autoencoder, loop.averaged_weights(), recipe), validation,
                                   settings.validation_clips, ranks.device)

    loop.run(step_loss, validate)
    if ranks.rank == 0:
        _write_autoencoder(recipe, loop.averaged_weights(), arrays, folder)


def new_autoencoder(recipe: PreviewRecipe) -> AutoencoderKLCogVideoX:
    """The recipe's autoencoder as it starts."""
    settings = recipe.autoencoder
    return build_autoencoder(settings.block_out_channels, settings.norm_num_groups,
                             latent_channels=settings.latent_channels)


def make_optimiser(module: torch.nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """The optimiser that a recipe asks for."""
    return build_optimiser(module, name=settings.name, learning_rate=settings.learning_rate, betas=settings.betas,
                           weight_decay=settings.weight_decay, matrix_learning_rate=settings.matrix_learning_rate)


def _autoencoder_batch(context: StepContext, settings: AutoencoderSettings, arrays) -> np.ndarray:
    """Mostly crops of all frames; one step in five two half clips; one in five single whole frames of several clips.

    Never one video alone: PyTorch computes the gradient of its convolutions four times more slowly then."""
    _, frames, height, width, _ = arrays["rgb"].shape
    kind = context.step % 5
    count, crop, length = settings.batch_size, settings.crop, frames
    if kind == 3:
        count, crop = 2, (height, width // 2)
    elif kind == 4:
        count, crop, length = max(2, settings.batch_size - 1), (height, width), 1
    batch = []
    for _ in range(count):
        name = "tracking" if context.rng.random() < settings.tracking_share else "rgb"
        index = context.rng.integers(settings.train_clips)
        y = 4 * context.rng.integers(0, (height - crop[0]) // 4 + 1)
        x = 4 * context.rng.integers(0, (width - crop[1]) // 4 + 1)
        start = context.rng.integers(0, frames) if length == 1 else 0
        frame = arrays[name][index, start:start + length, y:y + crop[0], x:x + crop[1]]
        batch.append(frame[:, :, ::-1] if name == "rgb" and context.rng.random() < 0.5 else frame)
    return np.stack(batch)


def _with_weights(autoencoder, weights, recipe):
    copy = new_autoencoder(recipe)
    copy.load_state_dict(weights)
    use_onednn(copy)
    return copy.to(next(autoencoder.parameters()).device).eval()


@torch.no_grad()
def autoencoder_quality(autoencoder, arrays, count: int, device) -> dict[str, float]:
    """Mean PSNR in dB of decoding the posterior's mode, for colour and tracking videos and for their first frames."""
    result = {}
    for name in ("rgb", "tracking"):
        values = {"video": [], "frame": []}
        for index in range(count):
            video = to_video(arrays[name][index:index + 1]).to(device)
            for kind, part in (("video", video), ("frame", video[:, :, :1])):
                output = autoencoder.decode(autoencoder.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
                values[kind].append(-10 * torch.log10((output - part).square().mean() / 4 + 1e-10).item())
        result |= {f"{name}_{kind}": round(float(np.mean(list_)), 3) for kind, list_ in values.items()}
    return result


@torch.no_grad()
def _write_autoencoder(recipe, weights, arrays, folder: Path) -> None:
    autoencoder = new_autoencoder(recipe)
    autoencoder.load_state_dict(weights)
    autoencoder.eval()
    latents = torch.cat([autoencoder.encode(to_video(arrays["rgb"][index:index + 1])).latent_dist.mode()
                         for index in range(min(SCALE_CLIPS, recipe.autoencoder.train_clips))])
    mean = latents.mean((0, 2, 3, 4))
    centre_latents(autoencoder, mean)
    deviation = (latents - mean.view(1, -1, 1, 1, 1)).square().mean().sqrt()
    autoencoder.register_to_config(scaling_factor=round(1 / deviation.item(), 4))
    autoencoder.save_pretrained(folder / "final")


def load_autoencoder(recipe: PreviewRecipe) -> AutoencoderKLCogVideoX:
    """The trained autoencoder, float32, for encoding."""
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(recipe.folder / "autoencoder" / "final").eval()
    use_onednn(autoencoder)
    return autoencoder
