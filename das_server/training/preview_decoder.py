# SPDX-License-Identifier: GPL-3.0-or-later
"""The last stage of training the preview: its decoder learns to show what the transformer predicts, in holes.

Its loss is the squared error of the picture in the holes, all that is used of it. Predicted latents are smoother than
encoded ones, and the decoder has seen only those. Where the recipe says so, the transformer learns along, gently: an
error in its latents counts by what it does to the picture. The encoder stays as it is, so no latents have to be made
again. Some of the latents that are shown are still encoded ones.
"""

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDPMScheduler
from torch import nn

from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.holes import difference, paint

from .clips import open_clips
from .loop import StepContext, TrainingLoop
from .preview import PATCH_SIZE, latent_stride, make_optimiser
from .preview_clips import clips_folder, synthetic_sets
from .preview_stages import SCHEDULER, EncodedClips, HoleError, predict_first_step
from .preview_transformer import predict_clean
from .ranks import Ranks
from .recipe import PreviewRecipe

CROPS_TRIED = 4
"""Of so many crops of a clip the one with the most holes is taken."""
LEAST_PIXELS = 200
"""A batch with fewer pixels in holes counts less."""


def train_decoder(recipe: PreviewRecipe, ranks: Ranks, resume: bool) -> None:
    """Train on random crops of the first set's clips; writes `decoder/final`, the whole autoencoder, and
    `decoder/transformer`."""
    settings, folder = recipe.decoder, recipe.folder / "decoder"
    autoencoder = AutoencoderKLCogVideoX.from_pretrained(recipe.folder / "autoencoder" / "final").to(ranks.device)
    transformer = DasTransformer3DModel.from_pretrained(recipe.folder / "transformer" / "final").to(ranks.device)
    transformer.requires_grad_(settings.transformer_rate > 0)
    alphas_cumprod = CogVideoXDPMScheduler(**SCHEDULER).alphas_cumprod.float()
    stride, clip_set, validation_set = latent_stride(recipe), synthetic_sets(recipe)[0], recipe.validation_sets[0]
    clips, latents = open_clips(clips_folder(recipe, clip_set), clip_set), EncodedClips(recipe, clip_set)
    both = nn.ModuleDict({"decoder": autoencoder.decoder, "transformer": transformer})
    optimiser = make_optimiser(both, settings.optimiser)
    slow_down(optimiser, transformer, settings.transformer_rate)
    loop = TrainingLoop(both, optimiser, settings.loop, folder, ranks)
    if resume:
        loop.resume()

    def step_loss(context: StepContext):
        indices = context.rng.integers(0, latents.count, settings.batch_size)
        batch = {key: value.to(ranks.device) for key, value in latents.batch(indices).items()}
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=recipe.transformer.bfloat16):
            output, _ = predict_clean(transformer, batch, recipe.transformer, alphas_cumprod, context.generator,
                                      own_input=True, first_step_share=settings.first_step_share)
        encoded = torch.from_numpy(context.rng.random(settings.batch_size) < settings.encoded_share)
        shown = torch.where(encoded.view(-1, 1, 1, 1, 1).to(ranks.device), batch["difference"],
                            output.prediction.float())
        rows, columns = settings.crop[0] // stride, settings.crop[1] // stride
        parts, wanted, holes = [], [], []
        for place, index in enumerate(indices):
            y, x = _crop_with_holes(context.rng, batch["holes"][place], rows, columns)
            seen = np.s_[:, stride * y:stride * (y + rows), stride * x:stride * (x + columns)]
            truth, carried = clips["rgb"][index][seen], clips["carried"][index][seen]
            holes.append(carried[..., 3] == 0)
            wanted.append(difference(truth, carried[..., :3], holes[-1]))
            parts.append(shown[place:place + 1, ..., y:y + rows, x:x + columns])
        square = (_decode(autoencoder, torch.cat(parts)) - _planes(wanted).to(ranks.device)).square()
        inside = torch.from_numpy(np.stack(holes))[:, None].to(square)
        error = (square * inside).sum() / (3 * inside.sum() + LEAST_PIXELS)
        return error, {"psnr": -10 * torch.log10(error.detach() / 4 + 1e-10).item()}

    def averaged() -> tuple[AutoencoderKLCogVideoX, DasTransformer3DModel]:
        copies = (AutoencoderKLCogVideoX.from_pretrained(recipe.folder / "autoencoder" / "final"),
                  DasTransformer3DModel.from_pretrained(recipe.folder / "transformer" / "final"))
        nn.ModuleDict({"decoder": copies[0].decoder, "transformer": copies[1]}).load_state_dict(loop.averaged_weights())
        return copies[0].eval().to(ranks.device), copies[1].eval().to(ranks.device)

    def validate(_: TrainingLoop) -> dict[str, float]:
        arrays = open_clips(clips_folder(recipe, validation_set), validation_set)
        return decoder_quality(*averaged(), arrays, EncodedClips(recipe, validation_set), recipe)

    loop.run(step_loss, validate)
    if ranks.rank == 0:
        autoencoder, transformer = averaged()
        autoencoder.save_pretrained(folder / "final")
        transformer.save_pretrained(folder / "transformer")


