# SPDX-License-Identifier: GPL-3.0-or-later
"""Train a checkpoint folder with the published objective on clips in the public layout.

Weights that are trained are float32 and stepped in float32; under mixed precision the computation and the frozen
weights are bfloat16. Either the tracking branch alone is trained (as published), or a LoRA, or everything. Of several
clips the last is not trained on: the samples and the PSNR of the validation are of that one.
"""

import contextlib
import logging
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image

from das_blender_addon.errors import ModelError
from das_server.models.conversion import TRACKING_PREFIXES
from das_server.models.tensors import WEIGHTS_STEM, read_component_config, weight_files
from das_server.models.transformer import DasTransformer3DModel
from das_server.models.weights import load_model, without_weights
from das_server.pipeline.cogvideox import latents as border
from das_server.pipeline.cogvideox.carry import carries_first_frame, carry
from das_server.pipeline.cogvideox.holes import paints_holes
from das_server.pipeline.cogvideox.prompt import PromptEncoder
from das_server.pipeline.cogvideox.scheduler import load_scheduler
from das_server.pipeline.prompt import PromptCache

from .dataset import TrainingClip, read_dataset, read_frames
from .loop import StepContext, TrainingLoop
from .lora import LORA_NAME, add_lora, save_lora
from .objective import noised_image, velocity_objective
from .preview import make_optimiser, to_video
from .ranks import Ranks
from .recipe import FineTuneRecipe
from .sharding import fill, shard

_log = logging.getLogger(__name__)

NUM_TIMESTEPS = 1000


def select_trainable(transformer: torch.nn.Module, trainable: str, lora_rank: int = 16) -> None:
    """Freeze everything but the tracking branch ("tracking"), or a LoRA of the main blocks' attention, which is added
    ("lora"), or train everything ("all")."""
    if trainable not in ("tracking", "all", "lora"):
        raise ModelError(f'trainable = {trainable!r}; choose "tracking", "lora" or "all".')
    if trainable == "lora":
        add_lora(transformer, lora_rank)
        return
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(trainable == "all" or name.startswith(TRACKING_PREFIXES))


def train(recipe: FineTuneRecipe, ranks: Ranks, resume: bool) -> None:
    """Train as `recipe` says; writes `last/`, `log.csv`, `samples/` and, at the end, `transformer/` or
    `lora.safetensors` (averaged).

    Raises ModelError for a model that is trained otherwise."""
    if paints_holes(recipe.model):
        raise ModelError(
            f'{recipe.model} paints holes, which is another objective: a recipe of kind "preview" trains it.')
    # 1. texts, whose encoder is larger than the rest of the frozen parts; then the model, masters in float32
    torch.manual_seed(recipe.loop.seed)
    half = torch.bfloat16 if recipe.mixed_precision == "bf16" else torch.float32
    is_sharded = recipe.shard and ranks.size > 1
    clips, validation_clip = hold_out(read_dataset(recipe.dataset))
    encoders = ClipEncoders(recipe, ranks.device, half)
    encoders.learn_texts([clip.prompt for clip in (*clips, validation_clip)], ranks)
    transformer = load_transformer(recipe, ranks, half)
    if recipe.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    # 2. the loop
    loop = TrainingLoop(transformer, make_optimiser(transformer, recipe.optimiser), recipe.loop, recipe.folder, ranks)
    if resume:
        loop.resume()

    def step_loss(context: StepContext):
        indices = clip_order(len(clips), recipe.loop.seed, context.step, recipe.batch_size, ranks)
        with half_precision(recipe, ranks.device, half):
            output = finetune_objective(transformer, encoders, [clips[index] for index in indices], context)
        return output.loss.float(), {}

    # A sample is made by one rank, which has not all of a model that is spread.
    validate = None if is_sharded else lambda loop: _sample(recipe, loop, encoders, validation_clip)
    loop.run(step_loss, validate)
    if recipe.trainable == "lora":
        transformer.load_state_dict(loop.averaged_weights())
        if ranks.rank == 0:
            save_lora(transformer, recipe.folder / LORA_NAME)
        return
    folder = recipe.folder / "transformer"
    if ranks.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        transformer.save_config(folder)
    loop.write_averaged(folder / f"{WEIGHTS_STEM}.safetensors")


