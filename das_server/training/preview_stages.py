# SPDX-License-Identifier: GPL-3.0-or-later
"""Later stages of the preview recipe: encode all clips, train the transformer on the latents, assemble the folder."""

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from PIL import Image

from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.holes import difference, pack_holes
from das_server.pipeline.cogvideox.latents import vae_stride

from .clips import CHANNELS, ClipSet, import_clips, open_clips
from .loop import StepContext, TrainingLoop
from .preview import PATCH_SIZE, latent_stride, load_autoencoder, make_optimiser, to_video
from .preview_clips import clips_folder
from .preview_transformer import (
    LAST_TIMESTEP,
    build_transformer,
    hole_errors,
    preview_objective,
    start_from_nothing,
)
from .ranks import Ranks
from .recipe import PreviewRecipe, TransformerSettings

_log = logging.getLogger(__name__)

PORTIONS = 16
"""A set is encoded in this many portions, the first before training, the others beside it."""
PIXELS_TOGETHER = 8 * 9 * 64 * 96
"""Clips are encoded together up to this many pixels."""
SAMPLE_CLIPS = 8
"""Validation clips that are shown during training."""
LATENT_NAMES = ("difference", "carried", "tracking", "holes")
SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0, "prediction_type": "v_prediction",
             "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "snr_shift_scale": 100.0}
"""The full model's sampler, but with the schedule shifted to high noise: what the tracking video leaves open is little,
so a later step has to correct the step before it and not to refine a nearly finished picture."""