def slow_down(optimiser: torch.optim.Optimizer, module: nn.Module, rate: float) -> None:
    """Give the module's parameters groups of their own, whose learning rates are `rate` of what they were."""
    chosen = {id(parameter) for parameter in module.parameters()}
    for group in list(optimiser.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            optimiser.add_param_group({**group, "params": own, "lr": rate * group["lr"],
                                       "base_lr": rate * group["base_lr"]})


def _crop_with_holes(rng: np.random.Generator, holes: torch.Tensor, rows: int, columns: int) -> tuple[int, int]:
    """Top and left, in latents, of a crop of `holes` `[F, C, h, w]`."""
    best, most = (0, 0), -1.0
    for _ in range(CROPS_TRIED):
        y = PATCH_SIZE * int(rng.integers(0, (holes.shape[2] - rows) // PATCH_SIZE + 1))
        x = PATCH_SIZE * int(rng.integers(0, (holes.shape[3] - columns) // PATCH_SIZE + 1))
        share = holes[..., y:y + rows, x:x + columns].mean().item()
        if share > most:
            best, most = (y, x), share
    return best


def _planes(videos: list[np.ndarray]) -> torch.Tensor:
    """Videos `[T, H, W, 3]` f32 as `[B, 3, T, H, W]`."""
    return torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).contiguous()


@torch.no_grad()
def decoder_quality(autoencoder, transformer, clips: dict[str, np.ndarray], latents: EncodedClips,
                    recipe: PreviewRecipe) -> dict[str, float]:
    """PSNR in dB in the holes of some validation clips: as they are filled, and painted with the predicted and with the
    encoded latents."""
    count = recipe.decoder.validation_clips
    device = next(autoencoder.parameters()).device
    error = HoleError()
    shown = {name: _shown_latents(transformer, latents.batch(np.arange(count)), np.full(count, encoded),
                                  torch.Generator().manual_seed(5), recipe, device)
             for name, encoded in (("predicted", False), ("encoded", True))}
    for index in range(count):
        carried = clips["carried"][index]
        holes, filled = carried[..., 3] == 0, {"carried": carried[..., :3]}
        for name, part in shown.items():
            made = _decode(autoencoder, part[index:index + 1])[0].permute(1, 2, 3, 0).float().cpu().numpy()
            filled[name] = paint(carried[..., :3], holes, made)
        error.add(clips["rgb"][index], holes, filled)
    return error.psnrs()


@torch.no_grad()
def _shown_latents(transformer, batch: dict[str, torch.Tensor], encoded: np.ndarray, generator: torch.Generator,
                   recipe: PreviewRecipe, device) -> torch.Tensor:
    """`[B, F, C, h, w]`: predicted in one step from noise, or the true ones where `encoded` `[B]` bool."""
    batch = {key: value.to(device) for key, value in batch.items()}
    noise = torch.randn(batch["difference"].shape, generator=generator).to(device)
    settings = recipe.transformer
    text = torch.zeros(len(noise), settings.max_text_seq_length, settings.text_embed_dim, device=device)
    given = {key: batch[key] for key in ("carried", "tracking", "holes")}
    predicted = predict_first_step(transformer, text=text, noise=noise, **given)
    return torch.where(torch.from_numpy(encoded).view(-1, 1, 1, 1, 1).to(device), batch["difference"], predicted)


def _decode(autoencoder, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents `[B, F, C, h, w]` to `[B, 3, T, H, W]` in about -1…1."""
    return autoencoder.decode(latents.transpose(1, 2) / autoencoder.config.scaling_factor).sample