def load_transformer(recipe: FineTuneRecipe, ranks: Ranks, half: torch.dtype) -> DasTransformer3DModel:
    """The recipe's transformer on this rank's device: what is trained in float32, the rest in `half`; spread over the
    ranks where the recipe says so. At no time is more of it in memory than stays there, and one tensor.

    Raises ModelError."""
    folder, is_lora = recipe.model / "transformer", recipe.trainable == "lora"
    is_sharded = recipe.shard and ranks.size > 1
    if is_sharded and is_lora:
        raise ModelError("a LoRA is not sharded: its weights are few; leave out shard.")
    DasTransformer3DModel.check_folder(folder)
    config, files = read_component_config(folder), weight_files(folder)

    def dtype_of(name: str) -> torch.dtype:
        is_trained = recipe.trainable == "all" or name.startswith(TRACKING_PREFIXES)
        return torch.float32 if is_trained and not is_lora else half

    if not is_sharded:
        settings = {"dtype": half, "device": ranks.device, "dtype_of": dtype_of, "is_changed": True}
        transformer = load_model(DasTransformer3DModel, config, files, **settings)
        select_trainable(transformer, recipe.trainable, recipe.lora_rank)
        return transformer
    with without_weights():
        transformer = DasTransformer3DModel.from_config(config)
    select_trainable(transformer, recipe.trainable)
    for name, parameter in transformer.named_parameters():
        parameter.data = parameter.data.to(dtype_of(name))
    shard(transformer, ranks)
    fill(transformer, files, ranks.device)
    return transformer


def half_precision(recipe: FineTuneRecipe, device: torch.device, half: torch.dtype) -> torch.autocast:
    """Inside, the computation is in `half`. Where blocks are computed again nothing needs the weights in it for longer
    than their block runs: kept, they would be a copy of the whole model, also of one that is spread."""
    return torch.autocast(device.type, half, enabled=half != torch.float32,
                          cache_enabled=not recipe.gradient_checkpointing)


def hold_out(clips: list[TrainingClip]) -> tuple[list[TrainingClip], TrainingClip]:
    """The clips to train on and the one to validate on: the last, which is trained on only where it is the only one."""
    if len(clips) == 1:
        _log.warning("the dataset has one clip: validation is on a clip that is trained on")
        return clips, clips[0]
    return clips[:-1], clips[-1]


def clip_order(count: int, seed: int, step: int, batch_size: int, ranks: Ranks) -> list[int]:
    """Which clips this rank takes in `step`: a new shuffle per epoch, every clip once per epoch over all ranks."""
    first = (step * ranks.size + ranks.rank) * batch_size
    order = []
    for position in range(first, first + batch_size):
        epoch, index = divmod(position, count)
        order.append(int(np.random.default_rng([seed, epoch, 7]).permutation(count)[index]))
    return order


