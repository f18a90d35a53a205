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
from das_server.pipeline.carry import carry

from .clips import ClipSet, import_clips, open_clips
from .loop import StepContext, TrainingLoop
from .objective import pad_frames
from .preview import PATCH_SIZE, latent_stride, load_autoencoder, make_optimiser, to_video
from .preview_clips import clips_folder
from .preview_transformer import LAST_TIMESTEP, build_transformer, preview_objective
from .ranks import Ranks
from .recipe import PreviewRecipe, TransformerSettings
from .text_components import write_text_components

_log = logging.getLogger(__name__)

PORTIONS = 16
"""A set is encoded in this many portions, the first before training, the others beside it."""
SAMPLE_CLIPS, SAMPLE_STEPS = 8, (1, 4)
"""Validation clips that are sampled whole during training, and with how many steps."""
LATENT_NAMES = ("video", "carried", "tracking", "tracking_image")
SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
             "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0, "prediction_type": "v_prediction",
             "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "snr_shift_scale": 100.0}
"""The full model's sampler, but with the schedule shifted to high noise: what the tracking video leaves open is little,
so a later step has to correct the step before it and not to refine a nearly finished picture."""


def encode_first(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Encode the validation clips and the first portion of every set: what the transformer needs to begin.

    Writes `latents/<size>/{video,carried,tracking,tracking_image}.npy`, f16 `[clips, F, C, h, w]`, scaled, and beside
    them `encoded.txt`, the number of clips that are ready."""
    if ranks.rank == 0:
        for clip_set in recipe.clip_sets:
            if clip_set.dataset is not None:
                import_clips(clips_folder(recipe, clip_set), clip_set)
    ranks.wait()
    for clip_set in recipe.validation_sets:
        _encode_clips(recipe, ranks, clip_set, clip_set.count)
    for clip_set in recipe.clip_sets:
        _encode_clips(recipe, ranks, clip_set, -(-clip_set.count // PORTIONS))


def encode_rest(recipe: PreviewRecipe, ranks: Ranks) -> None:
    """Encode the other portions, all sets growing together, while the transformer trains."""
    for portion in range(2, PORTIONS + 1):
        for clip_set in recipe.clip_sets:
            _encode_clips(recipe, ranks, clip_set, -(-clip_set.count * portion // PORTIONS))


def _encode_clips(recipe: PreviewRecipe, ranks: Ranks, clip_set: ClipSet, end: int) -> None:
    folder = latents_folder(recipe, clip_set)
    if ranks.rank == 0 and not (folder / "encoded.txt").exists():
        _create_latents(folder, clip_set, recipe)
    ranks.wait()
    start = int((folder / "encoded.txt").read_text())
    arrays = open_clips(clips_folder(recipe, clip_set), clip_set)
    latents = _open_latents(folder, "r+")
    autoencoder = load_autoencoder(recipe).to(ranks.device)
    for index in range(start + ranks.rank, end, ranks.size):
        for name, part in clip_latents(autoencoder, arrays["rgb"][index], arrays["tracking"][index]).items():
            latents[name][index] = part
    ranks.wait()
    if ranks.rank == 0 and end > start:
        (folder / "encoded.new").write_text(str(end))
        os.replace(folder / "encoded.new", folder / "encoded.txt")  # never empty, whenever this process is ended


def clip_latents(autoencoder, rgb: np.ndarray, tracking: np.ndarray) -> dict[str, np.ndarray]:
    """Latents `[F, C, h, w]` f32 of one clip, `rgb` and `tracking` `[T, H, W, 3]` u8, by `LATENT_NAMES`."""
    videos = {"video": rgb, "carried": carry(rgb[0], tracking), "tracking": tracking, "tracking_image": tracking[:1]}
    device = next(autoencoder.parameters()).device
    return {name: _encode(autoencoder, to_video(video[None]).to(device)) for name, video in videos.items()}


@torch.no_grad()
def _encode(autoencoder, video: torch.Tensor) -> np.ndarray:
    mode = autoencoder.encode(video.contiguous()).latent_dist.mode() * autoencoder.config.scaling_factor
    return mode[0].transpose(0, 1).float().cpu().numpy()


def latents_folder(recipe: PreviewRecipe, clip_set: ClipSet) -> Path:
    """Where the latents of a set of clips lie."""
    kind = "validation" if clip_set in recipe.validation_sets else "clips"
    return recipe.folder / "latents" / kind / clip_set.name


def _create_latents(folder: Path, clip_set: ClipSet, recipe: PreviewRecipe) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    frames, stride, channels = 1 + clip_set.frames // 4, latent_stride(recipe), recipe.autoencoder.latent_channels
    for name in LATENT_NAMES:
        length = 1 if name.endswith("image") else frames
        shape = (clip_set.count, length, channels, clip_set.height // stride, clip_set.width // stride)
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, shape).flush()
    (folder / "encoded.txt").write_text("0")


def _open_latents(folder: Path, mode: str = "r") -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in LATENT_NAMES}


class EncodedClips:
    """Latents of one set."""

    def __init__(self, recipe: PreviewRecipe, clip_set: ClipSet):
        self.latents = _open_latents(latents_folder(recipe, clip_set))
        frames, _, height, width = self.latents["video"].shape[1:]
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
    transformer = new_transformer(recipe).to(ranks.device)
    alphas_cumprod = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod.float()
    sets = [EncodedClips(recipe, clip_set) for clip_set in recipe.clip_sets]
    validation = EncodedClips(recipe, recipe.validation_sets[0])
    loop = TrainingLoop(transformer, make_optimiser(transformer, settings.optimiser), settings.loop, folder, ranks)
    if resume:
        loop.resume()

    def step_loss(context: StepContext):
        batch = {key: value.to(ranks.device) for key, value in preview_batch(context, settings, sets).items()}
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
    """The recipe's transformer as it starts."""
    return build_transformer(recipe.transformer, latent_channels=recipe.autoencoder.latent_channels)


def preview_batch(context: StepContext, settings: TransformerSettings,
                  sets: list[EncodedClips]) -> dict[str, torch.Tensor]:
    """One size for all ranks, by `size_shares` (before `large_from` only the first sizes of few tokens); then as many
    clips of it as `tokens_per_batch` holds, other ones on every rank."""
    shares = np.array(settings.size_shares or [1.0] * len(sets))
    if context.progress < settings.large_from:
        shares = np.where([clips.tokens <= settings.small_tokens for clips in sets], shares, 0)
    chosen = sets[context.shared.choice(len(sets), p=shares / shares.sum())]
    count = max(1, settings.tokens_per_batch // chosen.tokens)
    return chosen.batch(context.rng.integers(0, chosen.count, count))


@torch.no_grad()
def first_step_errors(transformer, batch: dict[str, torch.Tensor], settings: TransformerSettings) -> dict[str, float]:
    """Mean squared error of the clean latents predicted from pure noise, frames >= 1, with the clip's own tracking and
    with another clip's; and of the carried first frame as it is. The batch may lie on another device."""
    device = next(transformer.parameters()).device
    batch = {key: value.to(device) for key, value in batch.items()}
    count = batch["video"].shape[0]
    noise = torch.randn(batch["video"].shape, generator=torch.Generator().manual_seed(5)).to(device)
    text = torch.zeros(count, settings.max_text_seq_length, settings.text_embed_dim, device=device)
    other = torch.roll(torch.arange(count), 1)
    result = {}
    for name, order in (("own", torch.arange(count)), ("other", other)):
        errors = []
        for index in torch.arange(count).split(8):
            given = {key: batch[key][order[index]] for key in ("carried", "tracking", "tracking_image")}
            prediction = predict_first_step(transformer, text=text[index], noise=noise[index], **given)
            errors.append((prediction - batch["video"][index])[:, 1:].square().mean().item() * len(index))
        result[name] = round(sum(errors) / count, 5)
    result["carried"] = round((batch["carried"] - batch["video"])[:, 1:].square().mean().item(), 5)
    return result


def predict_first_step(transformer, *, carried, tracking, tracking_image, text, noise) -> torch.Tensor:
    """Clean latents from pure noise: at the last timestep a is 0, so x0 = -v. All on the transformer's device."""
    hidden = torch.cat([noise, carried], 2)
    maps = torch.cat([tracking, pad_frames(tracking_image, tracking)], 2)
    timestep = torch.full((len(noise),), LAST_TIMESTEP, device=noise.device)
    return -transformer(hidden, text, timestep, maps, return_dict=False)[0]


def sample_clips(recipe: PreviewRecipe, transformer, path: Path, device: torch.device) -> dict[str, float]:
    """Run the pipeline on some validation clips; save their middle and last frames as `path`, a grid with a row per
    clip: first frame, then tracking, truth, one step, several steps. Returns the PSNRs in dB, frames >= 1."""
    from das_server.pipeline.pipeline import DasPipeline
    from das_server.pipeline.prompt import PromptEncoder

    from .evaluate import psnr

    text = recipe.folder / "text"
    write_text_components(text, recipe.transformer.text_embed_dim)
    pipeline = DasPipeline(transformer=transformer, vae=load_autoencoder(recipe).to(device),
                           scheduler=CogVideoXDPMScheduler(**SCHEDULER), device=device, carries_first_frame=True,
                           prompt_encoder=PromptEncoder(text, recipe.transformer.max_text_seq_length, torch.float32))
    clips = open_clips(recipe.folder / "validation", recipe.validation_sets[0])
    grid, values = [], {steps: [] for steps in SAMPLE_STEPS}
    for truth, tracking in zip(clips["rgb"][:SAMPLE_CLIPS], clips["tracking"][:SAMPLE_CLIPS], strict=True):
        row = [tracking, truth]
        for steps in SAMPLE_STEPS:
            frames = np.asarray(pipeline("", np.asarray(tracking), Image.fromarray(truth[0]), guidance_scale=1.0,
                                         num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).frames)
            values[steps].append(psnr(frames, truth))
            row.append(frames)
        grid.append(np.concatenate([truth[0], *(video[t] for video in row for t in (len(truth) // 2, -1))], 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(grid)).save(path)
    return {f"psnr_{steps}": round(float(np.mean(list_)), 3) for steps, list_ in values.items()}


def write_transformer(recipe: PreviewRecipe, weights: dict[str, torch.Tensor]) -> None:
    """Save averaged weights as `transformer/final`."""
    transformer = new_transformer(recipe)
    transformer.load_state_dict(weights)
    transformer.save_pretrained(recipe.folder / "transformer" / "final")


def assemble(recipe: PreviewRecipe) -> None:
    """Write `checkpoint/` in the full model's layout, float16 safetensors."""
    target = recipe.folder / "checkpoint"
    shutil.rmtree(target, ignore_errors=True)
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(recipe.folder / "decoder" / "final")
    autoencoder.half().save_pretrained(target / "vae")
    transformer = DasTransformer3DModel.from_pretrained(recipe.folder / "decoder" / "transformer")
    transformer.half().save_pretrained(target / "transformer")
    CogVideoXDPMScheduler(**SCHEDULER).save_pretrained(target / "scheduler")
    write_text_components(target, recipe.transformer.text_embed_dim)