def encode_first(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Encode the validation clips and the first portion of every set: what the transformer needs to begin.

    Writes `latents/<size>/{difference,carried,tracking,holes}.npy`, f16 `[clips, F, C, h, w]`, scaled, and beside
    them `encoded.txt`, the number of clips that are ready."""
    if ranks.rank == 0:
        for clip_set in recipe.clip_sets:
            if clip_set.dataset is not None:
                import_clips(clips_folder(recipe, clip_set), clip_set)
    ranks.wait()
    autoencoder = load_autoencoder(recipe).to(ranks.device)
    for clip_set in recipe.validation_sets:
        _encode_clips(recipe, ranks, autoencoder, clip_set, clip_set.count)
    for clip_set in recipe.clip_sets:
        _encode_clips(recipe, ranks, autoencoder, clip_set, -(-clip_set.count // PORTIONS))


def encode_rest(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Encode the other portions, all sets growing together, while the transformer trains."""
    autoencoder = load_autoencoder(recipe).to(ranks.device)
    for portion in range(2, PORTIONS + 1):
        for clip_set in recipe.clip_sets:
            _encode_clips(recipe, ranks, autoencoder, clip_set, -(-clip_set.count * portion // PORTIONS))


def _encode_clips(
    recipe: PreviewRecipe, ranks: Ranks, autoencoder: AutoencoderKLCogVideoX, clip_set: ClipSet, end: int
) -> None:
    folder = latents_folder(recipe, clip_set)
    if ranks.rank == 0 and not (folder / "encoded.txt").exists():
        _create_latents(folder, clip_set, recipe)
    ranks.wait()
    start = int((folder / "encoded.txt").read_text())
    arrays = open_clips(clips_folder(recipe, clip_set), clip_set)
    latents = _open_latents(folder, "r+")
    together = max(1, PIXELS_TOGETHER // (clip_set.frames * clip_set.height * clip_set.width))
    own = range(start + ranks.rank, end, ranks.size)
    for first in range(0, len(own), together):
        indices = list(own[first:first + together])
        parts = clip_latents(autoencoder, *(arrays[name][indices] for name in CHANNELS))
        for name, part in parts.items():
            latents[name][indices] = part
    ranks.wait()
    if ranks.rank == 0 and end > start:
        (folder / "encoded.new").write_text(str(end))
        os.replace(folder / "encoded.new", folder / "encoded.txt")  # never empty, whenever this process is ended


def clip_latents(autoencoder, rgb: np.ndarray, tracking: np.ndarray, carried: np.ndarray) -> dict[str, np.ndarray]:
    """Latents `[B, F, C, h, w]` f32 of clips by `LATENT_NAMES`; `rgb`, `tracking` `[B, T, H, W, 3]` u8, `carried`
    `[B, T, H, W, 4]` u8, alpha 0 in the holes."""
    holes = carried[..., 3] == 0
    videos = {"carried": to_video(carried[..., :3]), "tracking": to_video(tracking),
              "difference": torch.from_numpy(difference(rgb, carried[..., :3], holes)).permute(0, 4, 1, 2, 3)}
    device, channels = next(autoencoder.parameters()).device, autoencoder.config.latent_channels
    found = {name: _encode(autoencoder, video.to(device)) for name, video in videos.items()}
    return {**found, "holes": np.stack([pack_holes(clip, channels, vae_stride(autoencoder)).numpy() for clip in holes])}


@torch.no_grad()
def _encode(autoencoder, video: torch.Tensor) -> np.ndarray:
    mode = autoencoder.encode(video.contiguous()).latent_dist.mode() * autoencoder.config.scaling_factor
    return mode.transpose(1, 2).float().cpu().numpy()


def latents_folder(recipe: PreviewRecipe, clip_set: ClipSet) -> Path:
    """Where the latents of a set of clips lie."""
    kind = "validation" if clip_set in recipe.validation_sets else "clips"
    return recipe.folder / "latents" / kind / clip_set.name


def _create_latents(folder: Path, clip_set: ClipSet, recipe: PreviewRecipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frames, stride, channels = 1 + clip_set.frames // 4, latent_stride(recipe), recipe.autoencoder.latent_channels
    for name in LATENT_NAMES:
        shape = (clip_set.count, frames, channels, clip_set.height // stride, clip_set.width // stride)
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape).flush()
    (folder / "encoded.txt").write_text("0")


def _open_latents(folder: Path, mode: str = "r") -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in LATENT_NAMES}


class EncodedClips:
    """Latents of one set."""

    def __init__(self, recipe: PreviewRecipe, clip_set: ClipSet):
        self.latents = _open_latents(latents_folder(recipe, clip_set))
        frames, _, height, width = self.latents["difference"].shape[1:]
        self.tokens = frames * (height // PATCH_SIZE) * (width // PATCH_SIZE)
        self._encoded = latents_folder(recipe, clip_set) / "encoded.txt"

    @property
    def count(self) -> int:
        """Clips that are encoded by now."""
        return int(self._encoded.read_text())

    def batch(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.stack([array[i] for i in indices])).float()
                for name, array in self.latents.items()}


def train_transformer(recipe: PreviewRecipe, ranks: Ranks, resume: bool) -> None:
    """Train on the encoded clips; writes `transformer/` (averaged weights)."""
    settings, folder = recipe.transformer, recipe.folder / "transformer"
    torch.manual_seed(settings.loop.seed)
    transformer = new_transformer(recipe)
    start_from_nothing(transformer, latents_of_nothing(load_autoencoder(recipe)))
    transformer.to(ranks.device)
    alphas_cumprod = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod.float()
    sets = [EncodedClips(recipe, clip_set) for clip_set in recipe.clip_sets]
    validation = EncodedClips(recipe, recipe.validation_sets[0])
    loop = TrainingLoop(transformer, make_optimiser(transformer, settings.optimiser), settings.loop, folder, ranks)
    if resume:
        loop.resume()

    def step_loss(context: StepContext):
        batch = {key: value.to(ranks.device) for key, value in preview_batch(context, settings, sets).items()}
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=settings.bfloat16):
            return preview_objective(transformer, batch, settings, alphas_cumprod, context.progress, context.generator)

    def validate(loop: TrainingLoop) -> dict[str, float]:
        averaged = new_transformer(recipe)
        averaged.load_state_dict(loop.averaged_weights())
        averaged.eval().to(ranks.device)
        errors = first_step_errors(averaged, validation.batch(np.arange(settings.validation_clips)), settings)
        return errors | sample_clips(recipe, averaged, folder / "samples" / f"{loop.step:06d}.png", ranks.device)

    loop.run(step_loss, validate)
    if ranks.rank == 0:
        write_transformer(recipe, loop.averaged_weights())


def new_transformer(recipe: PreviewRecipe) -> DasTransformer3DModel:
    """The recipe's transformer before `start_from_nothing`: that of the checkpoint it starts from, or a new one."""
    if recipe.start is not None:
        return DasTransformer3DModel.from_pretrained(recipe.start / "transformer").float().train().requires_grad_(True)
    return build_transformer(recipe.transformer, latent_channels=recipe.autoencoder.latent_channels)


@torch.no_grad()
def latents_of_nothing(autoencoder: AutoencoderKLCogVideoX) -> torch.Tensor:
    """`[C]` f32: scaled latents of a video of zeros, their mean over place and time."""
    return torch.from_numpy(_encode(autoencoder, torch.zeros(1, 3, 9, 32, 32))).mean((0, 1, 3, 4))


def preview_batch(context: StepContext, settings: TransformerSettings,
                  sets: list[EncodedClips]) -> dict[str, torch.Tensor]:
    """One size for all ranks, by `size_shares` (before `large_from` only the first sizes of few tokens); then as many
    clips of it as `tokens_per_batch` holds, other ones on every rank."""
    shares = np.array(settings.size_shares or [1.0] * len(sets)) * [clips.count > 0 for clips in sets]
    if context.progress < settings.large_from:
        shares = np.where([clips.tokens <= settings.small_tokens for clips in sets], shares, 0)
    chosen = sets[context.shared.choice(len(sets), p=shares / shares.sum())]
    count = max(1, settings.tokens_per_batch // chosen.tokens)
    return chosen.batch(context.rng.integers(0, chosen.count, count))


@torch.no_grad()
def first_step_errors(transformer, batch: dict[str, torch.Tensor], settings: TransformerSettings) -> dict[str, float]:
    """Mean squared error, weighted by `hole_weights`, of the clean latents predicted from pure noise, told of the
    clip's own holes and of another clip's. The batch may lie on another device."""
    device = next(transformer.parameters()).device
    batch = {key: value.to(device) for key, value in batch.items()}
    count, latents = batch["difference"].shape[0], batch["difference"]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5)).to(device)
    text = torch.zeros(count, settings.max_text_seq_length, settings.text_embed_dim, device=device)
    other = torch.roll(torch.arange(count), 1)
    result = {}
    for name, holes in (("own", batch["holes"]), ("other", batch["holes"][other])):
        parts = [predict_first_step(transformer, text=text[index], noise=noise[index], holes=holes[index],
                                    carried=batch["carried"][index], tracking=batch["tracking"][index])
                 for index in torch.arange(count).split(8)]
        result[name] = round(hole_errors(torch.cat(parts), latents, batch["holes"]).mean().item(), 5)
    return result


def predict_first_step(transformer, *, carried, tracking, holes, text, noise) -> torch.Tensor:
    """Clean latents from pure noise: at the last timestep a is 0, so x0 = -v. All on the transformer's device."""
    hidden = torch.cat([noise, carried], 2)
    timestep = torch.full((len(noise),), LAST_TIMESTEP, device=noise.device)
    return -transformer(hidden, text, timestep, torch.cat([tracking, holes], 2), return_dict=False)[0]


def sample_clips(recipe: PreviewRecipe, transformer, path: Path, device: torch.device) -> dict[str, float]:
    """Run the pipeline on some validation clips; save their middle and last frames as `path`, a grid with a row per
    clip: carried (twice), truth, painted in one step. Returns the PSNRs in holes of carried and painted, dB."""
    from das_server.pipeline.cogvideox.pipeline import DasPipeline
    from das_server.pipeline.cogvideox.prompt import PromptEncoder

    from .text_components import write_text_components  # transformers, which takes seconds

    text = recipe.folder / "text"
    write_text_components(text, recipe.transformer.text_embed_dim)
    pipeline = DasPipeline(transformer=transformer, vae=load_autoencoder(recipe).to(device),
                           scheduler=CogVideoXDPMScheduler(**SCHEDULER), device=device, carries_first_frame=True,
                           paints_holes=True,
                           prompt_encoder=PromptEncoder(text, recipe.transformer.max_text_seq_length, torch.float32))
    clips = open_clips(recipe.folder / "validation", recipe.validation_sets[0])
    grid, error = [], HoleError()
    for truth, tracking, carried in zip(*(clips[name][:recipe.transformer.validation_clips] for name in CHANNELS),
                                        strict=True):
        holes, seen = carried[..., 3] == 0, np.ascontiguousarray(carried[..., :3])
        frames = pipeline("", np.asarray(tracking), Image.fromarray(seen[0]), carried_video=seen, holes=holes,
                          guidance_scale=1.0, num_inference_steps=1, generator=torch.Generator().manual_seed(0)).frames
        error.add(truth, holes, {"carried": seen, "painted": frames})
        if len(grid) < SAMPLE_CLIPS:
            grid.append(np.concatenate([video[t] for video in (seen, truth, frames) for t in (len(truth) // 2, -1)], 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(grid)).save(path)
    return error.psnrs()


class HoleError:
    """Squared errors in the holes of clips, several ways to fill them side by side."""

    def __init__(self):
        self._square: dict[str, float] = {}
        self._count = 0

    def add(self, truth: np.ndarray, holes: np.ndarray, filled: dict[str, np.ndarray]) -> None:
        """One clip: `truth` and the videos `filled` `[T, H, W, 3]` u8, `holes` `[T, H, W]` bool."""
        self._count += 3 * int(holes.sum())
        for name, video in filled.items():
            square = (video[holes].astype(np.float64) - truth[holes]) ** 2
            self._square[name] = self._square.get(name, 0.0) + float(square.sum())

    def psnrs(self) -> dict[str, float]:
        """PSNR in dB of all holes together, by name."""
        return {f"psnr_{name}": round(float(-10 * np.log10(square / max(self._count, 1) / 255**2 + 1e-10)), 3)
                for name, square in self._square.items()}


def write_transformer(recipe: PreviewRecipe, weights: dict[str, torch.Tensor]) -> None:
    """Save averaged weights as `transformer/final`."""
    transformer = new_transformer(recipe)
    transformer.load_state_dict(weights)
    transformer.save_pretrained(recipe.folder / "transformer" / "final")


def assemble(recipe: PreviewRecipe) -> None:
    """Write `checkpoint/` in the full model's layout, float16 safetensors."""
    from .text_components import write_text_components

    target = recipe.folder / "checkpoint"
    shutil.rmtree(target, ignore_errors=True)
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(recipe.folder / "decoder" / "final")
    autoencoder.half().save_pretrained(target / "vae")
    transformer = DasTransformer3DModel.from_pretrained(recipe.folder / "decoder" / "transformer")
    transformer.half().save_pretrained(target / "transformer")
    CogVideoXDPMScheduler(**SCHEDULER).save_pretrained(target / "scheduler")
    write_text_components(target, recipe.transformer.text_embed_dim)