class ClipEncoders:
    """The frozen parts: autoencoder, prompt encoder, scheduler table, rotary positions."""

    def __init__(self, recipe: FineTuneRecipe, device: torch.device, dtype: torch.dtype):
        self.recipe, self.device = recipe, device
        self.autoencoder = AutoencoderKLCogVideoX.from_pretrained(recipe.model / "vae", torch_dtype=dtype).to(device)
        self.autoencoder.requires_grad_(False)
        self.alphas_cumprod = load_scheduler(recipe.model / "scheduler").alphas_cumprod.float()
        self.config = DasTransformer3DModel.load_config(recipe.model / "transformer")
        cache = PromptCache(recipe.folder / "prompts")
        self.prompts = PromptEncoder(recipe.model, self.config["max_text_seq_length"], dtype, cache)
        self.carries_first_frame = carries_first_frame(recipe.model)

    def learn_texts(self, texts: list[str], ranks: Ranks) -> None:
        """Encode all `texts`, each by one of the ranks, and let the text encoder go: no step needs it again.

        Raises ModelError where they cannot be kept."""
        self.prompts.keep_loaded = True
        for text in sorted(set(texts))[ranks.rank::ranks.size]:
            self.prompts.encode([text], self.device)
        self.prompts.keep_loaded = False
        self.prompts.unload()
        ranks.wait()
        for text in set(texts):
            if not self.prompts.is_cached([text], self.device):
                raise ModelError(f"the encoded prompts cannot be kept in {self.prompts.cache.folder}; see the log.")

    @torch.no_grad()
    def encode(self, clips: list[TrainingClip], generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Posterior samples of a batch, scaled: `latents`, `tracking_latents` `[B, F, C, h, w]`, `image_latents`,
        `tracking_image_latents` `[B, 1, C, h, w]`; `text` `[B, L, D]`. The first frame is noised as published.

        Of a model that is given the carried first frame, `image_latents` `[B, F, C, h, w]` are of that."""
        recipe = self.recipe
        size = (recipe.num_frames, recipe.height, recipe.width)
        colours, tracks = ([read_frames(path, *size) for path in paths]
                           for paths in ([clip.video for clip in clips], [clip.tracking for clip in clips]))
        video, tracking, image = to_video(np.stack(colours)), to_video(np.stack(tracks)), to_video(np.stack(
            [carry(a[0], b) if self.carries_first_frame else a[:1] for a, b in zip(colours, tracks, strict=True)]))
        if recipe.image_noise:
            image = noised_image(image, generator)
        texts = self.prompts.encode([clip.prompt for clip in clips], self.device)
        return {"latents": self._sample(video, generator), "image_latents": self._sample(image, generator),
                "tracking_latents": self._sample(tracking, generator),
                "tracking_image_latents": self._sample(tracking[:, :, :1], generator), "text": torch.cat(texts)}

    def _sample(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        posterior = self.autoencoder.encode(pixels.to(self.device, self.autoencoder.dtype)).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        return (posterior.mean + posterior.std * noise).transpose(1, 2) * self.autoencoder.config.scaling_factor

    def rotary(self, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Rotary tables for latents of `shape` `[B, F, C, h, w]`, None for models without them."""
        config = self.config
        if not config["use_rotary_positional_embeddings"]:
            return None
        patch = config["patch_size"]
        return border.rotary_positions(
            head_dim=config["attention_head_dim"], grid_size=(shape[3] // patch, shape[4] // patch),
            base_size=(config["sample_height"] // patch, config["sample_width"] // patch),
            num_latent_frames=shape[1], device=self.device)


def finetune_objective(transformer, encoders: ClipEncoders, clips: list[TrainingClip], context: StepContext):
    """The published objective on a batch of clips: uniform timesteps, image latents dropped together now and then."""
    batch = encoders.encode(clips, context.generator)
    if context.rng.random() < encoders.recipe.image_dropout:
        for name in ("image_latents", "tracking_image_latents"):
            batch[name] = torch.zeros_like(batch[name])
    latents = batch["latents"]
    timesteps = torch.randint(NUM_TIMESTEPS, (latents.shape[0],), generator=context.generator).to(latents.device)
    noise = torch.randn(latents.shape, generator=context.generator).to(latents)
    return velocity_objective(transformer, **batch, timesteps=timesteps, noise=noise,
                              alphas_cumprod=encoders.alphas_cumprod, rotary=encoders.rotary(latents.shape))


def _sample(recipe: FineTuneRecipe, loop: TrainingLoop, encoders: ClipEncoders, clip: TrainingClip) -> dict[str, float]:
    """Render `clip` with the current weights: `samples/<step>.png`, truth above result; returns its PSNR."""
    from das_server.pipeline.cogvideox.pipeline import DasPipeline

    from .evaluate import psnr

    size = (recipe.num_frames, recipe.height, recipe.width)
    truth = read_frames(clip.video, *size)
    scheduler = load_scheduler(recipe.model / "scheduler")
    pipeline = DasPipeline(transformer=loop.module.eval(), vae=encoders.autoencoder, scheduler=scheduler,
                           prompt_encoder=encoders.prompts, device=encoders.device,
                           carries_first_frame=encoders.carries_first_frame)
    dtype = encoders.autoencoder.dtype
    context = torch.autocast(encoders.device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
    with context, torch.no_grad():
        frames = pipeline(clip.prompt, read_frames(clip.tracking, *size), Image.fromarray(truth[0]),
                          num_inference_steps=recipe.sample_steps, guidance_scale=1.0).frames
    encoders.autoencoder.disable_tiling()  # which the pipeline switches on; training encodes without
    moments = np.linspace(0, len(truth) - 1, 4).round().astype(int)
    sheet = np.concatenate([np.concatenate(list(video[moments]), 1) for video in (truth, np.asarray(frames))], 0)
    path = Path(recipe.folder) / "samples" / f"{loop.step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)
    return {"psnr": round(psnr(np.asarray(frames), truth), 3)}
