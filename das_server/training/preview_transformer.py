# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview's small transformer: how it starts, and its objective on encoded clips.

The published network adds the noisy latents to the tracking latents before its tracking branch, which buries the tracks
in noise. The start below undoes that: the first combining layer subtracts the branch from the main stream in some of
the channels, which leaves the clean tracking latents there, and two heads of the following main blocks compare them and
copy first-frame latents to where their tracks lead; two heads of the first block copy them to where they were. So
training begins with a still, blurred picture that leans after the tracks, instead of with noise.

Beside the published loss there is a training-only hint: those heads are pulled towards the first-frame token that shows
the same surface point (known exactly for synthetic clips). Late in training the noisy input of a later sampling step is
made from the model's own first prediction, which is what it will meet in use.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from das_blender_addon.errors import ModelError
from das_server.models.transformer import DasTransformer3DModel

from .objective import ObjectiveOutput, velocity_objective
from .recipe import TransformerSettings

LAST_TIMESTEP = 999
LATER_TIMESTEPS = (749, 499, 249, 99)
"""With 999, the timesteps of a four-step run; 499 is the last of a two-step run, 99 of a ten-step run."""
TIME_WAVES, SPACE_WAVES = 4, 5
"""Fastest waves of the position table, per axis, whose sine and cosine channels nothing else is written to."""
TRACK_GAIN = 2.0
"""How much stronger the tracking latents start than the position table that is added to them."""
STATIC_GAIN, SOURCE_GAIN = 2.5, 2.5
"""Query and key norm gains of the blocks that look up places and sources: enough to tell neighbouring tokens apart."""
MARKER = 2.0
"""How strongly these heads start to prefer the first frame."""
OUTPUT_GAIN = 1.8
COPY_GAIN = 0.4
"""Each of the source blocks writes this share of what it copies."""


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
            _set_diagonal(linear, 0.5)
        _set_diagonal(transformer.initial_combine_linear, 1.0)
        for linear in (transformer.proj_out, transformer.norm_out.linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        if settings.source_blocks:
            _wire_copy(transformer, settings, latent_channels)
    return transformer


def _wire_copy(transformer, settings, latent_channels):
    """Let the network start as the first frame, half static and half warped; see the module's text.

    The channels of the main stream are shared out by the frequency of the position table's wave on them. The fastest
    waves stay alone, as clean coordinates; then come the noisy latents, the tracking latents (projected to fewer
    channels; negative from block 0 on), and on the slowest waves, nearly constant, the first frame's latents.
    """
    config = transformer.config
    dim, width = config.num_attention_heads * config.attention_head_dim, 4 * latent_channels
    waves = _Waves(dim)
    noisy, tracks, image = waves.rest[:width], waves.rest[width:-width], waves.rest[-width:]
    if len(tracks) < width // 2:
        raise ModelError(f"{dim} channels have no room for the copying start, with patches of {width} channels.")
    patches = torch.eye(width).view(width, latent_channels, 2, 2)
    projection = torch.linalg.qr(torch.randn(width, width)).Q[:len(tracks)]
    embed = transformer.patch_embed.proj
    nn.init.zeros_(embed.weight)
    embed.bias.zero_()
    embed.bias[[channel for channel in image if waves.is_cosine(channel)]] = -1  # takes the table's constant ones away
    embed.weight[tracks, :latent_channels] = TRACK_GAIN * projection.view(-1, latent_channels, 2, 2)
    embed.weight[image, latent_channels:] = patches
    embed.weight[noisy, :latent_channels] = patches
    combine = transformer.combine_linears[0]
    combine.weight.zero_()
    combine.weight[tracks, tracks] = -1
    blocks = transformer.transformer_blocks
    for block in (*blocks, *transformer.transformer_blocks_copy):
        block.attn1.to_out[0].weight.mul_(0.2)
        block.ff.net[2].weight.mul_(0.2)
    _wire_heads(blocks[0].attn1, settings, waves.space, image, waves.time, STATIC_GAIN, 1.0)
    for index in settings.source_blocks:
        _wire_heads(blocks[index].attn1, settings, tracks, image, waves.time, SOURCE_GAIN, COPY_GAIN)
    transformer.proj_out.weight[range(width), image] = -OUTPUT_GAIN


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


def _wire_heads(attention, settings, compare, image, time, gain, copy_gain):
    """Let heads find the first-frame token that agrees in the `compare` channels, and add its `image` channels."""
    head = settings.attention_head_dim
    attention.norm_q.weight.fill_(gain)
    attention.norm_k.weight.fill_(gain)
    for number in range(settings.source_heads):
        rows = list(range(number * head, (number + 1) * head))
        basis = torch.linalg.qr(torch.randn(max(head - 1, len(compare)), len(compare))).Q[:head - 1]
        for linear in (attention.to_q, attention.to_k):
            linear.weight[rows] = 0
            linear.bias[rows] = 0
            linear.weight[torch.tensor(rows[:-1])[:, None], compare] = basis
        # The cosines of time sum to TIME_WAVES in the first frame and to less in later ones.
        attention.to_q.bias[rows[-1]] = MARKER
        attention.to_k.weight[rows[-1], time[TIME_WAVES:]] = MARKER
        attention.to_k.bias[rows[-1]] = -0.5 * TIME_WAVES * MARKER
    copied = list(range(min(settings.source_heads * head, len(image))))
    attention.to_v.weight[copied] = 0
    attention.to_v.bias[copied] = 0
    attention.to_v.weight[copied, image[:len(copied)]] = 1
    attention.to_out[0].weight[:, copied] = 0
    attention.to_out[0].weight[image[:len(copied)], copied] = copy_gain


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


class SourceAttention:
    """Collects queries and keys of some heads, and compares their attention with the true first-frame tokens."""

    def __init__(self, transformer: DasTransformer3DModel, blocks: tuple[int, ...], num_heads: int):
        self.blocks, self.num_heads = blocks, num_heads
        self._transformer = transformer
        self._rows: dict[tuple[int, str], torch.Tensor] = {}

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While open, every forward pass leaves its queries and keys here."""
        handles = [getattr(self._transformer.transformer_blocks[block].attn1, name).register_forward_hook(
            lambda module, inputs, output, key=(block, name): self._rows.__setitem__(key, output))
            for block in self.blocks for name in ("norm_q", "norm_k")]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self._rows.clear()

    def loss(self, sources: torch.Tensor, text_length: int, frame_tokens: int) -> torch.Tensor:
        """`sources` `[B, tokens, samples]` i64, -1 for none: mean cross-entropy of later frames."""
        total = torch.zeros((), device=sources.device)
        target = sources[:, frame_tokens:]
        seen = target >= 0
        for block in self.blocks:
            query, key = self._rows[block, "norm_q"], self._rows[block, "norm_k"]
            first = text_length + frame_tokens
            query = query[:, first:, :self.num_heads].transpose(1, 2)
            key = key[:, text_length:text_length + frame_tokens, :self.num_heads].transpose(1, 2)
            scores = functional.log_softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
            index = target.clamp(min=0)[:, None].expand(-1, self.num_heads, -1, -1)
            chosen = scores.gather(-1, index) * seen[:, None]
            total = total - chosen.sum() / (seen.sum() * self.num_heads + 1) / len(self.blocks)
        return total


def preview_objective(transformer: DasTransformer3DModel, batch: dict[str, torch.Tensor], settings: TransformerSettings,
                      alphas_cumprod: torch.Tensor, progress: float, generator: torch.Generator,
                      attention: SourceAttention) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss and plain numbers of one batch of encoded clips (see `preview_batch`)."""
    latents = batch["video"]
    count, device = latents.shape[0], latents.device
    late = torch.rand(count, generator=generator) >= settings.first_step_share
    later = torch.tensor(LATER_TIMESTEPS)[torch.randint(len(LATER_TIMESTEPS), (count,), generator=generator)]
    timesteps, late = torch.where(late, later, LAST_TIMESTEP).to(device), late.to(device)
    text = _any_text(count, settings, generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(device)
    start = None
    if progress >= settings.own_input_from and late.any():
        start = latents.clone()
        first = torch.randn(latents[late].shape, generator=generator).to(device)
        with torch.no_grad():
            part = {key: value[late] for key, value in batch.items()}
            last = torch.full((int(late.sum()),), LAST_TIMESTEP, device=device)
            start[late] = _objective(transformer, part, text[late], last, first, alphas_cumprod, None).prediction
    with attention.collecting():
        output = _objective(transformer, batch, text, timesteps, noise, alphas_cumprod, start)
        frame_tokens = latents.shape[3] * latents.shape[4] // 4
        source = attention.loss(batch["sources"], text.shape[1], frame_tokens)
    error = (output.prediction.detach() - latents).square()[:, 1:].flatten(1).mean(1)
    metrics = {"source": source.item()}
    if (~late).any():
        metrics["first_step_error"] = error[~late].mean().item()
    if late.any():
        metrics["later_step_error"] = error[late].mean().item()
    # The weight 1/(1-a) of a late timestep would reward details that its own-made input does not hold: plain error.
    loss = output.loss if start is None else (output.prediction - latents).square().mean()
    return loss + settings.source_weight * source, metrics


def _objective(transformer, batch, text, timesteps, noise, alphas_cumprod, start) -> ObjectiveOutput:
    return velocity_objective(transformer, latents=batch["video"], image_latents=batch["image"],
                              tracking_latents=batch["tracking"], tracking_image_latents=batch["tracking_image"],
                              text=text, timesteps=timesteps, noise=noise, alphas_cumprod=alphas_cumprod, start=start)


def _any_text(count, settings, generator):
    """Random prompt embeddings of random size: the model learns to ignore its prompt."""
    shape = (count, settings.max_text_seq_length, settings.text_embed_dim)
    return torch.randn(shape, generator=generator) * torch.rand((count, 1, 1), generator=generator)
