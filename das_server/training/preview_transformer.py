# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's small transformer: how it starts, and its objective on encoded clips.

Where the full model is given the first frame and nothing for later frames, this one is given what key pictures show of
every frame, the rest filled from what is around it; and, in the place of the first tracking frame, where that rest is.
What it makes is the difference to that picture in those holes (`cogvideox/holes.py`). It starts by making none, so that
it can only get better than filling; a start from the weights of an earlier one keeps its blocks. The published network
adds the noisy latents to the tracking latents before its tracking branch; the first combining layer starts by
subtracting the branch from the main stream in some channels, which leaves the clean tracking latents there.

Its error counts where holes are. Late in training the noisy input of a later sampling step is made from the model's own
first prediction, which is what it will meet in use.
"""

import torch
from torch import nn

from das_blender_addon.errors import ModelError
from das_server.models.transformer import DasTransformer3DModel
from das_server.pipeline.cogvideox.holes import HOLE_CHANNELS

from .objective import ObjectiveOutput, velocity_objective
from .recipe import TransformerSettings

LAST_TIMESTEP = 999
LATER_TIMESTEPS = (749, 499, 249, 99)
"""With 999, the timesteps of a four-step run; 499 is the last of a two-step run, 99 of a ten-step run."""
TIME_WAVES, SPACE_WAVES = 4, 5
"""Fastest waves of the position table, per axis, whose sine and cosine channels nothing else is written to."""
NOISE_GAIN, TRACK_GAIN, PICTURE_GAIN = 0.4, 1.5, 1.5
"""How strongly the noisy latents, the tracking latents and the carried picture enter the main stream."""
ANCHOR = 5.0
"""Constant added to the tracks' channels, its sign alternating: with most of a token constant, the norm that ends the
network divides by nearly the same number everywhere, and the picture passes almost linearly."""
FLOOR = 0.02
"""Squared error of latents below which a clip counts little. The loss is the logarithm of each clip's error, as the
PSNR is, so that clips of little contrast are learnt from, too."""
LITTLE_SHARE = 0.02
"""Share of holes at which a clip counts half of one with large holes."""
OUTSIDE_WEIGHT = 0.02
"""What the error of a latent counts that is far from every hole; one in a hole counts 1."""


def build_transformer(settings: TransformerSettings, *, latent_channels: int = 16, sample_frames: int = 49,
                      sample_height: int = 32, sample_width: int = 48) -> DasTransformer3DModel:
    """Build one without rotary or learned positions (any size and length), float32, all parameters trained."""
    transformer = DasTransformer3DModel(
        num_tracking_blocks=settings.num_tracking_blocks, num_attention_heads=settings.num_attention_heads,
        attention_head_dim=settings.attention_head_dim, in_channels=2 * latent_channels, out_channels=latent_channels,
        time_embed_dim=settings.time_embed_dim, text_embed_dim=settings.text_embed_dim, num_layers=settings.num_layers,
        sample_width=sample_width, sample_height=sample_height, sample_frames=sample_frames, patch_size=2,
        max_text_seq_length=settings.max_text_seq_length, spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=False)
    transformer.requires_grad_(True)
    with torch.no_grad():
        for block in [*transformer.transformer_blocks, *transformer.transformer_blocks_copy]:
            _start_block(block)
        for linear in transformer.combine_linears:
            _set_diagonal(linear, 0.0)
        _set_diagonal(transformer.initial_combine_linear, 1.0)
        for linear in (transformer.proj_out, transformer.norm_out.linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        _wire_picture(transformer, latent_channels)
    return transformer


@torch.no_grad()
def start_from_nothing(transformer: DasTransformer3DModel, nothing: torch.Tensor) -> None:
    """Let the network make no difference, in place: `nothing` `[C]` are the latents of a video of zeros."""
    nn.init.zeros_(transformer.proj_out.weight)
    patch = transformer.config.patch_size
    transformer.proj_out.bias.copy_(-nothing.repeat_interleave(patch * patch))  # it makes a velocity, the negative


def _wire_picture(transformer, latent_channels):
    """Give the network its inputs in channels of their own; see the module's text.

    The channels of the main stream are shared out by the frequency of the position table's wave on them. The fastest
    waves stay alone, as clean coordinates; then come the noisy latents, the tracking latents (projected to fewer
    channels; negative from block 0 on), and on the slowest waves, nearly constant, the picture's latents.
    """
    config = transformer.config
    dim, width = config.num_attention_heads * config.attention_head_dim, 4 * latent_channels
    waves = _Waves(dim)
    noisy, tracks, picture = waves.rest[:width], waves.rest[width:-width], waves.rest[-width:]
    if len(tracks) < width // 3:
        raise ModelError(f"{dim} channels have no room for this start, with patches of {width} channels.")
    patches = torch.eye(width).view(width, latent_channels, 2, 2)
    projection = torch.linalg.qr(torch.randn(width, width)).Q[:len(tracks)]
    embed = transformer.patch_embed.proj
    nn.init.zeros_(embed.weight)
    embed.bias.zero_()
    embed.bias[[channel for channel in picture if waves.is_cosine(channel)]] = -1  # takes the table's constants away
    embed.bias[tracks[::2]], embed.bias[tracks[1::2]] = ANCHOR, -ANCHOR
    embed.weight[tracks, :latent_channels] = TRACK_GAIN * projection.view(-1, latent_channels, 2, 2)
    embed.weight[picture, latent_channels:] = PICTURE_GAIN * patches
    embed.weight[noisy, :latent_channels] = NOISE_GAIN * patches
    combine = transformer.combine_linears[0]
    combine.weight[tracks, tracks] = -1
    for block in (*transformer.transformer_blocks, *transformer.transformer_blocks_copy):
        block.attn1.to_out[0].weight.mul_(0.2)
        block.ff.net[2].weight.mul_(0.2)


class _Waves:
    """The channels of the sine-cosine position table: a quarter time, three eighths each width and height."""

    def __init__(self, dim: int):
        quarter, axis = dim // 4, dim * 3 // 8
        parts = [(0, quarter, TIME_WAVES), (quarter, axis, SPACE_WAVES), (quarter + axis, axis, SPACE_WAVES)]
        self._cosines, frequency, alone = set(), {}, []
        for start, length, count in parts:
            half = length // 2
            self._cosines |= set(range(start + half, start + length))
            alone.append([start + offset + wave for offset in (0, half) for wave in range(count)])
            frequency |= {start + channel: channel % half / half for channel in range(length)}
        self.time, self.space = alone[0], alone[1] + alone[2]
        taken = {*self.time, *self.space}
        self.rest = sorted((channel for channel in range(dim) if channel not in taken), key=lambda c: (frequency[c], c))

    def is_cosine(self, channel: int) -> bool:
        return channel in self._cosines


def _start_block(block):
    """Adaptive norms start plain with open gates; attention starts a little sharper, branches at half strength."""
    for norm in (block.norm1, block.norm2):
        nn.init.zeros_(norm.linear.weight)
        nn.init.zeros_(norm.linear.bias)
        width = norm.linear.bias.numel() // 6
        norm.linear.bias[2 * width:3 * width] = 1
        norm.linear.bias[5 * width:] = 1
    block.attn1.norm_q.weight.fill_(1.5)
    block.attn1.norm_k.weight.fill_(1.5)
    block.attn1.to_out[0].weight.mul_(0.5)
    block.ff.net[2].weight.mul_(0.5)


def _set_diagonal(linear, scale):
    linear.weight.copy_(torch.eye(linear.weight.shape[0]) * scale)
    linear.bias.zero_()


def preview_objective(transformer: DasTransformer3DModel, batch: dict[str, torch.Tensor], settings: TransformerSettings,
                      alphas_cumprod: torch.Tensor, progress: float,
                      generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss and plain numbers of one batch of encoded clips (see `preview_batch`)."""
    latents, own_input = batch["difference"], progress >= settings.own_input_from
    output, late = predict_clean(transformer, batch, settings, alphas_cumprod, generator, own_input=own_input,
                                 first_step_share=settings.first_step_share)
    error = hole_errors(output.prediction, latents, batch["holes"])
    metrics = {}
    if (~late).any():
        metrics["first_step_error"] = error.detach()[~late].mean().item()
    if late.any():
        metrics["later_step_error"] = error.detach()[late].mean().item()
    share = batch["holes"][:, :, :HOLE_CHANNELS].flatten(1).mean(1)
    return (share / (share + LITTLE_SHARE) * torch.log(error + FLOOR)).mean(), metrics


def hole_errors(prediction: torch.Tensor, latents: torch.Tensor, holes: torch.Tensor) -> torch.Tensor:
    """`[B]`: mean squared error of latents `[B, F, C, h, w]`, weighted by `hole_weights`."""
    weight = hole_weights(holes).expand_as(latents)
    return (weight * (prediction - latents).square()).flatten(1).sum(1) / weight.flatten(1).sum(1)


def hole_weights(holes: torch.Tensor) -> torch.Tensor:
    """`[B, F, 1, h, w]`: how much the error of each latent counts; `holes` `[B, F, C, h, w]` of `pack_holes`."""
    share = holes[:, :, :HOLE_CHANNELS].mean(2)
    near = nn.functional.max_pool2d(share, 3, 1, 1)
    return (OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * torch.maximum(share, 0.25 * near))[:, :, None]


def predict_clean(transformer: DasTransformer3DModel, batch: dict[str, torch.Tensor], settings: TransformerSettings,
                  alphas_cumprod: torch.Tensor, generator: torch.Generator, *, own_input: bool,
                  first_step_share: float) -> tuple[ObjectiveOutput, torch.Tensor]:
    """Predict a batch's clean latents, each clip at the first timestep or (the others) at a later one.

    `own_input`: the noisy input of a later timestep is made from the model's own first prediction, not from the clip.
    Returns the objective's output, and `[B]` bool, which clips are at a later timestep.
    """
    latents = batch["difference"]
    count, device = latents.shape[0], latents.device
    late = torch.rand(count, generator=generator) >= first_step_share
    later = torch.tensor(LATER_TIMESTEPS)[torch.randint(len(LATER_TIMESTEPS), (count,), generator=generator)]
    timesteps, late = torch.where(late, later, LAST_TIMESTEP).to(device), late.to(device)
    text = _any_text(count, settings, generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    start = None
    if own_input and late.any():
        start = latents.clone()
        first = torch.randn(latents[late].shape, generator=generator).to(device)
        with torch.no_grad():
            part = {key: value[late] for key, value in batch.items()}
            last = torch.full((int(late.sum()),), LAST_TIMESTEP, device=device)
            start[late] = _objective(transformer, part, text[late], last, first, alphas_cumprod, None).prediction
    return _objective(transformer, batch, text, timesteps, noise, alphas_cumprod, start), late


def _objective(transformer, batch, text, timesteps, noise, alphas_cumprod, start) -> ObjectiveOutput:
    return velocity_objective(transformer, latents=batch["difference"], image_latents=batch["carried"],
                              tracking_latents=batch["tracking"], tracking_image_latents=batch["holes"],
                              text=text, timesteps=timesteps, noise=noise, alphas_cumprod=alphas_cumprod, start=start)


def _any_text(count, settings, generator):
    """Random prompt embeddings of random size: the model learns to ignore its prompt."""
    shape = (count, settings.max_text_seq_length, settings.text_embed_dim)
    return torch.randn(shape, generator=generator) * torch.rand((count, 1, 1), generator=generator)
